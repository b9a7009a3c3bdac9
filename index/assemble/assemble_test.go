package assemble

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// work is something to assemble: a new version where there is an old one.
type work struct {
	old, new   []byte
	oldX, newX *index.Index
	part       []byte // some of new, and some of old
	src        store.Getter
	o          FileOptions
}

func newWork(t testing.TB, r *rand.Rand, old, new []byte, p chunker.Params) *work {
	t.Helper()
	w := &work{old: old, new: new, oldX: indexOf(t, old, p), newX: indexOf(t, new, p)}
	w.src = sourceOf(w.newX, new)
	w.o.NoSync = true
	w.part = bytes.Clone(old)
	for i, e := range w.newX.Entries {
		if start := w.newX.Start(i); r.Intn(3) == 0 && e.End <= int64(len(w.part)) {
			copy(w.part[start:e.End], new[start:e.End])
		}
	}
	return w
}

// ways are the ways to assemble. run returns the file that was written.
var ways = []struct {
	name string
	run  func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error)
}{
	{"fresh", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		return w.file(ctx, filepath.Join(dir, "dest"))
	}},
	{"seed with index", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		w.o.Seeds = []Seed{seed(t, dir, w.old, w.oldX)}
		return w.file(ctx, filepath.Join(dir, "dest"))
	}},
	{"seed without index", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		w.o.Seeds = []Seed{seed(t, dir, w.old, nil)}
		return w.file(ctx, filepath.Join(dir, "dest"))
	}},
	{"two seeds", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		half := len(w.old) / 2
		w.o.Seeds = []Seed{seed(t, dir, w.old[:half], nil), seed(t, dir, w.old[half:], nil)}
		return w.file(ctx, filepath.Join(dir, "dest"))
	}},
	{"replace", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		return w.file(ctx, write(t, dir, "dest", w.old))
	}},
	{"resume", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		write(t, dir, temporary("dest"), w.part)
		return w.file(ctx, write(t, dir, "dest", w.old))
	}},
	{"in place", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		w.o.InPlace = true
		return w.file(ctx, write(t, dir, "dest", w.old))
	}},
	{"in place with seed", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		w.o.InPlace = true
		w.o.Seeds = []Seed{seed(t, dir, w.part, nil)}
		return w.file(ctx, write(t, dir, "dest", w.old))
	}},
	{"in place over a part", func(t testing.TB, ctx context.Context, dir string, w *work) (string, Stats, error) {
		w.o.InPlace = true
		return w.file(ctx, write(t, dir, "dest", w.part))
	}},
}

// temporary returns the name that internal/atomicfile gives to the file in which
// name is made.
func temporary(name string) string { return "." + name + ".castor-tmp" }

func (w *work) file(ctx context.Context, path string) (string, Stats, error) {
	s, err := File(ctx, w.newX, path, w.src, w.o)
	return path, s, err
}

// Every way to assemble yields the new version, whatever has become of the old.
func TestAssemble(t *testing.T) {
	for _, tt := range []struct {
		params chunker.Params
		size   int
		seeds  int
	}{
		{small, 100 * kib, 60},
		{fixed, 100 * kib, 10},
		{chunker.Params{Min: 1, Avg: 48, Max: 5000}, 30 * kib, 10},
		{chunker.DefaultParams, 6 * mib, 6},
	} {
		if testing.Short() {
			tt.seeds = (tt.seeds + 5) / 6
		}
		for n := range tt.seeds {
			r := rand.New(rand.NewSource(int64(n)))
			old := version(r, tt.size)
			new, how := edited(r, old)
			t.Run(fmt.Sprintf("%v/%d/%s", tt.params, n, how), func(t *testing.T) {
				for _, way := range ways {
					assembleOne(t, way.name, way.run, newWork(t, r, old, new, tt.params))
				}
			})
		}
	}
}

func assembleOne(t *testing.T, name string, run func(testing.TB, context.Context, string, *work) (string, Stats, error), w *work) {
	t.Helper()
	dir := t.TempDir()
	var plan Totals
	var last Stats
	w.o.Planned = func(p *Plan) { plan = p.Totals() }
	w.o.Progress = func(s Stats) { last = s }
	path, stats, err := run(t, t.Context(), dir, w)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	holds(t, path, w.new)
	leftovers(t, dir)
	whole(t, stats, w.newX)
	if stats.By != plan.By || stats.Fetched != plan.Missing {
		t.Errorf("%s: got %+v, planned %+v", name, stats, plan)
	}
	if last != stats && len(w.newX.Entries) > 0 && stats.By[Keep].Chunks < len(w.newX.Entries) {
		t.Errorf("%s: the last progress was %+v, want %+v", name, last, stats)
	}
	if s := w.src.(*source); s.twice > 0 || s.calls != stats.Fetched.Chunks {
		t.Errorf("%s: %d calls for %d chunks, %d of them again", name, s.calls, stats.Fetched.Chunks, s.twice)
	}
	bad := 0
	f := open(t, path)
	if err := Verify(t.Context(), w.newX, f, int64(len(w.new)), func(int) error { bad++; return nil }, nil); err != nil || bad > 0 {
		t.Errorf("%s: Verify says that %d chunks are bad, error %v", name, bad, err)
	}

	// Once more: there is nothing to do now.
	before := stampOf(t, path)
	w.o.Progress = nil
	again, err := File(t.Context(), w.newX, path, nil, w.o)
	if err != nil {
		t.Fatalf("%s, again: %v", name, err)
	}
	before.untouched(t, path)
	if want := (Part{len(w.newX.Entries), w.newX.Size()}); again.By[Keep] != want {
		t.Errorf("%s, again: kept %+v, want %+v", name, again.By[Keep], want)
	}
}

