package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// remover is a store whose collection of garbage goes as its fields say.
type remover struct {
	*storetest.Memory
	remove func(id chunker.ID) (bool, error) // nil: Memory's
	swept  int
	err    error // of Sweep
}

func (r *remover) Remove(ctx context.Context, id chunker.ID, since time.Time) (bool, error) {
	if r.remove != nil {
		return r.remove(id)
	}
	return r.Memory.Remove(ctx, id, since)
}

func (r *remover) Sweep(context.Context, time.Time, bool) (int, error) { return r.swept, r.err }

func TestGC(t *testing.T) {
	var chunks []store.Chunk
	for i := range 40 {
		chunks = append(chunks, storetest.Chunk(uint64(i), 100))
	}
	keep := map[chunker.ID]bool{}
	for _, c := range chunks[:15] {
		keep[c.ID] = true
	}
	boom := errors.New("boom")
	old := store.GCOptions{Since: time.Now().Add(time.Hour)}
	for _, tt := range []struct {
		name string
		s    *remover
		o    store.GCOptions
		want store.GCStats
		left int
		err  error
	}{
		{"old", &remover{swept: 3}, old, store.GCStats{Kept: 15, Removed: 25, RemovedBytes: 2500, Swept: 3}, 15, nil},
		{"one worker", &remover{}, store.GCOptions{Since: old.Since, Workers: 1}, store.GCStats{Kept: 15, Removed: 25, RemovedBytes: 2500}, 15, nil},
		{"young", &remover{}, store.GCOptions{Since: time.Now().Add(-time.Hour)}, store.GCStats{Kept: 15, Young: 25}, 40, nil},
		{"dry run", &remover{swept: 3}, store.GCOptions{Since: old.Since, DryRun: true}, store.GCStats{Kept: 15, Removed: 25, RemovedBytes: 2500, Swept: 3}, 40, nil},
		{"used meanwhile", &remover{remove: func(chunker.ID) (bool, error) { return false, nil }}, old, store.GCStats{Kept: 15, Young: 25}, 40, nil},
		{"remove fails", &remover{remove: func(chunker.ID) (bool, error) { return false, boom }, swept: 3}, old, store.GCStats{Kept: 15}, 40, boom},
		{"sweep fails", &remover{swept: 1, err: boom}, old, store.GCStats{Kept: 15, Removed: 25, RemovedBytes: 2500, Swept: 1}, 15, boom},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.Memory = memory(t, chunks...)
			got, err := store.GC(t.Context(), tt.s, func(id chunker.ID) bool { return keep[id] }, tt.o)
			if err != tt.err || got != tt.want {
				t.Errorf("%+v, %v, want %+v, %v", got, err, tt.want, tt.err)
			}
			if n := tt.s.Len(); n != tt.left {
				t.Errorf("leaves %d chunks, want %d", n, tt.left)
			}
			for _, c := range chunks[:15] {
				checkGet(t, tt.s, c)
			}
		})
	}
}

func TestGCCancelled(t *testing.T) {
	m := memory(t, storetest.Chunk(1, 100), storetest.Chunk(2, 100))
	none := func(chunker.ID) bool { return false }
	old := store.GCOptions{Since: time.Now().Add(time.Hour)}
	if _, err := store.GC(cancelled(t), m, none, old); err != errStop || m.Len() != 2 {
		t.Errorf("error %v, %d chunks left, want the cause and 2", err, m.Len())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := store.GC(ctx, m, func(chunker.ID) bool { cancel(errStop); return false }, old)
	if err != errStop || m.Len() != 2 {
		t.Errorf("cancelled while listing: error %v, %d chunks left, want the cause and 2", err, m.Len())
	}
}

func TestUnsupported(t *testing.T) {
	s := core{memory(t)}
	_, err := store.GC(t.Context(), s, nil, store.GCOptions{})
	_, _, cerr := store.Check(t.Context(), s, 1, nil, nil)
	for what, err := range map[string]error{"GC": err, "Check": cerr} {
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("%s: %v, want one that names the store and wraps errors.ErrUnsupported", what, err)
		}
	}
}

// mixed returns chunks of every digest, plain and compressed.
func mixed(t *testing.T) []store.Chunk {
	var all []store.Chunk
	for i := range 60 {
		c := storetest.Chunk(uint64(i), 100+10*i)
		c.ID = chunker.Digests[i%3].Sum(c.Data)
		if i%2 == 0 {
			c = compressed(t, c)
		}
		all = append(all, c)
	}
	return all
}

