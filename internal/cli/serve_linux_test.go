package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/httpstore"
)

// server is a castor serve.
type server struct {
	*process
	t   *testing.T
	out *output
	url string // without a slash at the end; "" if it serves no TCP
}

var servingAt = regexp.MustCompile(`serving at (\S+)`)

// serveWith starts c, which is a castor serve, and waits until it serves.
func serveWith(t *testing.T, c *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, out: &output{}}
	c.Stderr = s.out
	s.process = start(t, c)
	waitFor(t, "the server to begin", func() bool {
		select {
		case <-s.done:
			t.Fatalf("%q ended: %s", c.Args, s.out)
		default:
		}
		m := servingAt.FindStringSubmatch(s.out.String())
		if m != nil && strings.HasPrefix(m[1], "http") {
			s.url = strings.TrimSuffix(m[1], "/")
		}
		return m != nil
	})
	return s
}

// serve starts castor serve in dir on a free port.
func serve(t *testing.T, dir string, args ...string) *server {
	t.Helper()
	return serveWith(t, command(dir, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...))
}

// ends ends the server by a signal, and sees that it ends well.
func (s *server) ends() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.process.end(); code != 0 {
		s.t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, s.out)
	}
}

// addr is the address of the server.
func (s *server) addr() string {
	_, addr, _ := strings.Cut(s.url, "://")
	return addr
}

// fetch makes a request without a body. Headers come in pairs.
func fetch(t *testing.T, c *http.Client, method, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// site makes a directory with two versions, their indexes and default.castr, and
// another index in the directory sub.
func site(t *testing.T, n int) (dir string, v1, v2 []byte) {
	t.Helper()
	dir, v1, v2 = versions(t, n)
	if err := os.Rename(filepath.Join(dir, "store.castr"), filepath.Join(dir, "default.castr")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, read(t, dir, "v2.caibx"), dir, "sub", "v2.caibx")
	return dir, v1, v2
}

// chunkNames returns the paths of the chunks of a store, relative to it.
func chunkNames(t *testing.T, store string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(store, "????", "*.cacnk"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d chunks, %v", store, len(names), err)
	}
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], store+"/")
	}
	return names
}

