package store

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bitset"
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
	left, err := deliver(ctx, dst, src, ids, d, limit, add)
	if err != nil {
		return sum, err
	}
	err = par.Each(ctx, workers, len(ids), func(ctx context.Context, i int) error {
		if left != nil && !left.Has(i) {
			return nil
		}
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

// deliver lets src bring what dst lacks of ids, if it has the power. It returns the
// numbers of those that are left to be copied; nil means all.
func deliver(ctx context.Context, dst Store, src Getter, ids []chunker.ID, d chunker.Digest, limit int, add func(present bool, bytes int64)) (left bitset.Set, err error) {
	if !Delivers(src) {
		return nil, nil
	}
	left = bitset.New(len(ids))
	for i, id := range ids {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if holds(ctx, dst, id) {
			add(true, 0)
		} else {
			left.Add(i)
		}
	}
	number := numbers(ids)
	want := func(id chunker.ID) bool { i, ok := number(id); return ok && left.Has(i) }
	return left, Deliver(ctx, src, want, putterFunc(func(ctx context.Context, c Chunk) error {
		i, ok := number(c.ID)
		if !ok || !left.Has(i) {
			return nil // nobody has asked for it
		}
		c, err := c.Verify(d, limit)
		if err == nil {
			err = dst.Put(ctx, c)
		}
		if err != nil {
			return err
		}
		left.Remove(i)
		add(false, int64(len(c.Data)))
		return nil
	}))
}

// numbers returns a function that finds the place of an ID in ids. It takes four bytes
// for each.
func numbers(ids []chunker.ID) func(id chunker.ID) (int, bool) {
	sorted := make([]uint32, len(ids))
	for i := range sorted {
		sorted[i] = uint32(i)
	}
	slices.SortFunc(sorted, func(a, b uint32) int { return bytes.Compare(ids[a][:], ids[b][:]) })
	return func(id chunker.ID) (int, bool) {
		at, ok := slices.BinarySearchFunc(sorted, id, func(i uint32, id chunker.ID) int { return bytes.Compare(ids[i][:], id[:]) })
		if !ok {
			return 0, false
		}
		return int(sorted[at]), true
	}
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
