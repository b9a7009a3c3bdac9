package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"

	"github.com/castorsync/castor/chunker"
)

// Union asks several sources in order. A source that lacks a chunk, holds it
// damaged or fails is passed over; so chunks come verified out of a Union.
type Union struct {
	Sources  []Getter
	Verifier *Verifier

	// Log is told of sources that failed while another one had the chunk, of one that
	// keeps failing now and then. Nil means nobody is.
	Log *slog.Logger

	told often
}

var (
	_ Getter    = (*Union)(nil)
	_ Sizer     = (*Union)(nil)
	_ Deliverer = (*Union)(nil)
)

// Get returns the chunk from the first source that has it right. If none has,
// the error names every source with its reason, and wraps fs.ErrNotExist only
// if all of them lack the chunk.
func (u *Union) Get(ctx context.Context, id chunker.ID) (Chunk, error) {
	var errs []error
	for _, s := range u.Sources {
		c, err := s.Get(ctx, id)
		if err == nil {
			if c, err = u.Verifier.Verify(c); err != nil {
				c.Release()
			}
		}
		if err == nil {
			u.tell(errs, c)
			return c, nil
		}
		if ctx.Err() != nil {
			return Chunk{}, context.Cause(ctx)
		}
		errs = append(errs, err)
	}
	return Chunk{}, &NotFoundError{ID: id, Tried: errs}
}

// tell says why the first sources, one for each of errs, were passed over for c.
func (u *Union) tell(errs []error, c Chunk) {
	for i, err := range errs {
		if !Missing(err) && !Delivers(u.Sources[i]) { // what delivers has had its time
			u.told.warn(u.Log, strconv.Itoa(i), "chunk taken from another store", "error", err, "store", c.Loc)
		}
	}
}

// StoredSize returns the size in the first source that has the chunk.
func (u *Union) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	var errs []error
	for _, s := range u.Sources {
		n, err := StoredSize(ctx, s, id)
		if err == nil {
			return n, nil
		}
		errs = append(errs, err)
	}
	return 0, &NotFoundError{ID: id, Tried: errs}
}

// NotFoundError says that no source could deliver a chunk.
type NotFoundError struct {
	ID    chunker.ID
	Tried []error // one for each source
}

func (e *NotFoundError) Error() string {
	if len(e.Tried) == 0 {
		return fmt.Sprintf("chunk %v: no store to get it from", e.ID)
	}
	reasons := make([]string, len(e.Tried))
	for i, err := range e.Tried {
		reasons[i] = err.Error()
		if se, ok := errors.AsType[*Error](err); ok {
			reasons[i] = se.Loc + ": " + se.Err.Error()
			if Missing(err) {
				reasons[i] = "not in " + se.Loc
			}
		}
	}
	return fmt.Sprintf("chunk %v: %s", e.ID, strings.Join(reasons, "; "))
}

// Unwrap returns the reasons; fs.ErrNotExist only if that is all of them.
func (e *NotFoundError) Unwrap() []error {
	var other []error
	for _, err := range e.Tried {
		if !Missing(err) {
			other = append(other, err)
		}
	}
	if len(other) == 0 {
		return []error{fs.ErrNotExist}
	}
	return other
}
