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

// FuzzSplit cuts the same bytes in every way. One seed in sixteen, as it is slow,
// puts them across the border of two segments.
func FuzzSplit(f *testing.F) {
	const border = 16
	f.Add([]byte{}, uint16(0), uint16(0), uint16(0), uint64(1))
	f.Add([]byte("a few bytes"), uint16(1), uint16(1), uint16(2), uint64(2))
	f.Add(noise(3000), uint16(16), uint16(32), uint16(52), uint64(3))
	f.Add(noise(3000), uint16(47), uint16(3), uint16(10), uint64(1*border))
	f.Add(noise(3000), uint16(64), uint16(192), uint16(768), uint64(4))
	f.Add(noise(3000), uint16(64), uint16(192), uint16(768), uint64(2*border))
	f.Add(make([]byte, 3000), uint16(64), uint16(192), uint16(768), uint64(5))
	f.Add(make([]byte, 3000), uint16(64), uint16(192), uint16(768), uint64(3*border))
	f.Add(repeat([]byte("abc"), 3000), uint16(100), uint16(0), uint16(0), uint64(6))
	f.Add(append(make([]byte, 500), 1), uint16(48), uint16(100), uint16(0), uint64(4*border))
	before := append(noise(1000), make([]byte, segmentSize)...)
	f.Fuzz(func(t *testing.T, data []byte, low, mid, high uint16, seed uint64) {
		p := Params{Min: 1 + int(low)}
		p.Avg = p.Min + int(mid)
		p.Max = p.Avg + int(high)
		if seed%border == 0 && p.Max >= window { // with less, there are a million pieces
			data = append(before[:segmentSize-len(data)/2%segmentSize:segmentSize], data...)
		}
		want := cutSplitter(t, data, p)
		if len(data) < 10_000 {
			sameEnds(t, "naive", naive(data, p), want)
		}
		short := func() io.Reader { return moody{bytes.NewReader(data), rand.New(rand.NewPCG(seed, 0))} }
		o := &ParallelOptions{Workers: 1 + int(seed%3), Hole: holesOf(data)}
		hold := int(seed / 3 % 3)
		sameEnds(t, "Reader", cutReader(t, short(), data, p), want)
		sameEnds(t, "Parallel", cutParallel(t, data, p, o, hold), want)
		sameEnds(t, "ParallelReader", cutParallelReader(t, short(), data, p, o, hold), want)
	})
}
