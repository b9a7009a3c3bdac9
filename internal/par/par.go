// Package par runs work on several goroutines. Whatever it starts has ended
// when its functions return.
package par

import (
	"context"
	"sync"
	"sync/atomic"
)

// Ordered runs work on items on several goroutines and passes the items to
// emit one at a time, in the order of submission.
type Ordered[T any] struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	jobs   chan *slot[T]
	order  chan *slot[T]
	wg     sync.WaitGroup
	done   chan struct{} // closed when the last item has been emitted
}

type slot[T any] struct {
	item T
	done chan error
}

// NewOrdered starts workers goroutines, at least one, that call work. The first
// error of work or emit, or the end of ctx, cancels the context that work is given
// and ends everything; items that are then on the way are not emitted. Up to depth
// items are on the way at once. The caller must call Wait.
func NewOrdered[T any](ctx context.Context, workers, depth int, work func(context.Context, *T) error, emit func(*T) error) *Ordered[T] {
	o := &Ordered[T]{
		jobs:  make(chan *slot[T]),
		order: make(chan *slot[T], max(depth-1, 0)), // one more is being waited for
		done:  make(chan struct{}),
	}
	o.ctx, o.cancel = context.WithCancelCause(ctx)
	for range max(workers, 1) {
		o.wg.Go(func() {
			for s := range o.jobs {
				if o.ctx.Err() != nil {
					s.done <- context.Cause(o.ctx)
					continue
				}
				s.done <- work(o.ctx, &s.item)
			}
		})
	}
	go func() {
		defer close(o.done)
		for s := range o.order {
			err := <-s.done
			if err == nil && o.ctx.Err() == nil {
				err = emit(&s.item)
			}
			if err != nil {
				o.cancel(err)
			}
		}
	}()
	return o
}

// Submit hands over the next item. It waits while too many are on the way, and
// returns an error if no more can be taken; Wait then tells the reason. It must
// not be called from several goroutines at once.
func (o *Ordered[T]) Submit(item T) error {
	s := &slot[T]{item: item, done: make(chan error, 1)}
	if o.ctx.Err() != nil {
		return context.Cause(o.ctx)
	}
	select {
	case o.order <- s:
	case <-o.ctx.Done():
		return context.Cause(o.ctx)
	}
	select {
	case o.jobs <- s:
		return nil
	case <-o.ctx.Done():
		s.done <- context.Cause(o.ctx)
		return context.Cause(o.ctx)
	}
}

// Wait says that no more items come, waits for those on the way, and returns
// the first error of work or emit, else the cause of the end of the context.
func (o *Ordered[T]) Wait() error {
	close(o.jobs)
	close(o.order)
	o.wg.Wait()
	<-o.done
	defer o.cancel(context.Canceled)
	if o.ctx.Err() != nil {
		return context.Cause(o.ctx)
	}
	return nil
}

// Each calls work(i) for i = 0 … n-1 on up to workers goroutines, at least one. It
// returns the first error, else the cause of ctx.
func Each(ctx context.Context, workers, n int, work func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(max(workers, 1), n) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := work(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Fit returns how many of n workers, at least one, may run at once if each holds
// up to size bytes and all of them budget bytes.
func Fit(n, size, budget int) int { return max(1, min(n, budget/max(size, 1))) }
