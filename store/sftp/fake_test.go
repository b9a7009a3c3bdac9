package sftp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// Types of packets of version 3 of the protocol.
const (
	typeInit    = 1
	typeVersion = 2
	typeOpen    = 3
	typeClose   = 4
	typeRead    = 5
	typeLstat   = 7
	typeFstat   = 8
	typeOpendir = 11
	typeReaddir = 12
	typeStat    = 17
	typeStatus  = 101
	typeHandle  = 102
	typeData    = 103
	typeName    = 104
	typeAttrs   = 105
)

// Codes of statuses.
const (
	statusOK      = 0
	statusEOF     = 1
	statusMissing = 2
	statusFailure = 4
)

const (
	modeDir  = 0o40755
	modeFile = 0o100444
	modeLink = 0o120777
)

func u32(n int) []byte       { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func str(s string) []byte    { return append(u32(len(s)), s...) }
func cat(p ...[]byte) []byte { return bytes.Join(p, nil) }

// pack returns a packet of what follows the length.
func pack(typ byte, p ...[]byte) []byte {
	body := cat(p...)
	return cat(u32(1+len(body)), []byte{typ}, body)
}

// attrs returns attributes: size, permissions and times.
func attrs(size uint64, mode int) []byte {
	now := int(time.Now().Unix())
	return cat(u32(1|4|8), binary.BigEndian.AppendUint64(nil, size), u32(mode), u32(now), u32(now))
}

func status(id []byte, code int) []byte {
	return pack(typeStatus, id, u32(code), str("as you like it"), str(""))
}

// request is what a client asks: type, ID and the rest.
type request struct {
	typ  byte
	id   []byte
	rest []byte
}

// offset returns the offset of a read request.
func (r request) offset() uint64 {
	_, b := cut(r.rest)
	return binary.BigEndian.Uint64(b)
}

// cut cuts a string off.
func cut(b []byte) (string, []byte) {
	n := binary.BigEndian.Uint32(b)
	return string(b[4 : 4+n]), b[4+n:]
}

// fake is a server that answers as answer says, or where that is nil, sensibly: there
// is a file of 100 bytes under every name, and directories of two levels with nothing
// in them.
type fake struct {
	hello  []byte // instead of a version
	answer func(request) []byte
}

func (f fake) dial(context.Context, bool) (io.ReadWriteCloser, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		f.serve(theirs)
	}()
	return ours, nil
}

func (f fake) serve(conn io.ReadWriter) {
	// Answers are sent by another goroutine, as the client need not listen while it
	// speaks.
	out := make(chan []byte, 1000)
	defer close(out)
	go func() {
		for b := range out {
			conn.Write(b)
		}
	}()
	in := bufio.NewReader(conn)
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if head[4] == typeInit {
			if f.hello != nil {
				out <- f.hello
			} else {
				out <- pack(typeVersion, u32(3))
			}
			continue
		}
		rq := request{head[4], body[:4], body[4:]}
		var b []byte
		if f.answer != nil {
			b = f.answer(rq)
		}
		if b == nil {
			b = sensible(rq)
		}
		out <- b
	}
}

func sensible(rq request) []byte {
	switch rq.typ {
	case typeStat:
		return pack(typeAttrs, rq.id, attrs(4096, modeDir))
	case typeLstat, typeFstat:
		return pack(typeAttrs, rq.id, attrs(100, modeFile))
	case typeOpen, typeOpendir:
		return pack(typeHandle, rq.id, str("h"))
	case typeRead:
		if off := rq.offset(); off < 100 {
			return pack(typeData, rq.id, str(strings.Repeat("x", 100-int(off))))
		}
		return status(rq.id, statusEOF)
	case typeReaddir:
		return status(rq.id, statusEOF)
	}
	return status(rq.id, statusOK)
}

// on answers requests of one type.
func on(typ byte, answer func(request) []byte) func(request) []byte {
	return func(rq request) []byte {
		if rq.typ == typ {
			return answer(rq)
		}
		return nil
	}
}

