package location

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
)

// environ returns a Getenv of pairs.
func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// opener returns an Opener with a configuration, and its log.
func opener(t *testing.T, text string, env ...string) (*Opener, *bytes.Buffer) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(bytes.Buffer)
	o := &Opener{Getenv: environ(env...), Log: slog.New(slog.NewTextHandler(log, nil))}
	var err error
	if o.Config, err = config.Load(config.Sources{Explicit: name, Getenv: o.Getenv, Log: o.Log}); err != nil {
		t.Fatal(err)
	}
	return o, log
}

// castr makes a store in a new directory and returns its name.
func castr(t *testing.T, chunks ...store.Chunk) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.castr")
	if err := os.Mkdir(name, 0o777); err != nil {
		t.Fatal(err)
	}
	s, err := dir.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// server serves a store, and the indexes beside it, over HTTP to those who show the token.
func server(t *testing.T, castr, token string) *httptest.Server {
	t.Helper()
	s, err := dir.Open(castr, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := httpstore.HandlerOptions{Source: s, Writable: true, IndexDir: filepath.Dir(castr)}
	if token != "" {
		o.Tokens = func() []string { return []string{token} }
	}
	h, err := httpstore.NewHandler(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.Close()
		h.Close()
	})
	return srv
}

// checkGet gets c, which is plain, from the source at loc.
func checkGet(t *testing.T, o *Opener, loc string, c store.Chunk) {
	t.Helper()
	s, err := o.Source(t.Context(), loc, storetest.Limit)
	if err != nil {
		t.Errorf("%s: %v", loc, err)
		return
	}
	defer s.Close()
	got, err := s.Get(t.Context(), c.ID)
	if err != nil {
		t.Errorf("%s: %v", loc, err)
		return
	}
	if b, err := got.Open(storetest.Digest, storetest.Limit); err != nil || !bytes.Equal(b, c.Data) {
		t.Errorf("%s: %d bytes, %v", loc, len(b), err)
	}
}

