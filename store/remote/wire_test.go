package remote

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/castorsync/castor/chunker"
)

const captures = "../../testdata/casync/proto"

func capture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(captures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// encoded returns the bytes of a frame.
func encoded(f frame) []byte {
	switch f.kind {
	case kindHello:
		return appendHello(nil, f.features)
	case kindIndex, kindArchive:
		return appendPiece(nil, f.kind, f.data)
	case kindRequest:
		return appendRequest(nil, f.flags, f.ids)
	case kindOffer:
		return appendOffer(nil, f.ids)
	case kindChunk:
		return append(appendChunkHead(nil, f.id, f.flags == flagZipped, len(f.data)), f.data...)
	case kindMissing, kindStored:
		return appendID(nil, f.kind, f.id)
	case kindAbort:
		return appendAbort(nil, f.abort.Errno, f.abort.Reason)
	}
	return appendEmpty(nil, f.kind)
}

// samples has a frame of each kind.
func samples() []frame {
	ids := []chunker.ID{{1}, {2}}
	return []frame{
		{kind: kindHello, features: 0xe00},
		{kind: kindIndex, data: []byte("index")}, {kind: kindIndexEOF},
		{kind: kindArchive, data: bytes.Repeat([]byte("archive"), 100_000)}, {kind: kindArchiveEOF},
		{kind: kindRequest, flags: flagHigh, ids: ids}, {kind: kindOffer, ids: ids},
		{kind: kindChunk, flags: flagZipped, id: ids[1], data: []byte("x")},
		{kind: kindChunk, id: ids[1], data: make([]byte, 3<<20)},
		{kind: kindMissing, id: ids[0]}, {kind: kindStored, id: ids[0]}, {kind: kindSync},
		{kind: kindGoodbye}, {kind: kindAbort, abort: &AbortError{Errno: 5, Reason: "why"}},
	}
}

// TestFrames decodes frames and captures and encodes them again.
func TestFrames(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(captures, "*.?2?"))
	if err != nil || len(files) != 10 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	streams := map[string][]byte{}
	for _, name := range files {
		streams[filepath.Base(name)] = capture(t, filepath.Base(name))
	}
	for _, f := range samples() {
		streams["samples"] = append(streams["samples"], encoded(f)...)
	}
	for name, b := range streams {
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.HalfReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(b))} {
			d := newDecoder(r)
			var again []byte
			f, err := d.next()
			for ; err == nil; f, err = d.next() {
				again = append(again, encoded(f)...)
			}
			if err != io.EOF || !bytes.Equal(again, b) {
				t.Errorf("%s: %v, %d bytes of %d come back", name, err, len(again), len(b))
			}
		}
	}
}

