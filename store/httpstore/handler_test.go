package httpstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
)

// do asks h directly. Headers come in pairs.
func do(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.URL.Path = target
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestForms asks for each form of chunks that are held in each.
func TestForms(t *testing.T) {
	p := storetest.Chunk(1, 5000)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(p.Data)
	z.Close()
	zstd := compress(t, p)
	for name, held := range map[string]store.Chunk{
		"plain": p,
		"zstd":  zstd,
		"gzip":  {ID: p.ID, Data: gz.Bytes(), Codec: cacnk.Gzip},
	} {
		h := handler(t, httpstore.HandlerOptions{Source: holding(t, held)})
		for _, suffix := range []string{"", ".cacnk"} {
			w := do(h, "GET", path(p)+suffix, "")
			body := w.Body.Bytes()
			if w.Code != 200 || w.Header().Get("ETag") != `"`+p.ID.String()+`"` || w.Header().Get("Content-Length") != strconv.Itoa(len(body)) ||
				w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
				t.Errorf("%s%s: %d %v", name, suffix, w.Code, w.Header())
			}
			if asHeld := (suffix == "") == (held.Codec == nil); asHeld && !bytes.Equal(body, held.Data) {
				t.Errorf("%s%s is not passed through", name, suffix)
			}
			c := store.Chunk{ID: p.ID, Data: body}
			if suffix != "" {
				var err error
				if c.Codec, err = cacnk.Detect(body); err != nil {
					t.Error(err)
				}
			}
			if _, err := c.Open(storetest.Digest, storetest.Limit); err != nil {
				t.Errorf("%s%s: %v", name, suffix, err)
			}
			if head := do(h, "HEAD", path(p)+suffix, ""); head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Castor-Stored-Size") != strconv.Itoa(len(held.Data)) {
				t.Errorf("HEAD %s%s: %d %v", name, suffix, head.Code, head.Header())
			}
		}
	}
}

// TestConvertDamaged asks for the other form of damaged chunks.
func TestConvertDamaged(t *testing.T) {
	p := storetest.Chunk(1, 5000)
	big := storetest.Chunk(1, storetest.Limit+1)
	for name, held := range map[string]store.Chunk{
		"other content": {ID: p.ID, Data: []byte("x")},
		"not zstd":      {ID: p.ID, Data: []byte("x"), Codec: cacnk.Zstd},
		"too large":     big,
		"bomb":          compress(t, big),
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		h := handler(t, httpstore.HandlerOptions{Source: holding(t, held), Log: logger, Access: logger})
		suffix := ""
		if held.Codec == nil {
			suffix = ".cacnk"
		}
		if w := do(h, "GET", path(held)+suffix, ""); w.Code != 500 || w.Body.String() != "chunk is damaged\n" || w.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %q %v", name, w.Code, w.Body, w.Header())
		}
		if !strings.Contains(log.String(), "damaged") || !strings.Contains(log.String(), "status=500") {
			t.Errorf("%s: log %s", name, &log)
		}
	}
}

func TestConditional(t *testing.T) {
	p := storetest.Chunk(1, 5000)
	etag := `"` + p.ID.String() + `"`
	h := handler(t, httpstore.HandlerOptions{Source: holding(t, p)})
	for _, tt := range []struct {
		header []string
		code   int
		body   []byte
	}{
		{[]string{"If-None-Match", etag}, 304, nil},
		{[]string{"If-None-Match", `"x", ` + etag}, 304, nil},
		{[]string{"If-None-Match", `"x"`}, 200, p.Data},
		{[]string{"If-Match", `"x"`}, 412, nil},
		{[]string{"Range", "bytes=10-19"}, 206, p.Data[10:20]},
		{[]string{"Range", "bytes=-7"}, 206, p.Data[len(p.Data)-7:]},
		{[]string{"Range", "bytes=9999-"}, 416, nil},
		{[]string{"Range", "bytes=10-19", "If-Range", etag}, 206, p.Data[10:20]},
		{[]string{"Range", "bytes=10-19", "If-Range", `"x"`}, 200, p.Data},
	} {
		w := do(h, "GET", path(p), "", tt.header...)
		if w.Code != tt.code || tt.body != nil && !bytes.Equal(w.Body.Bytes(), tt.body) {
			t.Errorf("%q: %d with %d bytes, want %d with %d", tt.header, w.Code, w.Body.Len(), tt.code, len(tt.body))
		}
	}
}