func TestParse(t *testing.T) {
	d := t.TempDir()
	t.Chdir(d)
	if runtime.GOOS != "windows" {
		if err := os.WriteFile("host:file", nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		loc   string
		kind  Kind
		match string // in the configuration, in normal form; "": as loc
	}{
		{"store.castr", Directory, ""},
		{"/srv/store.castr", Directory, ""},
		{"./host:file", Directory, ""},
		{"a/b:c", Directory, ""},
		{"/odd://path", Directory, ""},
		{`C:\store`, Directory, ""},
		{"C:store", Directory, ""},
		{"C:/store", Directory, ""},
		{":x", Directory, ""},
		{"host:", Directory, ""},
		{"-oProxyCommand=x:y", Directory, ""},
		{"two words:x", Directory, ""},
		{"http://example.com/a", Web, ""},
		{"https://example.com/a?b", Web, ""},
		{"s3://bucket/prefix", S3, ""},
		{"s3+http://127.0.0.1:9000/bucket", S3, ""},
		{"s3+https://host/bucket/prefix?lookup=path", S3, ""},
		{"sftp://user@host:2222/srv/store.castr", SFTP, ""},
		{"ssh://user@Host/srv/store.castr/", Casync, "ssh://host/srv/store.castr"},
		{"host:/srv/store.castr", Casync, "ssh://host/srv/store.castr"},
		{"user@host:store.castr", Casync, "ssh://host/~/store.castr"},
		{"host:a b?c#d", Casync, "ssh://host/~/a b?c#d"},
		{"[::1]:/srv", Casync, "ssh://[::1]/srv"},
		{"user@[fe80::1]:x", Casync, "ssh://[fe80::1]/~/x"},
		{"host.example.com:a:b", Casync, "ssh://host.example.com/~/a:b"},
	} {
		p, err := parse(tt.loc)
		if err != nil || p.kind != tt.kind || p.url != tt.loc {
			t.Errorf("%s: got %+v, %v, want %s", tt.loc, p, err, tt.kind)
		}
		if got := config.Normal(p.match()); tt.match != "" && got != tt.match {
			t.Errorf("%s: configured as %s, want %s", tt.loc, got, tt.match)
		}
	}
	if runtime.GOOS != "windows" {
		if p, err := parse("host:file"); err != nil || p.kind != Directory {
			t.Errorf("a file that is there: got %+v, %v", p, err)
		}
	}
	for _, tt := range []struct{ loc, want string }{
		{"", `"": want a path, http://`},
		{"htps://example.com/a", "htps:// is not known: is https:// meant?"},
		{"S3://bucket", "S3:// is not known: is s3:// meant?"},
		{"stfp://h/x", "is not known: is "},
		{"gopher://h/x", "gopher:// is not known: want a path, http:// or https://"},
		{"file:///srv", "file:// is not known here: write the path alone"},
		{"gs://bucket/x", "s3+https://storage.googleapis.com"},
		{"mcast://eth0/x", "a multicast channel cannot be used here"},
		{"https://user:hunter2@example.com/a", "credentials do not belong on a command line"},
		{"https://hunter2@example.com/a?hunter2#hunter2", "credentials do not belong on a command line"},
		{"https://exa mple.com/%zz", "not a valid URL"},
		{"ftp://user:hunter2@host/?hunter2", "FTP is not supported"},
	} {
		_, err := parse(tt.loc)
		if e, ok := errors.AsType[*FormError](err); !ok || !strings.Contains(e.Error(), tt.want) || strings.Contains(e.Error(), "hunter2") {
			t.Errorf("%s: got error %v, want one with %q", tt.loc, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a", "host:x", "[::1]:x", "https://u:p@h/x?y#z", "s3://b", "x|y", "://", "a://b", "]:", "[]:", "u@h:p"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parse(s)
		p.match()
		if err == nil && p.kind != Directory && strings.Contains(p.url, "://") && isScheme(strings.SplitN(p.url, "://", 2)[0]) {
			if u, err := url.Parse(p.url); err != nil || schemes[u.Scheme] != p.kind {
				t.Errorf("%q: URL %q of kind %s: %v", s, p.url, p.kind, err)
			}
		}
		if strings.Contains(s, "://") && isScheme(strings.SplitN(s, "://", 2)[0]) && strings.Contains(redact(s), "?") {
			t.Errorf("%q: redacted %q", s, redact(s))
		}
		DefaultStore(s)
	})
}

func TestSource(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	name := castr(t, c)
	open := server(t, name, "")
	locked := server(t, name, "hunter2")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, log := opener(t, fmt.Sprintf("[store.'%s/*']\ntoken-file = '%s'\nconcurrency = 2\nrate = '1G'\ntimeout = '10s'\nretries = 0\n", locked.URL, token))
	for _, loc := range []string{name, open.URL, locked.URL, "file-that-is-not|" + name, open.URL + "|" + name, name + " | " + open.URL} {
		checkGet(t, o, loc, c)
	}
	if strings.Contains(log.String(), "hunter2") {
		t.Errorf("a secret is logged: %s", log)
	}
	if s, err := new(Opener).Source(t.Context(), locked.URL, 0); err != nil {
		t.Error(err)
	} else if _, err := s.Get(t.Context(), c.ID); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("without a token: %v", err)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	for _, tt := range []struct {
		loc      string
		notFound bool
	}{
		{absent, true}, {absent + "|" + absent + "2", true}, {absent + "|http:///x", false}, {"ftp://x", false}, {name + "|ftp://x", false}, {name + "|", false},
	} {
		_, err := o.Source(t.Context(), tt.loc, 0)
		e, ok := errors.AsType[*NotFoundError](err)
		if err == nil || ok != tt.notFound || ok && (e.What != "store" || e.Loc != tt.loc) {
			t.Errorf("%s: got error %v", tt.loc, err)
		}
	}
}

// TestGroupLater has a member that is not there at first.
func TestGroupLater(t *testing.T) {
	c, d := storetest.Chunk(1, 5000), storetest.Chunk(2, 5000)
	late := filepath.Join(t.TempDir(), "late.castr")
	o, _ := opener(t, "")
	s, err := o.Source(t.Context(), castr(t, c)+"|"+late, storetest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), d.ID); err == nil || store.Missing(err) {
		t.Errorf("a chunk that only the absent member may have: got error %v", err)
	}
	if n, err := s.StoredSize(t.Context(), c.ID); err != nil || n <= 0 {
		t.Errorf("StoredSize = %d, %v", n, err)
	}
}

func TestStoreWrites(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	name := castr(t)
	web := server(t, castr(t), "hunter2")
	o, _ := opener(t, "[store.'http://*']\ntoken-env = 'TOKEN'\nuncompressed = true\n[store.'/*']\nrate = '8G'\nconcurrency = 3\n", "TOKEN", "hunter2")
	created := filepath.Join(t.TempDir(), "new.castr")
	for _, loc := range []string{name, web.URL, created} {
		s, err := o.Store(t.Context(), loc, &StoreOptions{Create: true, MaxChunk: storetest.Limit})
		if err != nil {
			t.Errorf("%s: %v", loc, err)
			continue
		}
		if err := s.Put(t.Context(), c); err != nil {
			t.Errorf("%s: %v", loc, err)
		}
		if err := store.Sync(t.Context(), s); err != nil {
			t.Errorf("%s: %v", loc, err)
		}
		if _, removes := s.(store.Remover); removes != (loc != web.URL) {
			t.Errorf("%s: has the power to remove: %v", loc, removes)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", loc, err)
		}
		checkGet(t, o, loc, c)
	}
	for _, loc := range []string{name + "|" + created, "gopher://x"} {
		_, err := o.Store(t.Context(), loc, nil)
		if _, ok := errors.AsType[*FormError](err); !ok {
			t.Errorf("%s: got error %v", loc, err)
		}
	}
	_, err := o.Store(t.Context(), filepath.Join(name, "absent"), nil)
	if _, ok := errors.AsType[*NotFoundError](err); !ok {
		t.Errorf("absent: got error %v", err)
	}
}

func TestSecretsMissing(t *testing.T) {
	o, _ := opener(t, "[store.'https://a/*']\ntoken-file = 'absent'\n[store.'s3://b/*']\naccess-key-env = 'A'\nsecret-key-env = 'B'\n[store.'https://c/*']\nca-file = 'absent'\n[store.'s3+http://127.0.0.1:1/*']\ncredentials-file = 'absent'\n[store.'https://d/*']\nheader-file = 'h'\n")
	for _, tt := range []struct{ loc, want string }{
		{"https://a/x", "https://a/x: secret: open "},
		{"s3://b/x", "s3://b/x: secret: environment variable A: it is empty"},
		{"https://c/x", "https://c/x: open "},
		{"https://d/x", "https://d/x: secret: "},
		{"s3+http://127.0.0.1:1/bucket/x", "credentials of "},
	} {
		_, serr := o.Source(t.Context(), tt.loc, 0)
		_, ierr := o.Index(t.Context(), tt.loc, nil)
		for _, err := range []error{serr, ierr} {
			_, notFound := errors.AsType[*NotFoundError](err)
			if err == nil || !strings.Contains(err.Error(), tt.want) || notFound {
				t.Errorf("%s: got error %v, want %q", tt.loc, err, tt.want)
			}
		}
	}
}

// TestWebSettings looks at what comes to a server.
func TestWebSettings(t *testing.T) {
	d := t.TempDir()
	for name, text := range map[string]string{"headers": "X-A: 1\n\nX-B:two words\n", "cookie": "c=d\n", "netrc": "machine 127.0.0.1 login u password p\n"} {
		if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got atomic.Pointer[http.Request]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r)
		http.NotFound(w, r)
	}))
	defer srv.Close()
	for _, tt := range []struct {
		text string
		env  []string
		want string // headers
	}{
		{"token-env = 'T'", []string{"T", "t"}, "Authorization: Bearer t"},
		{"user = 'u'\npassword-env = 'T'", []string{"T", "p"}, "Authorization: Basic dTpw"},
		{"netrc = '" + filepath.Join(d, "netrc") + "'", nil, "Authorization: Basic dTpw"},
		{"retries = 1", []string{"NETRC", filepath.Join(d, "netrc")}, "Authorization: Basic dTpw"},
		{"header-file = '" + filepath.Join(d, "headers") + "'", nil, "X-A: 1; X-B: two words"},
		{"cookie-file = '" + filepath.Join(d, "cookie") + "'", nil, "Cookie: c=d"},
		{"header = {X-Team = 'os'}\nproxy = 'none'", nil, "X-Team: os"},
	} {
		o, _ := opener(t, "[store.'*']\n"+tt.text, tt.env...)
		_, err := o.Index(t.Context(), srv.URL+"/x.caibx", nil)
		if _, ok := errors.AsType[*NotFoundError](err); !ok {
			t.Errorf("%s: got error %v", tt.text, err)
			continue
		}
		for want := range strings.SplitSeq(tt.want, "; ") {
			name, value, _ := strings.Cut(want, ": ")
			if h := got.Load().Header.Get(name); h != value {
				t.Errorf("%s: got %s %q, want %q", tt.text, name, h, value)
			}
		}
	}
}

