package store_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// pooled lends out the chunks of a source in buffers of bufpool.
type pooled struct{ store.Getter }

func (p pooled) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	c, err := p.Getter.Get(ctx, id)
	if err != nil {
		return store.Chunk{}, err
	}
	b := bufpool.Get(len(c.Data))
	copy(b, c.Data)
	c.Data = b
	return c.Lent(), nil
}

func TestSharedOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plain := storetest.Chunk(1, 1000)
		for form, c := range map[string]store.Chunk{"plain": plain, "zstd": compressed(t, plain)} {
			source := &storetest.Faulty{Source: &slow{Getter: memory(t, c), pause: time.Second}}
			s := store.Shared(pooled{source})
			for round := range 3 {
				var wg sync.WaitGroup
				for i := range 10 {
					wg.Go(func() {
						got, err := s.Get(t.Context(), c.ID)
						if err != nil {
							t.Error(err)
							return
						}
						if i%2 == 0 { // while others still read theirs
							got.Release()
							for range 5 {
								b := bufpool.Get(len(c.Data))
								clear(b)
								bufpool.Put(b)
							}
							return
						}
						time.Sleep(time.Second)
						if b, err := got.Open(storetest.Digest, 1000); err != nil || !bytes.Equal(b, plain.Data) {
							t.Errorf("%s: %d bytes, %v", form, len(b), err)
						}
						got.Release()
					})
				}
				wg.Wait()
				if n := source.Count("get"); n != round+1 {
					t.Errorf("%s, round %d: %d calls", form, round, n)
				}
			}
			if _, err := s.Get(cancelled(t), c.ID); err != errStop || source.Count("get") != 3 {
				t.Errorf("cancelled before: %v, %d calls", err, source.Count("get"))
			}
		}
	})
}

func TestSharedLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		var ended atomic.Pointer[error]
		source := &storetest.Faulty{Source: memory(t, c), Choose: func(storetest.Call) storetest.Fault {
			return func(ctx context.Context, c store.Chunk, call storetest.Next) (store.Chunk, error) {
				select {
				case <-time.After(10 * time.Second):
				case <-ctx.Done():
					err := context.Cause(ctx)
					ended.Store(&err)
					return store.Chunk{}, err
				}
				return call(ctx, c)
			}
		}}
		s := store.Shared(source)
		ask := func(wait time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), wait, errStop)
			defer cancel()
			begin := time.Now()
			_, err := s.Get(ctx, c.ID)
			return time.Since(begin), err
		}
		// The first asker leaves, the second gets the chunk.
		var wg sync.WaitGroup
		wg.Go(func() {
			if d, err := ask(time.Second); err != errStop || d != time.Second {
				t.Errorf("one who leaves: %v after %v", err, d)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if d, err := ask(time.Minute); err != nil || d != 10*time.Second {
				t.Errorf("one who stays: %v after %v", err, d)
			}
		})
		wg.Wait()
		if n := source.Count("get"); n != 1 || ended.Load() != nil {
			t.Errorf("%d calls", n)
		}
		// All leave: the call ends, and the next asker makes another.
		for range 3 {
			wg.Go(func() {
				if d, err := ask(time.Second); err != errStop || d != time.Second {
					t.Errorf("one of those who leave: %v after %v", err, d)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if ended.Load() == nil {
			t.Error("nobody waits, and the call goes on")
		}
		if d, err := ask(time.Minute); err != nil || d != 10*time.Second {
			t.Errorf("afterwards: %v after %v", err, d)
		}
		if n := source.Count("get"); n != 3 {
			t.Errorf("%d calls, want 3", n)
		}
	})
}

func TestSharedError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		source := &storetest.Faulty{Source: memory(t, c), Choose: func(call storetest.Call) storetest.Fault {
			if call.N > 0 {
				return nil
			}
			return func(context.Context, store.Chunk, storetest.Next) (store.Chunk, error) {
				time.Sleep(time.Second)
				return store.Chunk{}, errStop
			}
		}}
		s := store.Shared(source)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), c.ID); err != errStop {
					t.Errorf("got error %v", err)
				}
			})
		}
		wg.Wait()
		checkGet(t, s, c)
		if n := source.Count("get"); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
	})
}

func TestSharedConcurrent(t *testing.T) {
	const n = 20
	var chunks []store.Chunk
	for i := range n {
		chunks = append(chunks, storetest.Chunk(uint64(i), 1000+i))
	}
	s := store.Shared(pooled{memory(t, chunks...)})
	err := par.Each(t.Context(), 16, 200*n, func(ctx context.Context, i int) error {
		want := chunks[i%7%n]
		if i%11 == 0 {
			short, cancel := context.WithTimeout(ctx, time.Duration(i)*time.Microsecond/100)
			defer cancel()
			ctx = short
		}
		c, err := s.Get(ctx, want.ID)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		_, err = c.Open(storetest.Digest, 2000)
		c.Release()
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
