package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/storetest"
)

// errStop is an error that tests recognise.
var errStop = errors.New("stop")

// compressed returns the zstd form of plain, which is plain.
func compressed(tb testing.TB, plain store.Chunk) store.Chunk {
	tb.Helper()
	e, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		tb.Fatal(err)
	}
	return store.Chunk{ID: plain.ID, Data: e.Encode(nil, plain.Data), Codec: cacnk.Zstd, Loc: "there"}
}

// memory returns a store that holds chunks.
func memory(tb testing.TB, chunks ...store.Chunk) *storetest.Memory {
	tb.Helper()
	m := new(storetest.Memory)
	for _, c := range chunks {
		if err := m.Put(tb.Context(), c); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

// faulty returns a store that holds chunks and has a fault in every call op.
func faulty(tb testing.TB, op string, fault storetest.Fault, chunks ...store.Chunk) *storetest.Faulty {
	tb.Helper()
	return &storetest.Faulty{Source: memory(tb, chunks...), Choose: func(c storetest.Call) storetest.Fault {
		if c.Op == op {
			return fault
		}
		return nil
	}}
}

// core hides the optional powers of a store.
type core struct{ store.Store }

func TestOpen(t *testing.T) {
	plain := storetest.Chunk(1, 5000)
	zstd := compressed(t, plain)
	cut := func(c store.Chunk, n int) store.Chunk { c.Data = c.Data[:n]; return c }
	flip := func(c store.Chunk, i int) store.Chunk {
		c.Data = bytes.Clone(c.Data)
		c.Data[i] ^= 1
		return c
	}
	for _, tt := range []struct {
		name   string
		c      store.Chunk
		digest chunker.Digest
		limit  int
		err    string // what it contains; all wrap ErrDamaged
	}{
		{"plain", plain, storetest.Digest, 5000, ""},
		{"zstd", zstd, storetest.Digest, 5000, ""},
		{"high limit", zstd, storetest.Digest, chunker.MaxSize, ""},
		{"empty", store.Chunk{ID: storetest.Digest.Sum(nil)}, storetest.Digest, 0, ""},
		{"plain, limit", plain, storetest.Digest, 4999, "more than 4999 bytes"},
		{"zstd, limit", zstd, storetest.Digest, 4999, "longer"},
		{"limit 0", zstd, storetest.Digest, 0, "longer"},
		{"plain, flipped", flip(plain, 4999), storetest.Digest, 5000, "verify chunk"},
		{"plain, short", cut(plain, 4999), storetest.Digest, 5000, "verify chunk"},
		{"plain, empty", cut(plain, 0), storetest.Digest, 5000, "verify chunk"},
		{"zstd, flipped", flip(zstd, 1000), storetest.Digest, 5000, " chunk"},
		{"zstd, flipped magic", flip(zstd, 0), storetest.Digest, 5000, "decode chunk"},
		{"zstd, short", cut(zstd, len(zstd.Data)-1), storetest.Digest, 5000, "decode chunk"},
		{"zstd, empty", cut(zstd, 0), storetest.Digest, 5000, "decode chunk"},
		{"wrong chunk", store.Chunk{ID: plain.ID, Data: storetest.Chunk(2, 5000).Data}, storetest.Digest, 5000, "sha512-256"},
		{"wrong codec", store.Chunk{ID: plain.ID, Data: zstd.Data, Codec: cacnk.Gzip}, storetest.Digest, 5000, "decode chunk"},
		{"wrong digest", plain, chunker.BLAKE3, 5000, chunker.BLAKE3.Sum(plain.Data).String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, verr := tt.c.Verify(tt.digest, tt.limit)
			c := tt.c
			got, err := c.Open(tt.digest, tt.limit)
			if fmt.Sprint(err) != fmt.Sprint(verr) {
				t.Errorf("Open: %v, and Verify: %v", err, verr)
			}
			if tt.err == "" {
				if err != nil || tt.digest.Sum(got) != c.ID || got == nil {
					t.Errorf("%d bytes, error %v", len(got), err)
				}
				return
			}
			if !errors.Is(err, store.ErrDamaged) || store.Missing(err) || !strings.Contains(err.Error(), tt.err) || got != nil {
				t.Errorf("%d bytes, error %v, want one with %q", len(got), err, tt.err)
			}
			if e, ok := errors.AsType[*store.Error](err); !ok || e.ID != c.ID || e.Loc != c.Loc {
				t.Errorf("error %#v, want a *store.Error with ID and Loc", err)
			}
			c.Release()
		})
	}
}

// TestOpenTwice opens a chunk again, which must cost nothing, and after errors.
func TestOpenTwice(t *testing.T) {
	n := 0
	plain := storetest.Chunk(1, 5000)
	c := compressed(t, plain)
	c.Codec = counting{&n}
	if _, err := c.Open(chunker.SHA256, 5000); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("wrong digest: %v", err)
	}
	a, err := c.Open(storetest.Digest, 5000)
	if err != nil {
		t.Fatalf("after an error: %v", err)
	}
	n = 0
	b, err := c.Open(storetest.Digest, 5000)
	if err != nil || &a[0] != &b[0] || n != 0 {
		t.Errorf("second Open: error %v, %d calls of Decode, same bytes %v", err, n, &a[0] == &b[0])
	}
	if b, err := c.Open(storetest.Digest, 4999); !errors.Is(err, store.ErrDamaged) || b != nil {
		t.Errorf("second Open with a lower limit: %d bytes, error %v", len(b), err)
	}
	n = 0
	v, err := c.Verify(storetest.Digest, 5000)
	if err != nil || n != 0 {
		t.Errorf("Verify after Open: error %v, %d calls of Decode", err, n)
	}
	if !bytes.Equal(v.Data, c.Data) || v.ID != c.ID || v.Loc != c.Loc {
		t.Error("Verify changes the chunk")
	}
}

