package assemble

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"slices"
	"testing"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// What the destination had is moved and not fetched: the store has nothing but
// the chunks that are new.
func TestMoves(t *testing.T) {
	old := noise(1, 300*kib)
	n := len(old)
	for _, tt := range []struct {
		name  string
		new   []byte
		fetch int // chunks at most
	}{
		{"a byte at the front", slices.Concat([]byte{1}, old), 2},
		{"some bytes at the front", slices.Concat(noise(2, 100), old), 3},
		{"much at the front", slices.Concat(noise(2, 20*kib), old), 120},
		{"front gone", old[1:], 2},
		{"more of the front gone", old[100*kib:], 2},
		{"swapped halves", slices.Concat(old[n/2:], old[:n/2]), 4},
		{"swapped unequal parts", slices.Concat(old[n/3:], old[:n/3]), 4},
		{"rotated by a byte", slices.Concat(old[1:], old[:1]), 3},
		{"rotated back by a byte", slices.Concat(old[n-1:], old[:n-1]), 3},
		{"blocks reversed", reversed(old, 10*kib), 2 * 30},
		{"middle gone, end doubled", slices.Concat(old[:n/3], old[n/2:], old[n/2:]), 5},
		{"everything twice", slices.Concat(old, old), 3},
		{"second half only, twice", slices.Concat(old[n/2:], old[n/2:]), 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			oldX, x := indexOf(t, old, small), indexOf(t, tt.new, small)
			dir := t.TempDir()
			path := write(t, dir, "dest", old)
			stats, err := File(t.Context(), x, path, sourceOf(x, tt.new).without(oldX), FileOptions{InPlace: true, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			holds(t, path, tt.new)
			whole(t, stats, x)
			if stats.Fetched.Chunks > tt.fetch {
				t.Errorf("fetched %d chunks, want no more than %d", stats.Fetched.Chunks, tt.fetch)
			}
			if stats.By[Move].Bytes+stats.By[Keep].Bytes == 0 || stats.Changed != 0 {
				t.Errorf("got %+v, want moves that all work", stats)
			}
		})
	}
}

func reversed(b []byte, block int) []byte {
	blocks := slices.Collect(slices.Chunk(b, block))
	slices.Reverse(blocks)
	return slices.Concat(blocks...)
}

// arranged returns the chunks of b in the order given. They are cut at the same
// places wherever they stand.
func arranged(t testing.TB, b []byte, order []int) []byte {
	chunks := cut(t, b, small)
	var out []byte
	for _, i := range order {
		out = append(out, chunks[i]...)
	}
	return out
}

// run runs a plan that puts old right in place, with rounds and memory to hold
// chunks of so many bytes.
func runInPlace(t *testing.T, old, new []byte, x *index.Index, src store.Getter, round, held int) (Stats, []byte, error) {
	t.Helper()
	f := open(t, write(t, t.TempDir(), "dest", old))
	p, err := NewPlan(t.Context(), x, &PlanOptions{Dest: &Dest{File: f, Size: int64(len(old))}})
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{Plan: p, dst: Target{File: f}, src: src, o: (*Options)(nil).orDefault(1 << 20), roundBytes: round, heldBytes: held}
	err = r.run(t.Context())
	got, rerr := os.ReadFile(f.Name())
	if rerr != nil {
		t.Fatal(rerr)
	}
	return r.stats, got, err
}

// Chunks in any order make circles of any length. With memory enough nothing is
// fetched; with less some chunks are, and without a store that is an error.
func TestMoveCircles(t *testing.T) {
	old := noise(1, 60*kib)
	count := len(cut(t, old, small)) - 1 // the last one may be cut short, and would not be the same elsewhere
	seeds := 20
	if testing.Short() {
		seeds = 4
	}
	orders := map[string][]int{}
	order := func(name string, at func(i int) int) {
		for i := range count {
			orders[name] = append(orders[name], at(i))
		}
	}
	order("reversed", func(i int) int { return count - 1 - i })
	order("rotated", func(i int) int { return (i + 1) % count })
	order("rotated back", func(i int) int { return (i + count - 1) % count })
	order("halves", func(i int) int { return (i + count/2) % count })
	order("every third", func(i int) int { return i * 7 % count })
	order("pairs", func(i int) int { return min(i^1, count-1) })
	for n := range seeds {
		r := rand.New(rand.NewSource(int64(n)))
		perm := r.Perm(count)
		orders[fmt.Sprintf("shuffled %d", n)] = perm
		orders[fmt.Sprintf("drawn %d", n)] = slices.Collect(func(yield func(int) bool) {
			for range 2 * count { // some often, some never
				if !yield(r.Intn(count)) {
					return
				}
			}
		})
	}
	for name, order := range orders {
		new := arranged(t, old, order)
		x := indexOf(t, new, small)
		for _, round := range []int{1, 5000, roundBytes} {
			stats, got, err := runInPlace(t, old, new, x, nil, round, heldBytes)
			if err != nil {
				t.Fatalf("%s, rounds of %d: %v", name, round, err)
			}
			same(t, name, got, new)
			whole(t, stats, x)
			if stats.Fetched != (Part{}) || stats.Changed != 0 {
				t.Errorf("%s, rounds of %d: got %+v, want nothing fetched", name, round, stats)
			}
		}
		dropped := -1
		for _, held := range []int{0, 1000, 5000, 20000} {
			stats, got, err := runInPlace(t, old, new, x, sourceOf(x, new), roundBytes, held)
			if err != nil {
				t.Fatalf("%s, holding %d: %v", name, held, err)
			}
			same(t, name, got, new)
			whole(t, stats, x)
			if dropped < 0 {
				dropped = stats.Fetched.Chunks
			}
		}
		if dropped == 0 && (name == "reversed" || name == "rotated" || name == "halves") {
			t.Errorf("%s, holding nothing: nothing was fetched, want some", name)
		}
		_, _, err := runInPlace(t, old, new, x, nil, roundBytes, 0)
		if _, ok := errors.AsType[*MissingError](err); ok != (dropped > 0) {
			t.Errorf("%s, holding nothing, without a store: got %v; with one %d chunks were fetched", name, err, dropped)
		}
	}
}

// No more is held than has to be: nothing for a shift, for a rotation what goes
// round, and for many small circles what one of them takes.
func TestMoveHoldsLittle(t *testing.T) {
	old := noise(1, 500*kib)
	chunks := cut(t, old, small)
	chunks = chunks[:len(chunks)-1]
	n := len(chunks)
	old = slices.Concat(chunks...)
	swapped := slices.Clone(chunks)
	for i := 0; i+1 < n; i += 2 {
		swapped[i], swapped[i+1] = chunks[i+1], chunks[i]
	}
	for _, tt := range []struct {
		name  string
		new   []byte
		held  int
		fetch int
	}{
		{"shifted", slices.Concat([]byte("x"), old), 0, 2},
		{"shifted back", old[1:], 0, 2},
		{"rotated", slices.Concat(slices.Concat(chunks[3:]...), slices.Concat(chunks[:3]...)), 5 * small.Max, 0},
		{"rotated back", slices.Concat(slices.Concat(chunks[n-3:]...), slices.Concat(chunks[:n-3]...)), 5 * small.Max, 0},
		{"pairs swapped", slices.Concat(swapped...), 5 * small.Max, 0},
	} {
		x := indexOf(t, tt.new, small)
		stats, got, err := runInPlace(t, old, tt.new, x, sourceOf(x, tt.new), roundBytes, tt.held)
		if err != nil {
			t.Fatal(err)
		}
		same(t, tt.name, got, tt.new)
		if stats.Fetched.Chunks > tt.fetch || stats.By[Move].Chunks < n*9/10 {
			t.Errorf("%s: got %+v, want nearly %d moves and no more than %d fetched", tt.name, stats, n, tt.fetch)
		}
	}
}

// What is right in its place is kept, even where so much around it is wrong that
// the first look gives up.
func TestKeepsWhatIsRight(t *testing.T) {
	content := noise(1, 6*mib)
	x := indexOf(t, content, small)
	n := len(x.Entries)
	for _, tt := range []struct {
		name  string
		wrong func(i int) bool
		keep  int // chunks at least
	}{
		{"some in a row", func(i int) bool { return i < 5 || i > n-5 || i/3 == 1000 }, n - 25},
		{"every third", func(i int) bool { return i%3 == 0 }, n - (n+2)/3},
		{"all but every third", func(i int) bool { return i%3 != 0 }, (n + 2) / 3},
		{"all but one", func(i int) bool { return i != n/2 }, 1},
	} {
		old := slices.Clone(content)
		for i := range n {
			if tt.wrong(i) {
				copy(old[x.Start(i):x.Entries[i].End], noise(int64(i)+2, small.Max))
			}
		}
		stats, got, err := runInPlace(t, old, content, x, sourceOf(x, content), roundBytes, heldBytes)
		if err != nil {
			t.Fatal(err)
		}
		same(t, tt.name, got, content)
		if stats.By[Keep].Chunks < tt.keep || stats.By[Move].Chunks > 0 {
			t.Errorf("%s: got %+v, want %d chunks kept and none moved", tt.name, stats, tt.keep)
		}
	}
}

// A chunk that is not in the destination any more when it is to be moved is
// fetched.
func TestMoveChanged(t *testing.T) {
	old := noise(1, 100*kib)
	new := slices.Concat(noise(2, 50), old)
	x := indexOf(t, new, small)
	for _, tt := range []struct {
		name string
		src  store.Getter
		err  error
	}{
		{"store", sourceOf(x, new), nil},
		{"no store", sourceOf(x, new).without(indexOf(t, old, small)), fs.ErrNotExist},
	} {
		path := write(t, t.TempDir(), "dest", old)
		stats, err := File(t.Context(), x, path, tt.src, FileOptions{InPlace: true, NoSync: true, Planned: func(p *Plan) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("changed"), 50*kib); err != nil {
				t.Fatal(err)
			}
		}})
		if !errors.Is(err, tt.err) {
			t.Fatalf("%s: got error %v, want %v", tt.name, err, tt.err)
		}
		if stats.Changed == 0 || stats.Changed > 2 {
			t.Errorf("%s: got %+v, want 1 or 2 chunks changed", tt.name, stats)
		}
		if err == nil {
			holds(t, path, new)
			whole(t, stats, x)
		}
	}
}

// Chunks that move into what is now a hole, and zeros that come to lie on what
// has to be read first.
func TestMoveZeros(t *testing.T) {
	data := noise(1, 40*kib)
	zeros := make([]byte, 30*kib)
	for _, tt := range []struct{ name, old, new string }{
		{"into a hole", "d0", "0d"},
		{"out of where zeros come", "0d", "d0"},
		{"zeros between", "dd", "d0d"},
		{"zeros gone", "0d0d", "dd"},
		{"shrunk", "0dd0", "d"},
	} {
		parts := map[rune][]byte{'d': data, '0': zeros}
		content := func(s string) (b []byte) {
			for _, c := range s {
				b = append(b, parts[c]...)
			}
			return b
		}
		old, new := content(tt.old), content(tt.new)
		x := indexOf(t, new, small)
		stats, got, err := runInPlace(t, old, new, x, sourceOf(x, new), roundBytes, heldBytes)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if !bytes.Equal(got, new) {
			t.Errorf("%s: wrong content", tt.name)
		}
		if stats.Fetched.Chunks > 6 {
			t.Errorf("%s: got %+v, want next to nothing fetched", tt.name, stats)
		}
	}
}
