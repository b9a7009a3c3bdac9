package blob

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/internal/bufpool"
)

// Fill gets what the image lacks, up to workers chunks at the same time, without
// disturbing what is in memory. It goes on after an error, and returns the first
// one. Without an image it does nothing.
func (b *Blob) Fill(ctx context.Context, workers int) error {
	if b.image == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.ctx, func() { cancel(errClosed) })()
	var g errgroup.Group
	g.SetLimit(workers)
	var first atomic.Pointer[error]
	for i := range b.x.Entries {
		if ctx.Err() != nil || b.image.full.Load() {
			break
		}
		if !b.image.lacks(i) {
			continue
		}
		g.Go(func() error {
			data, _, err := b.get(ctx, i)
			if err != nil {
				first.CompareAndSwap(nil, &err)
			}
			bufpool.Put(data)
			return nil
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}