func TestServe(t *testing.T) {
	source, v1, v2 := site(t, 3<<20)
	s := serve(t, source, "--index-dir", ".", "--listen", "unix:"+filepath.Join(source, "socket"))
	dir := t.TempDir()
	if want := "castor extract " + s.url + "/v1.caibx v1\n"; !strings.Contains(s.out.String(), want) {
		t.Errorf("said %q, want %q in it", s.out, want)
	}
	ok(t, dir, "extract", s.url+"/v1.caibx", "a")
	same(t, v1, dir, "a")
	ok(t, dir, "extract", s.url+"/sub/v2.caibx", "b")
	same(t, v2, dir, "b")
	ok(t, dir, "extract", "-s", s.url, filepath.Join(source, "v2.caibx"), "c")
	same(t, v2, dir, "c")

	name := chunkNames(t, filepath.Join(source, "default.castr"))[0]
	file := read(t, source, "default.castr", name)
	resp, b := fetch(t, http.DefaultClient, "GET", s.url+"/"+name)
	if !bytes.Equal(b, file) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("GET: %d bytes, want %d; %v", len(b), len(file), resp.Header)
	}
	etag := resp.Header.Get("ETag")
	for _, tt := range []struct {
		method, path string
		header       []string
		code, length int
	}{
		{"HEAD", name, nil, 200, 0},
		{"GET", name, []string{"If-None-Match", etag}, 304, 0},
		{"GET", name, []string{"Range", "bytes=3-9"}, 206, 7},
		{"HEAD", strings.TrimSuffix(name, ".cacnk"), nil, 200, 0},
		{"GET", "default.castr/" + name, nil, 200, len(file)},
		{"GET", "any/where/default.castr/" + name, nil, 200, len(file)},
		{"GET", "xdefault.castr/" + name, nil, 404, 10},
		{"GET", "v1.img", nil, 404, 10},
		{"PUT", name, nil, 405, len("the server takes no uploads\n")},
		{"GET", "healthz", nil, 200, 3},
	} {
		resp, b := fetch(t, http.DefaultClient, tt.method, s.url+"/"+tt.path, tt.header...)
		if resp.StatusCode != tt.code || len(b) != tt.length {
			t.Errorf("%s %s %q: %d with %d bytes, want %d with %d", tt.method, tt.path, tt.header, resp.StatusCode, len(b), tt.code, tt.length)
		}
	}
	// The other form is made.
	_, plain := fetch(t, http.DefaultClient, "GET", s.url+"/"+strings.TrimSuffix(name, ".cacnk"))
	if id, err := chunker.ParseID(strings.TrimSuffix(filepath.Base(name), ".cacnk")); err != nil || chunker.SHA512256.Sum(plain) != id {
		t.Errorf("plain: %d bytes are not %v, %v", len(plain), id, err)
	}
	if _, b = fetch(t, http.DefaultClient, "GET", s.url+"/metrics"); !strings.Contains(string(b), "\ncastor_serve_chunks_converted_total 1\n") ||
		!strings.Contains(string(b), "\ncastor_serve_connections ") {
		t.Errorf("metrics: %s", b)
	}
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(source, "socket"))
	}}}
	if _, b := fetch(t, unix, "GET", "http://x/"+name); !bytes.Equal(b, file) {
		t.Errorf("by the unix socket: %d bytes, want %d", len(b), len(file))
	}
	s.ends()
	// A socket that a dead server left behind is no hindrance, that of a live one is.
	s = serveWith(t, command(source, "serve", "--listen", "unix:socket"))
	s.Process.Kill()
	<-s.done
	s = serveWith(t, command(source, "serve", "--listen", "unix:socket"))
	if o := castor(t, source, "serve", "--listen", "unix:socket"); o.code != exitFailure || !strings.Contains(o.stderr, "somebody listens") {
		t.Errorf("two servers on a socket: exit code %d, %s", o.code, o.stderr)
	}
	s.ends()
}

// TestServeCasync has casync extract from castor serve, by the index's URL alone.
func TestServeCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	if _, err := os.Stat("/usr/lib/casync/protocols/casync-http"); err != nil {
		testneed.Missing(t, "needs casync's http helper: %v", err)
	}
	source, v1, v2 := site(t, 3<<20)
	s := serve(t, source, "--index-dir", ".")
	dir := t.TempDir()
	for out, args := range map[string][]string{
		"a": {"extract", s.url + "/v1.caibx"},
		"b": {"extract", "--store=" + s.url + "/", s.url + "/sub/v2.caibx"},
	} {
		c := exec.Command(casync, append(args, filepath.Join(dir, out))...)
		if b, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", c.Args, err, b)
		}
	}
	same(t, v1, dir, "a")
	same(t, v2, dir, "b")
	s.ends()
}

// nginx starts nginx with dir as its root, and returns its URL.
func nginx(t *testing.T, dir string) string {
	t.Helper()
	program := testneed.Tool(t, "nginx")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	work := t.TempDir()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, work, kind)
	}
	write(t, fmt.Appendf(nil, "%s daemon off; master_process off; pid %s/pid; error_log stderr; events {}\nhttp { access_log off; %s root %s; server { listen %s; } }\n",
		user, work, temp, dir, addr), work, "conf")
	start(t, exec.Command(program, "-c", filepath.Join(work, "conf"), "-e", "stderr"))
	waitFor(t, "nginx", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return "http://" + addr
}

