package store_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// slow is a source whose chunks take a while, and that counts the calls at once.
type slow struct {
	store.Getter
	pause     time.Duration
	now, most atomic.Int64
}

func (s *slow) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	t := time.NewTimer(s.pause)
	defer t.Stop()
	select {
	case <-t.C:
		return s.Getter.Get(ctx, id)
	case <-ctx.Done():
		return store.Chunk{}, context.Cause(ctx)
	}
}

func TestLimitNone(t *testing.T) {
	m := memory(t)
	if got := store.Limit(m, store.Limits{}); got != store.Getter(m) {
		t.Errorf("got %T, want the source itself", got)
	}
}

func TestLimitRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		s := &slow{Getter: memory(t, c), pause: time.Second}
		l := store.Limit(s, store.Limits{Requests: 3})
		begin := time.Now()
		err := par.Each(t.Context(), 12, 12, func(ctx context.Context, _ int) error {
			_, err := l.Get(ctx, c.ID)
			return err
		})
		if err != nil || s.most.Load() != 3 || time.Since(begin) != 4*time.Second {
			t.Errorf("%v, %d at once, %v, want 3 in 4 s", err, s.most.Load(), time.Since(begin))
		}

		// One who waits for a turn leaves when its context ends.
		ctx, cancel := context.WithCancelCause(t.Context())
		for range 3 {
			go l.Get(t.Context(), c.ID)
		}
		synctest.Wait()
		time.AfterFunc(time.Millisecond, func() { cancel(errStop) })
		begin = time.Now()
		if _, err := l.Get(ctx, c.ID); err != errStop || time.Since(begin) != time.Millisecond {
			t.Errorf("cancelled: %v after %v", err, time.Since(begin))
		}
		time.Sleep(time.Minute)
	})
}

func TestLimitRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 100 << 10, 1 << 20
		c := storetest.Chunk(1, size)
		s := memory(t, c)
		l := store.Limit(s, store.Limits{Rate: rate}).(store.Store)
		begin := time.Now()
		const calls = 30
		for i := range calls {
			var err error
			if i%2 == 0 {
				_, err = l.Get(t.Context(), c.ID)
			} else {
				err = l.Put(t.Context(), storetest.Chunk(uint64(i), size))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		const want = calls * size * time.Second / rate
		if got := time.Since(begin); got > want || got < want*9/10 {
			t.Errorf("%d bytes took %v, want about %v", calls*size, got, want)
		}
		// What was there already has moved nothing.
		begin = time.Now()
		for range 100 {
			if _, err := store.Add(t.Context(), l, c); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(begin); got != 0 {
			t.Errorf("finding chunks took %v", got)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errStop)
		defer cancel()
		for {
			if _, err := l.Get(ctx, c.ID); err != nil {
				if err != errStop || time.Since(begin) != time.Second {
					t.Errorf("cancelled: %v after %v", err, time.Since(begin))
				}
				break
			}
		}
	})
}

// TestLimitLarge has chunks that are larger than what may move at once.
func TestLimitLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1<<20)
		l := store.Limit(memory(t, c), store.Limits{Rate: 100 << 10})
		begin := time.Now()
		if _, err := l.Get(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin); got < 9*time.Second || got > 11*time.Second {
			t.Errorf("took %v, want about 10 s", got)
		}
	})
}
