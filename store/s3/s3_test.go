package s3_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/tests3"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/s3"
	"github.com/castorsync/castor/store/storetest"
)

// noEnv is an environment without credentials.
func noEnv(string) string { return "" }

// keyed are options with the gateway's keys.
func keyed() *s3.Options {
	return &s3.Options{AccessKey: tests3.AccessKey, SecretKey: tests3.SecretKey, Backoff: 5 * time.Millisecond, Getenv: noEnv}
}

func open(t testing.TB, url string, o *s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// same checks that s has c.
func same(ctx context.Context, s store.Store, c store.Chunk) error {
	got, err := s.Get(ctx, c.ID)
	if err != nil {
		return err
	}
	defer got.Release()
	b, err := got.Open(storetest.Digest, storetest.Limit)
	if err == nil && !bytes.Equal(b, c.Data) {
		err = errors.New("wrong content")
	}
	return err
}

func name(id chunker.ID) string { return id.String()[:4] + "/" + id.String() + ".cacnk" }

// TestStore runs the suite of stores on a real server.
func TestStore(t *testing.T) {
	g := tests3.Start(t)
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		return open(t, g.URL(fmt.Sprintf("stores/%d", n)), keyed())
	})
	s, c := open(t, g.URL(""), keyed()), storetest.Chunk(1, 5000)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.Dir, "bucket", filepath.FromSlash(name(c.ID)))); err != nil {
		t.Errorf("a store in the root of the bucket: %v", err)
	}
}

// TestServers runs the suite on a server that behaves as others do.
func TestServers(t *testing.T) {
	for what, f := range map[string]func() *fake{
		"all conditions":     func() *fake { return &fake{pageSize: 70} },
		"plain":              func() *fake { return &fake{} },
		"ignores conditions": func() *fake { return &fake{ignoreConditions: true} },
		"refuses conditions": func() *fake { return &fake{refuseConditions: true} },
	} {
		t.Run(what, func(t *testing.T) {
			o := keyed()
			o.Plain = what == "plain"
			storetest.Run(t, func(t *testing.T) store.Store {
				if strings.HasSuffix(t.Name(), "/Many") {
					t.Skip("TestStore does")
				}
				return open(t, f().serve(t)+"/p", o)
			})
		})
	}
}

// TestLayout reads what store/dir has written, copied into the bucket, and the other
// way round.
func TestLayout(t *testing.T) {
	g := tests3.Start(t)
	for _, plain := range []bool{false, true} {
		d, err := dir.Open(filepath.Join(g.Dir, "bucket", fmt.Sprint("dir", plain)), &dir.Options{Create: true, Plain: plain})
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, g.URL(fmt.Sprint("dir", plain)), keyed())
		for i := range 10 {
			c := storetest.Chunk(uint64(i), 3000)
			if i%2 == 0 {
				err = d.Put(t.Context(), c)
			} else {
				err = s.Put(t.Context(), c)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := same(t.Context(), s, c); err != nil {
				t.Errorf("plain %v, from S3: %v", plain, err)
			}
			if err := same(t.Context(), d, c); err != nil {
				t.Errorf("plain %v, from the directory: %v", plain, err)
			}
		}
	}
}

