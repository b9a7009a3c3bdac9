// Package location turns what users write for a store or an index into the
// thing: one switch over the forms of a path or URL, and no registry.
package location

import (
	"errors"
	"fmt"
	"io/fs"
)

// NotFoundError says that a store or an index does not exist.
type NotFoundError struct {
	What string // "store", "index" or "directory"
	Loc  string
	Err  error
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s %s: %v", e.What, e.Loc, reason(e.Err))
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// notFound makes a NotFoundError of what says that something is not there.
func notFound(what, loc string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{what, loc, err}
	}
	return err
}

// reason drops the operation and path that a message names itself.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