// What a seed or the destination has is not fetched, but for a few chunks around
// the edits.
func TestFetchesWhatIsNew(t *testing.T) {
	for _, way := range ways[1:] {
		for n := range 20 {
			r := rand.New(rand.NewSource(int64(n)))
			old := noise(int64(n), 200*kib)
			new, how := edited(r, old)
			w := newWork(t, r, old, new, small)
			has := map[chunker.ID]bool{}
			for _, e := range w.oldX.Entries {
				has[e.ID] = true
			}
			fresh := 0
			for _, e := range w.newX.Entries {
				if !has[e.ID] {
					has[e.ID] = true
					fresh++
				}
			}
			_, stats, err := way.run(t, t.Context(), t.TempDir(), w)
			if err != nil {
				t.Fatal(err)
			}
			slack := 12 // where cuts of the old version are not where the index looks for them
			if way.name == "seed with index" {
				slack = 0
			}
			if way.name == "in place over a part" {
				continue // part has less of old than old
			}
			if got := stats.Fetched.Chunks; got > fresh+slack {
				t.Errorf("%s, %s: fetched %d chunks, want no more than %d", way.name, how, got, fresh+slack)
			}
		}
	}
}

func TestStream(t *testing.T) {
	seeds := 30
	if testing.Short() {
		seeds = 5
	}
	for n := range seeds {
		r := rand.New(rand.NewSource(int64(n)))
		old := version(r, 60*kib)
		new, how := edited(r, old)
		x := indexOf(t, new, small)
		size := int64(len(new))
		for _, tt := range []struct{ off, n int64 }{
			{0, -1}, {0, size}, {0, size + 1}, {0, 1 << 62}, {0, 0}, {0, 1}, {1, -1}, {size / 3, size / 3},
			{size - 1, 1}, {size - 1, -1}, {size, -1}, {size + 5, 5}, {size, 0},
			{r.Int63n(size), r.Int63n(size)}, {r.Int63n(size), r.Int63n(2000)},
			{x.Start(len(x.Entries) / 2), int64(x.Len(len(x.Entries) / 2))},
		} {
			var seeds []Seed
			switch n % 3 {
			case 1:
				seeds = []Seed{seed(t, t.TempDir(), old, nil)}
			case 2:
				seeds = []Seed{seed(t, t.TempDir(), old, indexOf(t, old, small))}
			}
			p, err := NewPlan(t.Context(), x, &PlanOptions{Seeds: seeds})
			if err != nil {
				t.Fatal(err)
			}
			from := min(tt.off, size)
			want := new[from:]
			if tt.n >= 0 && tt.n < int64(len(want)) {
				want = want[:tt.n]
			}
			var out bytes.Buffer
			stats, err := p.Stream(t.Context(), &out, tt.off, tt.n, sourceOf(x, new), nil)
			if err != nil {
				t.Fatalf("%s, %+v: %v", how, tt, err)
			}
			same(t, fmt.Sprintf("%s, %+v", how, tt), out.Bytes(), want)
			if stats.Done() != int64(len(want)) {
				t.Errorf("%s, %+v: stats %+v, want %d bytes", how, tt, stats, len(want))
			}
		}
	}
}

// The sources of a plan, entry by entry.
func TestPlan(t *testing.T) {
	a, b, c, zero := noise(1, 256), noise(2, 256), noise(3, 256), make([]byte, 256)
	tail := make([]byte, 100)
	content := bytes.Join([][]byte{a, b, zero, a, c, zero, c, b, tail}, nil)
	x := indexOf(t, content, fixed)
	for _, tt := range []struct {
		name       string
		dest, seed []byte
		want       []Source
		missing    int
	}{
		{"nothing there", nil, nil, []Source{Fetch, Fetch, Zero, Fetch, Fetch, Zero, Fetch, Fetch, Zero}, 3},
		{"seed", nil, bytes.Join([][]byte{c, a}, nil), []Source{Copy, Fetch, Zero, Copy, Copy, Zero, Copy, Fetch, Zero}, 1},
		{"dest", bytes.Join([][]byte{a, a}, nil), nil, []Source{Keep, Fetch, Zero, Move, Fetch, Zero, Fetch, Fetch, Zero}, 2},
		{"dest with zeros", bytes.Join([][]byte{b, zero, zero}, nil), nil, []Source{Fetch, Move, Keep, Fetch, Fetch, Zero, Fetch, Move, Zero}, 2},
		{"dest before seed", bytes.Join([][]byte{b, a}, nil), bytes.Join([][]byte{a, c}, nil), []Source{Move, Move, Zero, Move, Copy, Zero, Copy, Move, Zero}, 0},
		{"dest is right", content, nil, []Source{Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			o := &PlanOptions{}
			if tt.dest != nil {
				o.Dest = &Dest{File: open(t, write(t, dir, "dest", tt.dest)), Size: int64(len(tt.dest))}
			}
			if tt.seed != nil {
				o.Seeds = []Seed{seed(t, dir, tt.seed, nil)}
			}
			p, err := NewPlan(t.Context(), x, o)
			if err != nil {
				t.Fatal(err)
			}
			var want Totals
			for i, s := range tt.want {
				if got := p.Source(i); got != s {
					t.Errorf("entry %d: got %v, want %v", i, got, s)
				}
				want.By[s].add(x.Len(i))
			}
			n := 0
			for range p.Missing() {
				n++
			}
			if n != tt.missing {
				t.Errorf("Missing: got %d, want %d", n, tt.missing)
			}
			want.Missing = Part{tt.missing, int64(tt.missing) * 256}
			want.Unique = Part{5, 4*256 + 100}
			if got := p.Totals(); got != want {
				t.Errorf("Totals: got %+v, want %+v", got, want)
			}
		})
	}
}
