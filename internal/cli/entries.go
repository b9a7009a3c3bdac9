package cli

import (
	"context"
	"fmt"

	"github.com/castorsync/castor/index"
)

// eachEntry calls f for the entries of the index at loc, in constant memory.
func eachEntry(a *app, loc string, r *index.Reader, f func(index.Entry) error) error {
	var stopped error // by f or a signal, as opposed to a fault of the index
	err := r.Each(func(e index.Entry) error {
		if stopped = context.Cause(a.ctx); stopped == nil {
			stopped = f(e)
		}
		return stopped
	})
	switch {
	case err == nil:
		return context.Cause(a.ctx)
	case stopped != nil:
		return stopped
	}
	return fmt.Errorf("index %s: %w", loc, err)
}