func TestOpenerIndex(t *testing.T) {
	want, b := example(t)
	name := castr(t)
	if err := os.WriteFile(filepath.Join(filepath.Dir(name), "v1.caibx"), b, 0o666); err != nil {
		t.Fatal(err)
	}
	web := server(t, name, "")
	o := new(Opener)
	for _, loc := range []string{filepath.Join(filepath.Dir(name), "v1.caibx"), web.URL + "/v1.caibx", "-"} {
		x, err := o.Index(t.Context(), loc, bytes.NewReader(b))
		if err != nil || x.Root() != want.Root() {
			t.Errorf("%s: %v", loc, err)
		}
	}
	for _, loc := range []string{filepath.Join(filepath.Dir(name), "v2.caibx"), web.URL + "/v2.caibx"} {
		_, err := o.Index(t.Context(), loc, nil)
		if e, ok := errors.AsType[*NotFoundError](err); !ok || e.What != "index" || e.Loc != loc {
			t.Errorf("%s: got error %v", loc, err)
		}
	}
	for _, loc := range []string{"ftp://x/y", name, ""} {
		_, err := o.Index(t.Context(), loc, nil)
		if _, ok := errors.AsType[*NotFoundError](err); ok || err == nil {
			t.Errorf("%s: got error %v", loc, err)
		}
	}
}

