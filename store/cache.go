package store

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/castorsync/castor/chunker"
)

// Cache is a source that keeps what it got from another one. Chunks come
// verified out of it, and only verified ones are kept.
type Cache struct {
	Local    Store  // asked first, and filled
	Source   Getter // asked for what Local lacks
	Verifier *Verifier
	Log      *slog.Logger // told of chunks that could not be kept, of many alike now and then; may be nil

	hits, hitBytes atomic.Int64
	told           often
}

var (
	_ Getter    = (*Cache)(nil)
	_ Sizer     = (*Cache)(nil)
	_ Deliverer = (*Cache)(nil)
)

// Get returns the chunk from the cache, else from the source. A damaged chunk in
// the cache is replaced. Failing to fill the cache is not an error: the chunk is
// at hand.
func (c *Cache) Get(ctx context.Context, id chunker.ID) (Chunk, error) {
	keep := c.Local.Put
	ch, err := c.Local.Get(ctx, id)
	if err == nil {
		if ch, err = c.Verifier.Verify(ch); err == nil {
			c.hits.Add(1)
			c.hitBytes.Add(int64(len(ch.plain)))
			return ch, nil
		}
		ch.Release()
	}
	if errors.Is(err, ErrDamaged) {
		keep = func(ctx context.Context, ch Chunk) error { return Replace(ctx, c.Local, ch) }
	}
	if !Missing(err) && ctx.Err() == nil {
		c.warn("chunk in cache is not usable", err)
	}
	if ch, err = c.Source.Get(ctx, id); err != nil {
		return Chunk{}, err
	}
	if ch, err = c.Verifier.Verify(ch); err != nil {
		return Chunk{}, err
	}
	if err := keep(ctx, ch); err != nil && ctx.Err() == nil {
		c.warn("chunk not kept in cache", err)
	}
	return ch, nil
}

func (c *Cache) warn(what string, err error) {
	c.told.warn(c.Log, what, what, "error", err)
}

// StoredSize returns what getting the chunk would move from the source: 0 if it
// is in the cache.
func (c *Cache) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	if _, err := StoredSize(ctx, c.Local, id); err == nil {
		return 0, nil
	}
	return StoredSize(ctx, c.Source, id)
}

// Hits returns how many chunks, and how many plain bytes, came from the cache.
func (c *Cache) Hits() (chunks, bytes int64) { return c.hits.Load(), c.hitBytes.Load() }