// TestTruncated cuts a stream at each byte: only between frames is that an end.
func TestTruncated(t *testing.T) {
	for _, f := range samples() {
		b := encoded(f)
		for n := range b {
			if n > 200 && n < len(b)-1 && n%9973 != 0 {
				continue
			}
			_, err := newDecoder(bytes.NewReader(b[:n])).next()
			if want := io.ErrUnexpectedEOF; n == 0 && err != io.EOF || n > 0 && err != want {
				t.Fatalf("%v cut to %d bytes: %v", f.kind, n, err)
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	frameOf := func(k kind, n int) []byte { return append(appendHead(nil, k, n), make([]byte, min(n, 100))...) }
	for name, b := range map[string][]byte{
		"small":           {15, 0, 0, 0, 0, 0, 0, 0, 0xee, 0xfb, 0xa5, 0x8c, 0x94, 0xd0, 0x71, 0x3c},
		"huge":            frameOf(kindIndex, maxFrame),
		"negative":        bytes.Repeat([]byte{0xff}, 24),
		"unknown":         frameOf(1, 0),
		"short hello":     frameOf(kindHello, 7),
		"long hello":      frameOf(kindHello, 9),
		"empty index":     frameOf(kindIndex, 0),
		"goodbye, body":   frameOf(kindGoodbye, 1),
		"no ids":          frameOf(kindRequest, 8),
		"half an id":      frameOf(kindRequest, 8+16),
		"no data":         frameOf(kindChunk, 40),
		"flags":           appendRequest(nil, 2, []chunker.ID{{}}),
		"chunk flags":     append(bytes.Replace(appendChunkHead(nil, none, true, 1), []byte{1, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{4, 0, 0, 0, 0, 0, 0, 0, 0}, 1), 0),
		"abort, no NUL":   append(appendHead(nil, kindAbort, 9), 0, 0, 0, 0, 0, 0, 0, 0, 'x'),
		"abort, errno":    append(appendHead(nil, kindAbort, 9), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0),
		"offer of a byte": frameOf(kindOffer, 33),
	} {
		if _, err := newDecoder(bytes.NewReader(b)).next(); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMemory has a peer promise much and send little.
func TestMemory(t *testing.T) {
	for _, k := range []kind{kindChunk, kindIndex, kindRequest} {
		n := maxStored/idSize*idSize + 8
		if k == kindChunk {
			n += idSize
		}
		b := append(appendHead(nil, k, n-idSize), make([]byte, 100)...)
		const runs = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			newDecoder(bytes.NewReader(b)).next()
		}
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) / runs
		if allocated > 3<<20 {
			t.Errorf("%v: %d bytes allocated for 100", k, allocated)
		}
	}
}

func TestAbortReason(t *testing.T) {
	b := appendAbort(nil, 5, "a\nb\x00\x1b[31m"+strings.Repeat("ü", maxReason))
	f, err := newDecoder(bytes.NewReader(b)).next()
	if err != nil || !strings.HasPrefix(f.abort.Reason, "a b  [31mü") || len(f.abort.Reason) > maxReason {
		t.Errorf("%q, %v", f.abort.Reason, err)
	}
}

func FuzzDecoder(f *testing.F) {
	for _, s := range samples() {
		if b := encoded(s); len(b) < 1000 {
			f.Add(b)
		}
	}
	f.Add(capture(f, "pull.c2s"))
	f.Add(capture(f, "push.s2c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(bytes.NewReader(b))
		at := 0
		for {
			f, err := d.next()
			if err != nil {
				return
			}
			again := encoded(f)
			if f.kind != kindAbort && !bytes.HasPrefix(b[at:], again) {
				t.Fatalf("%v at %d comes back as %x", f.kind, at, again)
			}
			if f.kind == kindAbort {
				return // the reason is cleaned
			}
			at += len(again)
		}
	})
}

func FuzzParseLocation(f *testing.F) {
	for _, s := range []string{"ssh://u@h:22/p", "h:p", "u@h:/p", "ssh://h/~/x%20y", "[::1]:p", "ssh://[fe80::1%25eth0]:1/x", "c:\\x", "-o:x", "ssh://-oProxyCommand=x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLocation(s)
		if err != nil {
			return
		}
		again, err := ParseLocation(l.String())
		if err != nil || again != l || !Is(s) {
			t.Errorf("%q is %+v, and %q is %+v, %v", s, l, l.String(), again, err)
		}
		if a := l.arg(); strings.HasPrefix(a, "-") || strings.HasPrefix(l.Host.Name, "-") || a == "" {
			t.Errorf("%q: %q", s, a)
		}
	})
}

func TestParseLocation(t *testing.T) {
	for s, want := range map[string]string{
		"ssh://h/p/q":              "ssh://h/p/q",
		"ssh://u@h:2222/p":         "ssh://u@h:2222/p",
		"ssh://h/~/p":              "ssh://h/~/p",
		"ssh://h/a%20b":            "ssh://h/a%20b",
		"ssh://[::1]:22/p":         "ssh://[::1]:22/p",
		"host:p":                   "ssh://host/~/p",
		"host:/p":                  "ssh://host/p",
		"u@host:p/q":               "ssh://u@host/~/p/q",
		"u@[::1]:p":                "ssh://u@[::1]/~/p",
		"./host:p":                 "",
		"/a:b":                     "",
		"c:/x":                     "",
		"host:":                    "",
		"http://host/p":            "",
		"ssh://h":                  "",
		"ssh://h/":                 "",
		"ssh:///p":                 "",
		"ssh://-oProxyCommand=x/p": "",
		"-oProxyCommand=x:p":       "",
		"ssh://u:secret@h/p":       "",
		"ssh://h/p?q":              "",
		"ssh://h:0/p":              "",
		"ssh://h/%00":              "",
		"h h:p":                    "",
	} {
		l, err := ParseLocation(s)
		if got := l.String(); err == nil && got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", s, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	if a := (Location{Path: "-x"}).arg(); a != "./-x" {
		t.Errorf("path -x is argument %s", a)
	}
}