func TestCreateIndex(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	_, b := example(t)
	name := castr(t)
	beside := filepath.Dir(name)
	web := server(t, name, "")
	o := new(Opener)
	for _, loc := range []string{filepath.Join(beside, "a.caibx"), web.URL + "/b.caibx"} {
		file := filepath.Join(beside, loc[strings.LastIndexAny(loc, `/\`)+1:])
		for _, round := range []string{"new", "over an index", "aborted"} {
			x, err := o.CreateIndex(t.Context(), loc, nil)
			if err != nil {
				t.Errorf("%s, %s: %v", loc, round, err)
				continue
			}
			if n, err := x.Write(b[:10]); n != 10 || err != nil {
				t.Errorf("%s, %s: Write: %d, %v", loc, round, n, err)
			}
			if round == "aborted" {
				x.Abort()
				x.Abort()
				if err := x.Commit(true); err == nil {
					t.Errorf("%s: Commit after Abort has no error", loc)
				}
				if _, err := x.Write(b); err == nil {
					t.Errorf("%s: Write after Abort has no error", loc)
				}
				continue
			}
			io.Copy(x, bytes.NewReader(b[10:]))
			got, err := io.ReadAll(io.NewSectionReader(x, 0, 1<<20))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s, %s: reading back: %d bytes, %v", loc, round, len(got), err)
			}
			if err := x.Commit(round == "new"); err != nil {
				t.Errorf("%s, %s: Commit: %v", loc, round, err)
			}
			x.Abort()
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, %v", loc, len(got), err)
		}
		if err := os.WriteFile(file, []byte("something else, and long enough not to be an index by any means"), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := o.CreateIndex(t.Context(), loc, nil)
		if e, ok := errors.AsType[*NotIndexError](err); !ok || e.Loc != loc {
			t.Errorf("%s: over something else: %v", loc, err)
		}
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	var out bytes.Buffer
	x, err := o.CreateIndex(t.Context(), "-", &out)
	if err != nil {
		t.Fatal(err)
	}
	x.Write(b)
	if _, err := x.ReadAt(make([]byte, 1), 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ReadAt of stdout: %v", err)
	}
	if err := x.Commit(true); err != nil || !bytes.Equal(out.Bytes(), b) {
		t.Errorf("stdout: %d bytes, %v", out.Len(), err)
	}
	for _, loc := range []string{filepath.Join(beside, "absent", "a.caibx"), "ftp://x"} {
		if _, err := o.CreateIndex(t.Context(), loc, nil); err == nil {
			t.Errorf("%s: no error", loc)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if x, err = o.CreateIndex(ctx, web.URL+"/c.caibx", nil); err != nil {
		t.Fatal(err)
	}
	x.Write(b)
	stop := errors.New("stop")
	cancel(stop)
	if err := x.Commit(true); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := os.Stat(filepath.Join(beside, "c.caibx")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestListIndexes(t *testing.T) {
	d := t.TempDir()
	for _, name := range []string{"b.caibx", "a.caidx", "c.catar", ".d.caibx", "e"} {
		if err := os.WriteFile(filepath.Join(d, name), []byte("1234"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(d, "f.caibx"), 0o777); err != nil {
		t.Fatal(err)
	}
	o := new(Opener)
	var got []string
	err := o.ListIndexes(t.Context(), d, func(i IndexInfo) error {
		if i.Size != 4 || i.Modified.IsZero() {
			t.Errorf("%+v", i)
		}
		got = append(got, filepath.Base(i.Loc))
		return nil
	})
	if want := []string{"a.caidx", "b.caibx"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if err := os.Symlink("away", filepath.Join(d, "g.caibx")); err == nil {
		err := o.ListIndexes(t.Context(), d, func(IndexInfo) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "g.caibx") {
			t.Errorf("a link to nothing: %v", err)
		}
		os.Remove(filepath.Join(d, "g.caibx"))
	}
	stop := fmt.Errorf("stop: %w", fs.ErrNotExist)
	if err := o.ListIndexes(t.Context(), d, func(IndexInfo) error { return stop }); err != stop {
		t.Errorf("stopped: %v", err)
	}
	if err := o.ListIndexes(t.Context(), "https://example.com/", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a web server: %v", err)
	}
	err = o.ListIndexes(t.Context(), filepath.Join(d, "absent"), nil)
	if e, ok := errors.AsType[*NotFoundError](err); !ok || e.What != "directory" {
		t.Errorf("absent: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	name := castr(t)
	web := server(t, name, "hunter2")
	o, _ := opener(t, "[store.'http://*']\ntoken-env = 'TOKEN'\nretries = 0\n[store.'*']\nrate='1G'\n[store.'s3://x/*']\naccess-key-env='A'\nsecret-key-env='B'\n", "TOKEN", "hunter2", "A", "hunter2", "B", "hunter2")
	for _, tt := range []struct {
		loc         string
		kind        Kind
		reachable   bool
		credentials string
		matches     int
		members     int
	}{
		{name, Directory, true, "", 1, 0},
		{web.URL, Web, true, "token from environment variable TOKEN", 2, 0},
		{"http://127.0.0.1:1/x?hunter2", Web, false, "token from environment variable TOKEN", 2, 0},
		{filepath.Join(name, "absent"), Directory, false, "", 1, 0},
		{name + "|" + web.URL, Group, true, "", 0, 2},
	} {
		d, err := o.Describe(t.Context(), tt.loc)
		if err != nil {
			t.Errorf("%s: %v", tt.loc, err)
			continue
		}
		if d.Kind != tt.kind || d.Reachable != tt.reachable || (d.Err == nil) != tt.reachable || strings.Join(d.Credentials, ", ") != tt.credentials || len(d.Config) != tt.matches || len(d.Members) != tt.members {
			t.Errorf("%s: got %+v", tt.loc, d)
		}
		if s := fmt.Sprintf("%+v %v", d, d.Err); strings.Contains(s, "hunter2") {
			t.Errorf("a secret is in %s", s)
		}
	}
	if d, _ := o.Describe(t.Context(), name); runtime.GOOS != "windows" && d.Writable != Yes {
		t.Errorf("writable: %s", d.Writable)
	}
	if _, err := o.Describe(t.Context(), "gopher://x"); err == nil {
		t.Error("gopher: no error")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := o.Describe(ctx, web.URL); err != stop {
		t.Errorf("cancelled: %v", err)
	}
}
