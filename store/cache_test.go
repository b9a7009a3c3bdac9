package store_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// cache returns a cache of chunks up to 1000 bytes, and its log.
func cache(local store.Store, source store.Getter) (*store.Cache, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return &store.Cache{
		Local:    local,
		Source:   source,
		Verifier: store.VerifyWith(storetest.Digest, 1000),
		Log:      slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

// checkGet gets c, which is plain, and opens it.
func checkGet(t *testing.T, g store.Getter, c store.Chunk) {
	t.Helper()
	got, err := g.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := got.Open(storetest.Digest, len(c.Data))
	if err != nil || !bytes.Equal(b, c.Data) {
		t.Errorf("%d bytes, error %v", len(b), err)
	}
}

func TestCacheFills(t *testing.T) {
	plain := storetest.Chunk(1, 1000)
	c := compressed(t, plain)
	local := memory(t)
	source := &storetest.Faulty{Source: memory(t, c)}
	cache, log := cache(local, source)
	for i := range 5 {
		if n, err := cache.StoredSize(t.Context(), c.ID); !errors.Is(err, errors.ErrUnsupported) && i == 0 || n != 0 && i > 0 {
			t.Errorf("call %d: StoredSize = %d, %v", i, n, err) // Faulty has not the power
		}
		checkGet(t, cache, plain)
		if n := source.Count("get"); n != 1 {
			t.Errorf("call %d: source asked %d times, want 1", i, n)
		}
		if n, size := cache.Hits(); n != int64(i) || size != int64(i)*1000 {
			t.Errorf("call %d: %d hits, %d bytes", i, n, size)
		}
	}
	if got, err := local.Get(t.Context(), c.ID); err != nil || !bytes.Equal(got.Data, c.Data) {
		t.Errorf("the cache holds %d bytes, error %v, want the chunk as the source has it", len(got.Data), err)
	}
	if log.Len() > 0 {
		t.Errorf("logged %q", log)
	}
}

func TestCacheStoredSize(t *testing.T) {
	c := compressed(t, storetest.Chunk(1, 1000))
	for _, tt := range []struct {
		name          string
		local, source store.Store
		want          int64
		err           error
	}{
		{"cached", memory(t, c), memory(t, c), 0, nil},
		{"not cached", memory(t), memory(t, c), int64(len(c.Data)), nil},
		{"nowhere", memory(t), memory(t), 0, fs.ErrNotExist},
		{"source cannot tell", memory(t), core{memory(t, c)}, 0, errors.ErrUnsupported},
	} {
		cache, _ := cache(tt.local, tt.source)
		got, err := cache.StoredSize(t.Context(), c.ID)
		if got != tt.want || !errors.Is(err, tt.err) || tt.err == nil && err != nil {
			t.Errorf("%s: %d, %v, want %d, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

// TestCacheDamaged begins with a damaged chunk in the cache.
func TestCacheDamaged(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	bad := store.Chunk{ID: c.ID, Data: storetest.Random(9, 1000)}
	local := memory(t, bad)
	source := &storetest.Faulty{Source: memory(t, c)}
	cache, log := cache(local, source)
	for range 3 {
		checkGet(t, cache, c)
	}
	if n := source.Count("get"); n != 1 {
		t.Errorf("source asked %d times, want 1: the chunk in the cache was not replaced", n)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "damaged") {
		t.Errorf("logged %q", log)
	}
	if n, _ := cache.Hits(); n != 2 {
		t.Errorf("%d hits, want 2", n)
	}
}

// unreadable is a store that cannot even tell the form of a chunk until it is
// replaced.
type unreadable struct {
	*storetest.Memory
	replaced bool
}

func (s *unreadable) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if !s.replaced {
		return store.Chunk{}, &store.Error{Op: "get", Loc: "a", ID: id, Err: store.ErrDamaged}
	}
	return s.Memory.Get(ctx, id)
}

func (s *unreadable) Replace(ctx context.Context, c store.Chunk) error {
	s.replaced = true
	return s.Memory.Replace(ctx, c)
}

func TestCacheUnreadable(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	source := &storetest.Faulty{Source: memory(t, c)}
	cache, _ := cache(&unreadable{Memory: memory(t, c)}, source)
	for range 3 {
		checkGet(t, cache, c)
	}
	if n := source.Count("get"); n != 1 {
		t.Errorf("source asked %d times, want 1: the chunk in the cache was not replaced", n)
	}
}

// TestCacheFails has a cache that cannot do its work: the chunk comes all the
// same.
func TestCacheFails(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	bad := store.Chunk{ID: c.ID, Data: storetest.Random(9, 1000)}
	for _, tt := range []struct {
		name  string
		local store.Store
		want  string // in the log
	}{
		{"put fails", faulty(t, "put", storetest.Fail(errStop)), "chunk not kept in cache"},
		{"get fails", faulty(t, "get", storetest.Fail(errStop)), "chunk in cache is not usable"},
		{"cannot replace", core{memory(t, bad)}, "chunk not kept in cache"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache, log := cache(tt.local, memory(t, c))
			for range 2 {
				checkGet(t, cache, c)
			}
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("logged %q, want %q", log, tt.want)
			}
			cache.Log = nil
			checkGet(t, cache, c)
		})
	}
}

// TestCacheSource has a source that fails: its error comes, and nothing wrong
// gets into the cache.
func TestCacheSource(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	for name, fault := range faults(c) {
		t.Run(name, func(t *testing.T) {
			local := memory(t)
			cache, _ := cache(local, faulty(t, "get", fault, c))
			want := map[string]error{"missing": fs.ErrNotExist, "failing": errStop}[name]
			if want == nil {
				want = store.ErrDamaged
			}
			got, err := cache.Get(t.Context(), c.ID)
			if !errors.Is(err, want) || got.Data != nil {
				t.Errorf("%d bytes, error %v, want %v", len(got.Data), err, want)
			}
			if n := local.Len(); n != 0 {
				t.Errorf("%d chunks in the cache", n)
			}
		})
	}
}

func TestCacheCancelled(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	for name, local := range map[string]store.Store{"cached": memory(t, c), "not cached": memory(t)} {
		cache, _ := cache(local, memory(t, c))
		if _, err := cache.Get(cancelled(t), c.ID); err != errStop {
			t.Errorf("%s: %v, want the cause", name, err)
		}
	}
}

func TestCacheConcurrent(t *testing.T) {
	const n = 50
	src := new(storetest.Memory)
	for i := range n {
		if err := src.Put(t.Context(), storetest.Chunk(uint64(i), 10*i+1)); err != nil {
			t.Fatal(err)
		}
	}
	cache, _ := cache(memory(t), src)
	err := par.Each(t.Context(), 8, 8*n, func(ctx context.Context, i int) error {
		c, err := cache.Get(ctx, storetest.Chunk(uint64(i%n), 10*(i%n)+1).ID)
		c.Release()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if hits, _ := cache.Hits(); hits < 8*n-8*n/2 || hits > 7*n {
		t.Errorf("%d hits in %d calls for %d chunks", hits, 8*n, n)
	}
}