// TestPaths asks for what is not there, above all what is outside.
func TestPaths(t *testing.T) {
	root := t.TempDir()
	dirName := filepath.Join(root, "indexes")
	for name, content := range map[string]string{
		"secret.caibx": secret, "indexes/a.caibx": "a", "indexes/.b.caibx": secret, "indexes/c.txt": secret,
		"indexes/sub/d.caidx": "d", "indexes/sub/.e/f.catar": secret, "indexes/.caibx": secret,
	} {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	links := os.Symlink("../secret.caibx", filepath.Join(dirName, "out.caibx")) == nil && os.Symlink("..", filepath.Join(dirName, "up")) == nil &&
		os.Symlink("a.caibx", filepath.Join(dirName, "in.caibx")) == nil
	if err := os.Mkdir(filepath.Join(dirName, "dir.caibx"), 0o777); err != nil {
		t.Fatal(err)
	}
	p := storetest.Chunk(1, 50)
	m := holding(t, p)
	h := handler(t, httpstore.HandlerOptions{Source: m, IndexDir: dirName, Writable: true})
	hex := p.ID.String()
	index := blobIndex(t, 3)
	for _, target := range []string{
		"", "/", "*", "/x", "/default.castr", "//" + hex[:4] + "/" + hex, "/" + hex[:4], "/" + hex[:4] + "/", "/" + hex[:4] + "/" + hex + "/",
		"/" + hex[:4] + "/" + strings.ToUpper(hex), "/" + strings.ToUpper(hex[:4]) + "/" + hex, "/0000/" + hex, "/" + hex[:4] + "/" + hex[:63],
		"/" + hex[:4] + "/" + hex + ".cacnk.cacnk", "/" + hex[:4] + "/" + hex + ".xz", "/" + hex[:4] + "/" + hex + ".CACNK", "/" + hex, "/" + hex[:4] + "\\" + hex,
		"/../secret.caibx", "/indexes/../../secret.caibx", "/./a.caibx", "//a.caibx", "/sub/../a.caibx", "/..\\secret.caibx", "/C:\\x.caibx", "/C:x.caibx",
		"/.b.caibx", "/.caibx", "/c.txt", "/sub", "/sub/", "/sub/.e/f.catar", "/out.caibx", "/up/secret.caibx", "/dir.caibx", "/none.caibx", "/a.caibx/b.caibx",
		"/a.caibx\x00", "/a\n.caibx", "/\xff.caibx", "/a.caibx/", "/healthz/", "/healthz.caibx",
	} {
		if !links && strings.Contains(target, "u") {
			continue
		}
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "PUT"} {
			if method == "PUT" && (target == "/none.caibx" || target == "/healthz.caibx") {
				continue
			}
			w := do(h, method, target, index)
			if w.Code != 404 && w.Code != 405 && w.Code != 409 || strings.Contains(w.Body.String(), secret) || w.Body.Len() > 40 {
				t.Errorf("%s %q: %d %q", method, target, w.Code, w.Body)
			}
		}
	}
	good := []string{"/a.caibx", "/sub/d.caidx", "/healthz", path(p), path(p) + ".cacnk"}
	if links {
		good = append(good, "/in.caibx")
	}
	for _, target := range good {
		if w := do(h, "GET", target, ""); w.Code != 200 {
			t.Errorf("%s: %d", target, w.Code)
		}
		if w := do(h, "DELETE", target, ""); w.Code != 405 && target != "/healthz" {
			t.Errorf("DELETE %s: %d", target, w.Code)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "secret.caibx")); string(b) != secret {
		t.Errorf("the file outside: %q, %v", b, err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// blobIndex returns an index of n chunks.
func blobIndex(t testing.TB, n int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := index.NewWriter(&b, index.Header{Features: index.BlobFeatures(storetest.Digest), Params: chunker.ParamsFor(64 << 10)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := w.Append(storetest.Chunk(uint64(i), 100).ID, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPutIndex(t *testing.T) {
	dirName := t.TempDir()
	x := blobIndex(t, 1000)
	url := serve(t, httpstore.HandlerOptions{Source: new(storetest.Memory), IndexDir: dirName, Writable: true, MaxIndex: 50_000})
	for range 2 {
		if err := httpstore.PutIndex(t.Context(), url+"/a.caibx", strings.NewReader(x), int64(len(x)), quick()); err != nil {
			t.Fatal(err)
		}
		r, err := httpstore.GetIndex(t.Context(), url+"/a.caibx", nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err != nil || string(got) != x {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
	h := handler(t, httpstore.HandlerOptions{Source: new(storetest.Memory), IndexDir: dirName, Writable: true, MaxIndex: 50_000})
	for _, tt := range []struct {
		name, body string
		code       int
	}{
		{"/b.caibx", x, 201},
		{"/b.caibx", x, 204},
		{"/b.caibx", "", 400},
		{"/b.caibx", x[:len(x)-1], 400},
		{"/b.caibx", x + "x", 400},
		{"/b.caibx", x[:71] + "\xff" + x[72:], 400},
		{"/b.caibx", blobIndex(t, 2000), 413},
		{"/b.catar", x, 405},
		{"/none/b.caibx", x, 409},
		{"/" + strings.Repeat("a", 300) + ".caibx", x, 409},
	} {
		if w := do(h, "PUT", tt.name, tt.body); w.Code != tt.code {
			t.Errorf("%s, %d bytes: %d, want %d", tt.name, len(tt.body), w.Code, tt.code)
		}
	}
	r := httptest.NewRequest("PUT", "/b.caibx", io.MultiReader(strings.NewReader(blobIndex(t, 2000))))
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); r.ContentLength != -1 || w.Code != 413 {
		t.Errorf("no length: %d", w.Code)
	}
	entries, err := os.ReadDir(dirName)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if b, err := os.ReadFile(filepath.Join(dirName, "b.caibx")); string(b) != x {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// What is refused says why, and never that a file is missing.
func TestPutIndexRefused(t *testing.T) {
	x := blobIndex(t, 1000)
	writable := httpstore.HandlerOptions{Source: new(storetest.Memory), IndexDir: t.TempDir(), Writable: true}
	castor := serve(t, writable)
	readOnly := serve(t, httpstore.HandlerOptions{Source: new(storetest.Memory), IndexDir: t.TempDir()})
	says := func(code int, contentType, body string) string {
		return start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			io.WriteString(w, body)
		}))
	}
	for _, tt := range []struct{ url, want string }{
		{castor + "/n1.txt", "404 Not Found: it cannot be put there: takes only chunks, .caibx and .caidx"},
		{castor + "/a.catar", "405 Method Not Allowed: takes only chunks"},
		{castor + "/none/a.caibx", "409 Conflict: its directory does not exist"},
		{readOnly + "/a.caibx", "405 Method Not Allowed: the server takes no uploads"},
		{says(404, "text/html", "<h1>no") + "/a.caibx", "404 Not Found: it cannot be put there"},
		{says(405, "text/plain", "Method Not Allowed") + "/a.caibx", "405 Method Not Allowed: the server takes no uploads"},
		{says(400, "text/plain; charset=utf-8", "\n\x1b[31mred "+strings.Repeat("x", 300)+"\nmore\n") + "/a.caibx", "400 Bad Request: [31mred " + strings.Repeat("x", 192) + "…"},
		{says(400, "application/json", "{}") + "/a.caibx", "400 Bad Request"},
	} {
		err := httpstore.PutIndex(t.Context(), tt.url, strings.NewReader(x), int64(len(x)), quick())
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "does not exist") && !strings.Contains(tt.want, "does not exist") || strings.ContainsAny(err.Error(), "\n\x1b<{") {
			t.Errorf("%s: %v, want %s", tt.url, err, tt.want)
		}
	}
}

func TestUploads(t *testing.T) {
	m := new(storetest.Memory)
	h := handler(t, httpstore.HandlerOptions{Source: m, Writable: true})
	p, other := storetest.Chunk(1, 5000), storetest.Chunk(2, 5000)
	z := compress(t, p)
	most := storetest.Chunk(3, storetest.Limit)
	over := storetest.Chunk(4, storetest.Limit+1)
	for _, tt := range []struct {
		name, target string
		body         []byte
		code         int
	}{
		{"other chunk", path(p), other.Data, 400},
		{"other chunk, zstd", path(p) + ".cacnk", compress(t, other).Data, 400},
		{"plain as zstd", path(p) + ".cacnk", p.Data, 400},
		{"zstd as plain", path(p), z.Data, 400},
		{"nothing", path(p) + ".cacnk", nil, 400},
		{"half", path(p) + ".cacnk", z.Data[:len(z.Data)/2], 400},
		{"more", path(p) + ".cacnk", append(bytes.Clone(z.Data), 0), 400},
		{"too large", path(over), over.Data, 413},
		{"too large, zstd", path(over) + ".cacnk", compress(t, over).Data, 400},
		{"new", path(p) + ".cacnk", z.Data, 201},
		{"old", path(p), p.Data, 204},
		{"largest", path(most), most.Data, 201},
	} {
		if w := do(h, "PUT", tt.target, string(tt.body)); w.Code != tt.code {
			t.Errorf("%s: %d %s, want %d", tt.name, w.Code, w.Body, tt.code)
		}
		if tt.code >= 400 && m.Len() != 0 {
			t.Fatalf("%s: is stored", tt.name)
		}
	}
	for _, d := range []chunker.Digest{chunker.BLAKE3, chunker.SHA256, chunker.SHA512256} {
		b := []byte("as named by " + d.String())
		c := store.Chunk{ID: d.Sum(b)}
		if w := do(h, "PUT", path(c), string(b)); w.Code != 201 {
			t.Errorf("%v: %d", d, w.Code)
		}
	}
	strict := handler(t, httpstore.HandlerOptions{Source: m, Writable: true, Digests: []chunker.Digest{chunker.SHA256}})
	if w := do(strict, "PUT", path(other), string(other.Data)); w.Code != 400 {
		t.Errorf("another digest: %d", w.Code)
	}
	// Without a length, and cut short.
	url := start(t, h)
	r, err := http.NewRequest("PUT", url+path(over), io.MultiReader(bytes.NewReader(over.Data)))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(r); err != nil || resp.StatusCode != 413 {
		t.Errorf("no length: %v, %v", resp, err)
	}
	n := m.Len()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n%s", path(other), other.Data[:4000])
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), " 400 ") || m.Len() != n {
		t.Errorf("cut short: %q, %v", b, err)
	}
	c.Close()
	bad := &storetest.Faulty{Source: m, Choose: func(c storetest.Call) storetest.Fault {
		if c.Op == "put" || c.Op == "sync" {
			return storetest.Fail(errors.New(secret))
		}
		return nil
	}}
	if w := do(handler(t, httpstore.HandlerOptions{Source: bad, Writable: true}), "PUT", path(other), string(other.Data)); w.Code != 500 || strings.Contains(w.Body.String(), secret) {
		t.Errorf("failing store: %d %s", w.Code, w.Body)
	}
	if _, err := httpstore.NewHandler(httpstore.HandlerOptions{Source: &store.Union{}, Writable: true}); err == nil {
		t.Error("a writable handler of a source that is not: no error")
	}
}

func TestAuth(t *testing.T) {
	p := storetest.Chunk(1, 50)
	var tokens atomic.Pointer[[]string]
	tokens.Store(&[]string{"one", "", "two"})
	o := httpstore.HandlerOptions{Source: holding(t, p), Writable: true, Tokens: func() []string { return *tokens.Load() }}
	h := handler(t, o)
	o.PublicRead = true
	public := handler(t, o)
	check := func(h http.Handler, method, auth string, want int) {
		t.Helper()
		w := do(h, method, path(p), string(p.Data), "Authorization", auth)
		if w.Code != want || want == 401 && w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s with %q: %d, want %d", method, auth, w.Code, want)
		}
	}
	for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer three", "Bearer one ,two", "one", "Basic !", "Basic Og==", "Digest one"} {
		check(h, "GET", auth, 401)
		check(h, "HEAD", auth, 401)
		check(h, "PUT", auth, 401)
		check(h, "DELETE", auth, 401)
		check(public, "GET", auth, 200)
		check(public, "PUT", auth, 401)
	}
	for _, auth := range []string{"Bearer one", "bearer two", "Basic dTpvbmU="} { // u:one
		check(h, "GET", auth, 200)
		check(h, "PUT", auth, 204)
		check(public, "PUT", auth, 204)
	}
	tokens.Store(&[]string{"three"})
	check(h, "GET", "Bearer one", 401)
	check(h, "GET", "Bearer three", 200)
	tokens.Store(&[]string{})
	check(h, "GET", "Bearer three", 401)
	if w := do(h, "GET", "/x", ""); w.Code != 401 {
		t.Errorf("unknown path: %d", w.Code)
	}
	if w := do(h, "GET", "/healthz", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("healthz: %d %q", w.Code, w.Body)
	}
	tokens.Store(&[]string{"one"})
	if cc := do(h, "GET", path(p), "", "Authorization", "Bearer one").Header().Get("Cache-Control"); !strings.HasPrefix(cc, "private") {
		t.Errorf("a chunk that takes a token: Cache-Control: %s", cc)
	}
}

// slow is a source that waits for a gate.
type slow struct {
	store.Getter
	gate  chan struct{}
	calls atomic.Int64
	ended atomic.Int64 // calls whose context ended first
}

func (s *slow) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	s.calls.Add(1)
	select {
	case <-s.gate:
		return s.Getter.Get(ctx, id)
	case <-ctx.Done():
		s.ended.Add(1)
		return store.Chunk{}, context.Cause(ctx)
	}
}

// wait waits until ok.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// metric returns the value of a metric of h.
func metric(t testing.TB, h *httpstore.Handler, name string) int64 {
	t.Helper()
	var b strings.Builder
	if err := h.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if v, ok := strings.CutPrefix(line, "castor_serve_"+name+" "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s in\n%s", name, &b)
	return 0
}

// TestOneFetch has hundreds ask for a chunk, in both forms, of whom half leave.
func TestOneFetch(t *testing.T) {
	p := storetest.Chunk(1, 50_000)
	src := &slow{Getter: holding(t, p), gate: make(chan struct{})}
	h := handler(t, httpstore.HandlerOptions{Source: src})
	const askers = 400
	ctx, cancel := context.WithCancel(t.Context())
	var wg, left sync.WaitGroup
	for i := range askers {
		leaves := i%2 == 0
		if leaves {
			left.Add(1)
		}
		wg.Go(func() {
			target := path(p)
			if i%4 < 2 {
				target += ".cacnk"
			}
			r := httptest.NewRequest("GET", target, nil)
			if leaves {
				defer left.Done()
				r = r.WithContext(ctx)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if leaves == (w.Code == 200) || !leaves && i%4 >= 2 && !bytes.Equal(w.Body.Bytes(), p.Data) {
				t.Errorf("asker %d: %d with %d bytes", i, w.Code, w.Body.Len())
			}
		})
	}
	wait(t, "all ask", func() bool { return metric(t, h, "chunks_shared_total") == askers-1 })
	cancel()
	left.Wait()
	close(src.gate)
	wg.Wait()
	if src.calls.Load() != 1 || src.ended.Load() != 0 {
		t.Errorf("%d fetches, %d ended", src.calls.Load(), src.ended.Load())
	}
	if n := metric(t, h, "chunks_converted_total"); n > 1 {
		t.Errorf("converted %d times", n)
	}
	if n := metric(t, h, "chunks_held"); n != 0 {
		t.Errorf("%d chunks are still held", n)
	}
}

// TestAllLeave ends the fetch when nobody waits for it, and the next asker gets the
// chunk.
func TestAllLeave(t *testing.T) {
	p := storetest.Chunk(1, 500)
	src := &slow{Getter: holding(t, p), gate: make(chan struct{})}
	h := handler(t, httpstore.HandlerOptions{Source: src})
	s := open(t, start(t, h), nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(io.ErrClosedPipe) })
	if _, err := s.Get(ctx, p.ID); err != io.ErrClosedPipe {
		t.Errorf("error %v", err)
	}
	wait(t, "the fetch ends", func() bool { return src.ended.Load() == 1 })
	close(src.gate)
	checkGet(t, s, p)
	wait(t, "nothing held", func() bool { return metric(t, h, "chunks_held") == 0 })
}

// TestBound has more chunks asked for than may be in memory.
func TestBound(t *testing.T) {
	var chunks []store.Chunk
	for i := range 20 {
		chunks = append(chunks, storetest.Chunk(uint64(i), 500))
	}
	src := &slow{Getter: holding(t, chunks...), gate: make(chan struct{})}
	h := handler(t, httpstore.HandlerOptions{Source: src, MaxChunks: 3})
	s := open(t, start(t, h), nil)
	var wg sync.WaitGroup
	for _, c := range chunks {
		wg.Go(func() { checkGet(t, s, c) })
	}
	wait(t, "all ask", func() bool { return metric(t, h, "requests_active") == 20 })
	if src.calls.Load() != 3 {
		t.Errorf("%d fetches at once", src.calls.Load())
	}
	close(src.gate)
	wg.Wait()
}

// TestSourceFaults tells a client what goes wrong behind the server.
func TestSourceFaults(t *testing.T) {
	p := storetest.Chunk(1, 500)
	for _, tt := range []struct {
		err  error
		code int
	}{
		{errors.New(secret), 502},
		{store.ErrDamaged, 500},
		{fmt.Errorf("x: %w", os.ErrNotExist), 404},
	} {
		src := &storetest.Faulty{Source: holding(t, p), Choose: func(storetest.Call) storetest.Fault { return storetest.Fail(tt.err) }}
		h := handler(t, httpstore.HandlerOptions{Source: src})
		for _, method := range []string{"GET", "HEAD"} {
			if w := do(h, method, path(p), ""); w.Code != tt.code || strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s, %v: %d %s", method, tt.err, w.Code, w.Body)
			}
		}
	}
}

// TestSlowClients has clients that do not read, do not write, or do not end a head.
func TestSlowClients(t *testing.T) {
	p := storetest.Chunk(1, storetest.Limit)
	h := handler(t, httpstore.HandlerOptions{Source: holding(t, p), Writable: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httpstore.Server(h, &httpstore.ServerOptions{Header: 200 * time.Millisecond, Progress: 200 * time.Millisecond, Idle: 200 * time.Millisecond})
	go srv.Serve(l)
	defer srv.Close()
	for name, request := range map[string]string{
		"idle":           "",
		"head":           "GET / HTTP/1.1\r\nHost",
		"upload":         "PUT " + path(p) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n123",
		"refused upload": "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n123",
		"reading":        strings.Repeat("GET "+path(p)+" HTTP/1.1\r\nHost: x\r\n\r\n", 200),
		"huge head":      "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 30<<10),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, request)
			if name == "reading" {
				wait(t, "asked", func() bool { return metric(t, h, "requests_active") == 1 })
				wait(t, "given up", func() bool { return metric(t, h, "requests_active") == 0 })
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the server waits")
			}
		})
	}
}

func TestRate(t *testing.T) {
	p := storetest.Chunk(1, 200_000)
	h := handler(t, httpstore.HandlerOptions{Source: holding(t, p), Rate: 1_000_000})
	begin := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if w := do(h, "GET", path(p), ""); !bytes.Equal(w.Body.Bytes(), p.Data) {
				t.Error("other content")
			}
		})
	}
	wg.Wait()
	if d := time.Since(begin); d < 500*time.Millisecond {
		t.Errorf("600,000 bytes took %v at 1,000,000 bytes a second", d)
	}
	if n := metric(t, h, "sent_bytes_total"); n != 600_000 {
		t.Errorf("sent %d bytes", n)
	}
}

