package httpstore_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
	"github.com/castorsync/castor/store/transfer"
)

// holding returns a store in memory that has chunks.
func holding(t testing.TB, chunks ...store.Chunk) *storetest.Memory {
	t.Helper()
	m := new(storetest.Memory)
	fill(t, m, chunks...)
	return m
}

// front passes requests to h except those that meddle answers, counted from 0.
type front struct {
	h      http.Handler
	meddle func(n int, w http.ResponseWriter, r *http.Request) bool
	n      atomic.Int64
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.meddle(int(f.n.Add(1)-1), w, r) {
		f.h.ServeHTTP(w, r)
	}
}

func TestRetries(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	status := func(code int, header ...string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	for name, tt := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request)
		bad   int   // so many requests go wrong
		want  error // nil: right in the end
		asked int64
		text  string
	}{
		"none":           {status(500), 0, nil, 1, ""},
		"500 burst":      {status(500), 4, nil, 5, ""},
		"503 for good":   {status(503), 99, errors.New("any"), 6, "503 Service Unavailable (tried 6 times)"},
		"408":            {status(408), 2, nil, 3, ""},
		"404":            {status(404), 99, fs.ErrNotExist, 2, ""}, // both forms, once
		"410":            {status(410), 99, fs.ErrNotExist, 2, ""},
		"401":            {status(401), 99, fs.ErrPermission, 1, "wants credentials"},
		"403":            {status(403), 99, fs.ErrPermission, 1, "reading is not allowed"},
		"400":            {status(400), 99, errors.New("any"), 2, "400 Bad Request"},
		"418":            {status(418), 99, errors.New("any"), 1, "HTTP status 418"},
		"204":            {status(204), 99, errors.New("any"), 1, "204"},
		"599":            {status(599), 99, errors.New("any"), 6, "HTTP status 599 (tried"},
		"redirect loop":  {status(302, "Location", "/x"), 99, errors.New("any"), 10, "redirected too often"},
		"html":           {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>pay here") }, 99, store.ErrDamaged, 1, "neither zstd"},
		"empty":          {status(200), 99, store.ErrDamaged, 1, "empty"},
		"huge, says so":  {status(200, "Content-Length", "99999999999"), 99, store.ErrDamaged, 1, "more than"},
		"huge, says not": {endless, 99, store.ErrDamaged, 1, "more than"},
		"cut at once":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 3, nil, 4, ""},
		"cut for good":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 99, io.EOF, 6, "tried 6 times"},
		"too long a claim": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "50")
			w.Write(make([]byte, 20))
		}, 2, nil, 3, ""},
		"not HTTP": {raw("SSH-2.0-OpenSSH\r\n"), 2, nil, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := &front{h: handler(t, httpstore.HandlerOptions{Source: holding(t, compress(t, c))})}
			f.meddle = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if n < tt.bad {
					tt.fault(w, r)
				}
				return n < tt.bad
			}
			o := quick()
			o.Retries = 5
			s := open(t, start(t, f), o)
			_, err := get(t, s, c.ID)
			switch {
			case tt.want == nil && err != nil, tt.want != nil && err == nil:
				t.Errorf("error %v, want %v", err, tt.want)
			case tt.want != nil && tt.want.Error() != "any" && !errors.Is(err, tt.want):
				t.Errorf("error %v, want one that wraps %v", err, tt.want)
			case err != nil && (!strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n")):
				t.Errorf("error %q, want one line with %q", err, tt.text)
			}
			if n := f.n.Load(); name != "cut at once" && name != "cut for good" && n != tt.asked {
				t.Errorf("%d requests, want %d", n, tt.asked)
			}
			if err != nil && tt.want != fs.ErrNotExist && store.Missing(err) {
				t.Errorf("error %v says that the chunk is missing", err)
			}
		})
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	b := make([]byte, 64<<10)
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

// raw answers with bytes and hangs up.
func raw(s string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(c, s)
		c.Close()
	}
}

