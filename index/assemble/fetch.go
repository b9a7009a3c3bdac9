package assemble

import (
	"context"
	"errors"
	"fmt"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
	"github.com/castorsync/castor/store"
)

// get gets the chunk of entry i, verified. The caller releases the chunk when it
// is done with its bytes.
func (p *Plan) get(ctx context.Context, src store.Getter, i int) (store.Chunk, []byte, error) {
	e := p.Index.Entries[i]
	if src == nil {
		return store.Chunk{}, nil, &MissingError{Offset: p.Index.Start(i), Err: &store.NotFoundError{ID: e.ID}}
	}
	c, err := src.Get(ctx, e.ID)
	if ctx.Err() != nil {
		return store.Chunk{}, nil, context.Cause(ctx)
	}
	var b []byte
	if err == nil && c.ID != e.ID { // Open goes by the chunk's own ID
		err = fmt.Errorf("%w: asked %s for %v and got %v", store.ErrDamaged, c.Loc, e.ID, c.ID)
	}
	if err == nil {
		b, err = p.open(&c, i)
	}
	if errors.Is(err, index.ErrFormat) {
		c.Release()
		return store.Chunk{}, nil, err
	}
	if err != nil {
		c.Release()
		return store.Chunk{}, nil, &MissingError{Offset: p.Index.Start(i), Err: err}
	}
	return c, b, nil
}

// open returns the verified bytes of c, the chunk of entry i, which are as many as the
// index says.
func (p *Plan) open(c *store.Chunk, i int) ([]byte, error) {
	b, err := c.Open(p.Index.Digest(), p.Index.Params.Max)
	if n := p.Index.Len(i); err == nil && len(b) != n { // no store is to blame
		err = fmt.Errorf("%w: entry %d has %d bytes, but chunk %v has %d", index.ErrFormat, i, n, c.ID, len(b))
	}
	return b, err
}

// MissingError says that a chunk could not be got.
type MissingError struct {
	Offset int64 // in the content, of the first place that needs it
	Err    error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%v; needed at offset %d", e.Err, e.Offset)
}

func (e *MissingError) Unwrap() error { return e.Err }

// deliver lets the store bring what is to be fetched in whatever order it comes, if it
// can, and writes it. What it does not bring is fetched afterwards.
func (r *runner) deliver(ctx context.Context) error {
	if !store.Delivers(r.src) {
		return nil
	}
	r.delivered = bitset.New(len(r.Index.Entries))
	want := func(id chunker.ID) bool { i, ok := r.missing(id); return ok && !r.delivered.Has(i) }
	return store.Deliver(ctx, r.src, want, (*delivery)(r))
}

// Lacks reports whether a chunk must be fetched; see [Plan.Missing].
func (p *Plan) Lacks(id chunker.ID) bool {
	_, ok := p.missing(id)
	return ok
}

// missing returns the first entry of a chunk that must be fetched.
func (p *Plan) missing(id chunker.ID) (first int, ok bool) {
	first = p.table.first(id)
	return first, first != none && p.needs(first, Fetch)
}

// delivery writes chunks that come unasked.
type delivery runner

func (d *delivery) Put(ctx context.Context, c store.Chunk) error {
	r := (*runner)(d)
	i, ok := r.missing(c.ID)
	if !ok {
		return nil
	}
	b, err := r.open(&c, i)
	if err != nil {
		return err
	}
	if err := r.writeAll(i, Fetch, b); err != nil {
		return err
	}
	r.delivered.Add(i)
	return nil
}