// TestServeProxy has castor serve in front of nginx, which serves a store of casync's,
// with a cache; and castor in front of nginx alone.
func TestServeProxy(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	source := t.TempDir()
	content := image(5, 3<<20)
	write(t, content, source, "v.img")
	c := exec.Command(casync, "make", "--store=default.castr", "v.caibx", "v.img")
	c.Dir = source
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if err := os.Chmod(source, 0o755); err != nil {
		t.Fatal(err)
	}
	url := nginx(t, source)
	dir := t.TempDir()
	ok(t, dir, "extract", url+"/v.caibx", "a")
	same(t, content, dir, "a")
	s := serve(t, dir, "-s", url+"/default.castr", "-c", "cache.castr", "--index-dir", source)
	ok(t, dir, "extract", s.url+"/v.caibx", "b")
	same(t, content, dir, "b")
	if got, want := len(chunkNames(t, filepath.Join(dir, "cache.castr"))), len(chunkNames(t, filepath.Join(source, "default.castr"))); got > want || got < want*9/10 { // zeros are not fetched
		t.Errorf("the cache has %d chunks, the store %d", got, want)
	}
	// What is damaged in the cache is got again.
	name := chunkNames(t, filepath.Join(dir, "cache.castr"))[0]
	os.Remove(filepath.Join(dir, "cache.castr", name))
	write(t, []byte("no chunk"), dir, "cache.castr", name)
	if resp, b := fetch(t, http.DefaultClient, "GET", s.url+"/"+name); resp.StatusCode != 200 || !bytes.Equal(b, read(t, dir, "cache.castr", name)) {
		t.Errorf("damaged in the cache: %d with %d bytes", resp.StatusCode, len(b))
	}
	s.ends()
}

// TestServeOneFetch asks for a chunk many times at once: the store behind is asked once.
func TestServeOneFetch(t *testing.T) {
	source, _, _ := site(t, 1<<20)
	name := chunkNames(t, filepath.Join(source, "default.castr"))[0]
	var asked atomic.Int64
	files := http.FileServer(http.Dir(filepath.Join(source, "default.castr")))
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		time.Sleep(300 * time.Millisecond)
		files.ServeHTTP(w, r)
	}))
	defer far.Close()
	s := serve(t, t.TempDir(), "-s", far.URL)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if resp, err := http.Get(s.url + "/" + name); err != nil || resp.StatusCode != 200 {
				t.Errorf("%v, %v", resp, err)
			} else {
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("the store was asked %d times", n)
	}
	s.ends()
}

// TestServeFlips extracts through a proxy that flips a bit in some answers: alone it is
// an error that says what is wrong, and with another store the result is right.
func TestServeFlips(t *testing.T) {
	source, v1, _ := site(t, 2<<20)
	s := serve(t, source, "--index-dir", ".")
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	var n atomic.Int64
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		if !strings.HasSuffix(r.Request.URL.Path, ".cacnk") || n.Add(1)%5 != 0 {
			return nil
		}
		b, err := io.ReadAll(r.Body)
		if len(b) > 0 {
			b[len(b)/2] ^= 8
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		return err
	}
	bad := httptest.NewServer(proxy)
	defer bad.Close()
	dir := t.TempDir()
	if o := castor(t, dir, "extract", bad.URL+"/v1.caibx", "a"); o.code != exitMissing || !strings.Contains(o.stderr, "damaged") {
		t.Errorf("exit code %d, %s", o.code, o.stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("there is a file")
	}
	ok(t, dir, "extract", "-s", bad.URL, "-s", s.url, bad.URL+"/v1.caibx", "a")
	same(t, v1, dir, "a")
	// A server between them verifies, as it has two stores.
	between := serve(t, dir, "-s", bad.URL, "-s", filepath.Join(source, "default.castr"), "--index-dir", source)
	ok(t, dir, "extract", between.url+"/v1.caibx", "b")
	same(t, v1, dir, "b")
	between.ends()
	s.ends()
}

func TestServeWritable(t *testing.T) {
	source, v1, _ := site(t, 1<<20)
	dir := t.TempDir()
	write(t, []byte("first\n\nsecond\n"), dir, "tokens")
	s := serve(t, dir, "-s", "new.castr", "-s", filepath.Join(source, "default.castr"), "--index-dir", ".", "--writable", "--auth-token-file", "tokens", "--public-read")
	dst, err := httpstore.Open(s.url+"/default.castr", &httpstore.Options{Token: "second"})
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	content := bytes.Repeat([]byte("castor"), 1000)
	c := store.Chunk{ID: chunker.BLAKE3.Sum(content), Data: content}
	for i := range 2 {
		if added, err := store.Add(t.Context(), dst, c); err != nil || added.New != (i == 0) {
			t.Errorf("upload %d: %+v, %v", i, added, err)
		}
	}
	if n := len(chunkNames(t, filepath.Join(dir, "new.castr"))); n != 1 {
		t.Errorf("%d chunks in the store", n)
	}
	if err := dst.Put(t.Context(), store.Chunk{ID: c.ID, Data: content[1:]}); err == nil {
		t.Error("a chunk under another's name was taken")
	}
	x := read(t, source, "v1.caibx")
	if err := httpstore.PutIndex(t.Context(), s.url+"/v1.caibx", bytes.NewReader(x), int64(len(x)), &httpstore.Options{Token: "first"}); err != nil {
		t.Fatal(err)
	}
	if err := httpstore.PutIndex(t.Context(), s.url+"/v2.caibx", bytes.NewReader(x), int64(len(x)), nil); err == nil {
		t.Error("an index without a token was taken")
	}
	ok(t, dir, "extract", s.url+"/v1.caibx", "a")
	same(t, v1, dir, "a")

	// SIGHUP: tokens that are not right change nothing, others take effect.
	put := func(token string) int {
		resp, _ := fetch(t, http.DefaultClient, "PUT", s.url+"/x.caibx", "Authorization", "Bearer "+token)
		return resp.StatusCode
	}
	write(t, nil, dir, "tokens")
	s.signal(syscall.SIGHUP)
	waitFor(t, "the reload", func() bool { return strings.Contains(s.out.String(), "no token") })
	if code := put("first"); code != 400 {
		t.Errorf("the old token: %d", code)
	}
	write(t, []byte("third"), dir, "tokens")
	s.signal(syscall.SIGHUP)
	waitFor(t, "the reload", func() bool { return strings.Contains(s.out.String(), "read again\n") || put("third") == 400 })
	if old, now := put("first"), put("third"); old != 401 || now != 400 {
		t.Errorf("after the reload: %d with the old token, %d with the new", old, now)
	}
	if strings.Contains(s.out.String(), "first") || strings.Contains(s.out.String(), "third") {
		t.Errorf("a token in the log: %s", s.out)
	}
	s.ends()
}

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority, whose certificate is the file name.ca in dir.
func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.sign(name, name+".ca")
	return a
}

