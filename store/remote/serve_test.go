package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// memFile is an Upload in memory.
type memFile struct {
	bytes.Buffer
	committed bool
}

func (m *memFile) Commit(bool) error { m.committed = true; return nil }
func (m *memFile) Abort()            {}

// session is a server and the client's ends of its streams.
type session struct {
	t   testing.TB
	w   *os.File
	d   *decoder
	err chan error
}

func startServe(t testing.TB, ctx context.Context, o *ServerOptions) *session {
	t.Helper()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, w: w, d: newDecoder(r), err: make(chan error, 1)}
	go func() {
		err := Serve(ctx, in, out, o)
		in.Close()
		out.Close()
		s.err <- err
	}()
	t.Cleanup(func() { w.Close(); r.Close() })
	return s
}

func (s *session) write(b ...[]byte) {
	s.t.Helper()
	if _, err := s.w.Write(bytes.Join(b, nil)); err != nil {
		s.t.Fatal(err)
	}
}

// want reads a frame of a kind.
func (s *session) want(k kind) frame {
	s.t.Helper()
	f, err := s.d.next()
	if err != nil || f.kind != k {
		s.t.Fatalf("%v, error %v, want %v (%v)", f.kind, err, k, f.abort)
	}
	return f
}

// frames returns those of a capture.
func frames(t testing.TB, name string) (fs []frame) {
	t.Helper()
	d := newDecoder(bytes.NewReader(capture(t, name)))
	for {
		f, err := d.next()
		if err == io.EOF {
			return fs
		}
		if err != nil {
			t.Fatal(err)
		}
		f.ids = append([]chunker.ID(nil), f.ids...)
		fs = append(fs, f)
	}
}

