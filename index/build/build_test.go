package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testblob"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
)

const kib, mib = 1 << 10, 1 << 20

// small makes many chunks of little data.
var small = chunker.Params{Min: 64, Avg: 256, Max: 1024}

// noise returns n bytes that are random and the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func header(p chunker.Params, d chunker.Digest) index.Header {
	return index.Header{Features: index.BlobFeatures(d), Params: p}
}

// indexOf returns the index of data made the plain way, one chunk at a time, and
// its chunks.
func indexOf(t testing.TB, h index.Header, data []byte) ([]byte, map[chunker.ID][]byte) {
	t.Helper()
	var out bytes.Buffer
	w, err := index.NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	chunks := map[chunker.ID][]byte{}
	r := chunker.NewReader(bytes.NewReader(data), h.Params)
	for {
		b, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		id := h.Features.Digest().Sum(b)
		chunks[id] = bytes.Clone(b)
		if err := w.Append(id, len(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), chunks
}

// ways are File and Stream.
var ways = []struct {
	name string
	run  func(ctx context.Context, w *index.Writer, dst store.Store, data []byte, o *Options) (Stats, error)
}{
	{"File", func(ctx context.Context, w *index.Writer, dst store.Store, data []byte, o *Options) (Stats, error) {
		return File(ctx, w, dst, bytes.NewReader(data), int64(len(data)), o)
	}},
	{"Stream", func(ctx context.Context, w *index.Writer, dst store.Store, data []byte, o *Options) (Stats, error) {
		return Stream(ctx, w, dst, iotest.HalfReader(bytes.NewReader(data)), o)
	}},
}

// writer returns a Writer of an index into a new buffer.
func writer(t testing.TB, h index.Header) (*index.Writer, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	w, err := index.NewWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	return w, &out
}

// mem is a store in memory. It is an Adder and a Syncer.
type mem struct {
	// Called before the n-th chunk, from 1 on, is added, if non-nil.
	adding func(n int) error
	// Called by Sync, if non-nil.
	syncing func() error

	mu     sync.Mutex
	chunks map[chunker.ID][]byte // guarded by mu, as all below
	added  int
	asked  int
	syncs  int
	synced int // chunks that the last Sync found
}

func newMem() *mem { return &mem{chunks: map[chunker.ID][]byte{}} }

func (m *mem) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.chunks[id]
	if !ok {
		return store.Chunk{}, &store.Error{Op: "get", ID: id, Err: fs.ErrNotExist}
	}
	return store.Chunk{ID: id, Data: b}, nil
}

func (m *mem) Has(_ context.Context, id chunker.ID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	_, ok := m.chunks[id]
	return ok, nil
}

func (m *mem) Put(ctx context.Context, c store.Chunk) error {
	_, err := m.Add(ctx, c)
	return err
}

func (m *mem) Add(_ context.Context, c store.Chunk) (store.Added, error) {
	m.mu.Lock()
	m.added++
	n := m.added
	m.mu.Unlock()
	if m.adding != nil {
		if err := m.adding(n); err != nil {
			return store.Added{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.chunks[c.ID]; ok {
		return store.Added{}, nil
	}
	m.chunks[c.ID] = bytes.Clone(c.Data)
	return store.Added{New: true, Stored: int64(len(c.Data)) / 2}, nil // as if compressed
}

func (m *mem) Sync(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	m.synced = len(m.chunks)
	if m.syncing != nil {
		return m.syncing()
	}
	return nil
}

// blobs are inputs by name.
func blobs(t testing.TB) map[string][]byte {
	b := map[string][]byte{
		"noise 3 MiB and a bit": noise(3*mib + 12345),
		"zeros 3 MiB and a bit": make([]byte, 3*mib+77),
		"zeros between":         slices.Concat(noise(mib+5), make([]byte, 2*mib), noise(300*kib)),
		"the same again":        slices.Concat(noise(mib), noise(mib), noise(mib)),
	}
	for _, name := range testblob.Names() {
		b[name] = testblob.Blob(name)
	}
	return b
}

// Every way makes the index that one goroutine makes, stores the chunks that it
// names and counts right.
func TestBuild(t *testing.T) {
	params := []chunker.Params{small, chunker.DefaultParams}
	if testing.Short() {
		params = params[1:]
	}
	for name, data := range blobs(t) {
		for _, p := range params {
			h := header(p, chunker.Digests[len(data)%len(chunker.Digests)])
			want, chunks := indexOf(t, h, data)
			unique := 0
			for _, b := range chunks {
				unique += len(b)
			}
			for _, way := range ways {
				for _, workers := range []int{1, 3} {
					t.Run(fmt.Sprintf("%s/%v/%s/%d workers", name, p, way.name, workers), func(t *testing.T) {
						w, out := writer(t, h)
						dst := newMem()
						var entries []index.Entry
						var last Stats
						stats, err := way.run(t.Context(), w, dst, data, &Options{
							Workers:  workers,
							Each:     func(e index.Entry, _ bool) { entries = append(entries, e) },
							Progress: func(s Stats) { last = s },
						})
						if err != nil {
							t.Fatal(err)
						}
						if err := w.Close(); err != nil {
							t.Fatal(err)
						}
						if !bytes.Equal(out.Bytes(), want) {
							t.Fatalf("the index differs from the one made chunk by chunk: %d entries", w.Count())
						}
						x, err := index.Decode(bytes.NewReader(want))
						if err != nil {
							t.Fatal(err)
						}
						if !slices.Equal(entries, x.Entries) {
							t.Errorf("Each got %d entries, want the %d of the index", len(entries), len(x.Entries))
						}
						if len(dst.chunks) != len(chunks) {
							t.Errorf("stored %d chunks, want %d", len(dst.chunks), len(chunks))
						}
						for id, b := range chunks {
							if !bytes.Equal(dst.chunks[id], b) {
								t.Fatalf("chunk %v is stored wrong", id)
							}
						}
						if stats.Time <= 0 {
							t.Errorf("Time = %v, want more than 0", stats.Time)
						}
						if last.Bytes != int64(len(data)) && len(data) > 0 {
							t.Errorf("the last progress was %d bytes, want %d", last.Bytes, len(data))
						}
						stored := int64(0)
						for _, b := range chunks {
							stored += int64(len(b)) / 2
						}
						wantStats := Stats{
							Chunks: len(x.Entries), Bytes: int64(len(data)),
							NewChunks: len(chunks), NewBytes: int64(unique), StoredBytes: stored,
							Time: stats.Time,
						}
						if stats != wantStats {
							t.Errorf("stats: got %+v, want %+v", stats, wantStats)
						}
						if dst.syncs != 1 || dst.synced != len(chunks) {
							t.Errorf("Sync was called %d times, the last with %d chunks; want once with %d", dst.syncs, dst.synced, len(chunks))
						}
					})
				}
			}
		}
	}
}

func TestNilStore(t *testing.T) {
	data := noise(2 * mib)
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	want, _ := indexOf(t, h, data)
	for _, way := range ways {
		w, out := writer(t, h)
		stats, err := way.run(t.Context(), w, nil, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: wrong index", way.name)
		}
		if stats.NewChunks != 0 || stats.StoredBytes != 0 || stats.Ratio() != 0 {
			t.Errorf("%s: got %+v, want nothing new", way.name, stats)
		}
	}
}

func TestWarmStore(t *testing.T) {
	data := slices.Concat(noise(2*mib), make([]byte, mib), noise(300*kib))
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s, err := dir.Open(filepath.Join(t.TempDir(), "s.castr"), &dir.Options{Create: true, Durable: true})
			if err != nil {
				t.Fatal(err)
			}
			var runs [2]Stats
			for i := range runs {
				w, _ := writer(t, h)
				if runs[i], err = way.run(t.Context(), w, s, data, nil); err != nil {
					t.Fatal(err)
				}
			}
			if s := runs[0]; s.NewChunks == 0 || s.StoredBytes == 0 || s.NewBytes >= s.Bytes || s.Ratio() <= 1 {
				t.Errorf("cold: got %+v, want new chunks, and fewer bytes than the content has", s)
			}
			if s := runs[1]; s.NewChunks != 0 || s.NewBytes != 0 || s.StoredBytes != 0 || s.Ratio() != 0 {
				t.Errorf("warm: got %+v, want nothing new", s)
			}
			if runs[0].Chunks != runs[1].Chunks || runs[0].Bytes != runs[1].Bytes {
				t.Errorf("cold: %+v, warm: %+v; want the same content", runs[0], runs[1])
			}
		})
	}
}

// A durable directory has every chunk under its name when File returns, without
// a Close.
func TestDurableWhenDone(t *testing.T) {
	data := noise(2 * mib)
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	_, chunks := indexOf(t, h, data)
	path := filepath.Join(t.TempDir(), "s.castr")
	s, err := dir.Open(path, &dir.Options{Create: true, Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	w, _ := writer(t, h)
	if _, err := File(t.Context(), w, s, bytes.NewReader(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	other, err := dir.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for id := range chunks {
		if has, err := other.Has(t.Context(), id); !has || err != nil {
			t.Fatalf("chunk %v: got %v, %v, want it in the store", id, has, err)
		}
	}
}

// A chunk that many workers meet at once is stored and counted once, even in a
// store that cannot tell: Has and Put alone leave a gap between them.
func TestConcurrentDuplicates(t *testing.T) {
	block := noise(4 * kib)
	p := chunker.Params{Min: len(block), Avg: len(block), Max: len(block)}
	data := bytes.Repeat(block, 4*mib/len(block))
	for _, s := range []struct {
		name string
		dst  func(m *mem) store.Store
	}{
		{"adder", func(m *mem) store.Store { return m }},
		{"has and put", func(m *mem) store.Store { return struct{ store.Store }{m} }},
	} {
		for _, way := range ways {
			m := newMem()
			w, _ := writer(t, header(p, chunker.BLAKE3))
			stats, err := way.run(t.Context(), w, s.dst(m), data, &Options{Workers: 8})
			if err != nil {
				t.Fatal(err)
			}
			if stats.Chunks != len(data)/len(block) || stats.NewChunks != 1 || stats.NewBytes != int64(len(block)) {
				t.Errorf("%s, %s: got %+v, want 1 new of %d chunks", s.name, way.name, stats, len(data)/len(block))
			}
			if m.added != 1 {
				t.Errorf("%s, %s: added %d times, want 1", s.name, way.name, m.added)
			}
		}
	}
}

// holey is data of which some ranges are holes; it complains when one of them is
// read.
type holey struct {
	*bytes.Reader
	holes []hole
	read  atomic.Int64 // bytes
}

type hole struct{ from, to int64 }

func (h *holey) hole(off, n int64) bool {
	return slices.ContainsFunc(h.holes, func(g hole) bool { return g.from <= off && off+n <= g.to })
}

func (h *holey) ReadAt(b []byte, off int64) (int, error) {
	h.read.Add(int64(len(b)))
	return h.Reader.ReadAt(b, off)
}

func TestHoles(t *testing.T) {
	const from, to = mib + 300, 20*mib + 17
	data := slices.Concat(noise(from), make([]byte, to-from), noise(mib))
	for _, p := range []chunker.Params{small, chunker.DefaultParams} {
		h := header(p, chunker.BLAKE3)
		want, _ := indexOf(t, h, data)
		src := &holey{Reader: bytes.NewReader(data), holes: []hole{{from, to}}}
		w, out := writer(t, h)
		stats, err := File(t.Context(), w, newMem(), src, int64(len(data)), &Options{Hole: src.hole})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%v: wrong index", p)
		}
		// The hole is told in whole megabytes, and read but for those.
		if got, most := src.read.Load(), int64(len(data)-(to-from)+2*mib+mib/4); got > most {
			t.Errorf("%v: read %d bytes, want no more than %d", p, got, most)
		}
		if least := int64(to - from - 3*mib); stats.ZeroBytes < least || stats.ZeroBytes > to-from {
			t.Errorf("%v: ZeroBytes = %d, want %d to %d", p, stats.ZeroBytes, least, to-from)
		}
	}
}

var errTest = errors.New("test error")

// The n-th chunk cannot be stored: an error, and nothing is synced.
func TestStoreErrors(t *testing.T) {
	data := noise(3 * mib)
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	_, chunks := indexOf(t, h, data)
	for _, way := range ways {
		for n := 1; n <= len(chunks); n++ {
			m := newMem()
			m.adding = func(i int) error {
				if i == n {
					return errTest
				}
				return nil
			}
			w, _ := writer(t, h)
			if _, err := way.run(t.Context(), w, m, data, nil); !errors.Is(err, errTest) {
				t.Fatalf("%s, chunk %d: got error %v, want %v", way.name, n, err, errTest)
			}
			if m.syncs != 0 {
				t.Errorf("%s, chunk %d: synced after the error", way.name, n)
			}
		}
		m := newMem()
		m.syncing = func() error { return errTest }
		w, _ := writer(t, h)
		if _, err := way.run(t.Context(), w, m, data, nil); !errors.Is(err, errTest) {
			t.Errorf("%s, sync: got error %v, want %v", way.name, err, errTest)
		}
	}
}

// failing fails to read the byte at off and what is behind it.
type failing struct {
	io.ReaderAt
	off int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.off {
		n, _ := f.ReaderAt.ReadAt(b[:max(0, f.off-off)], off)
		return n, errTest
	}
	return f.ReaderAt.ReadAt(b, off)
}

func TestSourceErrors(t *testing.T) {
	data := noise(3*mib + 100)
	size := int64(len(data))
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	for _, off := range []int64{0, 1, mib - 1, mib, mib + 1, 2*mib + 777, size - 1} {
		for _, tt := range []struct {
			name string
			run  func(w *index.Writer) (Stats, error)
			err  error
		}{
			{"File fails", func(w *index.Writer) (Stats, error) {
				return File(t.Context(), w, newMem(), failing{bytes.NewReader(data), off}, size, nil)
			}, errTest},
			{"File ends", func(w *index.Writer) (Stats, error) {
				return File(t.Context(), w, newMem(), bytes.NewReader(data[:off]), size, nil)
			}, io.ErrUnexpectedEOF},
			{"Stream fails", func(w *index.Writer) (Stats, error) {
				return Stream(t.Context(), w, newMem(), io.MultiReader(bytes.NewReader(data[:off]), iotest.ErrReader(errTest)), nil)
			}, errTest},
			{"Stream fails as if cut", func(w *index.Writer) (Stats, error) {
				return Stream(t.Context(), w, newMem(), io.MultiReader(bytes.NewReader(data[:off]), iotest.ErrReader(io.ErrUnexpectedEOF)), nil)
			}, io.ErrUnexpectedEOF},
		} {
			w, _ := writer(t, h)
			if _, err := tt.run(w); !errors.Is(err, tt.err) {
				t.Errorf("%s at %d: got error %v, want %v", tt.name, off, err, tt.err)
			}
		}
	}
}

// The index cannot be written.
func TestIndexErrors(t *testing.T) {
	data := noise(3 * mib) // of which the index has some 400 KiB
	for _, way := range ways {
		for _, n := range []int64{0, 64 * kib, 300 * kib} {
			w, err := index.NewWriter(&limited{n}, header(small, chunker.BLAKE3))
			if err != nil {
				t.Fatal(err)
			}
			m := newMem()
			if _, err := way.run(t.Context(), w, m, data, nil); !errors.Is(err, errTest) {
				t.Errorf("%s, index of %d bytes: got error %v, want %v", way.name, n, err, errTest)
			}
			if m.syncs != 0 {
				t.Errorf("%s, index of %d bytes: synced after the error", way.name, n)
			}
		}
	}
}

// limited takes n bytes.
type limited struct{ n int64 }

func (l *limited) Write(b []byte) (int, error) {
	if l.n -= int64(len(b)); l.n < 0 {
		return 0, errTest
	}
	return len(b), nil
}

var errStop = errors.New("stop")

// cancelling are the steps at which a run can be cancelled. run cancels at step
// k, counted from 1, and returns how many steps there were.
var cancelling = []struct {
	name string
	run  func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (steps int, err error)
}{
	{"File, Add", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		m := newMem()
		m.adding = func(n int) error { at(n, k, stop); return nil }
		_, err := File(ctx, w, m, bytes.NewReader(data), int64(len(data)), nil)
		return m.added, err
	}},
	{"Stream, Add", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		m := newMem()
		m.adding = func(n int) error { at(n, k, stop); return nil }
		_, err := Stream(ctx, w, m, bytes.NewReader(data), nil)
		return m.added, err
	}},
	{"File, read", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		r := &counting{ReaderAt: bytes.NewReader(data), Reader: bytes.NewReader(data), k: k, stop: stop}
		_, err := File(ctx, w, newMem(), r, int64(len(data)), nil)
		return int(r.n.Load()), err
	}},
	{"Stream, read", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		r := &counting{ReaderAt: bytes.NewReader(data), Reader: bytes.NewReader(data), k: k, stop: stop}
		_, err := Stream(ctx, w, nil, r, nil)
		return int(r.n.Load()), err
	}},
	{"File, Each", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		n := 0
		_, err := File(ctx, w, nil, bytes.NewReader(data), int64(len(data)), &Options{Each: func(index.Entry, bool) { n++; at(n, k, stop) }})
		return n, err
	}},
	{"File, Progress", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		n := 0
		_, err := File(ctx, w, newMem(), bytes.NewReader(data), int64(len(data)), &Options{Progress: func(Stats) { n++; at(n, k, stop) }})
		return n, err
	}},
	{"File, Sync", func(stop func(), k int, w *index.Writer, ctx context.Context, data []byte) (int, error) {
		m := newMem()
		m.syncing = func() error { at(m.syncs, k, stop); return nil }
		_, err := File(ctx, w, m, bytes.NewReader(data), int64(len(data)), nil)
		return m.syncs, err
	}},
}

