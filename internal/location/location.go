// Package location turns what users write for a store or an index into the
// thing: one switch over the forms of a path or URL, and no registry.
package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store/dir"
)

// NotFoundError says that a store or an index does not exist.
type NotFoundError struct {
	What string // "store" or "index"
	Loc  string
	Err  error
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s %s: %v", e.What, e.Loc, reason(e.Err))
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// reason drops the operation and path that a message names itself.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Store opens the store at loc.
func Store(loc string, o *dir.Options) (*dir.Store, error) {
	if err := local(loc); err != nil {
		return nil, err
	}
	s, err := dir.Open(loc, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{"store", loc, err}
	}
	return s, err
}

// local refuses what is not a path.
func local(loc string) error {
	if scheme, _, ok := strings.Cut(loc, "://"); ok {
		return fmt.Errorf("%s: this version knows paths, http:// and https:// to read from, and mcast://, not %s:// here", loc, scheme)
	}
	return nil
}

// DefaultStore returns where the store of the index at loc is if nobody says
// otherwise: the directory default.castr beside it, as casync has it.
func DefaultStore(loc string) string {
	if loc == "-" {
		return "default.castr"
	}
	if isWeb(loc) {
		at, _, _ := strings.Cut(loc, "?")
		return at[:strings.LastIndexByte(at, '/')+1] + "default.castr"
	}
	return filepath.Join(filepath.Dir(loc), "default.castr")
}

// Index reads the index at loc; "-" is stdin.
func Index(ctx context.Context, loc string, stdin io.Reader) (*index.Index, error) {
	r, done, err := OpenIndex(ctx, loc, stdin)
	if err != nil {
		return nil, err
	}
	defer done()
	x, err := index.Decode(r)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", loc, reason(err))
	}
	if len(x.Entries) > 1<<20 {
		runtime.GC() // growing has left a third of a large table behind
	}
	return x, nil
}

// OpenIndex opens the index at loc for reading; "-" is stdin. The caller calls
// done at the end.
func OpenIndex(ctx context.Context, loc string, stdin io.Reader) (r io.Reader, done func() error, err error) {
	if loc == "-" {
		return stdin, func() error { return nil }, nil
	}
	if isWeb(loc) {
		f, err := openWebIndex(ctx, loc)
		if err != nil {
			return nil, nil, err
		}
		return f, f.Close, nil
	}
	if err := local(loc); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(loc)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &NotFoundError{"index", loc, err}
	}
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}
