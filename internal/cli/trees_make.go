package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

// What an output is, as --what says.
const (
	whatBlob         = "blob"
	whatArchive      = "archive"
	whatArchiveIndex = "archive-index"
)

// kind returns what is to be made.
func (f *makeFlags) kind(loc string) (string, error) {
	switch f.what {
	case whatBlob, whatArchive, whatArchiveIndex:
		return f.what, nil
	case "":
	default:
		return "", usagef("--what %q: want %s, %s or %s", f.what, whatBlob, whatArchive, whatArchiveIndex)
	}
	switch {
	case isArchive(loc):
		return whatArchive, nil
	case isArchiveIndex(loc):
		return whatArchiveIndex, nil
	}
	return whatBlob, nil
}

// openDirectory returns the directory at name, or the tar file, as the archive that is
// to be cut, and the features of its index.
func (f *makeFlags) openDirectory(a *app, name string, d chunker.Digest) (*source, index.Features, error) {
	if f.tar {
		return f.openTar(a, name, d)
	}
	if name == "-" {
		return nil, 0, usagef("a tree does not come from stdin: name its directory; with --tar, a tar file comes from there")
	}
	features, err := f.tree.parse()
	if err != nil {
		return nil, 0, err
	}
	features = (features | digestFeature(d)).Normalize()
	if fi, err := os.Stat(name); err == nil && !fi.IsDir() {
		return nil, 0, usagef("%s is no directory: name the index .caibx for a file", name)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, 0, err
	}
	src := &source{closer: root, pack: func(ctx context.Context, w io.Writer) error {
		o := f.tree.packOptions(a)
		o.Progress = nil // the chunks tell
		_, err := tree.Pack(ctx, root, w, features, o)
		return err
	}}
	if f.cacheDir != "" {
		src.cached = f.withCache(a, name, root)
	}
	return src, index.Features(features), nil
}

// buildPacked cuts what pack writes.
func (s *source) buildPacked(ctx context.Context, w *index.Writer, dst store.Store, o *build.Options) (build.Stats, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := s.pack(ctx, pw)
		pw.CloseWithError(err)
		packed <- err
	}()
	stats, err := build.Stream(ctx, w, dst, pr, o)
	if err != nil {
		pr.CloseWithError(err)
		cancel(err)
	}
	if perr := <-packed; perr != nil && (err == nil || !errors.Is(perr, err)) {
		err = perr // it is why the stream ended
	}
	return stats, err
}

// makeArchive writes an archive without chunks.
func (f *makeFlags) makeArchive(ctx context.Context, a *app, loc, from string, d chunker.Digest) error {
	switch {
	case f.store != "":
		return usagef("%s: an archive has no chunks, so it takes no store", loc)
	case f.printStats || f.json:
		return usagef("--print-stats and --json: there are no chunks to tell of")
	}
	if !f.digestGiven {
		d = chunker.SHA512256 // what casync notes in archives, too
	}
	src, _, err := f.openDirectory(a, from, d)
	if err != nil {
		return err
	}
	defer src.close()
	out, err := a.places.CreateFile(ctx, loc, a.Stdout, whatArchive, isCatar)
	if err != nil {
		return err
	}
	defer out.Abort()
	f.tree.omit = out.Paths()
	a.meter.Start("make", 0)
	n := &counter{w: out, told: func(n int64) { a.meter.Update(n, 0, nil) }}
	err = src.pack(ctx, n)
	a.meter.End()
	if err != nil {
		return fmt.Errorf("make %s from %s: %w", loc, from, err)
	}
	if err := out.Commit(!f.noSync); err != nil {
		return err
	}
	a.say("%s: %s", loc, units.Size(n.n))
	return nil
}

// isCatar reports whether r begins as an archive does.
func isCatar(r io.Reader) bool {
	_, err := archive.NewReader(r).Next()
	return !errors.Is(err, archive.ErrFormat)
}

// counter counts what is written.
type counter struct {
	w    io.Writer
	n    int64
	told func(int64)
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.told(c.n)
	return n, err
}
