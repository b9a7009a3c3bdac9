package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/castorsync/castor/index"
)

// eachEntry calls f for the entries of the index at loc, in constant memory.
func eachEntry(a *app, loc string, r *index.Reader, f func(index.Entry) error) error {
	for a.ctx.Err() == nil {
		e, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("index %s: %w", loc, err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return context.Cause(a.ctx)
}