// counting is zstd and counts how often it decodes.
type counting struct{ n *int }

func (counting) Name() string { return "counting" }

func (c counting) Decode(dst, src []byte, limit int) ([]byte, error) {
	*c.n++
	return cacnk.Zstd.Decode(dst, src, limit)
}

// TestRelease looks for the buffers of a chunk in the pool after its release.
// The pool forgets some, at random under -race, so it is tried often.
func TestRelease(t *testing.T) {
	const size = 64 << 10
	plain := storetest.Chunk(1, size)
	zstd := compressed(t, plain)
	for _, tt := range []struct {
		name       string
		lent       bool
		codec      bool
		data, open bool // given back
	}{
		{"plain", false, false, false, false},
		{"plain, lent", true, false, true, true},
		{"zstd", false, true, false, true},
		{"zstd, lent", true, true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, opened := false, false
			for range 200 {
				c := plain
				if tt.codec {
					c = zstd
				}
				b := bufpool.Get(len(c.Data))
				copy(b, c.Data)
				if c.Data = b; tt.lent {
					c = c.Lent()
				}
				got, err := c.Open(storetest.Digest, size)
				if err != nil {
					t.Fatal(err)
				}
				c.Release()
				x, y := bufpool.Get(cap(b)), bufpool.Get(cap(got))
				for _, p := range [][]byte{x, y} {
					data = data || &p[0] == &b[0]
					opened = opened || &p[0] == &got[0]
				}
			}
			if data != tt.data || opened != tt.open {
				t.Errorf("buffer of Data given back: %v, of Open: %v, want %v, %v", data, opened, tt.data, tt.open)
			}
		})
	}
	store.Chunk{}.Release()
}

func TestErrorText(t *testing.T) {
	id, err := chunker.ParseID(strings.Repeat("0123456789abcdef", 4))
	if err != nil {
		t.Fatal(err)
	}
	missing := func(loc string) error { return &store.Error{Op: "get", Loc: loc, ID: id, Err: fs.ErrNotExist} }
	down := &store.Error{Op: "get", Loc: "https://b/", ID: id, Err: io.ErrUnexpectedEOF}
	for _, tt := range []struct {
		err     error
		want    string
		missing bool
	}{
		{missing("/a"), "get chunk ID: /a: file does not exist", true},
		{down, "get chunk ID: https://b/: unexpected EOF", false},
		{&store.NotFoundError{ID: id}, "chunk ID: no store to get it from", true},
		{&store.NotFoundError{ID: id, Tried: []error{missing("/a")}}, "chunk ID: not in /a", true},
		{&store.NotFoundError{ID: id, Tried: []error{missing("/a"), down, errStop}}, "chunk ID: not in /a; https://b/: unexpected EOF; stop", false},
		{fmt.Errorf("make: %w", missing("/a")), "make: get chunk ID: /a: file does not exist", true},
		{fs.ErrNotExist, "file does not exist", true},
		{fs.ErrPermission, "permission denied", false},
	} {
		if got := strings.ReplaceAll(tt.err.Error(), id.String(), "ID"); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		if got := store.Missing(tt.err); got != tt.missing {
			t.Errorf("Missing(%v) = %v, want %v", tt.err, got, tt.missing)
		}
	}
	if store.Missing(nil) {
		t.Error("Missing(nil) = true")
	}
	if err := error(&store.NotFoundError{ID: id, Tried: []error{missing("/a"), down, errStop}}); !errors.Is(err, errStop) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v: does not wrap its reasons", err)
	}
}

// TestPowers calls the package's functions on a store with none of the powers.
func TestPowers(t *testing.T) {
	s := core{new(storetest.Memory)}
	c := storetest.Chunk(1, 1000)
	if got, err := store.Add(t.Context(), s, c); err != nil || got != (store.Added{New: true, Stored: 1000}) {
		t.Errorf("Add = %+v, %v", got, err)
	}
	if got, err := store.Add(t.Context(), s, c); err != nil || got != (store.Added{}) {
		t.Errorf("second Add = %+v, %v", got, err)
	}
	if err := store.Sync(t.Context(), s); err != nil {
		t.Errorf("Sync: %v", err)
	}
	if err := store.Replace(t.Context(), s, c); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Replace: %v", err)
	}
	if _, err := store.StoredSize(t.Context(), s, c.ID); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("StoredSize: %v", err)
	}
}

func TestAddFails(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	for _, op := range []string{"has", "put"} {
		s := faulty(t, op, storetest.Fail(errStop))
		if got, err := store.Add(t.Context(), s, c); err != errStop || got != (store.Added{}) {
			t.Errorf("%s fails: Add = %+v, %v, want %v", op, got, err, errStop)
		}
	}
}

// cancelled returns a context that has ended because of errStop.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	return ctx
}
