package chunker

import (
	"bytes"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
)

// Streams that hand out their bytes in every inconvenient way.
var streams = []struct {
	name string
	wrap func(io.Reader) io.Reader
}{
	{"plain", func(r io.Reader) io.Reader { return r }},
	{"one byte", iotest.OneByteReader},
	{"half", iotest.HalfReader},
	{"data with EOF", iotest.DataErrReader},
	{"one byte with EOF", func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) }},
	{"nothing at times", func(r io.Reader) io.Reader { return &haltingReader{r: r} }},
}

// haltingReader returns 0, nil before each piece, which io.Reader allows.
type haltingReader struct {
	r     io.Reader
	calls int
}

func (h *haltingReader) Read(b []byte) (int, error) {
	if h.calls++; h.calls%50 != 0 {
		return 0, nil
	}
	return h.r.Read(b[:min(len(b), 3000)])
}

// stuckReader never gets anywhere.
type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

func TestReaderStreams(t *testing.T) {
	data := append(noise(200_000), make([]byte, 100_000)...)
	for _, s := range streams {
		for _, p := range []Params{{1, 2, 4}, {64, 256, 1024}, {1000, 1000, 1000}, DefaultParams, {kib, kib, MaxSize}} {
			for _, n := range []int{0, 1, 1000, len(data)} {
				got := cutReader(t, s.wrap(bytes.NewReader(data[:n])), data[:n], p)
				sameEnds(t, s.name, got, cutSplitter(t, data[:n], p))
			}
		}
	}
}

// The chunks before an error are good; the error comes back as it is, again and
// again, and never as an end.
func TestReaderError(t *testing.T) {
	p := Params{Min: 64, Avg: 256, Max: 1024}
	data := noise(10_000)
	want := cutSplitter(t, data, p)
	for _, cause := range []error{errBroken, io.ErrUnexpectedEOF, io.ErrClosedPipe} {
		for n := 0; n <= len(data); n += 501 {
			r := NewReader(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(cause)), p)
			var end int64
			var err error
			for i := 0; ; i++ {
				var chunk []byte
				if chunk, err = r.Next(); err != nil {
					break
				}
				if end += int64(len(chunk)); end != want[i] {
					t.Fatalf("broken at %d: chunk %d ends at %d, want %d", n, i, end, want[i])
				}
			}
			if err != cause {
				t.Errorf("broken at %d: got %v, want %v", n, err, cause)
			}
			if _, err := r.Next(); err != cause {
				t.Errorf("broken at %d, asked again: got %v, want %v", n, err, cause)
			}
		}
	}
	if _, err := NewReader(stuckReader{}, p).Next(); err != io.ErrNoProgress {
		t.Errorf("a stream that returns nothing: got %v, want %v", err, io.ErrNoProgress)
	}
}

// A great maximum must not cost memory on a small stream.
func TestReaderMemory(t *testing.T) {
	data := noise(1000)
	p := Params{Min: MaxSize, Avg: MaxSize, Max: MaxSize}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cutReader(t, bytes.NewReader(data), data, p)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > mib {
		t.Errorf("reading 1000 bytes allocated %d", got)
	}
}
