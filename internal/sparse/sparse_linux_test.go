package sparse_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/castorsync/castor/internal/sparse"
)

const block = sparse.Block

// newFile returns a file of n blocks without holes.
func newFile(t *testing.T, n int) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(bytes.Repeat([]byte{1}, n*block)); err != nil {
		t.Fatal(err)
	}
	return f
}

// stored returns how many bytes the file takes on disk.
func stored(t *testing.T, f *os.File) int64 {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestPunch(t *testing.T) {
	f := newFile(t, 64)
	before := stored(t, f)
	err := sparse.Punch(f, 16*block, 32*block)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no holes on this file system")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, want := stored(t, f), before-32*block; got > want {
		t.Errorf("file takes %d bytes, want %d at most", got, want)
	}
	if err := sparse.Punch(f, 8*block+100, 200); err != nil { // no whole block
		t.Errorf("Punch of a part of a block: %v", err)
	}
	want := bytes.Repeat([]byte{1}, 64*block)
	clear(want[16*block : 48*block])
	clear(want[8*block+100:][:200])
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong content, error %v", err)
	}
	if err := sparse.Punch(f, 63*block, 10*block); err != nil {
		t.Errorf("Punch beyond the end: %v", err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != 64*block {
		t.Errorf("Punch changes the size to %d, %v", fi.Size(), err)
	}
}

func TestHole(t *testing.T) {
	f := newFile(t, 64)
	if err := sparse.Punch(f, 16*block, 32*block); err != nil {
		t.Skip(err)
	}
	if err := f.Truncate(128 * block); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		off, n int64 // in blocks
		want   bool
	}{
		{0, 1, false},
		{15, 1, false},
		{15, 2, false},
		{16, 1, true},
		{16, 32, true},
		{20, 10, true},
		{47, 1, true},
		{47, 2, false},
		{16, 33, false},
		{48, 1, false},
		{0, 128, false},
		{64, 64, true}, // to the end of the file
		{100, 1, true},
		{63, 65, false},
	} {
		if got := sparse.Hole(f, tt.off*block, tt.n*block); got != tt.want {
			t.Errorf("Hole(%d, %d) = %v, want %v", tt.off, tt.n, got, tt.want)
		}
	}
	if !sparse.Hole(f, 16*block+1, 1) || sparse.Hole(f, 15*block+1, block) {
		t.Error("offsets within blocks are wrong")
	}
	sparse.StartWriteback(f, 0, 64*block) // says nothing
}

func TestClosed(t *testing.T) {
	f := newFile(t, 1)
	f.Close()
	if sparse.Hole(f, 0, block) {
		t.Error("Hole in a closed file")
	}
	if err := sparse.Punch(f, 0, block); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Punch of a closed file: %v", err)
	}
	sparse.StartWriteback(f, 0, block)
}

// TestNoFile has what is not a regular file: it must not be taken for a hole.
func TestNoFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if sparse.Hole(r, 0, block) {
		t.Error("Hole in a pipe")
	}
	if err := sparse.Punch(w, 0, block); err == nil {
		t.Error("Punch of a pipe: no error")
	}
}
