package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// counting counts requests, and fails them while fail is set.
type counting struct {
	store.Getter
	gets atomic.Int64
	fail atomic.Pointer[error]
	wait chan struct{} // if non-nil, requests wait until it is closed
}

func (c *counting) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	c.gets.Add(1)
	if c.wait != nil {
		select {
		case <-c.wait:
		case <-ctx.Done():
			return store.Chunk{}, context.Cause(ctx)
		}
	}
	if err := c.fail.Load(); err != nil {
		return store.Chunk{}, *err
	}
	return c.Getter.Get(ctx, id)
}

// content returns n chunks of odd sizes, each one twice in a row every tenth time.
// They are so small that goroutines hash them apart from each other, as bubbles need it.
func content(t testing.TB, n int) ([]byte, *index.Index, *counting) {
	t.Helper()
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(storetest.Digest), Params: chunker.ParamsFor(16 << 10)}}
	m := &storetest.Memory{}
	var all []byte
	for i := range n {
		c := storetest.Chunk(uint64(i-i%10%2), 3400+i%7*100)
		if i%10 == 1 {
			c = storetest.Chunk(uint64(i-1), 3400+(i-1)%7*100)
		}
		if err := m.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		all = append(all, c.Data...)
		x.Entries = append(x.Entries, index.Entry{ID: c.ID, End: int64(len(all))})
	}
	return all, x, &counting{Getter: m}
}

func open(t testing.TB, x *index.Index, src store.Getter, o *Options) *Blob {
	b := New(x, src, o)
	t.Cleanup(func() { b.Close() })
	return b
}

func TestReadAt(t *testing.T) {
	want, x, src := content(t, 300)
	for _, o := range []*Options{nil, {Cache: 1}, {Ahead: -1}, {Cache: 100 << 10, Ahead: 3}} {
		b := open(t, x, src, o)
		part := want[100_000:110_000] // it is read in pieces of a byte or two
		if err := iotest.TestReader(io.NewSectionReader(b, 100_000, int64(len(part))), part); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			off := rng.IntN(len(want))
			p := make([]byte, rng.IntN(1<<rng.IntN(21)))
			n, err := b.ReadAt(p, int64(off))
			if n != min(len(p), len(want)-off) || err != nil && err != io.EOF || (err == io.EOF) != (len(p) > len(want)-off) {
				t.Fatalf("%+v: ReadAt(%d bytes, %d) = %d, %v", o, len(p), off, n, err)
			}
			if !bytes.Equal(p[:n], want[off:off+n]) {
				t.Fatalf("%+v: ReadAt(%d bytes, %d): wrong content", o, len(p), off)
			}
		}
	}
}

func TestEdges(t *testing.T) {
	want, x, src := content(t, 3)
	b := open(t, x, src, nil)
	if n, err := b.ReadAt(make([]byte, 1), int64(len(want))); n != 0 || err != io.EOF {
		t.Errorf("read at the end = %d, %v", n, err)
	}
	if _, err := b.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("read at -1: %v", err)
	}
	if n, err := b.ReadAt(nil, 5); n != 0 || err != nil {
		t.Errorf("read of nothing = %d, %v", n, err)
	}
	empty := open(t, &index.Index{Header: x.Header}, src, nil)
	if n, err := empty.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		t.Errorf("read of an empty blob = %d, %v", n, err)
	}
}

// Each chunk is fetched once while the cache has room, by however many readers.
func TestShared(t *testing.T) {
	want, x, src := content(t, 200)
	b := open(t, x, src, nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			got, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	distinct := map[chunker.ID]bool{}
	for _, e := range x.Entries {
		distinct[e.ID] = true
	}
	s := b.Stats()
	if src.gets.Load() != int64(len(distinct)) || s.Fetched != int64(len(distinct)) {
		t.Errorf("%d requests, %d fetched, want %d", src.gets.Load(), s.Fetched, len(distinct))
	}
	if s.Misses+s.Ahead != s.Fetched || s.P99 < s.Median || s.P99 == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestMemory(t *testing.T) {
	_, x, src := content(t, 400)
	const limit = 300 << 10
	b := open(t, x, src, &Options{Cache: limit})
	p := make([]byte, 8<<10)
	for off := int64(0); off < b.Size(); off += int64(len(p)) {
		b.ReadAt(p, off)
		if s := b.Stats(); s.CachedBytes > limit+limit/4+64<<10 {
			t.Fatalf("%d bytes in memory", s.CachedBytes)
		}
	}
}

// Reading forward fetches ahead; reading at random does not.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, x, src := content(t, 3000)
		b := New(x, src, &Options{Ahead: 8})
		defer b.Close()
		p := make([]byte, 4096)
		for i := range int64(20) {
			b.ReadAt(p, i*4096)
		}
		synctest.Wait()
		if s := b.Stats(); s.Ahead == 0 || s.Misses > 3 {
			t.Errorf("forward: %+v", s)
		}
		before := b.Stats().Ahead
		rng := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			b.ReadAt(p, rng.Int64N(x.Size()/(4<<20))*(4<<20)+rng.Int64N(1000)) // far apart
		}
		if n := b.Stats().Ahead - before; n > 20 {
			t.Errorf("at random: %d chunks ahead", n)
		}
	})
}