func TestCheck(t *testing.T) {
	chunks := mixed(t)
	var total int64
	for _, c := range chunks {
		total += int64(len(c.Data))
	}
	faults := map[chunker.ID]storetest.Fault{}
	want := map[chunker.ID]error{}
	for i, f := range []struct {
		fault storetest.Fault
		err   error
	}{
		{storetest.Flip(50), store.ErrDamaged},
		{storetest.Short(3), store.ErrDamaged},
		{storetest.Swap(chunks[59]), store.ErrDamaged},
		{storetest.Fail(errStop), errStop},
	} {
		for j := range 6 { // every digest and form
			id := chunks[6*i+j].ID
			faults[id], want[id] = f.fault, f.err
		}
	}
	for _, workers := range []int{0, 1, 4} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			s := &storetest.Faulty{Source: memory(t, chunks...), Choose: func(c storetest.Call) storetest.Fault { return faults[c.ID] }}
			got := map[chunker.ID]error{}
			var calls, lastChunks int
			var lastBytes int64
			n, size, err := store.Check(t.Context(), s, workers, func(id chunker.ID, err error) error {
				got[id] = err // from one goroutine at a time
				return nil
			}, func(chunks int, bytes int64) {
				calls++
				lastChunks, lastBytes = chunks, bytes
			})
			if err != nil || n != len(chunks) || size <= total/2 {
				t.Errorf("%d chunks, %d bytes, error %v", n, size, err)
			}
			if calls != n || lastChunks != n || lastBytes != size {
				t.Errorf("progress called %d times, at last with %d, %d, want %d, %d", calls, lastChunks, lastBytes, n, size)
			}
			if len(got) != len(want) {
				t.Errorf("%d bad chunks, want %d", len(got), len(want))
			}
			for id, err := range got {
				if want[id] == nil || !errors.Is(err, want[id]) || !errors.Is(want[id], errStop) && !strings.Contains(err.Error(), id.String()) {
					t.Errorf("bad chunk %v: %v, want %v", id, err, want[id])
				}
			}
		})
	}
}

func TestCheckRight(t *testing.T) {
	chunks := mixed(t)
	n, _, err := store.Check(t.Context(), memory(t, chunks...), 2, func(id chunker.ID, err error) error {
		t.Errorf("%v: %v", id, err)
		return nil
	}, nil)
	if err != nil || n != len(chunks) {
		t.Errorf("%d chunks, error %v, want %d", n, err, len(chunks))
	}
}

// TestCheckCollected checks chunks that vanish between List and Get.
func TestCheckCollected(t *testing.T) {
	s := faulty(t, "get", storetest.Fail(fs.ErrNotExist), mixed(t)...)
	n, _, err := store.Check(t.Context(), s, 2, func(id chunker.ID, err error) error { return err }, nil)
	if err != nil || n != 0 {
		t.Errorf("%d chunks, error %v, want 0", n, err)
	}
}

func TestCheckStops(t *testing.T) {
	chunks := mixed(t)
	for _, tt := range []struct {
		name string
		run  func(ctx context.Context, cancel context.CancelCauseFunc) error
	}{
		{"bad returns an error", func(ctx context.Context, _ context.CancelCauseFunc) error {
			calls := 0
			_, _, err := store.Check(ctx, faulty(t, "get", storetest.Flip(0), chunks...), 4, func(chunker.ID, error) error {
				if calls++; calls > 1 {
					t.Error("bad called after it returned an error")
				}
				return errStop
			}, nil)
			return err
		}},
		{"bad returns an error about the last chunk", func(ctx context.Context, _ context.CancelCauseFunc) error {
			_, _, err := store.Check(ctx, faulty(t, "get", storetest.Flip(0), chunks[0]), 4, func(chunker.ID, error) error { return errStop }, nil)
			return err
		}},
		{"list fails", func(ctx context.Context, _ context.CancelCauseFunc) error {
			_, _, err := store.Check(ctx, faulty(t, "list", storetest.Fail(errStop), chunks...), 4, nil, nil)
			return err
		}},
		{"cancelled before", func(ctx context.Context, cancel context.CancelCauseFunc) error {
			cancel(errStop)
			_, _, err := store.Check(ctx, memory(t, chunks...), 4, nil, nil)
			return err
		}},
		{"cancelled midway", func(ctx context.Context, cancel context.CancelCauseFunc) error {
			bad := func(chunker.ID, error) error { return errors.New("called for want of time") }
			_, _, err := store.Check(ctx, memory(t, chunks...), 4, bad, func(n int, _ int64) {
				if n == 10 {
					cancel(errStop)
				}
			})
			return err
		}},
		{"cancelled while hanging", func(ctx context.Context, cancel context.CancelCauseFunc) error {
			time.AfterFunc(10*time.Millisecond, func() { cancel(errStop) })
			_, _, err := store.Check(ctx, faulty(t, "get", storetest.Hang, chunks...), 4, nil, nil)
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if err := tt.run(ctx, cancel); err != errStop {
				t.Errorf("error %v, want %v", err, errStop)
			}
		})
	}
}
