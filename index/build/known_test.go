package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

// knownOf returns a Known that tells each entry of an index with a probability.
func knownOf(x *index.Index, probability float64, r *rand.Rand) func(off int64) (Known, bool) {
	told := map[int64]Known{}
	for i, e := range x.Entries {
		if r.Float64() < probability {
			told[x.Start(i)] = Known{e.ID, x.Len(i)}
		}
	}
	return func(off int64) (Known, bool) {
		k, ok := told[off]
		return k, ok
	}
}

// counted counts the bytes that are read.
type counted struct {
	io.ReaderAt
	mu    sync.Mutex
	bytes int64 // guarded by mu
}

func (c *counted) ReadAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	c.bytes += int64(len(b))
	c.mu.Unlock()
	return c.ReaderAt.ReadAt(b, off)
}

// Whatever is known, and whatever of that the store has, the index is the same, and the
// store has every chunk.
func TestKnown(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	params := []chunker.Params{
		small, {Min: 1, Avg: 1, Max: 100}, {Min: 40, Avg: 300, Max: 5000}, {Min: 256, Avg: 256, Max: 256}, {Min: 1, Avg: 20, Max: 48},
		chunker.DefaultParams, {Min: 1 << 20, Avg: 4 << 20, Max: 16 << 20},
	}
	n := 0
	for name, data := range blobs(t) {
		for _, p := range params {
			if n++; testing.Short() && n%5 != 0 {
				continue
			}
			if p.Max < 10_000 { // many chunks
				testKnown(t, name, data[:min(len(data), 60*kib)], p, r)
			} else {
				testKnown(t, name, data, p, r)
			}
		}
	}
}

func testKnown(t *testing.T, name string, data []byte, p chunker.Params, r *rand.Rand) {
	h := header(p, chunker.Digests[len(data)%len(chunker.Digests)])
	want, chunks := indexOf(t, h, data)
	x, err := index.Decode(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []float64{0, 0.8, 1} {
		for _, stored := range []float64{0.9, 1} {
			t.Run(fmt.Sprintf("%s/%v/%v known/%v stored", name, p, known, stored), func(t *testing.T) {
				dst := newMem()
				for id, b := range chunks {
					if stored == 1 || r.Float64() < stored {
						dst.chunks[id] = b
					}
				}
				had := len(dst.chunks)
				src := &counted{ReaderAt: bytes.NewReader(data)}
				w, out := writer(t, h)
				stats, err := File(t.Context(), w, dst, src, int64(len(data)), &Options{Workers: 1 + r.IntN(3), Puts: r.IntN(20), Known: knownOf(x, known, r)})
				if err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), want) {
					t.Fatal("the index is another")
				}
				for id, b := range chunks {
					if !bytes.Equal(dst.chunks[id], b) {
						t.Fatalf("chunk %v is stored wrong", id)
					}
				}
				if stats.NewChunks != len(chunks)-had || stats.Bytes != int64(len(data)) || stats.Chunks != len(x.Entries) {
					t.Errorf("got %+v, want %d new of %d chunks", stats, len(chunks)-had, len(x.Entries))
				}
				if known == 0 && stats.KnownBytes != 0 {
					t.Errorf("nothing was known: got %+v", stats)
				}
				if known == 1 && stored == 1 && (stats.KnownBytes != int64(len(data)) || src.bytes != 0) {
					t.Errorf("read %d bytes that were known, stats %+v", src.bytes, stats)
				}
				if least := int64(len(data)) - stats.KnownBytes; src.bytes < least {
					t.Errorf("read %d bytes, fewer than the %d that were not known", src.bytes, least)
				}
			})
		}
	}
}

// Around one chunk that is not known, little is read, however many cores there are.
func TestKnownReadsLittle(t *testing.T) {
	data := noise(32 * mib)
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	raw, chunks := indexOf(t, h, data)
	x, err := index.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	dst := newMem()
	dst.chunks = chunks
	src := &counted{ReaderAt: bytes.NewReader(data)}
	gap := x.Start(len(x.Entries) / 2)
	all := knownOf(x, 1, rand.New(rand.NewPCG(0, 0)))
	w, _ := writer(t, h)
	stats, err := File(t.Context(), w, dst, src, int64(len(data)), &Options{Workers: 32, Known: func(off int64) (Known, bool) {
		k, ok := all(off)
		return k, ok && off != gap
	}})
	if err != nil {
		t.Fatal(err)
	}
	if least := int64(len(data) - h.Params.Max); stats.KnownBytes < least || src.bytes > int64(4*h.Params.Max) {
		t.Errorf("read %d bytes, stats %+v", src.bytes, stats)
	}
}

// What Known says wrong does no harm: a chunk that cannot be is not taken, and one that
// is another is an error where it is read.
func TestKnownMistaken(t *testing.T) {
	data := noise(mib)
	h := header(small, chunker.BLAKE3)
	want, _ := indexOf(t, h, data)
	for name, k := range map[string]Known{"nothing": {}, "no ID": {Size: 100}, "negative": {ID: chunker.ID{1}, Size: -1}, "too long": {ID: chunker.ID{1}, Size: small.Max + 1}} {
		w, out := writer(t, h)
		if _, err := File(t.Context(), w, newMem(), bytes.NewReader(data), mib, &Options{Known: func(int64) (Known, bool) { return k, true }}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: wrong index, %v", name, err)
		}
	}
	w, _ := writer(t, h)
	_, err := File(t.Context(), w, newMem(), bytes.NewReader(data), mib, &Options{Known: func(off int64) (Known, bool) { return Known{chunker.ID{1}, 100}, off == 0 }})
	if !errors.Is(err, ErrMistaken) {
		t.Errorf("got %v, want %v", err, ErrMistaken)
	}
}

// Errors of the store and of the source, and the end of the context, end a run in which
// much is known.
func TestKnownErrors(t *testing.T) {
	data := noise(mib / 2)
	h := header(small, chunker.BLAKE3)
	raw, _ := indexOf(t, h, data)
	x, err := index.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for _, known := range []float64{0, 0.9, 1} {
		for n := 1; n < len(x.Entries); n *= 7 {
			m := newMem()
			ctx, cancel := context.WithCancelCause(t.Context())
			m.adding = func(i int) error {
				if i == n {
					cancel(errTest)
				}
				return nil
			}
			w, _ := writer(t, h)
			if _, err := File(ctx, w, m, bytes.NewReader(data), int64(len(data)), &Options{Known: knownOf(x, known, r)}); !errors.Is(err, errTest) {
				t.Errorf("cancelled at chunk %d: got %v", n, err)
			}
			m = newMem()
			m.adding = func(i int) error {
				if i == n {
					return errTest
				}
				return nil
			}
			w, _ = writer(t, h)
			if _, err := File(t.Context(), w, m, bytes.NewReader(data), int64(len(data)), &Options{Known: knownOf(x, known, r)}); !errors.Is(err, errTest) {
				t.Errorf("chunk %d fails: got %v", n, err)
			}
			w, _ = writer(t, h)
			src := failing{bytes.NewReader(data), x.Start(n)}
			if _, err := File(t.Context(), w, newMem(), src, int64(len(data)), &Options{Known: knownOf(x, known, r)}); !errors.Is(err, errTest) {
				t.Errorf("source fails at chunk %d: got %v", n, err)
			}
			w, _ = writer(t, h)
			short := bytes.NewReader(data[:x.Start(n)])
			if _, err := File(t.Context(), w, newMem(), short, int64(len(data)), &Options{Known: knownOf(x, known, r)}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("source ends at chunk %d: got %v", n, err)
			}
		}
	}
}