// chunksOf puts the chunks of a capture into a store.
func chunksOf(t testing.TB, name string) *storetest.Memory {
	t.Helper()
	m := &storetest.Memory{}
	s := &server{o: ServerOptions{Sink: m}}
	for _, f := range frames(t, name) {
		if f.kind == kindChunk {
			if err := s.keep(t.Context(), f, storetest.Limit, anyDigest...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

// TestReplayPull lets a captured client pull.
func TestReplayPull(t *testing.T) {
	x := capture(t, "x.caidx")
	for _, tt := range []struct {
		name   string
		source store.Getter
		answer kind
	}{
		{"pull", chunksOf(t, "pull.s2c"), kindChunk},
		{"pull-missing", &storetest.Memory{}, kindMissing},
		{"pull-seeded", &storetest.Memory{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startServe(t, t.Context(), &ServerOptions{Source: tt.source, Index: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(x)), nil
			}})
			s.write(capture(t, tt.name+".c2s"))
			s.w.Close()
			if f := s.want(kindHello); f.features != 0x5 {
				t.Errorf("features %#x", f.features)
			}
			asked := map[chunker.ID]bool{}
			for _, f := range frames(t, tt.name+".c2s") {
				for _, id := range f.ids {
					asked[id] = true
				}
			}
			var got []byte
			for {
				f, err := s.d.next()
				if err == io.EOF {
					break
				}
				switch {
				case err != nil:
					t.Fatal(err)
				case f.kind == kindIndex:
					got = append(got, f.data...)
				case f.kind == tt.answer:
					delete(asked, f.id)
				case f.kind != kindIndexEOF:
					t.Errorf("%v: %v", f.kind, f.abort)
				}
			}
			if !bytes.Equal(got, x) || len(asked) > 0 {
				t.Errorf("index of %d bytes, want %d; %d chunks not answered", len(got), len(x), len(asked))
			}
			if err := <-s.err; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReplayPush lets a captured client push, twice.
func TestReplayPush(t *testing.T) {
	sink := &storetest.Memory{}
	for _, name := range []string{"push", "push-again"} {
		file := &memFile{}
		s := startServe(t, t.Context(), &ServerOptions{Sink: sink, PutIndex: func(context.Context) (Upload, error) { return file, nil }})
		asked := 0
		for _, f := range frames(t, name+".c2s") {
			if f.kind == kindChunk && asked == 0 {
				if h := s.want(kindHello); h.features != 0xa {
					t.Errorf("features %#x", h.features)
				}
				for asked < 4 {
					asked += len(s.want(kindRequest).ids)
				}
			}
			s.write(encoded(f))
		}
		if asked == 0 {
			s.want(kindHello)
		}
		s.want(kindGoodbye)
		if err := <-s.err; err != nil {
			t.Error(err)
		}
		if want := capture(t, "x.caidx"); !file.committed || name == "push" && !bytes.Equal(file.Bytes(), want) {
			t.Errorf("%s: committed %v, %d bytes, want %d", name, file.committed, file.Len(), len(want))
		}
		if sink.Len() != 4 {
			t.Errorf("%d chunks", sink.Len())
		}
	}
}

// TestPushTruncated cuts a push at each frame, and at many bytes: no index appears.
func TestPushTruncated(t *testing.T) {
	all := capture(t, "push.c2s")
	for n := 0; n < len(all); n += 1 + n/4 {
		file := &memFile{}
		s := startServe(t, t.Context(), &ServerOptions{Sink: &storetest.Memory{}, PutIndex: func(context.Context) (Upload, error) { return file, nil }})
		s.w.Write(all[:n]) // it may fail: chunks that come too early are not taken
		s.w.Close()
		io.Copy(io.Discard, s.d.r)
		if err := <-s.err; err == nil || file.committed {
			t.Errorf("%d bytes: error %v, index committed: %v", n, err, file.committed)
		}
	}
}

// TestPushRefused pushes what must not be taken.
func TestPushRefused(t *testing.T) {
	c2s := frames(t, "push.c2s")
	hello := appendHello(nil, 0xe00)
	x := capture(t, "x.caidx")
	whole := append(appendPiece(nil, kindIndex, x), appendEmpty(nil, kindIndexEOF)...)
	bad := c2s[len(c2s)-1]
	bad.data = bytes.Clone(bad.data)
	bad.data[len(bad.data)/2] ^= 1
	for _, tt := range []struct {
		name   string
		begin  []byte
		asked  bool
		then   []byte
		reason string
	}{
		{"no hello", whole, false, nil, "before HELLO"},
		{"two hellos", append(hello, hello...), false, nil, "HELLO"},
		{"unknown feature", appendHello(nil, 0x2e00), false, nil, "0x2e00"},
		{"pull", appendHello(nil, 0x40), false, nil, "pull chunks"},
		{"nothing", appendHello(nil, 1), false, nil, "nothing"},
		{"no index", appendHello(nil, 0x200), false, nil, "together with their index"},
		{"not an index", append(hello, appendPiece(nil, kindIndex, make([]byte, 500))...), false, nil, "index"},
		{"index cut", append(append(hello, appendPiece(nil, kindIndex, x[:200])...), appendEmpty(nil, kindIndexEOF)...), true, nil, "truncated"},
		{"too large", append(hello, appendPiece(nil, kindIndex, make([]byte, 2<<20))...), false, nil, ""},
		{"unasked", append(hello, encoded(c2s[len(c2s)-1])...), false, nil, "not asked for"},
		{"damaged", append(hello, whole...), true, encoded(bad), "damaged"},
		{"missing", append(hello, whole...), true, appendID(nil, kindMissing, bad.id), "does not have it"},
		{"goodbye", append(hello, whole...), true, appendEmpty(nil, kindGoodbye), "before everything"},
		{"more index", append(hello, whole...), true, appendPiece(nil, kindIndex, []byte("x")), "behind"},
		{"garbage", append(hello, whole...), true, []byte("this is no frame, but text"), "protocol error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := &memFile{}
			sink := &storetest.Memory{}
			s := startServe(t, t.Context(), &ServerOptions{Sink: sink, MaxIndex: 1 << 20, PutIndex: func(context.Context) (Upload, error) { return file, nil }})
			go s.w.Write(append(bytes.Clone(tt.begin), tt.then...)[:len(tt.begin)])
			var abort *AbortError
			wrote := false
			for {
				f, err := s.d.next()
				if err != nil {
					break
				}
				if f.kind == kindRequest && !wrote {
					wrote = true
					s.w.Write(tt.then)
				}
				if f.kind == kindAbort {
					abort = f.abort
				}
			}
			err := <-s.err
			if err == nil || file.committed || sink.Len() > 0 {
				t.Errorf("error %v, committed %v, %d chunks", err, file.committed, sink.Len())
			}
			if abort == nil || !strings.Contains(abort.Reason, tt.reason) {
				t.Errorf("the client is told %v, want %q", abort, tt.reason)
			}
		})
	}
}

// TestAnswersAgain asks for one id many times.
func TestAnswersAgain(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	m := &storetest.Memory{}
	if err := m.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s := startServe(t, t.Context(), &ServerOptions{Source: m})
	s.write(appendHello(nil, pullChunks))
	s.want(kindHello)
	for i := range 20 {
		s.write(appendRequest(nil, uint64(i%2), []chunker.ID{c.ID, none}))
		a, err := s.d.next()
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.d.next()
		if err != nil {
			t.Fatal(err)
		}
		if a.kind == kindMissing {
			a, b = b, a
		}
		if a.kind != kindChunk || a.id != c.ID || a.flags != flagZipped || b.kind != kindMissing || b.id != none {
			t.Fatalf("%v and %v", a.kind, b.kind)
		}
	}
	s.write(appendEmpty(nil, kindGoodbye))
	if err := <-s.err; err != nil {
		t.Error(err)
	}
}

// TestSourceFails breaks the source at one chunk: what was asked for before it is
// answered, then the client is told.
func TestSourceFails(t *testing.T) {
	m := &storetest.Memory{}
	var ids []chunker.ID
	for i := range 50 {
		c := storetest.Chunk(uint64(i), 3000)
		if err := m.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	const bad = 30
	faulty := &storetest.Faulty{Source: m, Choose: func(c storetest.Call) storetest.Fault {
		if c.ID == ids[bad] {
			return storetest.Fail(errors.New("the disk is on fire"))
		}
		return nil
	}}
	s := startServe(t, t.Context(), &ServerOptions{Source: faulty})
	s.write(appendHello(nil, pullChunks), appendRequest(nil, 0, ids))
	s.want(kindHello)
	got := map[chunker.ID]bool{}
	for {
		f, err := s.d.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.kind == kindAbort {
			if !strings.Contains(f.abort.Reason, "on fire") {
				t.Errorf("reason %q", f.abort.Reason)
			}
			break
		}
		got[f.id] = true
	}
	for i, id := range ids[:bad] {
		if !got[id] {
			t.Errorf("chunk %d is not answered", i)
		}
	}
	if err := <-s.err; err == nil {
		t.Error("no error")
	}
}

// TestServeCancelled ends the context while the client says nothing, or takes nothing.
func TestServeCancelled(t *testing.T) {
	for name, write := range map[string][]byte{
		"no hello": nil,
		"idle":     appendHello(nil, pullChunks),
		"hung":     append(appendHello(nil, pullChunks), appendRequest(nil, 0, []chunker.ID{{1}})...),
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 { // a machine may be busy
				if cancelled(t, write) {
					return
				}
			}
			t.Error("not at once")
		})
	}
}

// cancelled ends the context of a session, and reports whether that ends at once.
func cancelled(t *testing.T, write []byte) bool {
	errStop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	s := startServe(t, ctx, &ServerOptions{Source: &storetest.Faulty{Source: &storetest.Memory{}, Choose: func(storetest.Call) storetest.Fault { return storetest.Hang }}})
	s.write(write)
	s.want(kindHello)
	begin := time.Now()
	cancel(errStop)
	if err := <-s.err; !errors.Is(err, errStop) {
		t.Errorf("error %v", err)
	}
	return time.Since(begin) < 900*time.Millisecond
}

// slowSync is a store of which Sync waits for wait.
type slowSync struct {
	*storetest.Memory
	wait func()
}

func (s slowSync) Sync(ctx context.Context) error {
	s.wait()
	return nil
}

// deadlineWriter tells when it gets a deadline.
type deadlineWriter struct {
	bytes.Buffer
	set chan time.Time
}

func (w *deadlineWriter) SetWriteDeadline(t time.Time) error {
	w.set <- t
	return nil
}

// TestSlowSync pushes to a store that takes a while to make chunks durable: the client
// gets its answer all the same.
func TestSlowSync(t *testing.T) {
	x := capture(t, "x.caidx")
	out := &deadlineWriter{set: make(chan time.Time, 9)}
	sink := slowSync{chunksOf(t, "pull.s2c"), func() {
		select {
		case <-out.set:
			t.Error("writing is bounded before everything is said")
		case <-time.After(100 * time.Millisecond):
		}
	}}
	in := appendHello(nil, pushChunks|pushIndex|pushIndexChunks)
	in = appendEmpty(appendPiece(in, kindIndex, x), kindIndexEOF)
	f := &memFile{}
	err := Serve(t.Context(), io.MultiReader(bytes.NewReader(in), stays{t.Context()}), out, &ServerOptions{Sink: sink,
		PutIndex: func(context.Context) (Upload, error) { return f, nil }})
	if err != nil || !f.committed {
		t.Errorf("error %v, committed %v", err, f.committed)
	}
}

// stays is a client that says no more and stays for as long as ctx.
type stays struct{ ctx context.Context }

func (s stays) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, io.EOF
}
