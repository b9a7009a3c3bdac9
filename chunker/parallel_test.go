package chunker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// Around the borders between segments nothing may show of them.
func TestParallelSizes(t *testing.T) {
	noLeak(t)
	random := noise(2*segmentSize + 1)
	sizes := []int{0, 1, segmentSize - 1, segmentSize, segmentSize + 1, len(random)}
	for _, tt := range []struct {
		p     Params
		sizes []int
	}{
		{DefaultParams, sizes},
		{Params{64, 256, 1024}, sizes},
		{Params{1, 1, 100}, sizes[4:5]},                                        // a cut at each position
		{Params{1, 2, 4}, sizes[4:5]},                                          // sizes below the window
		{Params{mib, 2 * mib, 4 * mib}, sizes},                                 // chunks over several segments
		{Params{segmentSize - 1, segmentSize - 1, segmentSize - 1}, sizes},     // fixed sizes that walk over the border,
		{Params{segmentSize, segmentSize, segmentSize}, sizes},                 // on it
		{Params{segmentSize + 1, segmentSize + 1, segmentSize + 1}, sizes},     // and beyond
		{Params{window, 300 * kib, segmentSize}, sizes},                        // few hits, long search
		{Params{segmentSize - 1, segmentSize, 2 * segmentSize}, sizes[5:]},     // the first test on the last byte of a segment,
		{Params{segmentSize, segmentSize, 2 * segmentSize}, sizes[5:]},         // on the border
		{Params{segmentSize + 1, segmentSize + 1, 2 * segmentSize}, sizes[5:]}, // and behind it
	} {
		for _, n := range tt.sizes {
			agree(t, random[:n], tt.p, nil)
			if t.Failed() {
				t.Fatalf("chunk sizes %v, %d bytes", tt.p, n)
			}
		}
	}
}

// The hash allows one cut: at the first place there is, and around a border, so
// that its window is in two segments.
func TestParallelHitsAtBorder(t *testing.T) {
	noLeak(t)
	p := Params{Min: window, Avg: 100 * kib, Max: 300 * kib}
	s := NewSplitter(p)
	random := noise(mib)
	h := sum(random)
	at, hits := s.scanOne(random, window, &h)
	if hits == 0 {
		t.Fatal("no cut in all the noise")
	}
	mark := random[at-window : at] // a window that allows a cut
	for _, end := range []int{
		window, window + 1, segmentSize - 1, segmentSize, segmentSize + 1, segmentSize + 2,
		segmentSize + window - 1, segmentSize + window, segmentSize + window + 1,
	} {
		data := make([]byte, segmentSize+300)
		copy(data[end-window:], mark)
		ends := cutSplitter(t, data, p)
		if !slices.Contains(ends, int64(end)) {
			t.Fatalf("no cut at %d: %v", end, ends)
		}
		agree(t, data, p, ends)
	}
}

// A buffer that comes back is used again, and by one batch at a time.
func TestParallelReuse(t *testing.T) {
	noLeak(t)
	data := noise(14 * segmentSize)
	want := cutSplitter(t, data, DefaultParams)
	for _, hold := range []int{0, 2, 4} {
		o := &ParallelOptions{Workers: 2}
		sameEnds(t, "Parallel", cutParallel(t, data, DefaultParams, o, hold), want)
		sameEnds(t, "ParallelReader", cutParallelReader(t, bytes.NewReader(data), data, DefaultParams, o, hold), want)
	}
}