// TestRetryAfter has a server that asks for a second, and one that asks for a year.
func TestRetryAfter(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for _, tt := range []struct {
		header string
		most   time.Duration
	}{
		{"1", time.Minute},
		{time.Now().Add(365 * 24 * time.Hour).UTC().Format(http.TimeFormat), time.Second},
	} {
		t.Run(tt.header, func(t *testing.T) {
			t.Parallel()
			f := &front{h: handler(t, httpstore.HandlerOptions{Source: holding(t, c)})}
			f.meddle = func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n == 0 {
					w.Header().Set("Retry-After", tt.header)
					w.WriteHeader(429)
				}
				return n == 0
			}
			o := quick()
			o.MaxRetryAfter = tt.most
			s := open(t, start(t, f), o)
			begin := time.Now()
			checkGet(t, s, c)
			if d := time.Since(begin); d < time.Second {
				t.Errorf("asked again after %v, the server wanted a second", d)
			}
		})
	}
}

// TestCut cuts connections at random bytes, in the head and in the body.
func TestCut(t *testing.T) {
	var chunks []store.Chunk
	for i := range 40 {
		chunks = append(chunks, storetest.Chunk(uint64(i), 1000+3000*i))
	}
	url := start(t, handler(t, httpstore.HandlerOptions{Source: holding(t, chunks...)}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for n := uint64(0); ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				up, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
				if err != nil {
					return
				}
				defer up.Close()
				go func() { io.Copy(up, c); up.Close() }()
				io.CopyN(c, up, rand.New(rand.NewPCG(1, n)).Int64N(200_000))
			}()
		}
	}()
	o := quick()
	o.Retries = 30
	s := open(t, "http://"+l.Addr().String(), o)
	err = par.Each(t.Context(), 4, len(chunks), func(ctx context.Context, i int) error {
		checkGet(t, s, chunks[i])
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestFlips has a server that flips bits: chunks are damaged, and a cache keeps none.
func TestFlips(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for i := range 20 {
		f := &storetest.Faulty{Source: holding(t, c), Choose: func(storetest.Call) storetest.Fault { return storetest.Flip(i * 251) }}
		s := open(t, serve(t, httpstore.HandlerOptions{Source: f}), &httpstore.Options{Plain: true, Backoff: time.Millisecond})
		kept := new(storetest.Memory)
		cache := &store.Cache{Local: kept, Source: s, Verifier: store.VerifyWith(storetest.Digest, storetest.Limit)}
		if _, err := get(t, cache, c.ID); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("flip %d: error %v, want ErrDamaged", i, err)
		}
		if kept.Len() != 0 {
			t.Errorf("flip %d: the cache keeps it", i)
		}
	}
}

// TestStall has bodies that stop, and heads that do not come.
func TestStall(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for name, stall := range map[string]func(w http.ResponseWriter, r *http.Request){
		"head": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write(make([]byte, 50))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"drops": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte{1})
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		},
	} {
		for _, forGood := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " for good ", forGood), func(t *testing.T) {
				t.Parallel()
				f := &front{h: handler(t, httpstore.HandlerOptions{Source: holding(t, c)})}
				f.meddle = func(n int, w http.ResponseWriter, r *http.Request) bool {
					if n == 0 || forGood {
						stall(w, r)
					}
					return n == 0 || forGood
				}
				o := quick()
				o.Answer, o.Stall, o.Retries = 100*time.Millisecond, 100*time.Millisecond, 1
				s := open(t, start(t, f), o)
				if !forGood {
					o.Retries = 10 // for slow machines
					s = open(t, s.String(), o)
					checkGet(t, s, c)
					return
				}
				_, err := s.Get(t.Context(), c.ID)
				if ne, ok := errors.AsType[net.Error](err); err == nil || !(ok && ne.Timeout()) && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("error %v, want a time-out", err)
				}
			})
		}
	}
}

// TestStalledUpload has a server that does not read.
func TestStalledUpload(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := quick()
	o.Stall, o.Answer, o.Retries = 200*time.Millisecond, time.Minute, -1
	err = httpstore.PutIndex(t.Context(), "http://"+l.Addr().String()+"/x.caibx", bytes.NewReader(make([]byte, 64<<20)), 64<<20, o)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v, want a time-out", err)
	}
}

