package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// getAll gets all chunks of v, n at once.
func getAll(ctx context.Context, s store.Getter, v *served, n int) error {
	return par.Each(ctx, n, len(v.x.Entries), func(ctx context.Context, i int) error {
		return sameChunk(ctx, s, v.x, v.blob, i)
	})
}

// TestBroken has each connection end after some bytes: the rest is asked again.
func TestBroken(t *testing.T) {
	v := serveBlob(t, 3<<20)
	each(t, func(t *testing.T, command string) {
		o := options(t, script(t, command+` "$@" | { stdbuf -o0 head -c 300000; kill $$; }`))
		s := open(t, v.url("store.castr"), o)
		if err := getAll(t.Context(), s, v, 16); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), none); !store.Missing(err) {
			t.Errorf("missing chunk: %v", err)
		}
	})
}

// TestBadChunk has one chunk that the other side cannot read, of which it dies: only
// that one fails.
func TestBadChunk(t *testing.T) {
	v := serveBlob(t, 2<<20)
	bad := len(v.x.Entries) / 2
	hex := v.x.Entries[bad].ID.String()
	path := filepath.Join(v.dir, "store.castr", hex[:4], hex+".cacnk")
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	s := open(t, v.url("store.castr"), options(t, casync(t)))
	var wg sync.WaitGroup
	for i := range v.x.Entries {
		wg.Go(func() {
			err := sameChunk(t.Context(), s, v.x, v.blob, i)
			if (err != nil) != (i == bad) || store.Missing(err) {
				t.Errorf("chunk %d of %d: %v", i, len(v.x.Entries), err)
			}
		})
	}
	wg.Wait()
}

