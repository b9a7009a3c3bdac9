package httpstore

import (
	"context"
	"slices"
	"sync"
	"time"
)

// room is memory for chunks. What one takes is known only when it has come: until then it
// counts as much as the greatest of late. What turns out to be more than was thought is
// waited for by those behind it.
type room struct {
	limit int64

	mu    sync.Mutex
	taken int64     // guarded by mu; may be more than limit
	guess int64     // guarded by mu: what the next one will take
	queue []*waiter // guarded by mu: who waits, in order
}

type waiter struct {
	turn chan struct{} // closed when n is theirs
	n    int64
}

// newRoom returns room for limit bytes. As long as nothing is known, that is for eight.
func newRoom(limit int64) *room { return &room{limit: limit, guess: limit / 8} }

// slotWait is how long a request waits for memory.
const slotWait = 10 * time.Second

// take waits for room, and returns how much the caller has until it calls settle. However
// little there is, one has room.
func (r *room) take(ctx context.Context) (n int64, err error) {
	w := &waiter{turn: make(chan struct{})}
	r.mu.Lock()
	r.queue = append(r.queue, w)
	r.admit()
	r.mu.Unlock()
	t := time.NewTimer(slotWait)
	defer t.Stop()
	select {
	case <-w.turn:
		return w.n, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-t.C:
		err = errBusy
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.queue, w); i >= 0 {
		r.queue = slices.Delete(r.queue, i, i+1)
	}
	r.taken -= w.n // it may have had its turn just now
	r.admit()
	return 0, err
}

// settle says that what had n bytes has come and takes now, or for 0 that it has gone.
func (r *room) settle(n, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken += now - n
	if now > 0 {
		r.guess = max(now, r.guess-r.guess/16)
	}
	r.admit()
}

// admit lets those in for whom there is room. The caller holds r.mu.
func (r *room) admit() {
	for len(r.queue) > 0 && (r.taken == 0 || r.taken+r.guess <= r.limit) {
		w := r.queue[0]
		r.queue = slices.Delete(r.queue, 0, 1)
		w.n = max(r.guess, 1)
		r.taken += w.n
		close(w.turn)
	}
}