// TestNobody asks a port at which nobody listens, and again when somebody has.
func TestNobody(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	o := quick()
	o.Retries, o.Servers = 2, new(transfer.Servers)
	s := open(t, "http://"+addr, o)
	if _, err := s.Get(t.Context(), c.ID); err == nil || !strings.HasSuffix(err.Error(), "connection refused") {
		t.Errorf("nobody was ever there: error %v", err)
	}
	h := handler(t, httpstore.HandlerOptions{Source: holding(t, c)})
	serve := func() *http.Server {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return nil
		}
		srv := httpstore.Server(h, nil)
		go srv.Serve(l)
		t.Cleanup(func() { srv.Close() })
		return srv
	}
	first := serve()
	checkGet(t, s, c)
	first.Close()
	if _, err := s.Get(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "(tried 3 times)") {
		t.Errorf("somebody was there: error %v", err)
	}
	o.Retries, o.Backoff = 20, 50*time.Millisecond
	again := open(t, "http://"+addr, o) // which has never asked, but others have
	time.AfterFunc(150*time.Millisecond, func() { serve() })
	checkGet(t, again, c)
}

// TestCancel ends a context in each phase of a request.
func TestCancel(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	boom := errors.New("boom")
	for name, h := range map[string]http.HandlerFunc{
		"head": func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // or the server would not see that the client leaves
			<-r.Context().Done()
		},
		"body": func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte{1})
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"backoff": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "50"); w.WriteHeader(503) },
	} {
		s := open(t, start(t, h), nil)
		for op, call := range map[string]func(context.Context) error{
			"get": func(ctx context.Context) error { _, err := s.Get(ctx, c.ID); return err },
			"put": func(ctx context.Context) error { return s.Put(ctx, c) },
			"index": func(ctx context.Context) error {
				r, err := httpstore.GetIndex(ctx, s.String()+"/x.caibx", nil)
				if err != nil {
					return err
				}
				defer r.Close()
				_, err = io.ReadAll(r)
				return err
			},
		} {
			if op == "put" && name != "head" && name != "backoff" {
				continue
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(boom) })
			begin := time.Now()
			if err := call(ctx); err != boom {
				t.Errorf("%s, %s: error %v, want the cause", name, op, err)
			}
			if d := time.Since(begin); d > 5*time.Second {
				t.Errorf("%s, %s: took %v", name, op, d)
			}
		}
	}
}

// TestPutRefused puts into servers that do not want it.
func TestPutRefused(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for _, tt := range []struct {
		code int
		want error
		text string
	}{
		{405, errors.ErrUnsupported, "takes no uploads"},
		{501, errors.ErrUnsupported, "takes no uploads"},
		{403, fs.ErrPermission, "writing is not allowed"},
		{401, fs.ErrPermission, "wants credentials"},
		{413, nil, "larger than the server takes"},
		{302, nil, "upload elsewhere"},
	} {
		n := 0
		s := open(t, start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			w.Header().Set("Location", "/other")
			w.WriteHeader(tt.code)
		})), quick())
		err := s.Put(t.Context(), c)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || n != 1 {
			t.Errorf("%d: error %v after %d requests, want %v", tt.code, err, n, tt.text)
		}
	}
	ro := open(t, serve(t, httpstore.HandlerOptions{Source: new(storetest.Memory)}), quick())
	if err := ro.Put(t.Context(), c); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("read-only handler: %v", err)
	}
}

// TestDesyncForms has a server that knows one form and calls the other a bad request.
func TestDesyncForms(t *testing.T) {
	c, missing := storetest.Chunk(1, 5000), storetest.Chunk(2, 10)
	for _, suffix := range []string{"", ".cacnk"} {
		f := &front{h: handler(t, httpstore.HandlerOptions{Source: holding(t, c), Writable: true})}
		f.meddle = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w = &noForms{w}
			if strings.HasSuffix(r.URL.Path, ".cacnk") != (suffix == ".cacnk") {
				w.WriteHeader(400)
				return true
			}
			f.h.ServeHTTP(w, r)
			return true
		}
		s := open(t, start(t, f), quick())
		for range 2 {
			if _, err := s.Get(t.Context(), missing.ID); !store.Missing(err) {
				t.Errorf("%q: missing chunk: %v", suffix, err)
			}
			checkGet(t, s, c)
			fresh := storetest.Chunk(3, 50)
			if _, err := store.Add(t.Context(), s, fresh); err != nil {
				t.Errorf("%q: Add: %v", suffix, err)
			}
			checkGet(t, s, fresh)
		}
		before := f.n.Load()
		s.Get(t.Context(), missing.ID)
		if n := f.n.Load() - before; n != 1 {
			t.Errorf("%q: a miss costs %d requests when the form is known", suffix, n)
		}
	}
}

