package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// list returns what s lists.
func list(t *testing.T, l store.Lister) map[chunker.ID]store.Info {
	t.Helper()
	all := map[chunker.ID]store.Info{}
	err := l.List(t.Context(), func(i store.Info) error {
		if _, ok := all[i.ID]; ok {
			t.Errorf("chunk %v is listed twice", i.ID)
		}
		all[i.ID] = i
		return nil
	})
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return all
}

// fill puts n chunks into s.
func fill(t *testing.T, s store.Store, n int) []store.Chunk {
	t.Helper()
	chunks := make([]store.Chunk, n)
	for i := range chunks {
		chunks[i] = Chunk(uint64(i), 1+200*i)
	}
	put(t, s, chunks...)
	return chunks
}

func testList(t *testing.T, s store.Store) {
	l := power[store.Lister](t, s)
	if got := list(t, l); len(got) != 0 {
		t.Errorf("an empty store lists %d chunks", len(got))
	}
	chunks := fill(t, s, 50)
	got := list(t, l)
	if len(got) != len(chunks) {
		t.Errorf("List finds %d chunks, want %d", len(got), len(chunks))
	}
	for _, c := range chunks {
		i, ok := got[c.ID]
		if !ok {
			t.Errorf("List does not find chunk %v", c.ID)
			continue
		}
		if n, err := store.StoredSize(t.Context(), s, c.ID); !errors.Is(err, errors.ErrUnsupported) && n != i.Size {
			t.Errorf("List says %d bytes, StoredSize %d, %v", i.Size, n, err)
		}
		if i.Size <= 0 {
			t.Errorf("List says %d bytes", i.Size)
		}
		if !i.Used.IsZero() && time.Since(i.Used).Abs() > time.Hour { // clocks differ
			t.Errorf("List says that a new chunk was last used at %v", i.Used)
		}
	}
}

func testListStops(t *testing.T, s store.Store) {
	l := power[store.Lister](t, s)
	fill(t, s, 20)
	for _, stopAt := range []int{1, 7, 20} {
		n := 0
		err := l.List(t.Context(), func(store.Info) error {
			if n++; n == stopAt {
				return errStop
			}
			return nil
		})
		if err != errStop || n != stopAt {
			t.Errorf("List made %d calls and returned %v, want %d calls and the very error of the last", n, err, stopAt)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	n := 0
	err := l.List(ctx, func(store.Info) error {
		if n++; n == 5 {
			cancel(errStop)
		}
		return nil
	})
	if !errors.Is(err, errStop) && n < 20 {
		t.Errorf("List cancelled midway made %d calls and returned %v", n, err)
	}
}

// damage puts something else under the ID of c, or skips the test if s checks
// what it is given.
func damage(t *testing.T, s store.Store, c store.Chunk) {
	t.Helper()
	bad := store.Chunk{ID: c.ID, Data: Random(99, len(c.Data))}
	err := s.Put(t.Context(), bad)
	if err == nil {
		err = store.Sync(t.Context(), s)
	}
	if err != nil {
		t.Skipf("the store takes no damaged chunk: %v", err)
	}
	if err := same(t.Context(), s, c); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("a damaged chunk: error %v, want one that wraps store.ErrDamaged", err)
	}
}

func testReplace(t *testing.T, s store.Store) {
	r := power[store.Replacer](t, s)
	replace := func(c store.Chunk) {
		t.Helper()
		if err := r.Replace(t.Context(), c); err != nil {
			t.Fatalf("Replace: %v", err)
		}
		put(t, s)
		check(t, s, c)
	}
	replace(Chunk(1, 5000)) // missing
	replace(Chunk(1, 5000)) // the same
	c := Chunk(2, 5000)
	damage(t, s, c)
	put(t, s, c)
	if err := same(t.Context(), s, c); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("Put of a chunk that is there: error %v; it must leave it alone", err)
	}
	replace(c)
}

func testSetAside(t *testing.T, s store.Store) {
	a := power[store.SetAsider](t, s)
	missing := Chunk(1, 100).ID
	_, err := a.SetAside(t.Context(), missing)
	checkMissing(t, "SetAside", missing, err)
	c, other := Chunk(2, 5000), Chunk(3, 5000)
	put(t, s, c, other)
	where, err := a.SetAside(t.Context(), c.ID)
	if err != nil || where == "" {
		t.Fatalf("SetAside = %q, %v, want a place", where, err)
	}
	checkGone(t, s, c.ID)
	check(t, s, other)
	if l, ok := s.(store.Lister); ok {
		if got := list(t, l); len(got) != 1 {
			t.Errorf("after SetAside, List finds %d chunks, want 1", len(got))
		}
	}
	put(t, s, c)
	check(t, s, c)
}

