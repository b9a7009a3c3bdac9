package index_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/castorsync/castor/index"
)

// FuzzDecode: whatever is taken for an index is written back byte for byte, and
// all else is called by its name.
func FuzzDecode(f *testing.F) {
	for _, path := range vectors(f) {
		if b := read(f, path); len(b) < 2000 {
			f.Add(b)
		}
	}
	f.Add(read(f, testdata+"desync/adversarial/huge_chunk.caibx"))
	f.Add([]byte{})
	good := encode(f, made(3, small))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(good, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := index.Decode(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Errorf("got %v, want %v", err, index.ErrFormat)
			}
			return
		}
		if !bytes.Equal(encode(t, x), b) {
			t.Error("encodes to other bytes")
		}
		if got, want := index.NewTree(x).Root(), x.Root(); got != want {
			t.Errorf("root of the tree %v, of the index %v", got, want)
		}
		for i := range x.Entries {
			if n := x.Len(i); n < 1 || n > x.Params.Max {
				t.Errorf("entry %d has %d bytes", i, n)
			}
			if got := x.Find(x.Start(i)); got != i {
				t.Errorf("Find of the start of entry %d = %d", i, got)
			}
		}
	})
}

// FuzzVerify: no proof makes Verify panic, and none of them is right by chance.
func FuzzVerify(f *testing.F) {
	x := made(130, small)
	root := x.Root()
	f.Add(130, int64(0), 0, 0, []byte{})
	f.Add(130, x.Size(), 128, 1, make([]byte, 32))
	f.Add(130, x.Size(), 64, 6, make([]byte, 64))
	f.Add(-1, int64(-1), -1, -1, make([]byte, 64))
	f.Add(int(^uint(0)>>1), int64(1), 0, 63, make([]byte, 64))
	f.Fuzz(func(t *testing.T, count int, size int64, first, level int, path []byte) {
		p := index.Proof{Header: small, Count: count, Size: size, First: first, Level: level}
		for ; len(path) >= 32; path = path[32:] {
			p.Path = append(p.Path, index.Hash(path))
		}
		for _, entries := range [][]index.Entry{nil, x.Entries[:1], x.Entries[:64]} {
			if err := p.Verify(root, entries); !errors.Is(err, index.ErrProof) {
				t.Errorf("got %v, want %v", err, index.ErrProof)
			}
		}
	})
}