// TestCasync has Debian's casync extract from a handler, with a token.
func TestCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	if _, err := os.Stat("/usr/lib/casync/protocols/casync-http"); err != nil {
		testneed.Missing(t, "needs casync's http helper: %v", err)
	}
	tmp := t.TempDir()
	blob, castr, caibx, out := filepath.Join(tmp, "blob"), filepath.Join(tmp, "x.castr"), filepath.Join(tmp, "v.caibx"), filepath.Join(tmp, "out")
	content := storetest.Random(1, 3<<20)
	if err := os.WriteFile(blob, content, 0o666); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if b, err := exec.Command(casync, args...).CombinedOutput(); err != nil {
			t.Fatalf("casync %v: %v\n%s", args, err, b)
		}
	}
	run("make", "--store="+castr, caibx, blob)
	d, err := dir.Open(castr, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := handler(t, httpstore.HandlerOptions{Source: d, IndexDir: tmp, Tokens: func() []string { return []string{secret} }})
	url := strings.Replace(start(t, h), "://", "://x:"+secret+"@", 1)
	run("extract", "--store="+url, url+"/v.caibx", out)
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%d bytes, %v, want %d", len(b), err, len(content))
	}
	if n := metric(t, h, "chunks_fetched_total"); n < 10 {
		t.Errorf("only %d chunks fetched", n)
	}
}

