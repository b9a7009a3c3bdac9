package httpstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/storetest"
)

// gated starts a server for h with room for max connections, and returns its address.
func gated(t *testing.T, h http.Handler, network string, max int) (*httpstore.Gate, net.Addr) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		at = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	g := httpstore.NewGate(max)
	srv := httpstore.Server(h, &httpstore.ServerOptions{Gate: g})
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(g.Listener(l)) }()
	t.Cleanup(func() {
		srv.Close()
		<-done
		wait(t, "all connections leave", func() bool { return g.Open() == 0 })
	})
	return g, l.Addr()
}

// TestGate has more clients than connections: one that waits makes room, and one that
// is being answered does not.
func TestGate(t *testing.T) {
	release := make(chan struct{})
	var most, now atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		if r.URL.Path == "/wait" {
			<-release
		}
		io.WriteString(w, "x")
	})
	g, addr := gated(t, h, "tcp", 2)
	dial := func(path string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		return c
	}
	answered := func(c net.Conn) {
		t.Helper()
		b := make([]byte, 1000)
		if n, err := c.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 200") {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	first := dial("/")
	answered(first)
	busy := dial("/wait")
	wait(t, "a request waits", func() bool { return now.Load() == 1 })
	answered(dial("/")) // in the place of the first
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the first connection: %v", err)
	}
	var wg sync.WaitGroup
	for range 30 {
		c := dial("/")
		wg.Go(func() { answered(c) })
	}
	wg.Wait()
	more := dial("/wait")
	wait(t, "two requests wait", func() bool { return now.Load() == 2 })
	last := dial("/")
	last.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := last.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is served")
	}
	last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if g.Open() != 2 || most.Load() != 2 {
		t.Errorf("%d connections, %d requests at once", g.Open(), most.Load())
	}
	close(release)
	answered(busy)
	answered(more)
	answered(last)
}

// TestGateClose closes a server while a connection waits for the gate.
func TestGateClose(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{}, 1)
	_, addr := gated(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { started <- struct{}{}; <-release }), "tcp", 1)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-started
	waiting, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	t.Cleanup(func() { close(release) })
}

// TestFiles has chunks of all sizes and forms in files go to clients over TCP and a unix
// socket, many after another on a connection.
func TestFiles(t *testing.T) {
	for _, plain := range []bool{false, true} {
		d, err := dir.Open(t.TempDir(), &dir.Options{Plain: plain})
		if err != nil {
			t.Fatal(err)
		}
		var chunks []store.Chunk
		for i, n := range []int{1, 100, 511, 512, 513, 4000, 4096, 5000, 8192, 64 << 10, 64<<10 + 1, 200_000, storetest.Limit} {
			c := storetest.Chunk(uint64(i), n)
			if err := d.Put(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			chunks = append(chunks, c)
		}
		h := handler(t, httpstore.HandlerOptions{Source: d})
		for _, network := range []string{"tcp", "unix"} {
			_, addr := gated(t, h, network, 8)
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr.String())
			}}}
			for _, c := range chunks {
				for _, suffix := range []string{"", ".cacnk"} {
					asHeld := plain == (suffix == "")
					for _, method := range []string{"GET", "HEAD"} {
						r, err := http.NewRequest(method, "http://x"+path(c)+suffix, nil)
						if err != nil {
							t.Fatal(err)
						}
						resp, err := client.Do(r)
						if err != nil {
							t.Fatal(err)
						}
						b, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || resp.StatusCode != 200 {
							t.Errorf("%s of %d bytes: %d, %v", method, len(c.Data), resp.StatusCode, err)
						}
						size, err := d.StoredSize(t.Context(), c.ID)
						if err != nil {
							t.Fatal(err)
						}
						switch {
						case method == "HEAD" && asHeld && resp.ContentLength != size:
							t.Errorf("HEAD: %d bytes, want %d", resp.ContentLength, size)
						case method == "HEAD" && !asHeld && resp.Header.Get("Castor-Stored-Size") != fmt.Sprint(size):
							t.Errorf("HEAD of the other form: %v", resp.Header)
						case method == "GET" && suffix == "" && !bytes.Equal(b, c.Data):
							t.Errorf("%d bytes, want %d", len(b), len(c.Data))
						case method == "GET" && asHeld && int64(len(b)) != size:
							t.Errorf("%d bytes as held, want %d", len(b), size)
						}
					}
				}
			}
		}
		if n := metric(t, h, "chunks_converted_total"); n != int64(2*len(chunks)) {
			t.Errorf("%d chunks converted, want %d: HEAD does not need it", n, 2*len(chunks))
		}
	}
}

// sizes is a source that tells sizes and has nothing to read.
type sizes struct{ *storetest.Memory }

func (sizes) Get(context.Context, chunker.ID) (store.Chunk, error) {
	return store.Chunk{}, io.ErrUnexpectedEOF
}

// TestUploadRoom has uploads that say that they are large and do not come.
func TestUploadRoom(t *testing.T) {
	h := handler(t, httpstore.HandlerOptions{Source: new(storetest.Memory), Writable: true, MaxChunk: chunker.MaxSize})
	_, addr := gated(t, h, "tcp", 100)
	c := storetest.Chunk(1, 500)
	var open []net.Conn
	for range 10 { // of 128 MiB each
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path(c), chunker.MaxSize)
	}
	wait(t, "all ask", func() bool { return metric(t, h, "requests_active") == 10 })
	got := make(chan int)
	go func() { got <- do(h, "PUT", path(c), string(c.Data)).Code }()
	select {
	case code := <-got:
		t.Errorf("an upload beyond: %d", code)
	case <-time.After(50 * time.Millisecond):
	}
	for _, c := range open {
		c.Close()
	}
	if code := <-got; code != 201 {
		t.Errorf("an upload when there is room again: %d", code)
	}
}

// TestHeadReads has sources that can tell sizes: HEAD does not get a chunk.
func TestHeadReads(t *testing.T) {
	c := storetest.Chunk(1, 500)
	src := sizes{holding(t, c)}
	h := handler(t, httpstore.HandlerOptions{Source: src})
	if w := do(h, "HEAD", path(c), ""); w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	if w := do(h, "HEAD", path(storetest.Chunk(2, 5)), ""); w.Code != 404 {
		t.Errorf("absent: %d", w.Code)
	}
}

// TestSink has uploads go elsewhere than where chunks come from.
func TestSink(t *testing.T) {
	a, b := storetest.Chunk(1, 500), storetest.Chunk(2, 500)
	sink := new(storetest.Memory)
	h := handler(t, httpstore.HandlerOptions{Source: &store.Union{Sources: []store.Getter{sink, holding(t, a)}, Verifier: &store.Verifier{Limit: storetest.Limit}}, Sink: sink, Writable: true})
	if w := do(h, "PUT", path(b), string(b.Data)); w.Code != 201 || sink.Len() != 1 {
		t.Errorf("upload: %d", w.Code)
	}
	for _, c := range []store.Chunk{a, b} {
		for _, method := range []string{"GET", "HEAD"} {
			if w := do(h, method, path(c), ""); w.Code != 200 {
				t.Errorf("%s: %d", method, w.Code)
			}
		}
	}
}
