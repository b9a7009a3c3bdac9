package location

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/store/sftp"
)

// IndexFile is an index on its way to where it is to be. It appears there whole, at
// [IndexFile.Commit], or not at all; only what goes to stdout is there at once. It must be
// ended by Commit or Abort.
type IndexFile struct {
	stdout io.Writer        // if it goes there
	atomic *atomicfile.File // if it goes into a file
	spool  *os.File         // if it is uploaded at the end
	named  bool             // spool has a name
	size   int64            // bytes written
	upload func() error     // of spool
	ended  bool
}

// NotIndexError says that a file is not replaced because it is something else than what is
// to be written.
type NotIndexError struct {
	Loc  string
	What string // "index" or "archive"
}

func (e *NotIndexError) Error() string {
	return fmt.Sprintf("%s exists and is not an %s: it is not replaced (are the arguments swapped?)", e.Loc, e.What)
}

// CreateIndex begins to write the index at loc; "-" is stdout. What goes to a server is
// kept in a temporary file without a name until it is uploaded, within ctx. Something else
// than an index is not replaced: that is a [NotIndexError]; more likely than not the
// arguments have been swapped.
func (o *Opener) CreateIndex(ctx context.Context, loc string, stdout io.Writer) (*IndexFile, error) {
	return o.CreateFile(ctx, loc, stdout, "index", isIndex)
}

// isIndex reports whether r begins as an index does.
func isIndex(r io.Reader) bool {
	_, err := index.NewReader(r)
	return !errors.Is(err, index.ErrFormat)
}

// CreateFile is [Opener.CreateIndex] for another kind of file, called what: only what same
// recognises is replaced. Same need not read all of it.
func (o *Opener) CreateFile(ctx context.Context, loc string, stdout io.Writer, what string, same func(io.Reader) bool) (*IndexFile, error) {
	if loc == "-" {
		return &IndexFile{stdout: stdout}, nil
	}
	p, err := parse(loc)
	if err != nil {
		return nil, err
	}
	if err := o.replaceable(ctx, p, what, same); err != nil {
		return nil, err
	}
	if p.kind == Directory {
		f, err := atomicfile.Create(p.url, false)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s %s: its directory does not exist", what, p.loc)
		}
		if err != nil {
			return nil, err
		}
		return &IndexFile{atomic: f}, nil
	}
	f, err := os.CreateTemp("", "castor-index-")
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, p.loc, err)
	}
	// Where an open file keeps its name, Abort and Commit remove it.
	x := &IndexFile{spool: f, named: os.Remove(f.Name()) != nil}
	x.upload = func() error { return o.putIndex(ctx, p, f, x.size) }
	return x, nil
}

// replaceable refuses to replace what is not the same kind of file, and a place where there
// can be none, as far as that is known. That it cannot be looked at otherwise is for the
// writing to tell.
func (o *Opener) replaceable(ctx context.Context, p place, what string, same func(io.Reader) bool) error {
	if p.kind == Directory {
		if fi, err := os.Stat(p.url); err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
			return nil // there is nothing to lose, or creating it tells what is wrong
		}
	}
	r, err := o.openIndex(ctx, p)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, sftp.ErrNoDirectory): // better now than when all is cut
			return fmt.Errorf("%s %s: %w", what, p.loc, sftp.ErrNoDirectory)
		}
		return nil
	}
	defer r.Close()
	var first [1]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return nil // empty, or unreadable
	}
	if !same(io.MultiReader(bytes.NewReader(first[:]), r)) {
		return &NotIndexError{p.loc, what}
	}
	return nil
}

// Paths returns where the index lies in the file system: the file that it goes into for
// now, and that which it will be.
func (x *IndexFile) Paths() []string {
	switch {
	case x.atomic != nil:
		return []string{x.atomic.Name(), x.atomic.Path()}
	case x.named:
		return []string{x.spool.Name()}
	}
	return nil
}

// Write writes to the index.
func (x *IndexFile) Write(b []byte) (n int, err error) {
	switch {
	case x.ended:
		return 0, fs.ErrClosed
	case x.stdout != nil:
		n, err = x.stdout.Write(b)
	case x.atomic != nil:
		n, err = x.atomic.Write(b)
	default:
		n, err = x.spool.Write(b)
	}
	x.size += int64(n)
	return n, err
}

// ReadAt reads what has been written. What went to stdout is errors.ErrUnsupported.
func (x *IndexFile) ReadAt(b []byte, off int64) (int, error) {
	switch {
	case x.ended:
		return 0, fs.ErrClosed
	case x.stdout != nil:
		return 0, errors.ErrUnsupported
	case x.atomic != nil:
		return x.atomic.ReadAt(b, off)
	}
	return x.spool.ReadAt(b, off)
}

// Commit makes the index appear. With sync, it has reached the disk then, or as far as the
// server can tell.
func (x *IndexFile) Commit(sync bool) error {
	if x.ended {
		return fs.ErrClosed
	}
	x.ended = true
	switch {
	case x.atomic != nil:
		return x.atomic.Commit(sync)
	case x.spool != nil:
		err := x.upload()
		x.drop()
		return err
	}
	return nil
}

// Abort gives the index up. It does nothing after Commit.
func (x *IndexFile) Abort() {
	if x.ended {
		return
	}
	x.ended = true
	if x.atomic != nil {
		x.atomic.Abort()
	}
	if x.spool != nil {
		x.drop()
	}
}

func (x *IndexFile) drop() {
	x.spool.Close()
	if x.named {
		os.Remove(x.spool.Name())
	}
}