// FuzzHandler asks a writable handler for anything: it must answer, and neither
// serve nor store what is not a chunk or an index.
func FuzzHandler(f *testing.F) {
	p := storetest.Chunk(1, 50)
	f.Add("GET", path(p), "Range", "bytes=1-", []byte{})
	f.Add("PUT", path(p)+".cacnk", "Content-Type", "x", compress(f, p).Data)
	f.Add("PUT", "/a.caibx", "If-Match", "*", []byte(blobIndex(f, 2)))
	f.Add("HEAD", "/a/default.castr"+path(p), "If-Range", "x", []byte{})
	f.Add("PUT", "/default.castr/../default.castr"+path(p)+".cacnk", "Range", "bytes=0-", compress(f, p).Data)
	f.Add("GET", "/metrics", "Accept", "x", []byte{})
	f.Add("GET", "/../x.caibx", "If-None-Match", `W/"`, []byte("x"))
	f.Add("HEAD", "/healthz", "Authorization", "Basic x", []byte("x"))
	tmp := f.TempDir()
	if err := os.WriteFile(filepath.Join(tmp, "secret.caibx"), []byte(secret), 0o666); err != nil {
		f.Fatal(err)
	}
	indexes := filepath.Join(tmp, "indexes")
	if err := os.Mkdir(indexes, 0o777); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, key, value string, body []byte) {
		m := holding(t, p)
		h := handler(t, httpstore.HandlerOptions{Source: m, IndexDir: indexes, Writable: true})
		r := httptest.NewRequest("GET", "/", bytes.NewReader(body))
		r.Method, r.URL.Path = method, target
		r.Header[key] = []string{value}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code < 200 || w.Code >= 500 || strings.Contains(w.Body.String(), secret) {
			t.Errorf("%d %q", w.Code, w.Body)
		}
		err := m.List(t.Context(), func(i store.Info) error {
			c, err := m.Get(t.Context(), i.ID)
			if err != nil {
				return err
			}
			for _, d := range []chunker.Digest{chunker.BLAKE3, chunker.SHA512256, chunker.SHA256} {
				if _, err := c.Open(d, storetest.Limit); err == nil {
					return nil
				}
			}
			return fmt.Errorf("stored chunk %v", i.ID)
		})
		if err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 2 {
			t.Errorf("outside: %v, %v", entries, err)
		}
	})
}