// noForms hides that a server converts.
type noForms struct{ http.ResponseWriter }

func (w *noForms) WriteHeader(n int) {
	w.Header().Del("Castor-Forms")
	w.ResponseWriter.WriteHeader(n)
}

func TestOneMissCostsOneRequest(t *testing.T) {
	f := &front{h: handler(t, httpstore.HandlerOptions{Source: new(storetest.Memory)})}
	f.meddle = func(int, http.ResponseWriter, *http.Request) bool { return false }
	s := open(t, start(t, f), quick())
	if has, err := s.Has(t.Context(), storetest.Chunk(1, 1).ID); has || err != nil || f.n.Load() != 1 {
		t.Errorf("Has = %v, %v after %d requests", has, err, f.n.Load())
	}
}

// TestNoSizes has a server that does not tell sizes, and one that knows no HEAD.
func TestNoSizes(t *testing.T) {
	id := storetest.Chunk(1, 1).ID
	s := open(t, start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() })), quick())
	if has, err := s.Has(t.Context(), id); !has || err != nil {
		t.Errorf("Has = %v, %v", has, err)
	}
	if _, err := s.StoredSize(t.Context(), id); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("StoredSize: %v", err)
	}
	s = open(t, start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) })), quick())
	if has, err := s.Has(t.Context(), id); has || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Has = %v, %v", has, err)
	}
}

// TestProxy reaches a server that exists for a proxy alone.
func TestProxy(t *testing.T) {
	c := storetest.Chunk(1, 50)
	h := handler(t, httpstore.HandlerOptions{Source: holding(t, c)})
	proxy := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "chunks.invalid" {
			t.Errorf("the proxy is asked for %v", r.URL)
		}
		h.ServeHTTP(w, r)
	}))
	o := quick()
	o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
	checkGet(t, open(t, "http://chunks.invalid", o), c)
	if _, err := open(t, "http://chunks.invalid", quick()).Get(t.Context(), c.ID); err == nil || strings.Contains(err.Error(), "tried") {
		t.Errorf("no such host: %v", err)
	}
}

// secret is what must not get around.
const secret = "hunter2"

// seen notes the requests that reach a server.
type seen struct {
	mu   sync.Mutex
	reqs []*http.Request
	h    http.Handler
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.reqs = append(s.reqs, r.Clone(context.Background()))
	s.mu.Unlock()
	s.h.ServeHTTP(w, r)
}

// TestRedirect redirects to another host: credentials and headers stay behind.
func TestRedirect(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	other := &seen{h: handler(t, httpstore.HandlerOptions{Source: holding(t, c)})}
	otherURL := start(t, other)
	first := &seen{h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/stay") {
			http.Redirect(w, r, "/a"+strings.TrimPrefix(r.URL.Path, "/stay"), http.StatusTemporaryRedirect)
			return
		}
		http.Redirect(w, r, otherURL+strings.TrimPrefix(r.URL.Path, "/a"), http.StatusFound)
	})}
	firstURL := start(t, first)
	for _, tt := range []struct {
		url    string
		o      httpstore.Options
		header string
	}{
		{firstURL + "/stay?sig=" + secret, httpstore.Options{Token: secret}, "Authorization"},
		{firstURL + "/stay", httpstore.Options{Header: http.Header{"X-Key": {secret}}}, "X-Key"},
		{firstURL + "/stay", httpstore.Options{Header: http.Header{"Cookie": {"a=" + secret}}}, "Cookie"},
		{strings.Replace(firstURL, "://", "://me:"+secret+"@", 1) + "/stay", httpstore.Options{}, "Authorization"},
	} {
		first.reqs, other.reqs = nil, nil
		s := open(t, tt.url, &tt.o)
		checkGet(t, s, c)
		if len(first.reqs) != 2 || len(other.reqs) != 1 {
			t.Fatalf("%d and %d requests", len(first.reqs), len(other.reqs))
		}
		for _, r := range first.reqs {
			if r.Header.Get(tt.header) == "" {
				t.Errorf("no %s at the server itself", tt.header)
			}
		}
		if got := fmt.Sprint(other.reqs[0].URL, other.reqs[0].Header); strings.Contains(got, secret) || other.reqs[0].Header.Get("Authorization") != "" {
			t.Errorf("the other host sees %s", got)
		}
	}
}