func TestParallelData(t *testing.T) {
	noLeak(t)
	random := noise(segmentSize)
	zeros := func(n int) []byte { return make([]byte, n) }
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"zeros", zeros(2*segmentSize + 7)},
		{"ones", repeat([]byte{0xff}, segmentSize+7)},
		{"period 1000", repeat(random[:1000], segmentSize+7)},
		{"period 48", repeat(random[:window], segmentSize+7)},
		{"period of a segment", repeat(random, 2*segmentSize)},
		{"noise, hole", append(random[:1000:1000], zeros(2*segmentSize)...)},
		{"hole, noise", append(zeros(2*segmentSize), random[:1000]...)},
		{"hole, a byte", append(zeros(2*segmentSize), 1)},
		{"noise, hole, noise", append(append(random[:9999:9999], zeros(2*segmentSize)...), random[:segmentSize/2]...)},
		{"hole in whole segments", append(append(random[:segmentSize:segmentSize], zeros(segmentSize)...), random[:4711]...)},
		{"hole with a speck", append(append(zeros(segmentSize+99), 1), zeros(2*segmentSize)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, p := range []Params{{64, 256, 1024}, DefaultParams, {300_000, 700_000, 1_500_000}} {
				agree(t, tt.data, p, nil)
				if t.Failed() {
					t.Fatalf("chunk sizes %v", p)
				}
			}
		})
	}
}

// countingAt counts the bytes read from it.
type countingAt struct {
	io.ReaderAt
	n atomic.Int64
}

func (c *countingAt) ReadAt(b []byte, off int64) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ReaderAt.ReadAt(b, off)
}

func TestParallelHolesNotRead(t *testing.T) {
	noLeak(t)
	data := make([]byte, 6*segmentSize)
	copy(data, noise(1000))
	copy(data[5*segmentSize:], noise(1000)) // so segments 1 to 4 are holes
	src := &countingAt{ReaderAt: bytes.NewReader(data)}
	var zero int64
	err := Parallel(t.Context(), src, int64(len(data)), DefaultParams, &ParallelOptions{Hole: holesOf(data)}, func(b *Batch) error {
		for _, p := range b.Pieces {
			if p.Zero {
				zero += int64(len(p.Data))
			}
		}
		b.Release()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := src.n.Load(), int64(2*segmentSize+5*window); got > want {
		t.Errorf("read %d bytes, want at most %d", got, want)
	}
	if want := int64(4*segmentSize - 2*DefaultParams.Max); zero < want {
		t.Errorf("%d bytes were in pieces known to be zero, want at least %d", zero, want)
	}
}

// If a window of zeros allows a cut, a hole is full of them.
func TestParallelZerosHit(t *testing.T) {
	noLeak(t)
	h := uint64(sum(make([]byte, window))) + 1
	d := 2 * window
	for h%uint64(d) != 0 {
		d++
	}
	p := Params{Min: d, Avg: d, Max: 10 * d}
	data := append(append(noise(1000), make([]byte, 3*segmentSize)...), noise(1000)...)
	ends := cutSplitter(t, data, p)
	if got, want := len(ends), len(data)/d-100; got < want {
		t.Fatalf("%d chunks, want %d or more: zeros do not cut with %v", got, want, p)
	}
	agree(t, data, p, ends)
}

func TestParallelReaderStreams(t *testing.T) {
	noLeak(t)
	data := noise(segmentSize + 100_000)
	p := Params{Min: 2000, Avg: 5000, Max: 20_000}
	for _, s := range streams {
		for _, n := range []int{0, 1, 1000, segmentSize - 1, segmentSize, segmentSize + 1, len(data)} {
			got := cutParallelReader(t, s.wrap(bytes.NewReader(data[:n])), data[:n], p, nil, 0)
			sameEnds(t, fmt.Sprintf("%s, %d bytes", s.name, n), got, cutSplitter(t, data[:n], p))
		}
	}
}

// A stream that breaks off has not ended, whatever it calls that.
func TestParallelReaderError(t *testing.T) {
	noLeak(t)
	data := noise(3*segmentSize + 1)
	want := cutSplitter(t, data, DefaultParams)
	for _, cause := range []error{errBroken, io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 1, segmentSize - 1, segmentSize, segmentSize + 1, 3 * segmentSize, len(data)} {
			r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(cause))
			i := 0
			err := ParallelReader(t.Context(), r, DefaultParams, nil, func(b *Batch) error {
				defer b.Release()
				for _, p := range b.Pieces {
					if end := p.Offset + int64(len(p.Data)); end != want[i] || end > int64(n) {
						t.Errorf("broken at %d: chunk %d ends at %d, want %d", n, i, end, want[i])
					}
					i++
				}
				return nil
			})
			if !errors.Is(err, cause) {
				t.Errorf("broken at %d: got %v, want %v", n, err, cause)
			}
		}
	}
	if err := ParallelReader(t.Context(), stuckReader{}, DefaultParams, nil, nil); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a stream that returns nothing: got %v, want %v", err, io.ErrNoProgress)
	}
}

