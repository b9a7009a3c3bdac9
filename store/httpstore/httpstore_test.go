package httpstore_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
)

// quick are options with which tests do not wait.
func quick() *httpstore.Options {
	return &httpstore.Options{Backoff: time.Millisecond, MaxChunk: storetest.Limit}
}

// open returns a client that is closed with the test.
func open(t testing.TB, url string, o *httpstore.Options) *httpstore.Store {
	t.Helper()
	s, err := httpstore.Open(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// handler returns a handler for o.
func handler(t testing.TB, o httpstore.HandlerOptions) *httpstore.Handler {
	t.Helper()
	if o.MaxChunk == 0 {
		o.MaxChunk = storetest.Limit
	}
	h, err := httpstore.NewHandler(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// start serves h and returns its URL.
func start(t testing.TB, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// serve serves o with the server that the package makes, and returns its URL.
func serve(t testing.TB, o httpstore.HandlerOptions) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = httpstore.Server(handler(t, o), nil)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func openDir(t testing.TB, o dir.Options) (*dir.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "default.castr")
	o.Create = true
	d, err := dir.Open(path, &o)
	if err != nil {
		t.Fatal(err)
	}
	return d, path
}

// fill puts chunks into s.
func fill(t testing.TB, s store.Store, chunks ...store.Chunk) {
	t.Helper()
	for _, c := range chunks {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Sync(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// compress returns c as zstd.
func compress(t testing.TB, c store.Chunk) store.Chunk {
	t.Helper()
	enc, err := cacnk.NewEncoder(3)
	if err != nil {
		t.Fatal(err)
	}
	return store.Chunk{ID: c.ID, Data: enc.Encode(nil, c.Data), Codec: cacnk.Zstd}
}

// get gets and verifies.
func get(t testing.TB, s store.Getter, id chunker.ID) ([]byte, error) {
	t.Helper()
	c, err := s.Get(t.Context(), id)
	if err != nil {
		return nil, err
	}
	return c.Open(storetest.Digest, storetest.Limit)
}

// checkGet fails the test unless s has c.
func checkGet(t testing.TB, s store.Getter, c store.Chunk) {
	t.Helper()
	if b, err := get(t, s, c.ID); err != nil || string(b) != string(c.Data) {
		t.Errorf("got %d bytes, error %v, want %d", len(b), err, len(c.Data))
	}
}

func path(c store.Chunk) string { h := c.ID.String(); return "/" + h[:4] + "/" + h }

func TestConformance(t *testing.T) {
	for name, tt := range map[string]struct {
		source func(t *testing.T) store.Store
		client httpstore.Options
	}{
		"memory":       {source: func(*testing.T) store.Store { return new(storetest.Memory) }},
		"memory plain": {source: func(*testing.T) store.Store { return new(storetest.Memory) }, client: httpstore.Options{Plain: true}},
		"dir":          {source: func(t *testing.T) store.Store { d, _ := openDir(t, dir.Options{}); return d }},
		"dir plain":    {source: func(t *testing.T) store.Store { d, _ := openDir(t, dir.Options{Plain: true}); return d }, client: httpstore.Options{Plain: true}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				o := tt.client
				o.MaxChunk = storetest.Limit
				return open(t, serve(t, httpstore.HandlerOptions{Source: tt.source(t), Writable: true}), &o)
			})
		})
	}
}

// TestDurable puts into a store that is written in batches: what was put is there.
func TestDurable(t *testing.T) {
	d, _ := openDir(t, dir.Options{Durable: true})
	s := open(t, serve(t, httpstore.HandlerOptions{Source: d, Writable: true}), nil)
	for i := range 5 {
		c := storetest.Chunk(uint64(i), 5000)
		fill(t, s, c)
		checkGet(t, s, c)
	}
}

// TestForeign reads what any web server serves of a .castr directory, with chunks in
// both forms.
func TestForeign(t *testing.T) {
	d, root := openDir(t, dir.Options{})
	a, b := storetest.Chunk(1, 5000), storetest.Chunk(2, 6000)
	fill(t, d, a)
	name := filepath.Join(root, filepath.FromSlash(path(b)))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Data, 0o666); err != nil {
		t.Fatal(err)
	}
	url := start(t, http.StripPrefix("/some/store.castr", http.FileServer(http.Dir(root))))
	s := open(t, url+"/some/store.castr/", quick())
	for range 2 {
		checkGet(t, s, a)
		checkGet(t, s, b)
	}
	for _, c := range []store.Chunk{a, b} {
		want, err := d.StoredSize(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.StoredSize(t.Context(), c.ID); n != want || err != nil {
			t.Errorf("StoredSize = %d, %v, want %d", n, err, want)
		}
	}
	_, err := s.Get(t.Context(), storetest.Chunk(3, 10).ID)
	if !store.Missing(err) || !strings.Contains(err.Error(), url+"/some/store.castr") {
		t.Errorf("missing chunk: %v", err)
	}
}
