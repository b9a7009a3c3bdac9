package chunker

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// naive cuts by the rule as it is written down, with no thought of speed: the
// hash of each window anew, and the remainder taken.
func naive(data []byte, p Params) (ends []int64) {
	d := p.discriminator()
	hit := func(end int) bool {
		var h uint32
		for _, c := range data[end-window : end] {
			h = bits.RotateLeft32(h, 1) ^ entering[c]
		}
		return uint64(h)%d == d-1
	}
	start := 0
	for end := 1; end <= len(data); end++ {
		n := end - start
		if n == p.Max || end == len(data) || n >= max(p.Min, window) && hit(end) {
			ends = append(ends, int64(end))
			start = end
		}
	}
	return ends
}

// Chunk sizes that casync accepts and that are odd in some way.
var oddParams = []Params{
	{1, 1, 1},          // each byte a chunk
	{1, 2, 4},          // shorter than the window: only the maximum counts
	{1, 40, 47},        // just so
	{1, 1, 48},         // the window is the maximum
	{1, 1, 100},        // every position is a cut
	{1, 16, 64},        // the first test is behind the average
	{47, 50, 60},       // minimum one below the window,
	{48, 64, 96},       // at it,
	{49, 64, 96},       // one above
	{64, 256, 1024},    // cuts by hash and by maximum
	{64, 256, 256},     // the average is the maximum
	{256, 256, 1024},   // the minimum is the average
	{1000, 1000, 1000}, // a fixed size
	{16384, 65536, 262144},
}

func TestSplitterNaive(t *testing.T) {
	random := noise(40_000)
	for _, data := range [][]byte{
		random,
		make([]byte, 5000),
		repeat([]byte("ab"), 5000),
		repeat(random[:100], 20_000),
		append(make([]byte, 3000), random[:3000]...),
	} {
		for _, p := range oddParams {
			sameEnds(t, fmt.Sprint(p), cutSplitter(t, data, p), naive(data, p))
		}
	}
	random = noise(300_000) // long enough for the default sizes
	sameEnds(t, "default", cutSplitter(t, random, DefaultParams), naive(random, DefaultParams))
}

// Cut needs to see Max bytes and no more.
func TestSplitterMaxBytes(t *testing.T) {
	data := noise(10_000)
	for _, p := range oddParams {
		s := NewSplitter(p)
		for at := 0; at < len(data); at += 97 {
			rest := data[at:]
			if got, want := s.Cut(rest[:min(len(rest), p.Max)]), s.Cut(rest); got != want {
				t.Fatalf("%v: Cut of Max bytes at %d = %d, of all the rest %d", p, at, got, want)
			}
		}
		if got := s.Cut(nil); got != 0 {
			t.Errorf("%v: Cut of nothing = %d", p, got)
		}
	}
}

func TestSplitterShort(t *testing.T) {
	data := noise(200)
	for _, n := range []int{0, 1, 2, 46, 47, 48, 49, 50, 63, 64, 65, 95, 96, 97, 200} {
		for _, p := range oddParams {
			agree(t, data[:n], p, naive(data[:n], p))
		}
	}
}

// A maximum below the window leaves the hash no say.
func TestSplitterTinyMax(t *testing.T) {
	data := noise(1000)
	for _, p := range []Params{{1, 2, 4}, {1, 1, 47}, {10, 20, 30}, {46, 47, 47}, {1, 1, 48}} {
		var want []int64
		for end := p.Max; end < len(data); end += p.Max {
			want = append(want, int64(end))
		}
		agree(t, data, p, append(want, int64(len(data))))
	}
}

// Behind the pole of the formula the divisor is the maximum: cuts by the hash
// are rare, and most chunks reach it.
func TestSplitterBeyondPole(t *testing.T) {
	data := make([]byte, 9*mib)
	copy(data[100:], noise(mib))
	p := Params{Min: 16 * kib, Avg: 16 * mib, Max: 16 * mib}
	agree(t, data, p, nil)
	p.Max = 64 * mib
	agree(t, data, p, nil)
}

func TestHit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, d := range []uint64{2, 3, 4, 5, 7, 47, 48, 641, 3075, 49535, 65535, 65536, 886711, 5721670, MaxSize - 1, MaxSize} {
		test := newTest(uint32(d))
		check := func(h uint32) {
			if got, want := test.hit(h), uint64(h)%d == d-1; got != want {
				t.Fatalf("hit(%d) with d = %d: got %v, want %v", h, d, got, want)
			}
		}
		for _, h := range []uint32{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 1} {
			check(h)
		}
		check(uint32(d - 1 - 1<<32%d)) // h-(d-1) is below zero, and a multiple once it wraps around
		for range 1000 {
			check(r.Uint32())
			multiple := uint32(d * r.Uint64N(1<<32/d))
			check(multiple - 2)
			check(multiple - 1) // a hit
			check(multiple)
		}
	}
}

// A cut does not depend on what lies before the chunk, so two streams that
// become equal are cut alike soon after.
func TestSplitterResync(t *testing.T) {
	p := Params{Min: 64, Avg: 256, Max: 1024}
	data := noise(100_000)
	edited := append(append([]byte("INSERTED"), data[:50_000]...), data[50_100:]...)
	kept := map[int64]bool{}
	for _, end := range cutSplitter(t, data, p) {
		kept[int64(len(data))-end] = true
	}
	fresh := 0
	ends := cutSplitter(t, edited, p)
	for _, end := range ends {
		if end > 50_008 && !kept[int64(len(edited))-end] {
			fresh++
		}
	}
	if fresh > 8 {
		t.Errorf("%d of %d cuts behind an edit are new, want a handful", fresh, len(ends))
	}
}

// The vector code and the plain code find the same cuts and the same hashes.
func TestScan16(t *testing.T) {
	if !haveScan16 {
		t.Log("no AVX-512 here: nothing to compare")
	}
	data := noise(100_000)
	for _, p := range []Params{{48, 64, 256}, {48, 100, 1000}, {64, 500, 10000}, {1024, 4096, 16384}, {1, 2000, 20000}} {
		s := NewSplitter(p)
		for start := range 70 {
			b := data[start:]
			h1, h2 := sum(b), sum(b)
			at := window
			for at < len(b) {
				end, hits := s.scan(b, at, &h1)
				for m := hits; m != 0; m &= m - 1 {
					want, _ := s.scanOne(b, at, &h2)
					if got := end - 15 + bits.TrailingZeros16(m); got != want {
						t.Fatalf("sizes %v, start %d, from %d: got a cut at %d, want %d", p, start, at, got, want)
					}
					at = want
				}
				// The plain code stops at the hit, the vector code behind its block.
				if next, more := s.scanOne(b[:end], at, &h2); more != 0 {
					t.Fatalf("sizes %v, start %d: cut at %d was missed", p, start, next)
				}
				if h1 != h2 {
					t.Fatalf("sizes %v, start %d: hash at %d is %#x, want %#x", p, start, end, h1, h2)
				}
				at = end
			}
		}
	}
}
