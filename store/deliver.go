package store

import (
	"context"
	"slices"
	"sync"

	"github.com/castorsync/castor/chunker"
)

// Deliverer is the power to bring many chunks at once, in whatever order they come:
// what is sent to many receivers cannot be asked for one by one.
type Deliverer interface {
	// Deliver puts chunks of want into sink, verified, and returns when it has
	// brought all that it can. It calls Put from several goroutines. It returns an
	// error only if ctx ends or the sink fails; what it has not brought can be asked
	// for elsewhere.
	Deliver(ctx context.Context, want []chunker.ID, sink Putter) error
}

// Deliver lets g bring chunks of want, if it has the power; otherwise it does nothing.
func Deliver(ctx context.Context, g Getter, want []chunker.ID, sink Putter) error {
	if d, ok := g.(Deliverer); ok && len(want) > 0 {
		return d.Deliver(ctx, want, sink)
	}
	return nil
}

// putterFunc is a function as a Putter.
type putterFunc func(ctx context.Context, c Chunk) error

func (f putterFunc) Put(ctx context.Context, c Chunk) error { return f(ctx, c) }

// Deliver lets those sources bring chunks that have the power, in order. What a store
// before them has is left to it.
func (u *Union) Deliver(ctx context.Context, want []chunker.ID, sink Putter) error {
	last := -1
	for i, s := range u.Sources {
		if Delivers(s) {
			last = i
		}
	}
	for _, s := range u.Sources[:last+1] {
		if len(want) == 0 {
			return nil
		}
		if !Delivers(s) {
			var err error
			if want, err = lacking(ctx, s, want); err != nil {
				return err
			}
			continue
		}
		var mu sync.Mutex
		brought := map[chunker.ID]bool{} // guarded by mu
		err := Deliver(ctx, s, want, putterFunc(func(ctx context.Context, c Chunk) error {
			if err := sink.Put(ctx, c); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			brought[c.ID] = true
			return nil
		}))
		if err != nil {
			return err
		}
		var rest []chunker.ID
		for _, id := range want {
			if !brought[id] {
				rest = append(rest, id)
			}
		}
		want = rest
	}
	return nil
}

// Delivers reports whether g has the power of a [Deliverer], which one that asks others
// has only if they do.
func Delivers(g Getter) bool {
	switch g := g.(type) {
	case *Union:
		return slices.ContainsFunc(g.Sources, Delivers)
	case *Cache:
		return Delivers(g.Source)
	}
	_, ok := g.(Deliverer)
	return ok
}

// lacking returns those of the chunks that g does not have, as far as it can tell.
func lacking(ctx context.Context, g Getter, want []chunker.ID) ([]chunker.ID, error) {
	switch g := g.(type) {
	case *Union:
		for _, s := range g.Sources {
			var err error
			if want, err = lacking(ctx, s, want); err != nil {
				return nil, err
			}
		}
		return want, nil
	case *Cache:
		want, err := lacking(ctx, g.Local, want)
		if err != nil {
			return nil, err
		}
		return lacking(ctx, g.Source, want)
	}
	s, ok := g.(interface {
		Has(ctx context.Context, id chunker.ID) (bool, error)
	})
	if !ok {
		return want, nil
	}
	var rest []chunker.ID
	for _, id := range want {
		if has, err := s.Has(ctx, id); err != nil || !has {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			rest = append(rest, id)
		}
	}
	return rest, nil
}

// Deliver lets the source bring what the cache lacks, and keeps it.
func (c *Cache) Deliver(ctx context.Context, want []chunker.ID, sink Putter) error {
	if !Delivers(c.Source) {
		return nil
	}
	want, err := lacking(ctx, c.Local, want)
	if err != nil {
		return err
	}
	return Deliver(ctx, c.Source, want, putterFunc(func(ctx context.Context, ch Chunk) error {
		if err := c.Local.Put(ctx, ch); err != nil && ctx.Err() == nil {
			c.warn("chunk not kept in cache", err)
		}
		return sink.Put(ctx, ch)
	}))
}