func testCheck(t *testing.T, s store.Store) {
	power[store.Lister](t, s)
	chunks := fill(t, s, 20)
	bad := Chunk(100, 3000)
	damage(t, s, bad)
	var found []chunker.ID
	n, size, err := store.Check(t.Context(), s, 4, func(id chunker.ID, err error) error {
		found = append(found, id)
		if !errors.Is(err, store.ErrDamaged) {
			t.Errorf("Check: error %v, want one that wraps store.ErrDamaged", err)
		}
		return nil
	}, nil)
	if err != nil || n != len(chunks)+1 || size <= 0 {
		t.Errorf("Check read %d chunks, %d bytes, error %v, want %d chunks", n, size, err, len(chunks)+1)
	}
	if len(found) != 1 || found[0] != bad.ID {
		t.Errorf("Check found %v, want %v", found, bad.ID)
	}
}

// Chunks of this age, or of any, are too young or old enough.
func longAgo() time.Time { return time.Now().Add(-24 * time.Hour) }
func ahead() time.Time   { return time.Now().Add(24 * time.Hour) }

func testRemove(t *testing.T, s store.Store) {
	r := power[store.Remover](t, s)
	c, other := Chunk(1, 5000), Chunk(2, 5000)
	put(t, s, c, other)
	for _, tt := range []struct {
		what  string
		id    chunker.ID
		since time.Time
		want  bool
		left  bool // Has afterwards
	}{
		{"a young chunk", c.ID, longAgo(), false, true},
		{"an old chunk", c.ID, ahead(), true, false},
		{"a removed chunk", c.ID, ahead(), false, false},
		{"a chunk that never was", Chunk(3, 100).ID, ahead(), false, false},
	} {
		got, err := r.Remove(t.Context(), tt.id, tt.since)
		if err != nil || got != tt.want {
			t.Errorf("Remove of %s = %v, %v, want %v", tt.what, got, err, tt.want)
		}
		if has, err := s.Has(t.Context(), tt.id); err != nil || has != tt.left {
			t.Errorf("after Remove of %s, Has = %v, %v, want %v", tt.what, has, err, tt.left)
		}
	}
	checkGone(t, s, c.ID)
	check(t, s, other)
	put(t, s, c)
	check(t, s, c)
}

func testSweep(t *testing.T, s store.Store) {
	r := power[store.Remover](t, s)
	for _, when := range []string{"empty", "full"} {
		for _, dryRun := range []bool{true, false} {
			if n, err := r.Sweep(t.Context(), ahead(), dryRun); n != 0 || err != nil {
				t.Errorf("Sweep of a clean %s store, dryRun %v = %d, %v, want 0", when, dryRun, n, err)
			}
		}
		if when == "empty" {
			fill(t, s, 20)
		}
	}
	if got := list(t, r); len(got) != 20 {
		t.Errorf("after Sweep, List finds %d chunks, want 20", len(got))
	}
}

func testGC(t *testing.T, s store.Store) {
	r := power[store.Remover](t, s)
	chunks := fill(t, s, 40)
	keep := map[chunker.ID]bool{}
	var bytes int64
	for i, c := range chunks {
		keep[c.ID] = i%4 != 0
	}
	for id, i := range list(t, r) {
		if !keep[id] {
			bytes += i.Size
		}
	}
	for _, tt := range []struct {
		what string
		o    store.GCOptions
		want store.GCStats
		left int
	}{
		{"young", store.GCOptions{Since: longAgo()}, store.GCStats{Kept: 30, Young: 10}, 40},
		{"dry run", store.GCOptions{Since: ahead(), DryRun: true}, store.GCStats{Kept: 30, Removed: 10, RemovedBytes: bytes}, 40},
		{"old", store.GCOptions{Since: ahead(), Workers: 3}, store.GCStats{Kept: 30, Removed: 10, RemovedBytes: bytes}, 30},
		{"nothing to do", store.GCOptions{Since: ahead()}, store.GCStats{Kept: 30}, 30},
	} {
		got, err := store.GC(t.Context(), s, func(id chunker.ID) bool { return keep[id] }, tt.o)
		if err != nil || got != tt.want {
			t.Errorf("GC, %s: %+v, %v, want %+v", tt.what, got, err, tt.want)
		}
		if left := list(t, r); len(left) != tt.left {
			t.Errorf("GC, %s: leaves %d chunks, want %d", tt.what, len(left), tt.left)
		}
	}
	for _, c := range chunks {
		if keep[c.ID] {
			check(t, s, c)
		} else {
			checkGone(t, s, c.ID)
		}
	}
}