func openFake(t testing.TB, f fake, o Options) (*Store, error) {
	t.Helper()
	pl, err := parse("sftp://host/s")
	if err != nil {
		t.Fatal(err)
	}
	o.Backoff = time.Millisecond
	s, err := open(t.Context(), pl, o.withDefaults(), f.dial)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// TestHostile has a server that says what it should not. Each call must return, with
// an error or without.
func TestHostile(t *testing.T) {
	fixed := func(b ...[]byte) func(request) []byte {
		return func(rq request) []byte { return cat(pack(b[0][0], rq.id, cat(b[1:]...))) }
	}
	statOK := func(rq request) []byte { return status(rq.id, statusOK) }
	size := func(n uint64) func(request) []byte { return fixed([]byte{typeAttrs}, attrs(n, modeFile)) }
	for _, tt := range []struct {
		what   string
		answer func(request) []byte
		get    error  // wrapped by what Get returns
		text   string // in its message
	}{
		{"sensible, but not a chunk", nil, store.ErrDamaged, "neither zstd"},
		{"OPEN is fine", on(typeOpen, statOK), errNonsense, ""},
		{"FSTAT is fine", on(typeFstat, statOK), errNonsense, ""},
		{"READ is fine", on(typeRead, statOK), nil, ""},
		{"CLOSE fails", on(typeClose, func(rq request) []byte { return status(rq.id, statusFailure) }), store.ErrDamaged, ""},
		{"huge file", on(typeFstat, size(1<<40)), store.ErrDamaged, "1099511627776"},
		{"negative size", on(typeFstat, size(1<<64-1)), store.ErrDamaged, "18446744073709551615"},
		{"more than the size", on(typeFstat, size(50)), store.ErrDamaged, "has more"},
		{"less than the size", on(typeFstat, size(300_000)), io.ErrUnexpectedEOF, "100 bytes of 300000"},
		{"more than was asked for", on(typeRead, fixed([]byte{typeData}, str(strings.Repeat("x", 100_000)))), store.ErrDamaged, ""},
		{"empty data", on(typeRead, fixed([]byte{typeData}, str(""))), errNonsense, ""},
		{"pieces of 10 bytes", on(typeRead, func(rq request) []byte {
			if off := rq.offset(); off < 100 {
				return pack(typeData, rq.id, str(strings.Repeat("x", min(10, 100-int(off)))))
			}
			return nil
		}), store.ErrDamaged, "neither zstd"},
		{"data shorter than it says", on(typeRead, fixed([]byte{typeData}, u32(1000), []byte("x"))), nil, ""},
		{"wrong type", on(typeOpen, fixed([]byte{typeAttrs}, attrs(1, modeFile))), nil, ""},
		{"status of nothing", on(typeOpen, fixed([]byte{typeStatus})), nil, ""},
		{"handle of nothing", on(typeOpen, fixed([]byte{typeHandle})), nil, ""},
		{"long message", on(typeOpen, fixed([]byte{typeStatus}, u32(statusFailure), str(strings.Repeat("\x1b[2J", 40_000)))), nil, "\\x1b[2J"},
		{"unknown request", on(typeOpen, func(request) []byte { return pack(typeStatus, u32(1<<30), u32(0)) }), nil, "sid not found"},
		{"long packet", on(typeOpen, func(request) []byte { return cat(u32(1<<30), u32(0)) }), nil, "packet too long"},
		{"no packet", on(typeOpen, func(request) []byte { return cat(u32(0), u32(0)) }), nil, "packet too short"},
		{"garbage", on(typeOpen, func(request) []byte { return bytes.Repeat([]byte("garbage "), 9) }), nil, "packet too long"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			noLeak(t)
			s, err := openFake(t, fake{answer: tt.answer}, Options{Retries: 2, Stall: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			c := storetest.Chunk(1, 100)
			_, err = s.Get(t.Context(), c.ID)
			if err == nil || tt.get != nil && !errors.Is(err, tt.get) || !strings.Contains(err.Error(), tt.text) || len(err.Error()) > 600 {
				t.Errorf("Get: error %.700v, want %v, %q", err, tt.get, tt.text)
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("Get: error %q", err)
			}
			s.Has(t.Context(), c.ID)
			s.Put(t.Context(), c)
			s.Replace(t.Context(), c)
			s.SetAside(t.Context(), c.ID)
			s.Remove(t.Context(), c.ID, time.Now())
			s.Sweep(t.Context(), time.Now(), false)
		})
	}
}

// listing answers READDIR once for each directory with names that are entries of the
// given mode.
func listing(names []string, mode int) []byte {
	var b [][]byte
	for _, name := range names {
		b = append(b, str(name), str(""), attrs(100, mode))
	}
	return cat(append([][]byte{u32(len(names))}, b...)...)
}

// TestHostileNames has a server that lists what no directory can have.
func TestHostileNames(t *testing.T) {
	hex := "0123" + strings.Repeat("0", 60)
	asked := map[string]bool{}
	rounds := map[string]int{}
	dirs := []string{".", "..", "0123", "0123", "../../etc", "/etc", "0123/../..", "01 3", "ABCD", "\x1b[2J", strings.Repeat("0", 100_000)}
	files := []string{hex + ".cacnk", hex, hex + ".cacnk", "../" + hex, "x/" + hex, "4567" + hex[4:], strings.ToUpper("0123abcd") + hex[8:], "..", "\x00.tmp", "a/../../b.tmp", "../x.gone"}
	s, err := openFake(t, fake{answer: func(rq request) []byte {
		switch rq.typ {
		case typeOpendir:
			dir, _ := cut(rq.rest)
			asked[dir] = true
			return pack(typeHandle, rq.id, str(dir))
		case typeReaddir:
			dir, _ := cut(rq.rest)
			if rounds[dir]++; rounds[dir]%2 == 0 {
				return status(rq.id, statusEOF)
			}
			if dir == "/s" {
				return pack(typeName, rq.id, listing(dirs, modeDir))
			}
			return pack(typeName, rq.id, listing(files, modeFile))
		case typeLstat, 13, 18: // and REMOVE, RENAME
			if name, _ := cut(rq.rest); !strings.HasPrefix(name, "/s/0123/") || strings.Contains(name, "..") {
				t.Errorf("the store asks for %q", name)
			}
		}
		return nil
	}}, Options{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = s.List(t.Context(), func(i store.Info) error {
		n++
		if i.ID.String() != hex {
			t.Errorf("List finds %v", i.ID)
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Errorf("List finds %d chunks, error %v, want 1", n, err)
	}
	if _, err := s.Sweep(t.Context(), time.Now().Add(time.Hour), false); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	for dir := range asked {
		if dir != "/s" && dir != "/s/0123" {
			t.Errorf("the store lists %q", dir)
		}
	}
}

func TestHostileIndexNames(t *testing.T) {
	done := false
	f := fake{answer: on(typeReaddir, func(rq request) []byte {
		if done {
			return nil
		}
		done = true
		names := listing([]string{"b.caibx", "a.caidx", "a.caidx", ".x.caibx", "c.caibx.tmp", "..", "../d/e.caibx", "\x1b.caibx", `x\y.caibx`, ".caibx", "caibx"}, modeFile)
		return pack(typeName, rq.id, names)
	})}
	pl, _ := parse("sftp://host/d")
	var got []string
	err := listIndexes(t.Context(), pl, (*Options)(nil).withDefaults(), f.dial, func(url string, _ int64, _ time.Time) error {
		got = append(got, strings.TrimPrefix(url, "sftp://host/d/"))
		return nil
	})
	if want := "a.caidx b.caibx e.caibx"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %q, %v, want %s", got, err, want)
	}
}

// TestEndless has a server that does not come to an end with a directory.
func TestEndless(t *testing.T) {
	noLeak(t)
	names := make([]string, 1000)
	for i := range names {
		names[i] = strings.Repeat("n", 100)
	}
	b := listing(names, modeFile)
	s, err := openFake(t, fake{answer: on(typeReaddir, func(rq request) []byte { return pack(typeName, rq.id, b) })}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.List(t.Context(), func(store.Info) error { return nil })
	if !errors.Is(err, errNames) {
		t.Errorf("List: error %v, want %v", err, errNames)
	}
}

// TestNoSFTP has what is not a server.
func TestNoSFTP(t *testing.T) {
	noLeak(t)
	for _, tt := range []struct{ what, hello, text string }{
		{"a banner", "Welcome to this host!\n", "no SFTP"},
		{"version 2", string(pack(typeVersion, u32(2))), "no SFTP"},
		{"another packet", string(status(u32(0), 0)), "no SFTP"},
		{"half an extension", string(pack(typeVersion, u32(3), str("x"))), "no SFTP"},
	} {
		_, err := openFake(t, fake{hello: []byte(tt.hello)}, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: error %v, want %q", tt.what, err, tt.text)
		}
	}
}

// TestStall has a server that falls silent.
func TestStall(t *testing.T) {
	noLeak(t)
	silent := fake{answer: on(typeOpen, func(request) []byte { return []byte{} })}
	s, err := openFake(t, silent, Options{Stall: 500 * time.Millisecond, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // nothing is due meanwhile
	_, err = s.Get(t.Context(), storetest.Chunk(1, 1).ID)
	if !errors.Is(err, errStalled) {
		t.Errorf("Get: error %v, want %v", err, errStalled)
	}
	s.Close()

	s, err = openFake(t, silent, Options{})
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(stop) })
	begin := time.Now()
	if _, err := s.Get(ctx, storetest.Chunk(1, 1).ID); err != stop || time.Since(begin) > 10*time.Second {
		t.Errorf("Get that was cancelled: error %v after %v", err, time.Since(begin))
	}
	s.Close()
	if _, err := s.Get(t.Context(), storetest.Chunk(1, 1).ID); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Get from a closed store: error %v, want fs.ErrClosed", err)
	}

	_, err = openFake(t, fake{hello: []byte{}}, Options{Connect: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("Open: error %v", err)
	}
}

// TestRoundTrips counts what a client does one after the other.
func TestRoundTrips(t *testing.T) {
	synctest.Test(t, testRoundTrips)
}

func testRoundTrips(t *testing.T) {
	const delay = 50 * time.Millisecond
	late := func(ctx context.Context, _ bool) (io.ReadWriteCloser, error) {
		link, err := fake{answer: on(typeLstat, func(rq request) []byte { return status(rq.id, statusMissing) })}.dial(ctx, false)
		return &slow{ReadWriteCloser: link, delay: delay, in: make(chan slowly, 1000)}, err
	}
	pl, _ := parse("sftp://host/s")
	o := (&Options{Connections: 1, Plain: true}).withDefaults()
	s, err := open(t.Context(), pl, o, late)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := storetest.Chunk(1, 60_000)
	for _, tt := range []struct {
		what string
		call func() error
		most time.Duration
	}{
		{"Get", func() error { _, err := s.Get(t.Context(), c.ID); return err }, 2},
		{"Has of a missing chunk", func() error { _, err := s.Has(t.Context(), c.ID); return err }, 1},
		{"first Put", func() error { return s.Put(t.Context(), c) }, 6},
		{"Put", func() error { return s.Put(t.Context(), c) }, 5},
	} {
		begin := time.Now()
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", tt.what, err)
		}
		if n := time.Since(begin) / delay; n > tt.most {
			t.Errorf("%s takes %d round trips, want %d", tt.what, n, tt.most)
		}
	}
}

// slow delivers what it reads after a delay.
type slow struct {
	io.ReadWriteCloser
	delay time.Duration
	in    chan slowly
	begun bool
	rest  []byte
}

type slowly struct {
	b   []byte
	at  time.Time
	err error
}

func (s *slow) Read(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		go func() {
			for {
				b := make([]byte, 64<<10)
				n, err := s.ReadWriteCloser.Read(b)
				s.in <- slowly{b[:n], time.Now().Add(s.delay), err}
				if err != nil {
					return
				}
			}
		}()
	}
	if len(s.rest) == 0 {
		in := <-s.in
		time.Sleep(time.Until(in.at))
		if in.err != nil {
			return 0, in.err
		}
		s.rest = in.b
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// FuzzAnswers has a server that says anything.
func FuzzAnswers(f *testing.F) {
	hello := pack(typeVersion, u32(3), str(extRename), str("1"), str(extSync), str("1"))
	id := u32(2)
	for _, b := range [][]byte{
		nil,
		hello,
		cat(hello, pack(typeAttrs, u32(1), attrs(1, modeDir))),
		cat(hello, pack(typeAttrs, u32(1), attrs(1, modeDir)), pack(typeHandle, id, str("h"))),
		cat(hello, pack(typeAttrs, u32(1), attrs(1, modeDir)), pack(typeHandle, id, str("h")), pack(typeAttrs, u32(3), attrs(5, modeFile)), pack(typeData, u32(4), str("hello"))),
		cat(hello, pack(typeAttrs, u32(1), attrs(1, modeDir)), pack(typeName, id, listing([]string{"a", "0123"}, modeDir))),
		cat(hello, pack(typeAttrs, u32(1), attrs(1, modeDir)), status(id, statusOK), status(u32(3), statusMissing)),
	} {
		f.Add(b)
	}
	pl, err := parse("sftp://host/s")
	if err != nil {
		f.Fatal(err)
	}
	o := (&Options{Retries: -1}).withDefaults()
	c := storetest.Chunk(1, 10)
	f.Fuzz(func(t *testing.T, b []byte) {
		dial := func(context.Context, bool) (io.ReadWriteCloser, error) {
			return &replay{Reader: bytes.NewReader(b)}, nil
		}
		for _, call := range []func(*Store) error{
			func(s *Store) error { _, err := s.Get(t.Context(), c.ID); return err },
			func(s *Store) error { return s.List(t.Context(), func(store.Info) error { return nil }) },
			func(s *Store) error { return s.Put(t.Context(), c) },
		} {
			s, err := open(t.Context(), pl, o, dial)
			if err == nil {
				call(s)
				s.Close()
			}
		}
	})
}

// replay says what it has to say, and hears nothing.
type replay struct{ io.Reader }

func (*replay) Write(p []byte) (int, error) { return len(p), nil }
func (*replay) Close() error                { return nil }

// TestSyncTogether has one call of Sync take what another user has put: that one's Sync
// does not return before it is durable, and sees to it itself if the first one is given up.
func TestSyncTogether(t *testing.T) {
	asked, release := make(chan struct{}, 9), make(chan struct{})
	s, err := openFake(t, fake{
		hello: pack(typeVersion, u32(3), str(extSync), str("1")),
		answer: on(typeOpen, func(rq request) []byte {
			asked <- struct{}{}
			<-release
			return status(rq.id, statusFailure) // directories cannot be opened: all that can be done is done
		}),
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free := sync.OnceFunc(func() { close(release) })
	defer free()

	s.unsynced.add(s.path + "/abcd")
	errStop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- s.Sync(ctx) }()
	<-asked
	go func() { second <- s.Sync(t.Context()) }()
	select {
	case err := <-second:
		t.Fatalf("Sync returns (%v) while the directory is on its way", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel(errStop)
	if err := <-first; err != errStop {
		t.Errorf("the first one: %v", err)
	}
	free()
	if err := <-second; err != nil || len(asked) < 3 {
		t.Errorf("the second one: %v, after %d more requests", err, len(asked))
	}
}