// sign makes a certificate, for 127.0.0.1, in the file certFile in PEM, and its key in
// certFile.key. The first one is that of the authority.
func (a *authority) sign(name, certFile string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
		template.IsCA, template.BasicConstraintsValid = true, true
	}
	der, err := x509.CreateCertificate(crand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.dir, certFile)
	write(a.t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), a.dir, certFile+".key")
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func TestServeTLS(t *testing.T) {
	source, v1, _ := site(t, 1<<20)
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ours")
	other := newAuthority(t, dir, "other")
	ca.sign("one", "server")
	ca.sign("me", "client")
	other.sign("them", "stranger")
	s := serve(t, dir, "--index-dir", source, "--tls-cert", "server", "--tls-key", "server.key")
	if !strings.HasPrefix(s.url, "https://") {
		t.Fatalf("serves %s", s.url)
	}
	c := command(dir, "extract", s.url+"/v1.caibx", "a")
	c.Env = append(c.Env, "SSL_CERT_FILE="+filepath.Join(dir, "ours.ca"))
	if o := finish(t, c); o.code != 0 {
		t.Fatalf("extract over https: %s", o.stderr)
	}
	same(t, v1, dir, "a")
	if o := castor(t, dir, "extract", s.url+"/v1.caibx", "b"); o.code == 0 || !strings.Contains(o.stderr, "certificate") {
		t.Errorf("of an unknown authority: exit code %d, %s", o.code, o.stderr)
	}
	name := func() string {
		c, err := tls.Dial("tcp", s.addr(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	// SIGHUP: a certificate that does not fit changes nothing, another one takes effect.
	key := read(t, dir, "server.key")
	write(t, nil, dir, "server.key")
	s.signal(syscall.SIGHUP)
	waitFor(t, "the reload", func() bool { return strings.Contains(s.out.String(), "--tls-cert") })
	if got := name(); got != "one" {
		t.Errorf("after a reload that failed: certificate of %s", got)
	}
	write(t, key, dir, "server.key")
	ca.sign("two", "server")
	s.signal(syscall.SIGHUP)
	waitFor(t, "the new certificate", func() bool { return name() == "two" })
	s.ends()

	s = serve(t, dir, "--index-dir", source, "--tls-cert", "server", "--tls-key", "server.key", "--client-ca", "ours.ca")
	for cert, want := range map[string]bool{"client": true, "stranger": false, "": false} {
		key := ""
		if cert != "" {
			cert = filepath.Join(dir, cert)
			key = cert + ".key"
		}
		config, err := httpstore.TLSConfig(filepath.Join(dir, "ours.ca"), cert, key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := httpstore.GetIndex(t.Context(), s.url+"/v1.caibx", &httpstore.Options{TLS: config, Retries: -1})
		if err == nil {
			b, _ := io.ReadAll(r)
			r.Close()
			if !bytes.Equal(b, read(t, source, "v1.caibx")) {
				t.Errorf("%d bytes", len(b))
			}
		}
		if (err == nil) != want {
			t.Errorf("with certificate %q: %v", cert, err)
		}
	}
	s.ends()
}

// TestServeDrain ends a server while an answer is on its way, which ends right.
func TestServeDrain(t *testing.T) {
	source, _, _ := site(t, 1<<20)
	var largest string
	for _, name := range chunkNames(t, filepath.Join(source, "default.castr")) {
		if largest == "" || len(read(t, source, "default.castr", name)) > len(read(t, source, "default.castr", largest)) {
			largest = name
		}
	}
	want := read(t, source, "default.castr", largest)
	// So many bits a second that it takes some time, of which the first 64 KiB take none.
	s := serve(t, source, "--rate", strconv.Itoa(8*len(want)))
	got := make(chan []byte)
	begin := time.Now()
	resp, err := http.Get(s.url + "/" + largest)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	s.signal(syscall.SIGTERM)
	waitFor(t, "the server to take no more", func() bool {
		c, err := net.Dial("tcp", s.addr())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d bytes, want %d", len(b), len(want))
	}
	t.Logf("%d bytes after %v", len(want), time.Since(begin))
	if code := s.process.end(); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.out)
	}
}

// TestServeRestart kills the server while a client extracts, and starts it again.
func TestServeRestart(t *testing.T) {
	source, v1, _ := site(t, 8<<20)
	s := serve(t, source, "--index-dir", ".", "--rate", "20M")
	dir := t.TempDir()
	p := start(t, command(dir, "extract", s.url+"/v1.caibx", "a"))
	for range 2 {
		var before int64
		waitFor(t, "some bytes", func() bool {
			n, alive := s.moved()
			if before == 0 {
				before = n
			}
			return !alive || n > before+200_000
		})
		s.Process.Kill()
		<-s.done
		time.Sleep(100 * time.Millisecond)
		select {
		case <-p.done:
			t.Fatalf("the extract ended too early: %s", &p.stderr)
		default:
		}
		s = serveWith(t, command(source, "serve", "--listen", s.addr(), "--index-dir", ".", "--rate", "50M"))
	}
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &p.stderr)
	}
	same(t, v1, dir, "a")
	s.ends()
}

// TestServeCrowd has a thousand clients at once, and some that never end the head of
// their request: memory and descriptors keep their bounds, and all are served.
func TestServeCrowd(t *testing.T) {
	source, _, _ := site(t, 4<<20)
	names := chunkNames(t, filepath.Join(source, "default.castr"))
	for name, args := range map[string][]string{"roomy": nil, "crowded": {"--max-connections", "100"}} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, source, args...)
			bound := 2*1024 + 64
			if args != nil {
				bound = 2*100 + 64
			}
			var slow []net.Conn
			for range 20 {
				c, err := net.Dial("tcp", s.addr())
				if err != nil {
					t.Fatal(err)
				}
				slow = append(slow, c)
				io.WriteString(c, "GET / HTTP/1.1\r\nHost")
			}
			var wg sync.WaitGroup
			var worst atomic.Int64
			all := make(chan struct{})
			for i := range 1000 {
				wg.Go(func() {
					transport := &http.Transport{}
					defer transport.CloseIdleConnections()
					c := &http.Client{Transport: transport, Timeout: 30 * time.Second}
					for k := range 3 {
						name := names[(i+k)%len(names)]
						if k == 2 && i%10 == 0 {
							name = strings.TrimSuffix(name, ".cacnk") // to be converted
						}
						resp, err := c.Get(s.url + "/" + name)
						if err != nil {
							if args == nil || k == 0 { // one that waits may be closed when it is crowded
								t.Error(err)
							}
							continue
						}
						if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
							t.Errorf("%d, %v", resp.StatusCode, err)
						}
						resp.Body.Close()
					}
				})
			}
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				for {
					files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Process.Pid))
					if err != nil {
						t.Error(err)
						return
					}
					worst.Store(max(worst.Load(), int64(len(files))))
					select {
					case <-all:
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
			}()
			wg.Wait()
			close(all)
			<-watched
			for _, c := range slow {
				c.Close()
			}
			if n := worst.Load(); n > int64(bound) {
				t.Errorf("%d descriptors, want at most %d", n, bound)
			}
			rss := peakMemory(t, s.Process.Pid)
			t.Logf("%d descriptors, %d MiB", worst.Load(), rss>>20)
			if limit := int64(200 << 20); rss > limit && !raceDetector {
				t.Errorf("%d MiB of memory, want at most %d", rss>>20, limit>>20)
			}
			s.ends()
		})
	}
}