// TestSecrets looks for credentials in all that is said.
func TestSecrets(t *testing.T) {
	url := strings.Replace(start(t, http.NotFoundHandler()), "://", "://me:"+secret+"@", 1) + "/s?key=" + secret
	var said []string
	say := func(a ...any) { said = append(said, fmt.Sprintf("%+v", a)) }
	o := quick()
	o.Retries = -1
	s := open(t, url, o)
	c := storetest.Chunk(1, 50)
	_, err := s.Get(t.Context(), c.ID)
	say(s.String(), err, s.Put(t.Context(), c))
	_, err = httpstore.GetIndex(t.Context(), url, o)
	say(err)
	for _, bad := range []string{
		"http://me:" + secret + "@127.0.0.1:1/x?" + secret, "http://me:" + secret + "@[::1/x", "http://me:" + secret + "@host:port/",
		"ftp://me:" + secret + "@host/x", "http://me:" + secret + "@/x", "http://me:" + secret + "\n@host", "http:me:" + secret,
	} {
		s, err := httpstore.Open(bad, o)
		if err == nil {
			_, err = s.Get(t.Context(), c.ID)
		}
		if err == nil {
			t.Errorf("%q: no error", bad)
		}
		say(err)
	}
	for _, s := range said {
		if strings.Contains(s, secret) {
			t.Errorf("said %q", s)
		}
	}
}

func TestCredentials(t *testing.T) {
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine 127.0.0.1 login n password "+secret), 0o600); err != nil {
		t.Fatal(err)
	}
	c := storetest.Chunk(1, 50)
	tokens := func() []string { return []string{"other", secret} }
	url := serve(t, httpstore.HandlerOptions{Source: holding(t, c), Tokens: tokens})
	with := strings.Replace(url, "://", "://u:"+secret+"@", 1)
	for name, tt := range map[string]struct {
		url string
		o   httpstore.Options
		ok  bool
	}{
		"none":        {url, httpstore.Options{}, false},
		"token":       {url, httpstore.Options{Token: secret}, true},
		"wrong token": {with, httpstore.Options{Token: "wrong"}, false},
		"basic":       {url, httpstore.Options{User: "x", Password: secret}, true},
		"URL":         {with, httpstore.Options{}, true},
		"netrc":       {url, httpstore.Options{Netrc: netrc}, true},
		"no netrc":    {url, httpstore.Options{Netrc: netrc + "x"}, false},
	} {
		_, err := open(t, tt.url, &tt.o).Get(t.Context(), c.ID)
		if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: error %v", name, err)
		}
		if name == "wrong token" && !strings.Contains(err.Error(), "refuses the credentials") {
			t.Errorf("error %v", err)
		}
	}
}