// TestRefusals checks that what is wrong is told apart.
func TestRefusals(t *testing.T) {
	g := tests3.Start(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	wrongKey, wrongSecret, none, few := keyed(), keyed(), keyed(), keyed()
	wrongKey.AccessKey = "nobody"
	wrongSecret.SecretKey = "secret-of-nobody"
	none.NoCredentials = true
	few.Retries = 1
	c := storetest.Chunk(1, 5000)
	for what, tt := range map[string]struct {
		url  string
		o    *s3.Options
		want error
		text string
	}{
		"wrong access key": {g.URL("p"), wrongKey, fs.ErrPermission, "does not know the access key"},
		"wrong secret":     {g.URL("p"), wrongSecret, fs.ErrPermission, "is the secret key right?"},
		"no credentials":   {g.URL("p"), none, fs.ErrPermission, "no credentials were found"},
		"no bucket":        {strings.Replace(g.URL("p"), "/bucket", "/no-such", 1), keyed(), nil, `there is no bucket "no-such"`},
		"no server":        {"s3+http://" + closed.Addr().String() + "/bucket", few, nil, "connection refused"},
	} {
		t.Run(what, func(t *testing.T) {
			s := open(t, tt.url, tt.o)
			for op, f := range map[string]func() error{
				"Get":        func() error { _, err := s.Get(t.Context(), c.ID); return err },
				"Has":        func() error { _, err := s.Has(t.Context(), c.ID); return err },
				"StoredSize": func() error { _, err := s.StoredSize(t.Context(), c.ID); return err },
				"Put":        func() error { return s.Put(t.Context(), c) },
				"Replace":    func() error { return s.Replace(t.Context(), c) },
				"List":       func() error { return s.List(t.Context(), func(store.Info) error { return nil }) },
				"Remove":     func() error { _, err := s.Remove(t.Context(), c.ID, time.Now()); return err },
				"SetAside":   func() error { _, err := s.SetAside(t.Context(), c.ID); return err },
				"GetIndex":   func() error { _, err := s3.GetIndex(t.Context(), tt.url+"/x.caibx", tt.o); return err },
				"PutIndex": func() error {
					return s3.PutIndex(t.Context(), tt.url+"/x.caibx", bytes.NewReader(c.Data), 5000, tt.o)
				},
				"ListIndexes": func() error {
					return s3.ListIndexes(t.Context(), tt.url, tt.o, func(string, int64, time.Time) error { return nil })
				},
			} {
				err := f()
				switch {
				case err == nil:
					t.Errorf("%s succeeds", op)
				case store.Missing(err):
					t.Errorf("%s: %v: says that the object is missing", op, err)
				case tt.want != nil && !errors.Is(err, tt.want):
					t.Errorf("%s: %v: does not wrap %v", op, err, tt.want)
				case !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n"):
					t.Errorf("%s: %v: want one line with %q", op, err, tt.text)
				case strings.Contains(err.Error(), tt.o.SecretKey):
					t.Errorf("%s: %v: tells the secret", op, err)
				}
			}
		})
	}
}

// TestRequests counts what work costs.
func TestRequests(t *testing.T) {
	f := &fake{}
	url := f.serve(t) + "/p"
	s := open(t, url, keyed())
	chunks := make([]store.Chunk, 5)
	for i := range chunks {
		chunks[i] = storetest.Chunk(uint64(i), 1000)
	}
	add := func(s *s3.Store, want ...bool) {
		t.Helper()
		for i, w := range want {
			got, err := s.Add(t.Context(), chunks[i])
			if err != nil || got.New != w {
				t.Errorf("Add of chunk %d = %+v, %v, want new %v", i, got, err, w)
			}
		}
	}
	asked := func(what, want string) {
		t.Helper()
		if got := f.asked(); got != want {
			t.Errorf("%s: requests %q, want %q", what, got, want)
		}
	}
	// The second HEAD is a GET: it tells whether there is a bucket. The second PUT
	// finds out what the server does about conditions.
	add(s, true, true, true, true)
	asked("new chunks", "HEAD GET PUT PUT PUT PUT PUT")
	add(s, false, false, false, false)
	asked("present chunks", "PUT HEAD HEAD HEAD HEAD")
	f.age(20 * time.Minute)
	add(s, false, false)
	asked("chunks used lately", "HEAD HEAD")
	f.age(time.Hour)
	add(s, false, false)
	asked("old chunks", "HEAD COPY HEAD COPY")
	add(s, false, false)
	asked("chunks used just now", "HEAD HEAD")
	if has, err := s.Has(t.Context(), chunks[2].ID); !has || err != nil {
		t.Errorf("Has = %v, %v", has, err)
	}
	asked("Has of an old chunk", "HEAD COPY")
	if err := same(t.Context(), s, chunks[0]); err != nil {
		t.Error(err)
	}
	asked("Get", "GET")
	if has, err := s.Has(t.Context(), chunks[4].ID); has || err != nil {
		t.Errorf("Has = %v, %v", has, err)
	}
	asked("Has of a missing chunk", "HEAD HEAD")
}

// TestUse checks that a chunk that somebody counts on is not collected, on servers
// that do and do not renew the time of what is copied onto itself.
func TestUse(t *testing.T) {
	g := tests3.Start(t)
	f := &fake{}
	refusing := &fake{meddle: func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Amz-Copy-Source") != "" {
			deny(w, 403, "AccessDenied")
			return true
		}
		return false
	}}
	for what, tt := range map[string]struct {
		url string
		age func(c store.Chunk)
	}{
		"renews":  {f.serve(t) + "/p", func(store.Chunk) { f.age(48 * time.Hour) }},
		"refuses": {refusing.serve(t) + "/p", func(store.Chunk) { refusing.age(48 * time.Hour) }}, // to copy
		"keeps":   {g.URL("p"), func(c store.Chunk) { g.Age(t, "p/"+name(c.ID), 48*time.Hour) }},
	} {
		for use, f := range map[string]func(s *s3.Store, c store.Chunk) error{
			"Has": func(s *s3.Store, c store.Chunk) error {
				has, err := s.Has(t.Context(), c.ID)
				if err == nil && !has {
					err = errors.New("Has says no")
				}
				return err
			},
			"Add": func(s *s3.Store, c store.Chunk) error {
				a, err := s.Add(t.Context(), c)
				if err == nil && a.New {
					err = errors.New("Add says that it is new")
				}
				return err
			},
			"Put in a row of new chunks": func(s *s3.Store, c store.Chunk) error {
				if err := s.Put(t.Context(), storetest.Chunk(rand.Uint64(), 100)); err != nil {
					return err
				}
				return s.Put(t.Context(), c)
			},
		} {
			t.Run(what+" "+use, func(t *testing.T) {
				s, c := open(t, tt.url, keyed()), storetest.Chunk(rand.Uint64(), 5000)
				since := time.Now().Add(-24 * time.Hour)
				if err := s.Put(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				tt.age(c)
				if err := f(s, c); err != nil {
					t.Fatal(err)
				}
				if removed, err := s.Remove(t.Context(), c.ID, since); removed || err != nil {
					t.Errorf("Remove of a chunk in use = %v, %v", removed, err)
				}
				if err := same(t.Context(), s, c); err != nil {
					t.Error(err)
				}
				tt.age(c)
				if removed, err := s.Remove(t.Context(), c.ID, since); !removed || err != nil {
					t.Errorf("Remove of an old chunk = %v, %v", removed, err)
				}
			})
		}
	}
}

