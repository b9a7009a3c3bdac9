package store

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/castorsync/castor/chunker"
)

// Limits bound what is asked of a source. Zero means no limit.
type Limits struct {
	Requests int   // calls at once; more wait for their turn
	Rate     int64 // bytes of chunks a second, as stored, in and out together
}

// Limit returns g within limits, with the powers that g has: it is a [Store] if g is one.
// Listing and sweeping, which are long and call back, are not limited, nor is what g
// delivers. Closing it closes g.
//
// The rate holds over time: a chunk moves as fast as it can, and the next ones wait for
// it. What waits for its share of the rate keeps its turn, so that no more chunks are in
// memory than there are turns.
func Limit(g Getter, l Limits) Getter {
	if l == (Limits{}) {
		return g
	}
	s := &limited{passed: passed{g}}
	if l.Requests > 0 {
		s.turns = make(chan struct{}, l.Requests)
	}
	if l.Rate > 0 {
		s.rate = rate.NewLimiter(rate.Limit(l.Rate), int(min(max(l.Rate/10, minBurst), maxBurst)))
	}
	return dress(s, g, func(ctx context.Context, f func(context.Context) error) error {
		return s.call(ctx, f, nil)
	})
}

// Bounds of what may move at once before the rate holds: a tenth of a second, in bytes.
const (
	minBurst = 64 << 10
	maxBurst = 64 << 20
)

type limited struct {
	passed
	turns chan struct{} // holds one item for each call; nil: no limit
	rate  *rate.Limiter // nil: no limit
}

// call makes a call in its turn, and then what follows, which keeps the turn.
func (l *limited) call(ctx context.Context, f, then func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l.turns != nil {
		select {
		case l.turns <- struct{}{}:
			defer func() { <-l.turns }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := f(ctx); err != nil || then == nil {
		return err
	}
	return then(ctx)
}

// pay waits until n bytes more have their share of the rate.
func (l *limited) pay(ctx context.Context, n int) error {
	for l.rate != nil && n > 0 {
		piece := min(n, l.rate.Burst())
		r := l.rate.ReserveN(time.Now(), piece)
		if d := r.Delay(); d > 0 {
			t := time.NewTimer(d)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				r.Cancel()
				return context.Cause(ctx)
			}
		}
		n -= piece
	}
	return nil
}

func (l *limited) Get(ctx context.Context, id chunker.ID) (c Chunk, err error) {
	err = l.call(ctx, func(ctx context.Context) error {
		c, err = l.to.Get(ctx, id)
		return err
	}, func(ctx context.Context) error {
		if err := l.pay(ctx, len(c.Data)); err != nil {
			c.Release()
			return err
		}
		return nil
	})
	if err != nil {
		return Chunk{}, err
	}
	return c, nil
}

func (l *limited) Put(ctx context.Context, c Chunk) error {
	return l.call(ctx, func(ctx context.Context) error { return l.passed.Put(ctx, c) },
		func(ctx context.Context) error { return l.pay(ctx, len(c.Data)) })
}

func (l *limited) Replace(ctx context.Context, c Chunk) error {
	return l.call(ctx, func(ctx context.Context) error { return l.passed.Replace(ctx, c) },
		func(ctx context.Context) error { return l.pay(ctx, len(c.Data)) })
}

func (l *limited) Add(ctx context.Context, c Chunk) (a Added, err error) {
	err = l.call(ctx, func(ctx context.Context) error {
		a, err = l.passed.Add(ctx, c)
		return err
	}, func(ctx context.Context) error { return l.pay(ctx, int(a.Stored)) })
	return a, err
}

func (l *limited) Has(ctx context.Context, id chunker.ID) (has bool, err error) {
	err = l.call(ctx, func(ctx context.Context) error {
		has, err = l.passed.Has(ctx, id)
		return err
	}, nil)
	return has && err == nil, err
}

func (l *limited) StoredSize(ctx context.Context, id chunker.ID) (n int64, err error) {
	err = l.call(ctx, func(ctx context.Context) error {
		n, err = l.passed.StoredSize(ctx, id)
		return err
	}, nil)
	return n, err
}
