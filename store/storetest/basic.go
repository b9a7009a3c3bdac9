package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

func testMissing(t *testing.T, s store.Store) {
	never := Chunk(1, 100)
	checkGone(t, s, never.ID)
	put(t, s, Chunk(2, 100))
	checkGone(t, s, never.ID)
	near := Chunk(2, 100).ID
	near[31] ^= 1 // the same directory, if stores have some
	checkGone(t, s, near)
}

func testContent(t *testing.T, s store.Store) {
	for _, size := range []int{1, 2, 3, 255, 256, 4095, 4096, 64 << 10, 64<<10 + 1, 128 << 10, 256<<10 - 1, 256 << 10} {
		for kind, b := range map[string][]byte{
			"zero":           make([]byte, size),
			"text":           bytes.Repeat([]byte("castor "), size/7+1)[:size],
			"incompressible": Random(uint64(size), size),
			"half":           Chunk(uint64(size), size).Data,
		} {
			t.Run(fmt.Sprintf("%d %s", size, kind), func(t *testing.T) {
				put(t, s, Plain(b))
				check(t, s, Plain(b))
			})
		}
	}
}

// testStored puts chunks in the forms in which other stores hold them.
func testStored(t *testing.T, s store.Store) {
	enc, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{1, 5000, 256 << 10} {
		plain := Chunk(uint64(i), size)
		z := store.Chunk{ID: plain.ID, Data: enc.Encode(nil, plain.Data), Codec: cacnk.Zstd, Loc: "elsewhere"}
		if i > 0 { // as Union and Cache give it, with the plain form at hand
			if z, err = z.Verify(Digest, Limit); err != nil {
				t.Fatal(err)
			}
		}
		put(t, s, z)
		check(t, s, plain)
	}
}

func testPutTwice(t *testing.T, s store.Store) {
	c := Chunk(1, 5000)
	put(t, s, c, c)
	put(t, s, c)
	check(t, s, c)
	l, ok := s.(store.Lister)
	if !ok {
		return
	}
	n := 0
	err := l.List(t.Context(), func(store.Info) error { n++; return nil })
	if err != nil || n != 1 {
		t.Errorf("after putting one chunk three times, List finds %d, error %v", n, err)
	}
}

// testNotRetained changes the buffers that a store was given.
func testNotRetained(t *testing.T, s store.Store) {
	var want, given []store.Chunk
	for i := range 20 {
		c := Chunk(uint64(i), 1+2000*i)
		want = append(want, c)
		c.Data = bytes.Clone(c.Data)
		given = append(given, c)
	}
	for _, c := range given {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		clear(c.Data)
	}
	put(t, s)
	for _, c := range want {
		check(t, s, c)
	}
}

// testIndependent changes and releases what Get returned.
func testIndependent(t *testing.T, s store.Store) {
	c := Chunk(1, 5000)
	put(t, s, c)
	a, err := s.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Open(Digest, Limit); err != nil {
		t.Fatal(err)
	}
	a.Release()
	for range 3 { // whoever gets the released buffers writes to them
		x, err := s.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if x.Release(); t.Failed() {
			return
		}
	}
	if got, err := b.Open(Digest, Limit); err != nil || !bytes.Equal(got, c.Data) {
		t.Errorf("a chunk changes when another one is released: %v", err)
	}
	check(t, s, c)
}

