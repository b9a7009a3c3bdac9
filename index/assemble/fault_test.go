package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// faults are what a store can do wrong, and what becomes of the run. All chunks
// are of one size, so that a wrong one fits.
var faults = []struct {
	name string
	do   func(c store.Chunk, other store.Chunk, cancel func()) (store.Chunk, error)
	err  error // nil: the run must succeed
}{
	{"error", func(_, _ store.Chunk, _ func()) (store.Chunk, error) { return store.Chunk{}, errTest }, errTest},
	{"error beside a chunk", func(c, _ store.Chunk, _ func()) (store.Chunk, error) { return c, errTest }, errTest},
	{"missing", func(c, _ store.Chunk, _ func()) (store.Chunk, error) {
		return store.Chunk{}, &store.Error{Op: "get", ID: c.ID, Err: fs.ErrNotExist}
	}, fs.ErrNotExist},
	{"short", data(func(b []byte) []byte { return b[:len(b)-1] }), store.ErrDamaged},
	{"long", data(func(b []byte) []byte { return append(b, 0) }), store.ErrDamaged},
	{"empty", data(func(b []byte) []byte { return nil }), store.ErrDamaged},
	{"flipped", data(func(b []byte) []byte { b[100] ^= 4; return b }), store.ErrDamaged},
	{"zeroed", data(func(b []byte) []byte { clear(b[10:20]); return b }), store.ErrDamaged},
	{"wrong", func(c, other store.Chunk, _ func()) (store.Chunk, error) { c.Data = other.Data; return c, nil }, store.ErrDamaged},
	{"another", func(_, other store.Chunk, _ func()) (store.Chunk, error) { return other, nil }, store.ErrDamaged},
	{"another, verified", func(c, other store.Chunk, _ func()) (store.Chunk, error) {
		return other.Verify(0, len(c.Data))
	}, store.ErrDamaged},
	{"undecodable", func(c, _ store.Chunk, _ func()) (store.Chunk, error) { c.Codec = cacnk.Zstd; return c, nil }, store.ErrDamaged},
	{"slow", func(c, _ store.Chunk, _ func()) (store.Chunk, error) { time.Sleep(time.Hour); return c, nil }, nil},
	{"cancel", func(c, _ store.Chunk, cancel func()) (store.Chunk, error) { cancel(); return c, nil }, errStop},
	{"cancel and error", func(c, _ store.Chunk, cancel func()) (store.Chunk, error) { cancel(); return c, errTest }, errStop},
}

// data changes the data of a chunk.
func data(change func(b []byte) []byte) func(c, _ store.Chunk, _ func()) (store.Chunk, error) {
	return func(c, _ store.Chunk, _ func()) (store.Chunk, error) {
		c.Data = change(bytes.Clone(c.Data))
		return c, nil
	}
}

// Whatever the store does wrong at whatever call, the result is the right file
// or an error and no file.
func TestFaults(t *testing.T) {
	old := noise(1, 40*256)
	new := slices.Clone(old)
	for i := range 40 {
		if i%2 == 0 { // half of it is new, and a quarter moves
			copy(new[i*256:], noise(int64(i)+2, 256))
		} else if i%4 == 1 {
			copy(new[i*256:], old[(40-i)*256:][:256])
		}
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for _, way := range []string{"fresh", "replace", "in place", "stream"} {
				for k := 1; k <= 20; k++ {
					if testing.Short() && k%4 != 1 {
						continue
					}
					synctest.Test(t, func(t *testing.T) { faultOne(t, way, old, new, k, f.do, f.err) })
				}
			}
		})
	}
}

func faultOne(t *testing.T, way string, old, new []byte, k int, do func(c, other store.Chunk, cancel func()) (store.Chunk, error), wantErr error) {
	t.Helper()
	what := fmt.Sprintf("%s, call %d", way, k)
	w := newWork(t, rand.New(rand.NewSource(1)), old, new, fixed)
	src := w.src.(*source)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	hit := false
	src.fault = func(n int, c store.Chunk) (store.Chunk, error) {
		if n != k {
			return c, nil
		}
		hit = true
		e := w.newX.Entries[0]
		if e.ID == c.ID {
			e = w.newX.Entries[2]
		}
		other := store.Chunk{ID: e.ID, Data: src.chunks[e.ID]}
		return do(c, other, func() { cancel(errStop) })
	}
	check := func(err error) {
		t.Helper()
		if !hit {
			t.Fatalf("%s: there was no such call", what)
		}
		if !errors.Is(err, wantErr) {
			t.Fatalf("%s: got error %v, want %v", what, err, wantErr)
		}
		if _, ok := errors.AsType[*MissingError](err); err != nil && wantErr != errStop && !ok {
			t.Errorf("%s: got error %v, want a MissingError", what, err)
		}
	}
	if way == "stream" {
		p, err := NewPlan(ctx, w.newX, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		_, err = p.Stream(ctx, &out, 0, -1, src, nil)
		check(err)
		if !bytes.HasPrefix(new, out.Bytes()) || err == nil && out.Len() != len(new) {
			t.Fatalf("%s: wrong content came out", what)
		}
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "dest")
	var before stamp
	if way != "fresh" {
		write(t, dir, "dest", old)
		before = stampOf(t, path)
	}
	w.o.InPlace = way == "in place"
	_, stats, err := w.file(ctx, path)
	check(err)
	leftovers(t, dir)
	switch {
	case err == nil:
		holds(t, path, new)
		whole(t, stats, w.newX)
	case way == "fresh":
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want no file", what, err)
		}
	case way == "replace":
		before.untouched(t, path)
	default: // in place: a mixture, which the next run completes
		if _, err := File(t.Context(), w.newX, path, sourceOf(w.newX, new), FileOptions{InPlace: true, NoSync: true}); err != nil {
			t.Fatal(err)
		}
		holds(t, path, new)
	}
}