// TestReadOnly uses chunks of a bucket that may not be written to.
func TestReadOnly(t *testing.T) {
	f := &fake{}
	url := f.serve(t)
	c := storetest.Chunk(1, 5000)
	if err := open(t, url, keyed()).Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.age(time.Hour)
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			deny(w, 403, "AccessDenied")
		}
		return r.Method == http.MethodPut
	}
	s := open(t, url, keyed())
	if has, err := s.Has(t.Context(), c.ID); !has || err != nil {
		t.Errorf("Has = %v, %v", has, err)
	}
	if err := s.Put(t.Context(), c); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Put of a chunk that cannot be kept from collection: %v, want fs.ErrPermission", err)
	}
}

// TestLastMoment uses a chunk after a collection has asked for its time.
func TestLastMoment(t *testing.T) {
	f := &fake{}
	s, c := open(t, f.serve(t), keyed()), storetest.Chunk(1, 5000)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	f.age(48 * time.Hour)
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			for _, o := range f.objects {
				o.modified = time.Now()
			}
		}
		return false
	}
	if removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(-24*time.Hour)); removed || err != nil {
		t.Errorf("Remove = %v, %v", removed, err)
	}
	if err := same(t.Context(), s, c); err != nil {
		t.Error(err)
	}
}

// TestRemove deletes on a server that refuses to check times as it does.
func TestRemove(t *testing.T) {
	f := &fake{meddle: func(w http.ResponseWriter, r *http.Request) bool {
		refuse := r.Header.Get("X-Amz-If-Match-Last-Modified-Time") != ""
		if refuse {
			deny(w, 501, "NotImplemented")
		}
		return refuse
	}}
	s, c := open(t, f.serve(t), keyed()), storetest.Chunk(1, 5000)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, since := range []time.Duration{-time.Hour, time.Hour} {
		removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(since))
		if removed != (since > 0) || err != nil {
			t.Errorf("Remove since %v = %v, %v", since, removed, err)
		}
	}
}

