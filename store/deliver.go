package store

import (
	"context"
	"slices"

	"github.com/castorsync/castor/chunker"
)

// Deliverer is the power to bring many chunks at once, in whatever order they come:
// what is sent to many receivers cannot be asked for one by one.
type Deliverer interface {
	// Deliver puts chunks that are wanted into sink, verified, and returns when it has
	// brought all that it can; if none is wanted it does nothing. It calls Put from
	// several goroutines. It returns an error only if ctx ends or the sink fails; what it
	// has not brought can be asked for elsewhere.
	//
	// Want reports whether a chunk is still lacking, at the time it is asked: that may be
	// a question to a store. It is asked about each chunk once, from one goroutine and
	// before anything is put, so that nobody needs a list of millions.
	Deliver(ctx context.Context, want func(id chunker.ID) bool, sink Putter) error
}

// Deliver lets g bring chunks that are wanted, if it has the power; otherwise it does
// nothing.
func Deliver(ctx context.Context, g Getter, want func(id chunker.ID) bool, sink Putter) error {
	if d, ok := g.(Deliverer); ok {
		return d.Deliver(ctx, want, sink)
	}
	return nil
}

// putterFunc is a function as a Putter.
type putterFunc func(ctx context.Context, c Chunk) error

func (f putterFunc) Put(ctx context.Context, c Chunk) error { return f(ctx, c) }

// Deliver lets those sources bring chunks that have the power, in order. What a store
// before them has is left to it.
func (u *Union) Deliver(ctx context.Context, want func(id chunker.ID) bool, sink Putter) error {
	for i, s := range u.Sources {
		if !Delivers(s) {
			continue
		}
		wanted := func(id chunker.ID) bool {
			return want(id) && !slices.ContainsFunc(u.Sources[:i], func(s Getter) bool { return holds(ctx, s, id) })
		}
		if err := Deliver(ctx, s, wanted, sink); err != nil {
			return err
		}
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

// holds reports whether g has a chunk, as far as it can tell.
func holds(ctx context.Context, g Getter, id chunker.ID) bool {
	switch g := g.(type) {
	case *Union:
		return slices.ContainsFunc(g.Sources, func(s Getter) bool { return holds(ctx, s, id) })
	case *Cache:
		return holds(ctx, g.Local, id) || holds(ctx, g.Source, id)
	case interface {
		Has(ctx context.Context, id chunker.ID) (bool, error)
	}:
		ok, err := g.Has(ctx, id)
		return ok && err == nil
	}
	return false
}

// Deliver lets the source bring what the cache lacks, and keeps it.
func (c *Cache) Deliver(ctx context.Context, want func(id chunker.ID) bool, sink Putter) error {
	wanted := func(id chunker.ID) bool { return want(id) && !holds(ctx, c.Local, id) }
	return Deliver(ctx, c.Source, wanted, putterFunc(func(ctx context.Context, ch Chunk) error {
		if err := c.Local.Put(ctx, ch); err != nil && ctx.Err() == nil {
			c.warn("chunk not kept in cache", err)
		}
		return sink.Put(ctx, ch)
	}))
}
