package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
)

// Remover is the power to delete chunks, with other processes using the store.
type Remover interface {
	Lister
	// Remove deletes the chunk unless it has been used after since, and reports
	// whether it did.
	Remove(ctx context.Context, id chunker.ID, since time.Time) (bool, error)
	// Sweep removes what killed runs left behind and has not been touched after
	// since, and returns how many pieces that were. With dryRun it only counts.
	Sweep(ctx context.Context, since time.Time, dryRun bool) (int, error)
}

// GCStats says what [GC] did, or would do.
type GCStats struct {
	Kept         int   // chunks that are referenced
	Young        int   // unreferenced, but used within the grace period
	Removed      int   // chunks removed
	RemovedBytes int64 // as stored
	Swept        int   // left-over temporary files removed
}

// GCOptions are the settings of [GC].
type GCOptions struct {
	Since   time.Time // what has been used after this stays
	DryRun  bool
	Workers int // 0 means 8
	// Confirm, if not nil, is told what is to be removed, left-over files apart, before
	// anything is. If it returns an error, nothing is, and GC returns that.
	Confirm func(GCStats) error
}

// GC removes the chunks for which keep returns false and that have not been used
// since o.Since. It must be given the chunks of every index that matters: keep
// is called from one goroutine.
func GC(ctx context.Context, s Getter, keep func(chunker.ID) bool, o GCOptions) (GCStats, error) {
	var stats GCStats
	r, ok := s.(Remover)
	if !ok {
		return stats, fmt.Errorf("%v: cannot list and delete chunks: %w", s, errors.ErrUnsupported)
	}
	var doomed []Info
	err := r.List(ctx, func(i Info) error {
		switch {
		case keep(i.ID):
			stats.Kept++
		case i.Used.After(o.Since):
			stats.Young++
		default:
			doomed = append(doomed, i)
		}
		return nil
	})
	if err != nil {
		return stats, err
	}
	if o.Confirm != nil {
		would := stats
		would.Removed = len(doomed)
		for _, i := range doomed {
			would.RemovedBytes += i.Size
		}
		if err := o.Confirm(would); err != nil {
			return stats, err
		}
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	var mu sync.Mutex // guards stats
	err = par.Each(ctx, o.Workers, len(doomed), func(ctx context.Context, i int) error {
		removed := true
		if !o.DryRun {
			var err error
			if removed, err = r.Remove(ctx, doomed[i].ID, o.Since); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if removed {
			stats.Removed++
			stats.RemovedBytes += doomed[i].Size
		} else {
			stats.Young++
		}
		return nil
	})
	if err != nil {
		return stats, err
	}
	stats.Swept, err = r.Sweep(ctx, o.Since, o.DryRun)
	return stats, err
}

// SetAsider is the power to take a damaged chunk out of the way without deleting
// it. SetAside returns where it is now.
type SetAsider interface {
	SetAside(ctx context.Context, id chunker.ID) (string, error)
}

// Check gets every chunk of s and calls bad, from one goroutine at a time, for
// those that are damaged, with an error that wraps [ErrDamaged], or cannot be read.
// As a store does not say which digest names a chunk, each is tried with all. It
// returns how many chunks and bytes, as stored, it has read. Progress, if non-nil, is
// told both after each chunk.
func Check(ctx context.Context, s Getter, workers int, bad func(id chunker.ID, err error) error, progress func(chunks int, bytes int64)) (chunks int, bytes int64, err error) {
	l, ok := s.(Lister)
	if !ok {
		return 0, 0, fmt.Errorf("%v: cannot list chunks: %w", s, errors.ErrUnsupported)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	ids := make(chan chunker.ID)
	var mu sync.Mutex // guards chunks, bytes and the calls of bad
	var wg sync.WaitGroup
	for range max(workers, 1) {
		wg.Go(func() {
			digest := chunker.BLAKE3
			for id := range ids {
				n, err := checkOne(ctx, s, id, &digest)
				mu.Lock()
				if ctx.Err() == nil && !Missing(err) {
					chunks++
					bytes += n
					if err != nil {
						if err := bad(id, err); err != nil {
							cancel(err)
						}
					}
					if progress != nil {
						progress(chunks, bytes)
					}
				}
				mu.Unlock()
			}
		})
	}
	err = l.List(ctx, func(i Info) error {
		select {
		case ids <- i.ID:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(ids)
	wg.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return chunks, bytes, err
}

// checkOne gets and verifies a chunk, trying the digest that fitted last first.
// It returns the stored size.
func checkOne(ctx context.Context, s Getter, id chunker.ID, last *chunker.Digest) (int64, error) {
	c, err := s.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	defer func() { c.Release() }()
	n := int64(len(c.Data))
	_, err = c.Open(*last, chunker.MaxSize)
	if err == nil {
		return n, nil
	}
	for _, d := range chunker.Digests {
		if d == *last {
			continue
		}
		if _, derr := c.Open(d, chunker.MaxSize); derr == nil {
			*last = d
			return n, nil
		}
	}
	return n, err
}