// TestCollect makes and collects at the same time: every chunk that a make counts on
// is there afterwards, where the server checks times as it deletes. (versitygw does both,
// one after the other, and a busy machine lets a use come in between.)
func TestCollect(t *testing.T) {
	f := &fake{}
	url := f.serve(t) + "/p"
	const n = 200
	chunks := make([]store.Chunk, n)
	s := open(t, url, keyed())
	for i := range chunks {
		chunks[i] = storetest.Chunk(uint64(i), 500)
	}
	err := par.Each(t.Context(), 8, n, func(ctx context.Context, i int) error { return s.Put(ctx, chunks[i]) })
	if err != nil {
		t.Fatal(err)
	}
	f.age(48 * time.Hour)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 3 {
			gc := open(t, url, keyed())
			_, err := store.GC(t.Context(), gc, func(chunker.ID) bool { return false }, store.GCOptions{Since: time.Now().Add(-24 * time.Hour)})
			if err != nil {
				t.Error(err)
			}
		}
	})
	err = par.Each(t.Context(), 4, n, func(ctx context.Context, i int) error {
		_, err := s.Add(ctx, chunks[n-1-i])
		return err
	})
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range chunks {
		if err := same(t.Context(), s, c); err != nil {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
}

// TestFaults checks what is tried again, and what comes of it.
func TestFaults(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	enc, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	stored := enc.Encode(nil, c.Data)
	slow := func(w http.ResponseWriter) { deny(w, 503, "SlowDown") }
	cut := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	body := func(length string, b []byte) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("ETag", `"x"`)
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			w.Write(b)
		}
	}
	huge := make([]byte, 100<<10)
	for what, tt := range map[string]struct {
		fault func(http.ResponseWriter)
		bad   int
		want  error // nil: right in the end
		text  string
		asked int
	}{
		"none":               {slow, 0, nil, "", 1},
		"SlowDown burst":     {slow, 5, nil, "", 6},
		"SlowDown for good":  {slow, 99, errAny, "SlowDown) (tried 6 times)", 6},
		"500":                {func(w http.ResponseWriter) { deny(w, 500, "InternalError") }, 2, nil, "", 3},
		"502 of a proxy":     {func(w http.ResponseWriter) { w.WriteHeader(502) }, 2, nil, "", 3},
		"400 RequestTimeout": {func(w http.ResponseWriter) { deny(w, 400, "RequestTimeout") }, 2, nil, "", 3},
		"400":                {func(w http.ResponseWriter) { deny(w, 400, "InvalidURI") }, 99, errAny, "the fake says InvalidURI", 1},
		"403":                {func(w http.ResponseWriter) { deny(w, 403, "AccessDenied") }, 99, fs.ErrPermission, "access denied", 1},
		"404":                {func(w http.ResponseWriter) { deny(w, 404, "NoSuchKey") }, 99, fs.ErrNotExist, "", 2},
		"501":                {func(w http.ResponseWriter) { deny(w, 501, "NotImplemented") }, 99, errors.ErrUnsupported, "", 1},
		"skewed":             {func(w http.ResponseWriter) { deny(w, 403, "RequestTimeTooSkewed") }, 99, fs.ErrPermission, "clocks", 1},
		"expired":            {func(w http.ResponseWriter) { deny(w, 400, "ExpiredToken") }, 1, nil, "", 2},
		"expired for good":   {func(w http.ResponseWriter) { deny(w, 400, "ExpiredToken") }, 99, fs.ErrPermission, "has expired", 2},
		"a terminal's codes": {func(w http.ResponseWriter) { deny(w, 400, "X\x1b[2J\n") }, 99, errAny, "", 1},
		"cut at once":        {cut, 3, nil, "", 0},
		"cut for good":       {cut, 99, errAny, "tried 6 times", 0},
		"truncated":          {body("5000", stored[:100]), 2, nil, "", 0},
		"more than allowed":  {body(fmt.Sprint(len(huge)), huge), 99, store.ErrDamaged, "more than", 1},
		"huge, says so":      {body("99999999999", nil), 99, store.ErrDamaged, "more than", 1},
		"endless": {func(w http.ResponseWriter) {
			body("", huge)(w)
			w.(http.Flusher).Flush()
			w.Write(huge)
		}, 99, store.ErrDamaged, "more than", 1},
		"empty":       {body("0", nil), 99, store.ErrDamaged, "empty", 1},
		"not a chunk": {body("", []byte("<html>")), 99, store.ErrDamaged, "neither zstd", 1},
	} {
		t.Run(what, func(t *testing.T) {
			n := 0
			f := &fake{}
			f.put(name(c.ID), stored)
			f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
				n++
				if n <= tt.bad {
					tt.fault(w)
				}
				return n <= tt.bad
			}
			o := keyed()
			o.Retries, o.MaxChunk = 5, 64<<10
			err := same(t.Context(), open(t, f.serve(t), o), c)
			switch {
			case tt.want == nil && err != nil, tt.want != nil && err == nil:
				t.Errorf("error %v, want %v", err, tt.want)
			case tt.want != nil && tt.want != errAny && !errors.Is(err, tt.want):
				t.Errorf("error %v, want one that wraps %v", err, tt.want)
			case err != nil && (!strings.Contains(err.Error(), tt.text) || strings.ContainsAny(err.Error(), "\n\x1b")):
				t.Errorf("error %q, want one line with %q", err, tt.text)
			}
			if err != nil && tt.want != fs.ErrNotExist && store.Missing(err) {
				t.Errorf("error %v says that the chunk is missing", err)
			}
			if tt.asked > 0 && n != tt.asked {
				t.Errorf("%d requests, want %d", n, tt.asked)
			}
		})
	}
}

