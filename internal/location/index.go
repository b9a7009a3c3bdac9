package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/remote"
	"github.com/castorsync/castor/store/s3"
	"github.com/castorsync/castor/store/sftp"
)

// Index reads the index at loc; "-" is stdin.
func (o *Opener) Index(ctx context.Context, loc string, stdin io.Reader) (*index.Index, error) {
	r, err := o.OpenIndex(ctx, loc, stdin)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x, err := index.Decode(r)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", redact(loc), reason(err))
	}
	if len(x.Entries) > 1<<20 {
		runtime.GC() // growing has left a third of a large table behind
	}
	return x, nil
}

// OpenIndex opens the index or the archive at loc for reading; "-" is stdin, which is not closed. An index
// that is not there is a [NotFoundError]. The caller must close the reader.
func (o *Opener) OpenIndex(ctx context.Context, loc string, stdin io.Reader) (io.ReadCloser, error) {
	if loc == "-" {
		return io.NopCloser(stdin), nil
	}
	p, err := parse(loc)
	if err != nil {
		return nil, err
	}
	return o.openIndex(ctx, p)
}

func (o *Opener) openIndex(ctx context.Context, p place) (io.ReadCloser, error) {
	st := o.Config.Store(p.match())
	var r io.ReadCloser
	var err error
	switch p.kind {
	case Directory:
		r, err = openFile(p.url)
	case Web:
		w, werr := o.webOptions(st)
		if werr != nil {
			return nil, fmt.Errorf("%s: %w", p.loc, werr)
		}
		r, err = httpstore.GetIndex(ctx, p.url, w)
	case S3:
		w, werr := o.s3Options(st)
		if werr != nil {
			return nil, fmt.Errorf("%s: %w", p.loc, werr)
		}
		r, err = s3.GetIndex(ctx, p.url, w)
	case SFTP:
		r, err = sftp.GetIndex(ctx, p.url, o.sftpOptions(st))
	case Casync:
		get := remote.GetIndex
		if p.archive() {
			get = remote.GetArchive
		}
		r, err = remoteFile(ctx, get, p.url, o.remoteOptions(st))
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok && (p.kind == Directory || pe.Op == "get") { // not about credentials
		return nil, notFound("index", p.loc, err)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openFile is os.Open without a file that is not nil together with an error.
func openFile(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// putIndex uploads an index.
func (o *Opener) putIndex(ctx context.Context, p place, r io.ReaderAt, size int64) error {
	st := o.Config.Store(p.match())
	switch p.kind {
	case Web:
		w, err := o.webOptions(st)
		if err != nil {
			return fmt.Errorf("%s: %w", p.loc, err)
		}
		return httpstore.PutIndex(ctx, p.url, r, size, w)
	case S3:
		w, err := o.s3Options(st)
		if err != nil {
			return fmt.Errorf("%s: %w", p.loc, err)
		}
		return s3.PutIndex(ctx, p.url, r, size, w)
	case SFTP:
		return sftp.PutIndex(ctx, p.url, r, size, o.sftpOptions(st))
	case Casync:
		if p.archive() {
			return remote.PutArchive(ctx, p.url, io.NewSectionReader(r, 0, size), o.remoteOptions(st))
		}
		return remote.PutIndex(ctx, p.url, r, size, o.remoteOptions(st))
	}
	return fmt.Errorf("location: internal error: no index of kind %q to put", p.kind)
}

// IndexInfo describes an index that [Opener.ListIndexes] has found.
type IndexInfo struct {
	Loc      string // to open it with
	Size     int64  // bytes
	Modified time.Time
}

// ListIndexes calls each for the .caibx and .caidx files right in the directory at loc, or
// behind that prefix of a bucket, in the order of names, until each returns an error, which
// it then returns. Where files cannot be listed that is errors.ErrUnsupported. A directory
// that is not there is a [NotFoundError].
func (o *Opener) ListIndexes(ctx context.Context, loc string, each func(IndexInfo) error) error {
	p, err := parse(loc)
	if err != nil {
		return err
	}
	var own error // of each
	call := func(i IndexInfo) error {
		own = each(i)
		return own
	}
	st := o.Config.Store(p.match())
	switch p.kind {
	case Directory:
		err = listDirectory(ctx, p.url, call)
	case S3:
		w, werr := o.s3Options(st)
		if werr != nil {
			return fmt.Errorf("%s: %w", p.loc, werr)
		}
		err = s3.ListIndexes(ctx, p.url, w, func(at string, size int64, modified time.Time) error {
			return call(IndexInfo{at + query(p.url), size, modified})
		})
	case SFTP:
		err = sftp.ListIndexes(ctx, p.url, o.sftpOptions(st), func(at string, size int64, modified time.Time) error {
			return call(IndexInfo{at, size, modified})
		})
	default:
		return &FormError{p.loc, fmt.Errorf("the indexes there cannot be listed: %w", errors.ErrUnsupported)}
	}
	if own != nil {
		return own
	}
	if err != nil {
		return notFound("directory", p.loc, err)
	}
	return nil
}

// holdsIndex reports whether a file begins as an index does.
func holdsIndex(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = index.NewReader(f)
	return err == nil
}

// listDirectory is ListIndexes of a directory. Who asks may take what is not found for
// something that is not needed: so an index of another name, or one that a link does not
// lead to now, is an error.
func listDirectory(ctx context.Context, name string, each func(IndexInfo) error) error {
	entries, err := os.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file := filepath.Join(name, e.Name())
		if ext := filepath.Ext(e.Name()); ext != ".caibx" && ext != ".caidx" || strings.HasPrefix(e.Name(), ".") {
			if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") && holdsIndex(file) {
				return fmt.Errorf("%s is an index, but its name ends in neither .caibx nor .caidx: rename it, or name all indexes", file)
			}
			continue
		}
		fi, err := os.Stat(file) // what a symbolic link names counts
		switch {
		case err == nil && !fi.Mode().IsRegular(), errors.Is(err, os.ErrNotExist) && e.Type()&os.ModeSymlink == 0:
			continue // it is something else, or has gone
		case err != nil: // what a link names may only be away for the moment
			return fmt.Errorf("index %s: %v", file, err)
		}
		if err := each(IndexInfo{file, fi.Size(), fi.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

// DefaultStore returns where the store of the index at loc is if nobody says otherwise:
// default.castr beside the index, as casync has it. What the query of a URL for S3 says
// holds for the store as well; that of a web server does not.
func DefaultStore(loc string) string {
	const name = "default.castr"
	if loc == "-" {
		return name
	}
	p, err := parse(loc)
	switch {
	case err != nil, p.kind == Directory:
		if scheme, _, ok := strings.Cut(loc, "://"); ok && isScheme(scheme) {
			return beside(loc, name)
		}
		return filepath.Join(filepath.Dir(loc), name)
	case p.kind == Casync && !strings.HasPrefix(loc, "ssh://"):
		l, _ := hostPath(loc)
		return strings.TrimSuffix(loc, l.Path) + path.Join(path.Dir(l.Path), name)
	case p.kind == S3:
		return beside(loc, name) + query(loc)
	}
	return beside(loc, name)
}

// beside returns the URL of the file name in the directory of the one at a URL.
func beside(rawURL, name string) string {
	at, _, _ := strings.Cut(rawURL, "?")
	at, _, _ = strings.Cut(at, "#")
	scheme, rest, _ := strings.Cut(at, "://")
	slash := strings.LastIndexByte(rest, '/')
	if slash < 0 {
		return scheme + "://" + rest + "/" + name
	}
	return scheme + "://" + rest[:slash+1] + name
}

// query returns the query of a URL with its question mark, or "".
func query(rawURL string) string {
	rawURL, _, _ = strings.Cut(rawURL, "#")
	if i := strings.IndexByte(rawURL, '?'); i >= 0 {
		return rawURL[i:]
	}
	return ""
}