// brokenAt fails where a read touches byte n.
type brokenAt struct {
	io.ReaderAt
	n int64
}

func (r brokenAt) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > r.n {
		n, _ := r.ReaderAt.ReadAt(b[:max(0, r.n-off)], off)
		return n, errBroken
	}
	return r.ReaderAt.ReadAt(b, off)
}

func TestParallelSourceError(t *testing.T) {
	noLeak(t)
	data := noise(3*segmentSize + 1)
	release := func(b *Batch) error { b.Release(); return nil }
	for _, n := range []int{0, 1, segmentSize - 1, segmentSize, segmentSize + 1, 3*segmentSize - 1, 3 * segmentSize} {
		short := bytes.NewReader(data[:n])
		err := Parallel(t.Context(), short, int64(len(data)), DefaultParams, nil, release)
		if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Errorf("source of %d bytes: got %v, want %v", n, err, io.ErrUnexpectedEOF)
		}
		err = Parallel(t.Context(), brokenAt{bytes.NewReader(data), int64(n)}, int64(len(data)), DefaultParams, nil, release)
		if !errors.Is(err, errBroken) {
			t.Errorf("source broken at %d: got %v, want %v", n, err, errBroken)
		}
		// What lies behind the size that was asked for is of no concern.
		err = Parallel(t.Context(), brokenAt{bytes.NewReader(data), int64(n)}, int64(n), DefaultParams, nil, release)
		if err != nil {
			t.Errorf("source broken behind its %d bytes: got %v", n, err)
		}
	}
}

func TestParallelEachError(t *testing.T) {
	noLeak(t)
	data := noise(5*segmentSize + 1)
	runs := map[string]func(each func(*Batch) error) error{
		"Parallel": func(each func(*Batch) error) error {
			return Parallel(t.Context(), bytes.NewReader(data), int64(len(data)), DefaultParams, nil, each)
		},
		"ParallelReader": func(each func(*Batch) error) error {
			return ParallelReader(t.Context(), bytes.NewReader(data), DefaultParams, nil, each)
		},
	}
	for name, run := range runs {
		for at, calls := 1, 1; calls == at; at++ { // until there are not that many batches
			calls = 0
			err := run(func(b *Batch) error {
				b.Release()
				if calls++; calls == at {
					return errBroken
				}
				return nil
			})
			if calls == at && err != errBroken || calls > at {
				t.Errorf("%s: an error of call %d: got %v after %d calls, want %v", name, at, err, calls, errBroken)
			}
			if calls < at && err != nil {
				t.Errorf("%s: got %v, want nil", name, err)
			}
		}
	}
}

// slowAt is in the middle of a read when the batch before it fails.
type slowAt struct {
	io.ReaderAt
	failed chan struct{}
	active atomic.Int64
}

func (s *slowAt) ReadAt(b []byte, off int64) (int, error) {
	s.active.Add(1)
	defer s.active.Add(-1)
	if off > segmentSize {
		<-s.failed
		for range 1000 {
			runtime.Gosched()
		}
	}
	return s.ReaderAt.ReadAt(b, off)
}