var errAny = errors.New("any error")

// TestRegion has a bucket that is elsewhere.
func TestRegion(t *testing.T) {
	f := &fake{}
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		here := strings.Contains(r.Header.Get("Authorization"), "/eu-castor-1/s3/")
		if !here {
			w.Header().Set("X-Amz-Bucket-Region", "eu-castor-1")
			deny(w, 400, "AuthorizationHeaderMalformed")
		}
		return !here
	}
	s, c := open(t, f.serve(t), keyed()), storetest.Chunk(1, 5000)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := same(t.Context(), s, c); err != nil {
		t.Error(err)
	}
	if removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(time.Hour)); !removed || err != nil {
		t.Errorf("Remove = %v, %v", removed, err)
	}
}

// TestRestart kills the server in the middle of reading and writing.
func TestRestart(t *testing.T) {
	g := tests3.Start(t)
	o := keyed()
	o.Retries, o.Backoff = 20, 10*time.Millisecond
	s := open(t, g.URL("p"), o)
	const n = 300
	var done atomic.Int64
	err := par.Each(t.Context(), 8, n, func(ctx context.Context, i int) error {
		if done.Add(1) == n/3 {
			g.Kill()
			g.Restart(t)
		}
		c := storetest.Chunk(uint64(i), 20_000)
		if err := s.Put(ctx, c); err != nil {
			return err
		}
		return same(ctx, s, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	if chunks, _, err := store.Check(t.Context(), s, 8, func(id chunker.ID, err error) error { return err }, nil); err != nil || chunks != n {
		t.Errorf("Check finds %d chunks, error %v, want %d", chunks, err, n)
	}
}

// TestCuts has connections that break after a random number of bytes.
func TestCuts(t *testing.T) {
	g := tests3.Start(t)
	addr := cutter(t, g.Addr, 5_000, 200_000)
	o := keyed()
	o.Retries = 30
	s := open(t, "s3+http://"+addr+"/bucket/p", o)
	err := par.Each(t.Context(), 4, 150, func(ctx context.Context, i int) error {
		c := storetest.Chunk(uint64(i), 30_000)
		if err := s.Put(ctx, c); err != nil {
			return err
		}
		return same(ctx, s, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := s.List(t.Context(), func(store.Info) error { n++; return nil }); err != nil || n != 150 {
		t.Errorf("List finds %d chunks, error %v", n, err)
	}
}

// cutter is a proxy for TCP that cuts connections after least to most bytes in either
// direction.
func cutter(t testing.TB, to string, least, most int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			var left atomic.Int64
			left.Store(least + rand.Int64N(most-least))
			pipe := func(dst, src net.Conn) {
				defer in.Close()
				defer out.Close()
				b := make([]byte, 4096)
				for {
					n, err := src.Read(b)
					if left.Add(-int64(n)) < 0 || err != nil {
						return
					}
					if _, err := dst.Write(b[:n]); err != nil {
						return
					}
				}
			}
			wg.Go(func() { pipe(out, in) })
			wg.Go(func() { pipe(in, out) })
		}
	})
	return l.Addr().String()
}

// TestStalls has a server that does not answer, or stops in the middle.
func TestStalls(t *testing.T) {
	c := storetest.Chunk(1, 50_000)
	release := make(chan struct{})
	for what, fault := range map[string]func(w http.ResponseWriter){
		"no answer": func(http.ResponseWriter) { <-release },
		"half a body": func(w http.ResponseWriter) {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Length", "50000")
			w.Write(make([]byte, 20_000))
			w.(http.Flusher).Flush()
			<-release
		},
	} {
		f := &fake{meddle: func(w http.ResponseWriter, r *http.Request) bool { fault(w); return true }}
		url := f.serve(t)
		t.Run(what, func(t *testing.T) {
			o := keyed()
			o.Answer, o.Stall, o.Retries = 100*time.Millisecond, 100*time.Millisecond, -1
			_, err := open(t, url, o).Get(t.Context(), c.ID)
			var timeout net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) && !(errors.As(err, &timeout) && timeout.Timeout()) {
				t.Errorf("error %v, want a time-out", err)
			}
		})
		t.Run(what+", cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(errAny) })
			begin := time.Now()
			_, err := open(t, url, keyed()).Get(ctx, c.ID)
			if err != errAny || time.Since(begin) > 10*time.Second {
				t.Errorf("error %v after %v, want the cause at once", err, time.Since(begin))
			}
		})
	}
	close(release)
}

// TestList lists page by page, with a server that fails in between.
func TestList(t *testing.T) {
	f := &fake{pageSize: 10}
	s := open(t, f.serve(t)+"/p", keyed())
	const n = 95
	for i := range n {
		f.put("p/"+name(storetest.Chunk(uint64(i), 100).ID), []byte("x"))
		f.put("q/"+name(storetest.Chunk(uint64(i), 100).ID), []byte("x"))
	}
	id := storetest.Chunk(0, 100).ID
	f.put("p/"+strings.TrimSuffix(name(id), ".cacnk"), []byte("both forms"))
	for _, k := range []string{"p/x.caibx", "p/0000/x", "p/" + name(id) + ".bad", "p/ffff/" + id.String(), "pp/" + name(id)} {
		f.put(k, []byte("not a chunk"))
	}
	pages := 0
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if pages++; pages%3 == 0 {
			deny(w, 503, "SlowDown")
			return true
		}
		return false
	}
	seen := map[chunker.ID]bool{}
	err := s.List(t.Context(), func(i store.Info) error {
		if seen[i.ID] {
			return fmt.Errorf("%v is listed twice", i.ID)
		}
		seen[i.ID] = true
		return nil
	})
	if err != nil || len(seen) != n {
		t.Errorf("List finds %d chunks, error %v, want %d", len(seen), err, n)
	}
}

