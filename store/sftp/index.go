package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/pkg/sftp"
)

// GetIndex opens an index, or any other file, at an sftp URL, as [Open] has them. What
// the server does not have is an error that wraps fs.ErrNotExist. The reader is an
// io.ReaderAt, too. If the connection breaks, reading goes on where it was, if the
// file is still the same. Reads fail with the cause of ctx when that ends. The caller
// must close the reader.
func GetIndex(ctx context.Context, rawURL string, o *Options) (io.ReadCloser, error) {
	pl, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	options := o.withDefaults()
	return getIndex(ctx, pl, options, pl.dialer(&options))
}

func getIndex(ctx context.Context, pl place, o Options, dial dialFunc) (*file, error) {
	f := &file{place: pl, ctx: ctx, pool: newPool(ctx, pl.String(), &o, 1, dial)}
	err := f.pool.do(ctx, func(c *call) error {
		_, err := f.handle(c)
		return err
	})
	if err != nil {
		f.Close()
		return nil, pl.fail(ctx, "get", err)
	}
	return f, nil
}

// file reads a file from a server that may hang up. Read is for one goroutine, ReadAt
// for any number.
type file struct {
	place
	ctx  context.Context
	pool *pool

	ahead []byte // read and not yet returned
	off   int64  // behind ahead
	buf   []byte // for ahead, and nobody else
	err   error  // of Read; sticky

	mu   sync.Mutex
	conn *conn       // guarded by mu: where open is valid
	open *sftp.File  // guarded by mu
	was  fs.FileInfo // guarded by mu: as it was found first
}

var errChanged = errors.New("the file has changed while it was read")

// handle returns the file, opened for the connection of c.
func (f *file) handle(c *call) (*sftp.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == c.conn {
		return f.open, nil
	}
	h, err := c.open(f.path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, c.missing(f.path, err)
	}
	if err != nil {
		return nil, err
	}
	fi, err := fstat(h)
	switch {
	case err != nil:
	case !fi.Mode().IsRegular() || fi.Size() < 0:
		err = errors.New("not a regular file")
	case f.was == nil:
		f.was = fi
	case fi.Size() != f.was.Size() || !fi.ModTime().Equal(f.was.ModTime()):
		err = errChanged
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	f.conn, f.open = c.conn, h
	return h, nil
}

// ErrNoDirectory says that there is no directory for an index to be in. It is an
// fs.ErrNotExist.
var ErrNoDirectory error = noDirectoryError{}

type noDirectoryError struct{}

func (noDirectoryError) Error() string        { return "its directory does not exist" }
func (noDirectoryError) Is(target error) bool { return target == fs.ErrNotExist }

// missing returns [ErrNoDirectory] if not even the directory of a file exists, else err,
// which says that the file does not.
func (c *call) missing(name string, err error) error {
	if _, derr := c.stat(path.Dir(name)); errors.Is(derr, fs.ErrNotExist) {
		return ErrNoDirectory
	}
	return err
}

// ReadAt reads up to len(p) bytes, with io.EOF if there are fewer.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "get", Path: f.String(), Err: fs.ErrInvalid}
	}
	total := 0
	for total < len(p) {
		b := make([]byte, min(len(p)-total, readAhead)) // for the call is not ours if ctx ends
		n, err := f.readAt(b, off+int64(total))
		total += copy(p[total:], b[:n])
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// readAt fills b, with io.EOF if the file ends before. B is lost if ctx ends.
func (f *file) readAt(b []byte, off int64) (int, error) {
	n, err := ask(f.ctx, f.pool, func(c *call) (int, error) {
		h, err := f.handle(c)
		if err != nil {
			return 0, err
		}
		n := int(min(int64(len(b)), max(f.size()-off, 0)))
		err = readOn(io.NewSectionReader(h, off, int64(n)), b[:n], 0)
		if err == nil && n < len(b) {
			err = io.EOF
		}
		return n, err
	})
	if err != nil && err != io.EOF {
		return 0, f.fail(f.ctx, "get", err)
	}
	return n, err
}

func (f *file) size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.was.Size()
}

// readAhead is how much is read at once, in bytes: what may be in flight.
const readAhead = inFlight * packet / 2

// Read reads the file from the beginning to the end.
func (f *file) Read(p []byte) (int, error) {
	for len(f.ahead) == 0 && f.err == nil {
		if f.buf == nil {
			f.buf = make([]byte, readAhead)
		}
		var n int
		n, f.err = f.readAt(f.buf, f.off)
		f.ahead = f.buf[:n]
		f.off += int64(n)
	}
	if len(f.ahead) == 0 {
		return 0, f.err
	}
	n := copy(p, f.ahead)
	f.ahead = f.ahead[n:]
	return n, nil
}

