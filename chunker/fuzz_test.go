package chunker

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// moody reads up to a random number of bytes at a time, at times none.
type moody struct {
	r    io.Reader
	rand *rand.Rand
}

func (m moody) Read(b []byte) (int, error) {
	return m.r.Read(b[:m.rand.IntN(min(len(b), 1000)+1)])
}

// FuzzSplit cuts the same bytes in every way. An odd seed puts them across the
// border of two segments.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(0), uint16(0), uint64(0))
	f.Add([]byte("a few bytes"), uint16(1), uint16(1), uint16(2), uint64(1))
	f.Add(noise(3000), uint16(16), uint16(32), uint16(52), uint64(2))
	f.Add(noise(3000), uint16(47), uint16(3), uint16(10), uint64(3))
	f.Add(noise(3000), uint16(64), uint16(192), uint16(768), uint64(4))
	f.Add(noise(3000), uint16(64), uint16(192), uint16(768), uint64(5))
	f.Add(make([]byte, 3000), uint16(64), uint16(192), uint16(768), uint64(6))
	f.Add(make([]byte, 3000), uint16(64), uint16(192), uint16(768), uint64(7))
	f.Add(repeat([]byte("abc"), 3000), uint16(100), uint16(0), uint16(0), uint64(8))
	f.Add(append(make([]byte, 500), 1), uint16(48), uint16(100), uint16(0), uint64(9))
	before := append(noise(1000), make([]byte, segmentSize)...)
	f.Fuzz(func(t *testing.T, data []byte, low, mid, high uint16, seed uint64) {
		p := Params{Min: 1 + int(low)}
		p.Avg = p.Min + int(mid)
		p.Max = p.Avg + int(high)
		if seed%2 == 1 {
			if p.Max < window {
				return // slow: a hundred thousand pieces each
			}
			data = append(before[:segmentSize-len(data)/2%segmentSize:segmentSize], data...)
		}
		want := cutSplitter(t, data, p)
		if len(data) < 10_000 {
			sameEnds(t, "naive", naive(data, p), want)
		}
		agree(t, data, p, want)
		short := func() io.Reader { return moody{bytes.NewReader(data), rand.New(rand.NewPCG(seed, 0))} }
		sameEnds(t, "Reader", cutReader(t, short(), data, p), want)
		o := &ParallelOptions{Workers: 1 + int(seed%4)}
		sameEnds(t, "ParallelReader", cutParallelReader(t, short(), data, p, o, int(seed%3)), want)
	})
}
