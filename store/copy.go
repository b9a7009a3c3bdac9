package store

import (
	"context"
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
	err := par.Each(ctx, workers, len(ids), func(ctx context.Context, i int) error {
		var n int64
		has, err := dst.Has(ctx, ids[i])
		if err == nil && !has {
			n, err = copyOne(ctx, dst, src, ids[i], d, limit)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if has {
			sum.Present++
		} else {
			sum.Copied++
			sum.Bytes += n
		}
		if progress != nil {
			progress(sum)
		}
		return nil
	})
	if err != nil {
		return sum, err
	}
	return sum, Sync(ctx, dst)
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
