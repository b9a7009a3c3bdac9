package httpstore

import (
	"context"
	"sync"
	"time"
)

// limitPiece is how many bytes are sent between two looks at a limiter.
const limitPiece = 64 << 10

// limiter spreads bytes over time.
type limiter struct {
	rate int64 // bytes a second

	mu   sync.Mutex
	free time.Time // guarded by mu: when what was promised has been sent
}

func newLimiter(rate int64) *limiter { return &limiter{rate: rate} }

// wait returns when n bytes, at most limitPiece, may be sent. Askers get their turns
// in the order of their calls.
func (l *limiter) wait(ctx context.Context, n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	pause := l.free.Sub(now)
	l.free = l.free.Add(time.Duration(int64(n) * int64(time.Second) / l.rate))
	l.mu.Unlock()
	if pause <= 0 {
		return nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