func TestFailure(t *testing.T) {
	want, x, src := content(t, 20)
	b := open(t, x, src, nil)
	gone := errors.New("the store is gone")
	src.fail.Store(&gone)
	p := make([]byte, len(want))
	if n, err := b.ReadAt(p, 0); !errors.Is(err, gone) || n != 0 {
		t.Fatalf("ReadAt = %d, %v", n, err)
	}
	src.fail.Store(nil)
	if _, err := b.ReadAt(p, 0); err != nil || !bytes.Equal(p, want) {
		t.Fatalf("after recovery: %v", err)
	}
}

// One reader that gives up leaves the others their chunk; the last one ends the
// request.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, x, src := content(t, 1)
		src.wait = make(chan struct{})
		b := New(x, src, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		results := make(chan error, 2)
		read := func(ctx context.Context) {
			p := make([]byte, len(want))
			_, err := b.ReadAtContext(ctx, p, 0)
			if err == nil && !bytes.Equal(p, want) {
				err = errors.New("wrong content")
			}
			results <- err
		}
		go read(ctx)
		go read(t.Context())
		synctest.Wait()
		cancel(enough)
		if err := <-results; !errors.Is(err, enough) {
			t.Errorf("cancelled read: %v", err)
		}
		close(src.wait)
		if err := <-results; err != nil {
			t.Errorf("other read: %v", err)
		}
		if n := src.gets.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
		b.Close()
		if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, errClosed) {
			t.Errorf("read after Close: %v", err)
		}

		src.wait = make(chan struct{})
		b = New(x, src, nil)
		ctx, cancel = context.WithCancelCause(t.Context())
		go read(ctx)
		synctest.Wait()
		cancel(enough)
		if err := <-results; !errors.Is(err, enough) {
			t.Errorf("only read: %v", err)
		}
		synctest.Wait()
		if s := b.Stats(); s.CachedBytes != 0 || s.Failed != 0 {
			t.Errorf("after the only reader left: %+v", s)
		}
		b.Close()
	})
}

// Close may come at any moment, and waits for all that is on the way.
func TestClose(t *testing.T) {
	_, x, src := content(t, 20)
	for range 200 {
		b := New(x, src, nil)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				p := make([]byte, 10)
				for off := int64(i * 5000); ; off = (off + 3000) % x.Size() {
					if _, err := b.ReadAt(p, off); errors.Is(err, errClosed) {
						return
					} else if err != nil && err != io.EOF {
						t.Error(err)
						return
					}
				}
			})
		}
		runtime.Gosched()
		b.Close()
		before := src.gets.Load()
		wg.Wait()
		if after := src.gets.Load(); after != before {
			t.Fatalf("%d chunks were got after Close", after-before)
		}
	}
}

// A chunk that is right by its digest and has another length than the index says
// is refused.
func TestLength(t *testing.T) {
	_, x, src := content(t, 2)
	x.Entries[0].End++
	b := open(t, x, src, nil)
	if _, err := b.ReadAt(make([]byte, 10), 0); err == nil {
		t.Error("read without error")
	}
}

func BenchmarkForward(b *testing.B) {
	_, x, src := content(b, 3000)
	p := make([]byte, 128<<10)
	b.SetBytes(x.Size())
	for b.Loop() {
		r := New(x, src, nil)
		for off := int64(0); off < x.Size(); off += int64(len(p)) {
			r.ReadAt(p, off)
		}
		r.Close()
	}
}