// TestTLS trusts the server only if it is told to.
func TestTLS(t *testing.T) {
	f := &fake{}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	url := "s3+" + server.URL + "/bucket"
	c := storetest.Chunk(1, 5000)
	begin := time.Now()
	if err := open(t, url, keyed()).Put(t.Context(), c); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "tried") {
		t.Errorf("error %v after %v, want one about the certificate at once", err, time.Since(begin))
	}
	o := keyed()
	o.TLS = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	s := open(t, url, o)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := same(t.Context(), s, c); err != nil {
		t.Error(err)
	}
	if removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(time.Hour)); !removed || err != nil {
		t.Errorf("Remove = %v, %v", removed, err)
	}
}

// TestLookup has the name of the bucket in the host's, and a proxy.
func TestLookup(t *testing.T) {
	f := &fake{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "bucket.s3.example.com" {
			http.Error(w, r.Host, http.StatusBadGateway)
			return
		}
		r.URL.Path = "/bucket" + r.URL.Path
		f.ServeHTTP(w, r)
	}))
	defer server.Close()
	proxy, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := storetest.Chunk(1, 5000)
	for rawURL, lookup := range map[string]string{
		"s3+http://s3.example.com/bucket/a?lookup=dns": "",
		"s3+http://s3.example.com/bucket/b":            "dns",
	} {
		o := keyed()
		o.Lookup, o.Proxy = lookup, http.ProxyURL(proxy)
		s := open(t, rawURL, o)
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := same(t.Context(), s, c); err != nil {
			t.Error(err)
		}
		n := 0
		if err := s.List(t.Context(), func(store.Info) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("List finds %d chunks, %v", n, err)
		}
	}
}