// TestHopeless has other sides of which nothing can come.
func TestHopeless(t *testing.T) {
	hello := string(appendHello(nil, readableStore))
	file := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(file, []byte(hello), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, command, want string }{
		{"not found", "no-such-casync", "no-such-casync was not found there"},
		{"fails", script(t, "echo Permission denied >&2; exit 255"), "connection failed or broke: Permission denied"},
		{"status", script(t, "echo one >&2; echo two >&2; exit 3"), "exit status 3: one; two"},
		{"killed", script(t, "kill -9 $$"), "exit status 137"},
		{"greets", script(t, "echo Welcome to this host, dear guest; cat"), "protocol error"},
		{"ends", script(t, "exit 0"), "unexpected EOF"},
		{"writes only", script(t, "cat >/dev/null"), "no answer within"},
		{"silent", script(t, "cat "+file+"; exec sleep 100"), "nothing came for too long"},
		{"dies", script(t, "cat "+file+"; echo out of luck >&2; exit 1"), "out of luck"},
		{"wrong service", script(t, `printf '\030\0\0\0\0\0\0\0\356\373\245\214\224\320\161\074\002\0\0\0\0\0\0\0'; cat`), "pull chunks"},
		{"echo", "cat; true", "protocol error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t, tt.command)
			o.Retries = 1
			switch tt.name {
			case "writes only":
				o.Connect = 100 * time.Millisecond
			case "silent":
				o.Stall = 100 * time.Millisecond
			}
			s := open(t, "ssh://host/store", o)
			_, err := s.Get(t.Context(), none)
			if err == nil || !strings.Contains(err.Error(), tt.want) || store.Missing(err) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestTruncatedAnswers ends the other side at many bytes of its answers.
func TestTruncatedAnswers(t *testing.T) {
	all := capture(t, "pull.s2c")
	f := frames(t, "pull.s2c")
	all = append(appendHello(nil, readableStore), all[320:]...) // without the index
	last := f[len(f)-1].id
	file := filepath.Join(t.TempDir(), "answers")
	if err := os.WriteFile(file, all, 0o644); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(all); n += 1 + n/2 {
		// The rest of what it was asked for is not read.
		o := options(t, script(t, fmt.Sprintf("head -c %d %s", n, file)))
		o.Retries = -1
		s := open(t, "ssh://host/store", o)
		var wg sync.WaitGroup
		for _, f := range f {
			if f.kind == kindChunk {
				wg.Go(func() {
					c, err := s.Get(t.Context(), f.id)
					if err == nil {
						_, err = c.Verify(chunker.SHA512256, chunker.MaxSize)
					}
					if err == nil && f.id == last || store.Missing(err) {
						t.Errorf("%d bytes: %v", n, err)
					}
				})
			}
		}
		wg.Wait()
	}
}

// TestCancel ends the context, or the store, while the other side says nothing.
func TestCancel(t *testing.T) {
	errStop := errors.New("stop")
	before := runtime.NumGoroutine()
	for name, command := range map[string]string{"no hello": "exec sleep 100", "hello": `printf '\030\0\0\0\0\0\0\0\356\373\245\214\224\320\161\074\003\0\0\0\001\0\0\0'; exec sleep 100`} {
		for call, f := range map[string]func(context.Context, *Store) error{
			"get": func(ctx context.Context, s *Store) error { _, err := s.Get(ctx, none); return err },
			"has": func(ctx context.Context, s *Store) error { _, err := s.Has(ctx, none); return err },
			"put": func(ctx context.Context, s *Store) error {
				return s.Put(ctx, store.Chunk{Data: make([]byte, 5<<20)})
			},
			"many": func(ctx context.Context, s *Store) error { // requests fill the pipe
				return par.Each(ctx, 9000, 9000, func(ctx context.Context, i int) error {
					_, err := s.Get(ctx, chunker.ID{byte(i), byte(i >> 8), 1})
					return err
				})
			},
			"put much": func(ctx context.Context, s *Store) error {
				return s.Put(ctx, storetest.Plain(storetest.Random(1, 1<<20)))
			},
		} {
			t.Run(name+" "+call, func(t *testing.T) {
				o := options(t, script(t, command))
				o.SSH.Grace = 50 * time.Millisecond
				s := open(t, "ssh://host/store", o)
				ctx, cancel := context.WithCancelCause(t.Context())
				var cancelled time.Time
				time.AfterFunc(100*time.Millisecond, func() { cancelled = time.Now(); cancel(errStop) })
				if err := f(ctx, s); !errors.Is(err, errStop) {
					t.Errorf("error %v", err)
				}
				if d := time.Since(cancelled); d > 10*time.Second {
					t.Errorf("after %v", d)
				}
				ended := make(chan error)
				go func() { ended <- f(t.Context(), s) }()
				time.Sleep(20 * time.Millisecond)
				begin := time.Now()
				s.Close()
				if err := <-ended; err == nil {
					t.Error("no error from a closed store")
				}
				if d := time.Since(begin); d > 10*time.Second {
					t.Errorf("Close took %v", d)
				}
				if err := f(t.Context(), s); !errors.Is(err, fs.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			})
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before: %s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

// TestAnswersInAnyOrder puts and offers one chunk at once, and answers as a server may
// that works on both: a Put returns only when the store has the chunk.
func TestAnswersInAnyOrder(t *testing.T) {
	id := chunker.ID{1}
	for name, tt := range map[string]struct {
		answers   []bool
		put, has  bool // what is told
		afterTold int  // answers until the Put is
	}{
		"offer first":   {[]bool{false, true}, true, false, 2},
		"chunk first":   {[]bool{true, false}, true, false, 1},
		"there already": {[]bool{true, true}, true, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			put, has := make(chan bool, 1), make(chan bool, 1)
			c := &putting{u: &putter{}, fresh: map[chunker.ID]struct{}{}, busy: 2,
				puts: map[chunker.ID][]chan bool{id: {put}}, offers: map[chunker.ID][]chan bool{id: {has}}}
			for i, a := range tt.answers {
				if len(put) != 0 && i < tt.afterTold {
					t.Errorf("the Put ends after %d answers", i)
				}
				if err := c.told(id, a); err != nil {
					t.Fatal(err)
				}
			}
			if a, b := <-put, <-has; a != tt.put || b != tt.has || c.busy != 0 {
				t.Errorf("told %v and %v, want %v and %v; %d due", a, b, tt.put, tt.has, c.busy)
			}
			if err := c.told(id, true); err == nil {
				t.Error("a third answer is taken")
			}
		})
	}
}

// TestLost breaks a connection between Put and Sync: Sync fails until the chunk is put
// again.
func TestLost(t *testing.T) {
	dir := t.TempDir()
	openDir(t, filepath.Join(dir, "s.castr"))
	gate := filepath.Join(dir, "gate")
	// The first connection is killed as soon as the gate is there.
	o := options(t, script(t, `if mkdir `+gate+`.once 2>/dev/null; then
	(while [ -d `+dir+` -a ! -e `+gate+` ]; do sleep 0.01; done; kill -9 $$) >&- 2>&- &
fi
exec env `+castor(t)+` "$@"`))
	s := open(t, "ssh://host"+filepath.Join(dir, "s.castr"), o)
	a, b := storetest.Chunk(1, 5000), storetest.Chunk(2, 5000)
	if err := s.Put(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.put.mu.Lock()
	first := s.put.now
	s.put.mu.Unlock()
	<-first.ended
	for range 2 {
		if err := s.Sync(t.Context()); err == nil || !strings.Contains(err.Error(), "may be lost (chunks: 1)") {
			t.Errorf("Sync after the connection broke: %v", err)
		}
	}
	if err := s.Put(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err == nil {
		t.Error("Sync after another chunk was put succeeds")
	}
	if err := s.Put(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Errorf("Sync after the chunk was put again: %v", err)
	}
}

// TestChatter has the other side talk on its standard error all the while.
func TestChatter(t *testing.T) {
	v := serveBlob(t, 1<<20)
	o := options(t, script(t, `(i=0; while [ $i -lt 3000 ]; do echo "line $i of much that nobody reads" >&2; i=$((i+1)); done) &
`+castor(t)+` "$@"`))
	if err := getAll(t.Context(), open(t, v.url("store.castr"), o), v, 8); err != nil {
		t.Fatal(err)
	}
}

// TestShared has many ask for the same chunks at once: they share one connection, and
// one answer.
func TestShared(t *testing.T) {
	v := serveBlob(t, 1<<20)
	log := filepath.Join(t.TempDir(), "log")
	o := options(t, script(t, "echo >> "+log+"; exec "+casync(t)+` "$@"`))
	s := open(t, v.url("store.castr"), o)
	const n = 40
	var wg, begin sync.WaitGroup
	begin.Add(1)
	for range n {
		wg.Go(func() {
			begin.Wait()
			for i := range 3 {
				c, err := s.Get(t.Context(), v.x.Entries[i].ID)
				if err == nil {
					_, err = c.Verify(v.x.Digest(), v.x.Params.Max)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	begin.Done()
	wg.Wait()
	b, err := os.ReadFile(log)
	if err != nil || len(b) > 20 {
		t.Errorf("%d connections, %v", len(b), err)
	}
}

// TestMany asks for a thousand chunks at once.
func TestMany(t *testing.T) {
	v := &served{dir: t.TempDir(), blob: blob(5 << 20)}
	in := filepath.Join(v.dir, "blob")
	if err := os.WriteFile(in, v.blob, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, nil, casync(t), "make", "--chunk-size=4096", "--store="+filepath.Join(v.dir, "store.castr"), filepath.Join(v.dir, "blob.caibx"), in)
	f, err := os.Open(filepath.Join(v.dir, "blob.caibx"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if v.x, err = index.Decode(f); err != nil {
		t.Fatal(err)
	}
	if len(v.x.Entries) < 900 {
		t.Fatalf("%d chunks", len(v.x.Entries))
	}
	each(t, func(t *testing.T, command string) {
		o := options(t, command)
		if err := getAll(t.Context(), open(t, v.url("store.castr"), o), v, len(v.x.Entries)); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAnotherHost refuses what cannot be one session.
func TestAnotherHost(t *testing.T) {
	v := serveBlob(t, 100_000)
	_, err := Push(t.Context(), "ssh://a/x.caibx", "ssh://b/s", strings.NewReader(string(v.index)), int64(len(v.index)), nil, &Options{SSH: &sshexec.Options{Program: "false"}})
	if err == nil || !strings.Contains(err.Error(), "one host") {
		t.Error(err)
	}
}

// TestPromptGoodbye has the other side say goodbye before the write of the last frame has
// returned here: everything was sent.
func TestPromptGoodbye(t *testing.T) {
	u := &pusher{piece: kindArchive, eof: kindArchiveEOF}
	conn, err := sshexec.Start(t.Context(), sshexec.Host{Name: "host"}, &sshexec.Options{Program: script(t, "exec cat")}, "cat")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u.p = &peer{conn: conn}
	u.write.Lock()
	done := make(chan error)
	go func() { done <- u.sendFile(t.Context(), strings.NewReader("")) }()
	for end := time.Now().Add(10 * time.Second); !u.sent.Load(); {
		if time.Now().After(end) {
			t.Fatal("not known to be sent until it is")
		}
		select {
		case err := <-done:
			t.Fatalf("sent before it could be: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	u.write.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLeavesAtOnce has the other side, as casync, say what it can do and leave before it is
// told what is wanted: that is enough to know that it takes no single chunks.
func TestLeavesAtOnce(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	f, err := newDecoder(bytes.NewReader(appendHello(nil, writableStore))).greet(w, pushChunks|featureOffer)
	if f != writableStore || err != nil {
		t.Errorf("features %#x, error %v", uint64(f), err)
	}
}

// TestCancelSync gives up a Sync that waits behind a chunk which the other side does not
// take.
func TestCancelSync(t *testing.T) {
	o := options(t, script(t, `printf '\030\0\0\0\0\0\0\0\356\373\245\214\224\320\161\074\003\0\0\0\001\0\0\0'; exec sleep 100`))
	o.SSH.Grace = 50 * time.Millisecond
	s := open(t, "ssh://host/store", o)
	ended := make(chan error, 1)
	go func() { ended <- s.Put(t.Context(), storetest.Plain(storetest.Random(1, 1<<20))) }()
	for busy := 0; busy == 0; time.Sleep(time.Millisecond) {
		s.put.mu.Lock()
		if s.put.now != nil {
			busy = s.put.now.busy
		}
		s.put.mu.Unlock()
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
	}
	errStop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errStop) })
	begin := time.Now()
	if err := s.Sync(ctx); err != errStop || time.Since(begin) > 10*time.Second {
		t.Errorf("error %v after %v", err, time.Since(begin))
	}
	s.Close()
	if err := <-ended; !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Put to a store that is closed: %v", err)
	}
}

// TestSlowUpload puts a chunk that takes longer than nothing may move.
func TestSlowUpload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s.castr")
	openDir(t, dir)
	o := options(t, slowVariable+"=1 "+castor(t))
	o.Stall = 2 * time.Second
	s := open(t, "ssh://host"+dir, o)
	begin := time.Now()
	if err := s.Put(t.Context(), storetest.Plain(storetest.Random(1, 3<<20))); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(begin); d < o.Stall {
		t.Errorf("took only %v", d)
	}
}