// When Parallel returns, the source is left alone: the caller may close it.
func TestParallelWaits(t *testing.T) {
	noLeak(t)
	data := noise(8 * segmentSize)
	src := &slowAt{ReaderAt: bytes.NewReader(data), failed: make(chan struct{})}
	err := Parallel(t.Context(), src, int64(len(data)), DefaultParams, &ParallelOptions{Workers: 4}, func(*Batch) error {
		close(src.failed)
		return errBroken
	})
	if n := src.active.Load(); n != 0 || err != errBroken {
		t.Errorf("%d reads under way behind the end, %v, want none and %v", n, err, errBroken)
	}
}

// trip cancels a context at the n-th step.
type trip struct {
	left   atomic.Int64
	cancel context.CancelCauseFunc
}

var errTrip = errors.New("tripped")

func (t *trip) step() {
	if t.left.Add(-1) == 0 {
		t.cancel(errTrip)
	}
}

// tripReader makes a step of each read.
type tripReader struct {
	*bytes.Reader
	*trip
}

func (r tripReader) Read(b []byte) (int, error) {
	r.step()
	return r.Reader.Read(b[:min(len(b), 300_000)])
}

func (r tripReader) ReadAt(b []byte, off int64) (int, error) {
	r.step()
	return r.Reader.ReadAt(b, off)
}

// A run that was cancelled says so, even if it was at the last step: half an
// index must never pass for a whole one.
func TestParallelCancel(t *testing.T) {
	noLeak(t)
	data := append(noise(2*segmentSize+1), make([]byte, 2*segmentSize)...)
	runs := map[string]func(ctx context.Context, src tripReader, each func(*Batch) error) error{
		"Parallel": func(ctx context.Context, src tripReader, each func(*Batch) error) error {
			o := &ParallelOptions{Workers: 2, Hole: func(off, n int64) bool {
				src.step()
				return isZero(data[off : off+n])
			}}
			return Parallel(ctx, src, int64(len(data)), DefaultParams, o, each)
		},
		"ParallelReader": func(ctx context.Context, src tripReader, each func(*Batch) error) error {
			return ParallelReader(ctx, src, DefaultParams, &ParallelOptions{Workers: 2}, each)
		},
		"Parallel of nothing": func(ctx context.Context, src tripReader, each func(*Batch) error) error {
			return Parallel(ctx, src, 0, DefaultParams, nil, each)
		},
		"ParallelReader of nothing": func(ctx context.Context, src tripReader, each func(*Batch) error) error {
			src.Reader = bytes.NewReader(nil)
			return ParallelReader(ctx, src, DefaultParams, nil, each)
		},
	}
	for name, run := range runs {
		for n, tripped := int64(0), true; tripped; n++ { // 0 is before the start
			ctx, cancel := context.WithCancelCause(t.Context())
			tr := &trip{cancel: cancel}
			tr.left.Store(n + 1)
			if n == 0 {
				tr.step()
			} else {
				tr.left.Store(n)
			}
			after := 0
			err := run(ctx, tripReader{bytes.NewReader(data), tr}, func(b *Batch) error {
				if ctx.Err() != nil {
					after++
				}
				tr.step()
				b.Release()
				return nil
			})
			tripped = ctx.Err() != nil
			if tripped && err != errTrip {
				t.Errorf("%s: cancelled at step %d: got %v, want %v", name, n, err, errTrip)
			}
			if !tripped && err != nil {
				t.Errorf("%s: got %v, want nil", name, err)
			}
			if after > 1 { // one may have been on its way
				t.Errorf("%s: %d calls after a cancel at step %d", name, after, n)
			}
			cancel(nil)
		}
	}
}

func TestParallelBadParams(t *testing.T) {
	if !panics(func() { Parallel(t.Context(), nil, 0, Params{}, nil, nil) }) {
		t.Error("Parallel with invalid chunk sizes did not panic")
	}
	if !panics(func() { ParallelReader(t.Context(), nil, Params{}, nil, nil) }) {
		t.Error("ParallelReader with invalid chunk sizes did not panic")
	}
}