// TestTLS needs the authority of the server and a certificate of the client.
func TestTLS(t *testing.T) {
	c := storetest.Chunk(1, 50)
	for _, http2 := range []bool{false, true} {
		var proto atomic.Value
		h := handler(t, httpstore.HandlerOptions{Source: holding(t, c), Writable: true})
		srv := httptest.NewUnstartedServer(nil)
		srv.Config = httpstore.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proto.Store(r.Proto)
			h.ServeHTTP(w, r)
		}), nil)
		srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
		srv.EnableHTTP2 = true
		srv.StartTLS()
		t.Cleanup(srv.Close)
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		config, err := httpstore.TLSConfig(ca, "", "")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := open(t, srv.URL, nil).Get(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("unknown authority: %v", err)
		}
		if _, err := open(t, srv.URL, &httpstore.Options{TLS: config, Backoff: time.Millisecond}).Get(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("no client certificate: %v", err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("tried for %v", d)
		}
		config.Certificates = srv.TLS.Certificates
		s := open(t, srv.URL, &httpstore.Options{TLS: config, HTTP2: http2})
		fresh := storetest.Chunk(2, 200_000)
		fill(t, s, fresh)
		checkGet(t, s, c)
		checkGet(t, s, fresh)
		if got, want := proto.Load(), map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range [][3]string{{"none", "", ""}, {empty, "", ""}, {"", empty, ""}, {"", "", empty}, {"", empty, empty}} {
		if _, err := httpstore.TLSConfig(files[0], files[1], files[2]); err == nil {
			t.Errorf("%q: no error", files)
		}
	}
}

// TestIndex reads indexes whose connection breaks.
func TestIndex(t *testing.T) {
	want := storetest.Random(1, 300_000)
	for name, tt := range map[string]struct {
		etag string
		want error
	}{
		"resumed":       {`"a"`, nil},
		"no etag":       {"", io.ErrUnexpectedEOF},
		"weak etag":     {`W/"a"`, io.ErrUnexpectedEOF},
		"changed":       {"change", io.ErrUnexpectedEOF},
		"server faults": {`"b"`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			url := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n++
				if name == "server faults" && n%2 == 0 {
					w.WriteHeader(500)
					return
				}
				w.Header().Set("ETag", tt.etag)
				if tt.etag == "" {
					w.Header().Del("ETag")
				} else if tt.etag == "change" {
					w.Header().Set("ETag", `"`+strconv.Itoa(n)+`"`)
				}
				http.ServeContent(&cutter{w, 50_000}, r, "", time.Time{}, bytes.NewReader(want))
			}))
			o := quick()
			o.Retries = 3
			r, err := httpstore.GetIndex(t.Context(), url+"/x.caibx", o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(want, got) {
				t.Errorf("read %d bytes, error %v, want %v", len(got), err, tt.want)
			}
		})
	}
	_, err := httpstore.GetIndex(t.Context(), start(t, http.NotFoundHandler())+"/x.caibx", nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// A server that speaks no TLS will not speak it a little later.
func TestPlainServerForHTTPS(t *testing.T) {
	url := strings.Replace(start(t, http.NotFoundHandler()), "http://", "https://", 1)
	_, err := httpstore.GetIndex(t.Context(), url+"/x.caibx", quick())
	if !errors.Is(err, http.ErrSchemeMismatch) || strings.Contains(err.Error(), "tried") {
		t.Errorf("error %v, want the first one, %v", err, http.ErrSchemeMismatch)
	}
}

// cutter hangs up after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (w *cutter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		w.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}

// TestContradictions has a server refuse one form, and then the other: it is not taken for
// one that knows neither, of which nobody would be asked anything.
func TestContradictions(t *testing.T) {
	a, b, c := storetest.Chunk(1, 100), storetest.Chunk(2, 100), storetest.Chunk(3, 100)
	var both sync.WaitGroup // the requests for plain chunks: the second comes before the first is answered
	both.Add(2)
	s := open(t, start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := http.StatusNotFound
		isPlain := !strings.HasSuffix(r.URL.Path, ".cacnk")
		if strings.Contains(r.URL.Path, a.ID.String()) && !isPlain || strings.Contains(r.URL.Path, b.ID.String()) && isPlain {
			code = http.StatusBadRequest
		}
		if isPlain && !strings.Contains(r.URL.Path, c.ID.String()) {
			both.Done()
			both.Wait()
		}
		w.WriteHeader(code)
	})), nil)
	var wg sync.WaitGroup
	for _, c := range []store.Chunk{a, b} {
		wg.Go(func() { s.Has(t.Context(), c.ID) })
	}
	wg.Wait()
	if has, err := s.Has(t.Context(), c.ID); has || err != nil {
		t.Errorf("Has = %v, %v", has, err)
	}
	if got, err := s.Get(t.Context(), c.ID); !store.Missing(err) {
		t.Errorf("Get = %d bytes, %v", len(got.Data), err)
	}
}