// peakMemory returns the greatest number of bytes of memory that a process has had.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(string(read(t, fmt.Sprintf("/proc/%d/status", pid)))) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// TestServeSystemd has castor serve sockets that it is given, and tell what goes on.
func TestServeSystemd(t *testing.T) {
	source, _, _ := site(t, 1<<20)
	var files []*os.File
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, addrs = append(files, f), append(addrs, l.Addr().String())
	}
	// A path for a socket must be short.
	dir, err := os.MkdirTemp("", "castor")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, "n")})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	heard := func(want string) {
		t.Helper()
		for b := make([]byte, 200); ; {
			n, err := notify.Read(b)
			if err != nil {
				t.Fatalf("%s is not heard: %v", want, err)
			}
			if strings.HasPrefix(string(b[:n]), want) {
				return
			}
			if want != "WATCHDOG=1" && string(b[:n]) != "WATCHDOG=1" {
				t.Fatalf("heard %q, want %q", b[:n], want)
			}
		}
	}
	c := command(source, "serve", "--index-dir", ".")
	c.Args = slices.Concat([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, c.Args)
	if c.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	c.ExtraFiles = files
	c.Env = append(c.Env, "LISTEN_FDS=2", "NOTIFY_SOCKET="+filepath.Join(dir, "n"), "WATCHDOG_USEC=100000")
	s := serveWith(t, c)
	heard("READY=1")
	for _, addr := range addrs {
		if resp, _ := fetch(t, http.DefaultClient, "GET", "http://"+addr+"/v1.caibx"); resp.StatusCode != 200 {
			t.Errorf("%s: %d", addr, resp.StatusCode)
		}
	}
	heard("WATCHDOG=1")
	s.signal(syscall.SIGHUP)
	heard("RELOADING=1\nMONOTONIC_USEC=")
	heard("READY=1")
	s.signal(syscall.SIGTERM)
	heard("STOPPING=1")
	if code := s.process.end(); code != 0 {
		t.Errorf("exit code %d\n%s", code, s.out)
	}
}

// TestServeSocketActivate has systemd's own program start castor serve.
func TestServeSocketActivate(t *testing.T) {
	program := testneed.Tool(t, "systemd-socket-activate")
	source, _, _ := site(t, 1<<20)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := command(source, "serve")
	c.Args = slices.Concat([]string{program, "-l", addr, c.Path}, c.Args[1:])
	c.Path = program
	p := start(t, c)
	waitFor(t, "systemd-socket-activate", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		defer c.Close()
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.Contains(line, "200")
	})
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, &p.stderr)
	}
}
