package store

import (
	"context"
	"slices"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
)

// Copied says what [Copy] did.
type Copied struct {
	Present int   // chunks that the sink had
	Copied  int   // chunks that were copied
	Bytes   int64 // of those, as they are stored in the source
}

// Copy copies the chunks ids, which should be distinct, from src to dst, except
// those that dst has. Chunks are moved in the form in which src holds them, and
// verified on the way with digest d and the limit in bytes. It returns the first
// error, or the cause of ctx; chunks copied so far stay. Progress, if non-nil, is
// called after each chunk, from one goroutine at a time.
func Copy(ctx context.Context, dst Store, src Getter, ids []chunker.ID, d chunker.Digest, limit, workers int, progress func(Copied)) (Copied, error) {
	var sum Copied
	var mu sync.Mutex // guards sum
	add := func(present bool, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		if present {
			sum.Present++
		} else {
			sum.Copied++
			sum.Bytes += bytes
		}
		if progress != nil {
			progress(sum)
		}
	}
	ids, err := deliver(ctx, dst, src, ids, d, limit, add)
	if err != nil {
		return sum, err
	}
	err = par.Each(ctx, workers, len(ids), func(ctx context.Context, i int) error {
		var n int64
		has, err := dst.Has(ctx, ids[i])
		if err == nil && !has {
			n, err = copyOne(ctx, dst, src, ids[i], d, limit)
		}
		if err != nil {
			return err
		}
		add(has, n)
		return nil
	})
	if err != nil {
		return sum, err
	}
	return sum, Sync(ctx, dst)
}

// deliver lets src bring what dst lacks of ids, if it has the power, and returns what
// is left to be copied.
func deliver(ctx context.Context, dst Store, src Getter, ids []chunker.ID, d chunker.Digest, limit int, add func(present bool, bytes int64)) ([]chunker.ID, error) {
	if !Delivers(src) {
		return ids, nil
	}
	want, err := lacking(ctx, dst, ids)
	if err != nil {
		return nil, err
	}
	for range len(ids) - len(want) {
		add(true, 0)
	}
	var mu sync.Mutex
	brought := map[chunker.ID]bool{} // guarded by mu
	err = Deliver(ctx, src, want, putterFunc(func(ctx context.Context, c Chunk) error {
		c, err := c.Verify(d, limit)
		if err == nil {
			err = dst.Put(ctx, c)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		brought[c.ID] = true
		mu.Unlock()
		add(false, int64(len(c.Data)))
		return nil
	}))
	return slices.DeleteFunc(want, func(id chunker.ID) bool { return brought[id] }), err
}

func copyOne(ctx context.Context, dst Store, src Getter, id chunker.ID, d chunker.Digest, limit int) (int64, error) {
	c, err := src.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	defer func() { c.Release() }()
	if c, err = c.Verify(d, limit); err != nil {
		return 0, err
	}
	return int64(len(c.Data)), dst.Put(ctx, c)
}