// Close ends the connection.
func (f *file) Close() error {
	f.pool.close()
	return nil
}

// PutIndex writes size bytes of r to an sftp URL, as [Open] has them. The file appears
// whole or not at all, and durable where the server can do that. PutIndex does not use r
// after it returns.
func PutIndex(ctx context.Context, rawURL string, r io.ReaderAt, size int64, o *Options) error {
	pl, err := parse(rawURL)
	if err != nil {
		return err
	}
	options := o.withDefaults()
	return putIndex(ctx, pl, r, size, options, pl.dialer(&options))
}

func putIndex(ctx context.Context, pl place, r io.ReaderAt, size int64, o Options, dial dialFunc) error {
	p := newPool(ctx, pl.String(), &o, 1, dial)
	defer p.close() // which waits for what uses r
	var begun atomic.Bool
	cleaned := make(chan struct{}, 1+o.Retries) // has something for each try
	err := p.do(ctx, func(c *call) error {
		begun.Store(true)
		defer func() { cleaned <- struct{}{} }()
		dir, name := path.Split(pl.path)
		tmp := path.Join(dir, "."+temporaryName(name))
		err := c.upload(tmp, stopReader{ctx, io.NewSectionReader(r, 0, size)})
		if err == nil {
			err = c.replace(tmp, pl.path)
		}
		if err != nil {
			c.remove(tmp)
			if errors.Is(err, fs.ErrNotExist) {
				err = c.missing(pl.path, err)
			}
			return err
		}
		return c.syncDir(path.Dir(pl.path))
	})
	if ctx.Err() != nil && begun.Load() {
		select {
		case <-cleaned:
		case <-time.After(cleanTime):
		}
	}
	if err != nil {
		return pl.fail(ctx, "put", err)
	}
	return nil
}

// cleanTime is how long a cancelled upload may take to remove what it has written.
const cleanTime = time.Second

// upload writes a new file, durable where the server can do that.
func (c *call) upload(name string, r stopReader) error {
	f, err := c.open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	n, err := f.ReadFrom(r)
	if err == nil && n != r.Size() {
		err = fmt.Errorf("%w: %d bytes of %d", io.ErrUnexpectedEOF, n, r.Size())
	}
	if err == nil {
		err = c.sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && r.ctx.Err() != nil {
		err = context.Cause(r.ctx)
	}
	return err
}

// stopReader fails when ctx ends.
type stopReader struct {
	ctx context.Context
	*io.SectionReader
}

func (r stopReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.SectionReader.Read(p)
}

// ListIndexes calls each for the .caibx and .caidx files in the directory at an sftp
// URL, by name, from one goroutine, until each returns an error, which ListIndexes
// then returns. It is given the URL, for [GetIndex], the size in bytes and the time of
// the last change. Hidden files, names with control characters and what is not a
// regular file, or a link to one, are passed over; a link to nothing is an error.
func ListIndexes(ctx context.Context, rawURL string, o *Options, each func(url string, size int64, modified time.Time) error) error {
	pl, err := parse(rawURL)
	if err != nil {
		return err
	}
	options := o.withDefaults()
	return listIndexes(ctx, pl, options, pl.dialer(&options), each)
}

func listIndexes(ctx context.Context, pl place, o Options, dial dialFunc, each func(string, int64, time.Time) error) error {
	p := newPool(ctx, pl.String(), &o, 1, dial)
	defer p.close()
	entries, err := p.readDir(ctx, pl.path)
	if err != nil {
		return pl.fail(ctx, "list", err)
	}
	for _, fi := range entries {
		if !isIndex(fi.Name()) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file := path.Join(pl.path, fi.Name())
		if fi.Mode()&fs.ModeSymlink != 0 {
			if fi, err = ask(ctx, p, func(c *call) (fs.FileInfo, error) { return c.stat(file) }); err != nil {
				return fmt.Errorf("index %s: %v", pl.locate(file), err)
			}
		}
		if !fi.Mode().IsRegular() || fi.Size() < 0 {
			continue
		}
		if err := each(pl.locate(file), fi.Size(), fi.ModTime()); err != nil {
			return err
		}
	}
	return nil
}

func isIndex(name string) bool {
	ext := path.Ext(name)
	return (ext == ".caibx" || ext == ".caidx") && name[0] != '.' && !strings.ContainsAny(name, `/\`) &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
