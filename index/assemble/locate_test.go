package assemble

import (
	"context"
	"errors"
	"math/rand"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
)

func TestNextHole(t *testing.T) {
	const block = 4096
	d := func(n int) []byte { return noise(1, n) }
	z := func(n int) []byte { return make([]byte, n) }
	for _, tt := range []struct {
		name       string
		b          []byte
		off        int64
		data, hole int
	}{
		{"nothing", nil, 0, 0, 0},
		{"data", d(3 * block), 0, 3 * block, 0},
		{"less than a block of zeros", z(block - 1), 0, block - 1, 0},
		{"a block of zeros", z(block), 0, 0, block},
		{"a block of zeros, not aligned", z(block), 1, block, 0},
		{"two blocks of zeros, not aligned", z(2 * block), 1, block - 1, block},
		{"zeros behind data", slices.Concat(d(block), z(2*block+5)), 0, block, 2 * block},
		{"zeros before data", slices.Concat(z(2*block+5), d(block)), 0, 0, 2 * block},
		{"zeros within data", slices.Concat(d(100), z(3*block), d(100)), 0, block, 2 * block},
		{"zeros within data, aligned by the offset", slices.Concat(d(100), z(3*block), d(100)), block - 100, 100, 3 * block},
		{"too few zeros on either side of a border", slices.Concat(d(1), z(2*block-2), d(1)), 0, 2 * block, 0},
	} {
		if data, hole := nextHole(tt.b, tt.off); data != tt.data || hole != tt.hole {
			t.Errorf("%s: got %d and %d, want %d and %d", tt.name, data, hole, tt.data, tt.hole)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		s     span
		block int64
		want  span
		empty bool
	}{
		{span{0, 0}, 4096, span{0, 0}, true},
		{span{0, 4096}, 4096, span{0, 4096}, false},
		{span{1, 4096}, 4096, span{4096, 4096}, true},
		{span{1, 8193}, 4096, span{4096, 8192}, false},
		{span{1, 2}, 4096, span{4096, 0}, true},
	} {
		if got := tt.s.within(tt.block); got != tt.want || got.len() <= 0 != tt.empty {
			t.Errorf("%v.within(%d) = %v, want %v, empty %v", tt.s, tt.block, got, tt.want, tt.empty)
		}
	}
}

func TestGaps(t *testing.T) {
	x := &index.Index{}
	for i := range int64(10) { // of 1 MiB
		x.Entries = append(x.Entries, index.Entry{End: (i + 1) * mib})
	}
	for _, tt := range []struct {
		name  string
		found []int
		size  int64
		want  []span
	}{
		{"empty file", nil, 0, nil},
		{"nothing found", nil, 10 * mib, []span{{0, 10 * mib}}},
		{"all found", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10 * mib, nil},
		{"all found, and more", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 11 * mib, []span{{10 * mib, 11 * mib}}},
		{"one missing", []int{0, 1, 2, 4, 5, 6, 7, 8, 9}, 10 * mib, []span{{3 * mib, 4 * mib}}},
		{"two missing, close", []int{0, 2, 4, 5, 6, 7, 8, 9}, 10 * mib, []span{{1 * mib, 4 * mib}}},
		{"two missing, far apart", []int{0, 2, 3, 4, 5, 6, 7, 8}, 10 * mib, []span{{1 * mib, 2 * mib}, {9 * mib, 10 * mib}}},
		{"short file", []int{1}, 3*mib + 5, []span{{0, 3*mib + 5}}},
	} {
		found := bitset.New(len(x.Entries))
		for _, i := range tt.found {
			found.Add(i)
		}
		l := &locator{Plan: &Plan{Index: x}}
		if got := l.gaps(tt.size, found); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A table finds the first entry of every chunk, and from there all the others.
func TestTable(t *testing.T) {
	for n := range 200 {
		r := rand.New(rand.NewSource(int64(n)))
		var entries []index.Entry
		want := map[[32]byte][]int{}
		for i := range n {
			id := [32]byte{byte(r.Intn(n/3 + 1))}
			want[id] = append(want[id], i)
			entries = append(entries, index.Entry{End: int64(i) + 1, ID: id})
		}
		tab := newTable(entries)
		for id, places := range want {
			if got := tab.first(id); got != places[0] {
				t.Fatalf("first: got %d, want %d", got, places[0])
			}
			if got := slices.Collect(tab.same(places[0])); !slices.Equal(got, places) {
				t.Fatalf("same: got %v, want %v", got, places)
			}
		}
		if got := tab.first([32]byte{31: 1}); got != none {
			t.Fatalf("first of what is not there: got %d, want %d", got, none)
		}
		if got := len(slices.Collect(tab.firsts())); got != len(want) {
			t.Fatalf("firsts: got %d, want %d", got, len(want))
		}
	}
}

func TestVerify(t *testing.T) {
	content := slices.Concat(noise(1, 9*mib), make([]byte, 3*mib), noise(2, mib))
	x := indexOf(t, content, small)
	n := len(x.Entries)
	flip := func(entries ...int) []byte {
		b := slices.Clone(content)
		for _, i := range entries {
			b[x.Start(i)] ^= 1
		}
		return b
	}
	tail := func(from int) (bad []int) {
		for i := from; i < n; i++ {
			bad = append(bad, i)
		}
		return bad
	}
	for _, tt := range []struct {
		name string
		b    []byte
		bad  []int
	}{
		{"right", content, nil},
		{"right, and more behind", slices.Concat(content, []byte("more")), nil},
		{"first", flip(0), []int{0}},
		{"last", flip(n - 1), []int{n - 1}},
		{"some", flip(3, 4, 5, n/2, n-2), []int{3, 4, 5, n / 2, n - 2}},
		{"short", content[:len(content)-1], []int{n - 1}},
		{"half", content[:x.Start(n/2)], tail(n / 2)},
		{"empty", nil, tail(0)},
	} {
		f := open(t, write(t, t.TempDir(), "f", tt.b))
		var bad []int
		if err := Verify(t.Context(), x, f, int64(len(tt.b)), func(i int) error { bad = append(bad, i); return nil }, nil); err != nil {
			t.Fatal(err)
		}
		slices.Sort(bad)
		if !slices.Equal(bad, tt.bad) {
			t.Errorf("%s: got bad chunks %v, want %v", tt.name, bad, tt.bad)
		}
	}

	f := open(t, write(t, t.TempDir(), "f", flip(5)))
	if err := Verify(t.Context(), x, f, x.Size(), func(int) error { return errTest }, nil); err != errTest {
		t.Errorf("got error %v, want that of bad", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var steps atomic.Int64
	if err := Verify(ctx, x, f, x.Size(), func(int) error { return nil }, func(int64, int64) {
		if steps.Add(1) == 10 {
			cancel(errStop)
		}
	}); !errors.Is(err, errStop) { // desync's verify-index exits with 0 (B4)
		t.Errorf("cancelled: got error %v, want %v", err, errStop)
	}
	f.Close()
	if err := Verify(t.Context(), x, f, x.Size(), func(int) error { return nil }, nil); err == nil {
		t.Error("closed file: got no error")
	}
}