func at(n, k int, stop func()) {
	if n == k {
		stop()
	}
}

// counting calls stop at the k-th read.
type counting struct {
	io.ReaderAt
	io.Reader
	n    atomic.Int64
	k    int
	stop func()
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	at(int(c.n.Add(1)), c.k, c.stop)
	return c.ReaderAt.ReadAt(b, off)
}

func (c *counting) Read(b []byte) (int, error) {
	at(int(c.n.Add(1)), c.k, c.stop)
	return c.Reader.Read(b[:min(len(b), 64*kib)])
}

// A run that is cancelled never looks like success: desync's make exits with 0
// and leaves an index of chunks that were not stored.
func TestCancel(t *testing.T) {
	data := noise(3*mib + 100)
	for _, c := range cancelling {
		t.Run(c.name, func(t *testing.T) {
			w, _ := writer(t, header(chunker.DefaultParams, chunker.BLAKE3))
			steps, err := c.run(nil, -1, w, t.Context(), data)
			if err != nil || steps == 0 {
				t.Fatalf("not cancelled: got %d steps, error %v", steps, err)
			}
			for k := 0; k <= steps; k++ {
				ctx, cancel := context.WithCancelCause(t.Context())
				stop := func() { cancel(errStop) }
				if k == 0 {
					stop()
				}
				w, _ := writer(t, header(chunker.DefaultParams, chunker.BLAKE3))
				if _, err := c.run(stop, k, w, ctx, data); !errors.Is(err, errStop) {
					t.Fatalf("cancelled at step %d: got error %v, want %v", k, err, errStop)
				}
			}
		})
	}
}

func BenchmarkFile(b *testing.B) {
	data := noise(32 * mib)
	h := header(chunker.DefaultParams, chunker.BLAKE3)
	for _, warm := range []bool{false, true} {
		b.Run(fmt.Sprintf("warm=%v", warm), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			path := b.TempDir()
			for i := 0; b.Loop(); i++ {
				name := "s.castr"
				if !warm {
					name = fmt.Sprint(i)
				}
				s, err := dir.Open(filepath.Join(path, name), &dir.Options{Create: true})
				if err != nil {
					b.Fatal(err)
				}
				w, err := index.NewWriter(io.Discard, h)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := File(b.Context(), w, s, bytes.NewReader(data), int64(len(data)), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