// testConcurrent has all goroutines put all chunks, in different orders. Each
// must find all of them after its own Sync.
func testConcurrent(t *testing.T, s store.Store) {
	chunks := make([]store.Chunk, 40)
	for i := range chunks {
		chunks[i] = Chunk(uint64(i), 100+500*i)
	}
	const workers = 8
	err := par.Each(t.Context(), workers, workers, func(ctx context.Context, w int) error {
		order := rand.New(rand.NewPCG(1, uint64(w/2))).Perm(len(chunks)) // two go abreast
		for _, i := range order {
			if err := s.Put(ctx, chunks[i]); err != nil {
				return fmt.Errorf("Put: %w", err)
			}
			if has, err := s.Has(ctx, chunks[i].ID); err != nil || !has {
				return fmt.Errorf("after Put, Has = %v, %w", has, err)
			}
		}
		if err := store.Sync(ctx, s); err != nil {
			return fmt.Errorf("Sync: %w", err)
		}
		for _, i := range order {
			if err := same(ctx, s, chunks[i]); err != nil {
				return fmt.Errorf("after Sync: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var errStop = errors.New("storetest: stop")

func testCancelled(t *testing.T, s store.Store) {
	c, fresh := Chunk(1, 5000), Chunk(2, 5000)
	put(t, s, c)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	calls := map[string]func() error{
		"Get":            func() error { _, err := s.Get(ctx, c.ID); return err },
		"Get of missing": func() error { _, err := s.Get(ctx, fresh.ID); return err },
		"Has":            func() error { _, err := s.Has(ctx, c.ID); return err },
		"Put":            func() error { return s.Put(ctx, fresh) },
		"Add":            func() error { _, err := store.Add(ctx, s, fresh); return err },
	}
	if r, ok := s.(store.Replacer); ok {
		calls["Replace"] = func() error { return r.Replace(ctx, fresh) }
	}
	if l, ok := s.(store.Lister); ok {
		calls["List"] = func() error { return l.List(ctx, func(store.Info) error { return nil }) }
	}
	for what, call := range calls {
		if err := call(); !errors.Is(err, errStop) {
			t.Errorf("%s with a cancelled context: error %v, want its cause", what, err)
		}
	}
	check(t, s, c)
	put(t, s, fresh) // a cancelled call leaves nothing in the way
	check(t, s, fresh)
}

// testCancelledMidway cancels while work is going on: a call succeeds or tells
// the cause, and what was put before stays whole.
func testCancelledMidway(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var calls atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 30 {
				c := Chunk(uint64(i), 3000)
				err := s.Put(ctx, c)
				if err == nil && i%4 == w {
					_, err = s.Has(ctx, c.ID)
				}
				if err != nil && !errors.Is(err, errStop) {
					t.Errorf("call that was cancelled: error %v, want its cause", err)
				}
				if calls.Add(1) == 50 {
					cancel(errStop)
				}
			}
		})
	}
	wg.Wait()
	put(t, s)
	for i := range 30 {
		c := Chunk(uint64(i), 3000)
		if err := same(t.Context(), s, c); err != nil && !store.Missing(err) {
			t.Errorf("after cancelling: %v", err)
		}
		put(t, s, c)
		check(t, s, c)
	}
}

func testAdd(t *testing.T, s store.Store) {
	for i, size := range []int{1, 5000, 256 << 10} {
		c := Chunk(uint64(i), size)
		got, err := store.Add(t.Context(), s, c)
		if err != nil || !got.New || got.Stored <= 0 || got.Stored > int64(cacnk.MaxEncoded(size)) {
			t.Errorf("Add of a new chunk of %d bytes = %+v, %v", size, got, err)
		}
		for range 2 { // before and after Sync
			again, err := store.Add(t.Context(), s, c)
			if want := (store.Added{}); err != nil || again != want {
				t.Errorf("second Add = %+v, %v, want %+v", again, err, want)
			}
			put(t, s)
		}
		check(t, s, c)
		if n, err := store.StoredSize(t.Context(), s, c.ID); !errors.Is(err, errors.ErrUnsupported) && n != got.Stored {
			t.Errorf("StoredSize = %d, %v, and Add said %d", n, err, got.Stored)
		}
	}
}

func testStoredSize(t *testing.T, s store.Store) {
	z := power[store.Sizer](t, s)
	missing := Chunk(1, 100).ID
	_, err := z.StoredSize(t.Context(), missing)
	checkMissing(t, "StoredSize", missing, err)
	for i, size := range []int{1, 5000, 256 << 10} {
		c := Chunk(uint64(i), size)
		put(t, s, c)
		n, err := z.StoredSize(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), c.ID)
		if err != nil || n != int64(len(got.Data)) {
			t.Errorf("StoredSize = %d, and Get returned %d bytes, error %v", n, len(got.Data), err)
		}
	}
}

// testMany fills a store with many small chunks.
func testMany(t *testing.T, s store.Store) {
	if testing.Short() {
		t.Skip("10,000 chunks take a while")
	}
	const n = 10_000
	ids := map[chunker.ID]bool{}
	for i := range n {
		ids[Chunk(uint64(i), 16+i%300).ID] = true
	}
	err := par.Each(t.Context(), 8, n, func(ctx context.Context, i int) error {
		return s.Put(ctx, Chunk(uint64(i), 16+i%300))
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s)
	err = par.Each(t.Context(), 8, n, func(ctx context.Context, i int) error {
		return same(ctx, s, Chunk(uint64(i), 16+i%300))
	})
	if err != nil {
		t.Fatal(err)
	}
	l, ok := s.(store.Lister)
	if !ok {
		return
	}
	err = l.List(t.Context(), func(i store.Info) error {
		if !ids[i.ID] {
			return fmt.Errorf("%v: not put, or listed twice", i.ID)
		}
		delete(ids, i.ID)
		return nil
	})
	if err != nil || len(ids) > 0 {
		t.Errorf("List: error %v, %d chunks not listed", err, len(ids))
	}
}
