package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/castorsync/castor/chunker"
)

// wrapper is what a combinator over one source has. What the source itself lacks falls
// back as the package functions do, so that having the method claims nothing; most other
// powers are added by [dress]. That of an [Opener] is not passed on: what is read from a
// file goes past the wrapper.
type wrapper interface {
	Store
	Adder
	Sizer
	Syncer
	Replacer
	fmt.Stringer
	io.Closer
}

// passed is a wrapper that passes every call on.
type passed struct{ to Getter }

var _ wrapper = passed{}

func (p passed) Get(ctx context.Context, id chunker.ID) (Chunk, error) { return p.to.Get(ctx, id) }

func (p passed) Put(ctx context.Context, c Chunk) error {
	if s, ok := p.to.(Putter); ok {
		return s.Put(ctx, c)
	}
	return errors.ErrUnsupported
}

func (p passed) Has(ctx context.Context, id chunker.ID) (bool, error) { return hasChunk(ctx, p.to, id) }

func (p passed) Add(ctx context.Context, c Chunk) (Added, error) {
	if s, ok := p.to.(Store); ok {
		return Add(ctx, s, c)
	}
	return Added{}, errors.ErrUnsupported
}

func (p passed) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	return StoredSize(ctx, p.to, id)
}

func (p passed) Sync(ctx context.Context) error {
	if s, ok := p.to.(Putter); ok {
		return Sync(ctx, s)
	}
	return nil
}

func (p passed) Replace(ctx context.Context, c Chunk) error {
	if s, ok := p.to.(Putter); ok {
		return Replace(ctx, s, c)
	}
	return errors.ErrUnsupported
}

func (p passed) String() string { return fmt.Sprint(p.to) }

// Close closes the source, if it can be closed.
func (p passed) Close() error {
	if c, ok := p.to.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// hasChunk asks a source that may be no Store whether it has a chunk.
func hasChunk(ctx context.Context, g Getter, id chunker.ID) (bool, error) {
	switch g := g.(type) {
	case *Union, *Cache:
		return holds(ctx, g, id), nil
	case interface {
		Has(ctx context.Context, id chunker.ID) (bool, error)
	}:
		return g.Has(ctx, id)
	}
	_, err := StoredSize(ctx, g, id)
	if Missing(err) {
		return false, nil
	}
	return err == nil, err
}

// asker is a wrapper of a source that takes no chunks.
type asker interface {
	Getter
	Sizer
	fmt.Stringer
	io.Closer
	Has(ctx context.Context, id chunker.ID) (bool, error)
}

// dress returns w with those of the powers to put, list, remove, set aside and deliver
// that the source has which it wraps. Listing and sweeping are long and call back: they
// go straight to the source; the others through call.
func dress(w wrapper, g Getter, call func(context.Context, func(context.Context) error) error) Getter {
	if _, ok := g.(Store); !ok {
		if d, ok := g.(Deliverer); ok && Delivers(g) {
			return struct {
				asker
				Deliverer
			}{w, d}
		}
		return struct{ asker }{w}
	}
	l, lists := g.(Lister)
	r, removes := g.(Remover)
	a, sets := g.(SetAsider)
	remover, setAsider := calledRemover{r, call}, calledSetAsider{a, call}
	switch {
	case removes && sets:
		return struct {
			wrapper
			Remover
			SetAsider
		}{w, remover, setAsider}
	case removes:
		return struct {
			wrapper
			Remover
		}{w, remover}
	case lists && sets:
		return struct {
			wrapper
			Lister
			SetAsider
		}{w, l, setAsider}
	case lists:
		return struct {
			wrapper
			Lister
		}{w, l}
	case sets:
		return struct {
			wrapper
			SetAsider
		}{w, setAsider}
	}
	return struct{ wrapper }{w}
}

// calledRemover removes through call.
type calledRemover struct {
	Remover
	call func(context.Context, func(context.Context) error) error
}

func (r calledRemover) Remove(ctx context.Context, id chunker.ID, since time.Time) (removed bool, err error) {
	err = r.call(ctx, func(ctx context.Context) error {
		removed, err = r.Remover.Remove(ctx, id, since)
		return err
	})
	return removed, err
}

// calledSetAsider sets aside through call.
type calledSetAsider struct {
	SetAsider
	call func(context.Context, func(context.Context) error) error
}

func (a calledSetAsider) SetAside(ctx context.Context, id chunker.ID) (where string, err error) {
	err = a.call(ctx, func(ctx context.Context) error {
		where, err = a.SetAsider.SetAside(ctx, id)
		return err
	})
	return where, err
}
