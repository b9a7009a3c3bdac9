package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/castorsync/castor/mcast/wire"
)

// object returns an object of parts whose chunks are zeros.
func object(t testing.TB, parts ...wire.Part) []byte {
	t.Helper()
	b, err := wire.AppendDirectory(nil, parts)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		b = append(b, make([]byte, p.Length)...)
	}
	return b
}

var someParts = []wire.Part{{Form: wire.Plain, Length: 3}, {Form: wire.Zstd, Length: 1000}, {Form: wire.Absent}, {Form: wire.Plain}, {Form: wire.Zstd, Length: 1}}

func TestDirectory(t *testing.T) {
	for n := range len(someParts) + 1 {
		b := object(t, someParts[:n]...)
		got, err := wire.ParseDirectory(b, n)
		if err != nil || !slices.Equal(got, someParts[:n]) {
			t.Errorf("%d parts: got %v, %v", n, got, err)
		}
		for i := range b {
			if parts, err := wire.ParseDirectory(b[:i], n); !errors.Is(err, wire.ErrPacket) {
				t.Errorf("%d parts, %d of %d bytes: %v, %v", n, i, len(b), parts, err)
			}
		}
		if _, err := wire.ParseDirectory(append(b, 0), n); !errors.Is(err, wire.ErrPacket) {
			t.Errorf("%d parts and a byte: %v", n, err)
		}
		if _, err := wire.ParseDirectory(b, n+1000); !errors.Is(err, wire.ErrPacket) {
			t.Errorf("%d parts read as %d: %v", n, n+1000, err)
		}
	}
}

func TestDirectoryRefuses(t *testing.T) {
	word := func(form uint32, length uint32) []byte { return binary.BigEndian.AppendUint32(nil, form<<28|length) }
	for _, tt := range []struct {
		name string
		b    []byte
		n    int
	}{
		{"absent with bytes", append(word(15, 1), 0), 1},
		{"unknown form", word(2, 0), 1},
		{"unknown form with bytes", append(word(7, 1), 0), 1},
		{"longer than the object", append(word(0, 2), 0), 1},
		{"longest", word(0, 1<<28-1), 1},
		{"longest many times", bytes.Repeat(word(1, 1<<28-1), 1000), 1000},
		{"second one too long", append(append(word(0, 1), word(0, 1)...), 0), 2},
	} {
		if parts, err := wire.ParseDirectory(tt.b, tt.n); !errors.Is(err, wire.ErrPacket) {
			t.Errorf("%s: %v, %v", tt.name, parts, err)
		}
	}
	if _, err := wire.AppendDirectory(nil, []wire.Part{{Length: 1 << 28}}); err == nil {
		t.Error("a part of 2^28 bytes is appended")
	}
	if _, err := wire.AppendDirectory(nil, []wire.Part{{Length: 1<<28 - 1}}); err != nil {
		t.Errorf("a part of 2^28 - 1 bytes: %v", err)
	}
}

func FuzzDirectory(f *testing.F) {
	f.Add(object(f, someParts...), len(someParts))
	f.Add(object(f, someParts...), 3)
	f.Add([]byte{}, 0)
	f.Add([]byte{0xf0, 0, 0, 0}, 1)
	f.Add([]byte{0x1f, 0xff, 0xff, 0xff}, 1)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		parts, err := wire.ParseDirectory(b, n)
		if err != nil {
			if !errors.Is(err, wire.ErrPacket) {
				t.Errorf("error %v does not wrap ErrPacket", err)
			}
			return
		}
		if len(parts) != n {
			t.Fatalf("%d parts of %d", len(parts), n)
		}
		sum := wire.DirectorySize(n)
		for _, p := range parts {
			if p.Length < 0 || p.Form == wire.Absent && p.Length != 0 {
				t.Fatalf("part %+v", p)
			}
			sum += p.Length
		}
		if sum != len(b) {
			t.Fatalf("parts of %d bytes in an object of %d", sum, len(b))
		}
		again, err := wire.AppendDirectory(nil, parts)
		if err != nil || !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("appended anew: % x, %v, want % x", again, err, b[:len(again)])
		}
	})
}
