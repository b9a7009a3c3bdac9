package chunker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

const kib, mib = 1 << 10, 1 << 20

// noise returns n bytes that are random and the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// repeat returns n bytes that begin with pattern and go round in it.
func repeat(pattern []byte, n int) []byte {
	return bytes.Repeat(pattern, n/len(pattern)+1)[:n]
}

// ways are all the ways to cut a stream. Each returns the ends of the chunks
// and has compared their bytes with data.
var ways = []struct {
	name string
	cut  func(t testing.TB, data []byte, p Params) []int64
}{
	{"Splitter", cutSplitter},
	{"Reader", func(t testing.TB, data []byte, p Params) []int64 {
		return cutReader(t, bytes.NewReader(data), data, p)
	}},
	{"Parallel", func(t testing.TB, data []byte, p Params) []int64 {
		return cutParallel(t, data, p, nil, 0)
	}},
	{"Parallel holes, held", func(t testing.TB, data []byte, p Params) []int64 {
		return cutParallel(t, data, p, &ParallelOptions{Workers: 3, Hole: holesOf(data)}, 6)
	}},
	{"ParallelReader, held", func(t testing.TB, data []byte, p Params) []int64 {
		return cutParallelReader(t, bytes.NewReader(data), data, p, &ParallelOptions{Workers: 3}, 6)
	}},
}

// agree cuts data in all ways and fails unless the ends are those of want. A nil
// want stands for the ends that Splitter finds.
func agree(t testing.TB, data []byte, p Params, want []int64) {
	t.Helper()
	rest := ways
	if want == nil {
		want, rest = cutSplitter(t, data, p), ways[1:]
	}
	for _, w := range rest {
		sameEnds(t, w.name, w.cut(t, data, p), want)
	}
}

// sameEnds reports where the cuts part.
func sameEnds(t testing.TB, what string, got, want []int64) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Errorf("%s: got %d chunks, want %d; from chunk %d on the ends are %v, want %v",
		what, len(got), len(want), i, got[i:min(i+4, len(got))], want[i:min(i+4, len(want))])
}

// tally takes chunks and compares them with the stream they came from.
type tally struct {
	t    testing.TB
	data []byte
	p    Params
	ends []int64
}

func (c *tally) end() int64 {
	if len(c.ends) == 0 {
		return 0
	}
	return c.ends[len(c.ends)-1]
}

func (c *tally) add(off int64, chunk []byte) {
	c.t.Helper()
	if off != c.end() {
		c.t.Fatalf("chunk %d begins at %d, want %d", len(c.ends), off, c.end())
	}
	end := off + int64(len(chunk))
	if len(chunk) == 0 || end > int64(len(c.data)) || len(chunk) > c.p.Max || len(chunk) < c.p.Min && end < int64(len(c.data)) {
		c.t.Fatalf("chunk %d at %d has %d bytes of %d with sizes %v", len(c.ends), off, len(chunk), len(c.data), c.p)
	}
	if !bytes.Equal(chunk, c.data[off:end]) {
		c.t.Fatalf("chunk %d at %d does not hold the bytes of the stream", len(c.ends), off)
	}
	c.ends = append(c.ends, end)
}

func (c *tally) addBatch(b *Batch) {
	c.t.Helper()
	for _, p := range b.Pieces {
		if p.Zero && !isZero(p.Data) {
			c.t.Fatalf("piece at %d says it is zero and is not", p.Offset)
		}
		c.add(p.Offset, p.Data)
	}
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// complete returns the ends, all of data being accounted for.
func (c *tally) complete() []int64 {
	c.t.Helper()
	if c.end() != int64(len(c.data)) {
		c.t.Fatalf("chunks end at %d, want %d", c.end(), len(c.data))
	}
	return c.ends
}

// holding returns a callback that holds n batches and checks and releases them
// all with the next one, and a function that does so with the rest. What they
// hold at the same time must not share memory.
func (c *tally) holding(n int) (each func(*Batch) error, rest func()) {
	var held []*Batch
	rest = func() {
		c.t.Helper()
		for _, b := range held {
			c.addBatch(b)
		}
		for _, b := range held {
			b.Release()
			b.Release() // harmless
		}
		held = held[:0]
	}
	each = func(b *Batch) error {
		c.t.Helper()
		if len(b.Pieces) == 0 {
			c.t.Fatal("a batch without pieces")
		}
		if held = append(held, b); len(held) > n {
			rest()
		}
		return nil
	}
	return each, rest
}

func cutSplitter(t testing.TB, data []byte, p Params) []int64 {
	t.Helper()
	c := &tally{t: t, data: data, p: p}
	s := NewSplitter(p)
	for rest := data; len(rest) > 0; {
		n := s.Cut(rest)
		c.add(c.end(), rest[:n])
		rest = rest[n:]
	}
	return c.complete()
}

func cutReader(t testing.TB, r io.Reader, data []byte, p Params) []int64 {
	t.Helper()
	c := &tally{t: t, data: data, p: p}
	cr := NewReader(r, p)
	for {
		chunk, err := cr.Next()
		if err == io.EOF && chunk == nil {
			break
		}
		if err != nil {
			t.Fatalf("Next at %d: %d bytes, %v", c.end(), len(chunk), err)
		}
		c.add(c.end(), chunk)
	}
	if _, err := cr.Next(); err != io.EOF {
		t.Fatalf("Next after io.EOF: got %v, want it again", err)
	}
	return c.complete()
}

func cutParallel(t testing.TB, data []byte, p Params, o *ParallelOptions, hold int) []int64 {
	t.Helper()
	c := &tally{t: t, data: data, p: p}
	each, rest := c.holding(hold)
	if err := Parallel(context.Background(), bytes.NewReader(data), int64(len(data)), p, o, each); err != nil {
		t.Fatal("Parallel:", err)
	}
	rest()
	return c.complete()
}

func cutParallelReader(t testing.TB, r io.Reader, data []byte, p Params, o *ParallelOptions, hold int) []int64 {
	t.Helper()
	c := &tally{t: t, data: data, p: p}
	each, rest := c.holding(hold)
	if err := ParallelReader(context.Background(), r, p, o, each); err != nil {
		t.Fatal("ParallelReader:", err)
	}
	rest()
	return c.complete()
}

// holesOf takes every stretch of zeros for a hole.
func holesOf(data []byte) func(off, n int64) bool {
	return func(off, n int64) bool { return isZero(data[off : off+n]) }
}

// noLeak fails the test if it leaves goroutines behind.
func noLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second) // one that has ended may be counted a moment longer
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				stacks := make([]byte, 64*kib)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("%d goroutines, want %d:\n%s", runtime.NumGoroutine(), before, stacks)
				return
			}
			runtime.Gosched()
		}
	})
}

// panics reports whether f does.
func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

var errBroken = errors.New("the cable is cut")
