package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/castorsync/castor/internal/caformat"
)

// A Reader reads the same however the bytes come, and its content is a proper
// io.Reader.
func TestReaderSources(t *testing.T) {
	b := readFile(t, "catar/t1.default.catar")
	for name, r := range map[string]io.Reader{
		"bytes":    iotest.OneByteReader(bytes.NewReader(b)),
		"halves":   iotest.HalfReader(bytes.NewReader(b)),
		"data+EOF": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		again, err := reencode(r)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: %d bytes, want %d; %v", name, len(again), len(b), err)
		}
	}
	r := NewReader(bytes.NewReader(writeFiles(t, 0, "hello")))
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if err := iotest.TestReader(r, []byte("hello")); err != nil {
		t.Error(err)
	}
}

// An error of the source is no error of the format, and stays.
func TestReaderFault(t *testing.T) {
	b := richArchive(t, Best)
	fault := errors.New("fault")
	for n := range len(b) {
		r := NewReader(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(fault)))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, fault) || errors.Is(err, ErrFormat) {
			t.Fatalf("fault at %d: %v", n, err)
		}
		if _, again := r.Next(); again != err {
			t.Fatalf("fault at %d: then %v", n, again)
		}
		if _, again := r.Read(make([]byte, 1)); again != err {
			t.Fatalf("fault at %d: read then gives %v", n, again)
		}
		if _, err := OpenTree(&faultyReaderAt{bytes.NewReader(b), fault}, int64(len(b))); !errors.Is(err, fault) || errors.Is(err, ErrFormat) {
			t.Fatalf("tree: %v", err)
		}
	}
}

type faultyReaderAt struct {
	io.ReaderAt
	err error
}

func (r *faultyReaderAt) ReadAt([]byte, int64) (int, error) { return 0, r.err }

// An archive that is cut anywhere is refused; content comes up to the cut.
func TestTruncated(t *testing.T) {
	for _, b := range [][]byte{richArchive(t, Best), readFile(t, "catar/s-caexclude.catar")} {
		for n := range len(b) {
			if testing.Short() && n%5 != 0 {
				continue
			}
			if _, err := readAll(b[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if _, err := reencode(bytes.NewReader(b[:n])); !errors.Is(err, ErrFormat) {
				t.Fatalf("cut at %d, skipping: %v", n, err)
			}
			if _, err := walkTree(b[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("cut at %d, tree: %v", n, err)
			}
			// The size may also be wrong.
			if _, err := OpenTree(bytes.NewReader(b[:n]), int64(len(b))); !errors.Is(err, ErrFormat) {
				t.Fatalf("cut at %d, tree of the whole size: %v", n, err)
			}
		}
	}
}

// One bit is enough to be refused, but in content and where another value is as
// good; then both ways of reading agree.
func TestFlipped(t *testing.T) {
	b := richArchive(t, Best)
	for i := range b {
		for bit := range 8 {
			if testing.Short() && bit != i%8 {
				continue
			}
			b[i] ^= 1 << bit
			differential(t, b)
			b[i] ^= 1 << bit
		}
	}
}

// differential checks that what a Reader accepts is written again byte for byte,
// and is the same through a Tree.
func differential(t *testing.T, b []byte) {
	t.Helper()
	nodes, err := readAll(b)
	walked, treeErr := walkTree(b)
	if err == nil != (treeErr == nil) {
		t.Fatalf("reader: %v, tree: %v", err, treeErr)
	}
	if err != nil {
		if !errors.Is(err, ErrFormat) || !errors.Is(treeErr, ErrFormat) {
			t.Fatalf("reader: %v, tree: %v", err, treeErr)
		}
		return
	}
	equalFound(t, walked, nodes)
	checkLookups(t, b, nodes)
	again, err := reencode(bytes.NewReader(b))
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("written again: %d bytes, want %d; %v", len(again), len(b), err)
	}
}

// Sizes that are absurd are refused before anything is read for them.
func TestHugeSizes(t *testing.T) {
	for _, base := range [][]byte{richArchive(t, Best), writeFiles(t, 0, "a", "b")} {
		for at := 0; at < len(base); { // the header of each record
			size := binary.LittleEndian.Uint64(base[at:])
			for _, huge := range []uint64{0, 15, size - 1, size + 1, 1 << 20, 1 << 40, math.MaxInt64, 1 << 63, math.MaxUint64 - 15, math.MaxUint64} {
				b := bytes.Clone(base)
				binary.LittleEndian.PutUint64(b[at:], huge)
				differential(t, b)
			}
			at += int(size)
		}
		for i := range (len(base) - goodbyeItemSize*3) / 8 { // words near the end: tables
			b := bytes.Clone(base)
			binary.LittleEndian.PutUint64(b[len(b)-8*(i+1):], math.MaxUint64-7)
			differential(t, b)
		}
	}
}

// Lists of an ACL are nothing without what they belong to.
func TestLoneACL(t *testing.T) {
	for _, typ := range []uint64{caformat.ACLUser, caformat.ACLGroup, caformat.ACLDefaultUser, caformat.ACLDefaultGroup} {
		b := Best.appendNode(nil, &Node{Mode: TypeDir | 0o755})
		b = appendACL(b, typ, []ACLEntry{{ID: 1, Perm: 7}})
		b = appendHeader(b, caformat.Goodbye, goodbyeMinSize-headerSize)
		b = appendGoodbyeItem(b, uint64(len(b)-headerSize), goodbyeMinSize, caformat.GoodbyeTail)
		if err := readErr(b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "ACL with users or groups") &&
			!strings.Contains(err.Error(), "users or groups alone") {
			t.Errorf("%#x: %v", typ, err)
		}
		differential(t, b)
	}
}

// A table may claim as many nodes as it likes: the claim alone takes no memory.
func TestHugeTable(t *testing.T) {
	f := Features(0)
	const n = 1 << 30
	head := f.appendNode(nil, &Node{Mode: TypeDir | 0o777})
	size := uint64(goodbyeMinSize + n*goodbyeItemSize)
	tail := appendGoodbyeItem(nil, n*minChild, size, caformat.GoodbyeTail)
	at := int64(len(head)) + n*minChild
	ra := sparse{{0, head}, {at, appendHeader(nil, caformat.Goodbye, int(size-headerSize))}, {at + int64(size) - goodbyeItemSize, tail}}
	binary.LittleEndian.PutUint64(tail, uint64(at))
	if _, err := OpenTree(ra, at+int64(size)); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

// skipping is a reader that counts what is read and skipped.
type skipping struct {
	*bytes.Reader
	step          int // read at once
	read, skipped int
}

func (s *skipping) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b[:min(len(b), s.step)])
	s.read += n
	return n, err
}

func (s *skipping) Skip(n int64) (int64, error) {
	n = min(n, int64(s.Len()))
	s.skipped += int(n)
	_, err := s.Seek(n, io.SeekCurrent)
	return n, err
}

// A Reader skips contents that are not read, whatever it has read ahead, and notices
// that they are cut short.
func TestReaderSkips(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, 0)
	if err != nil {
		t.Fatal(err)
	}
	errs := []error{w.Enter("", &Node{Mode: TypeDir | 0o777})}
	for i, size := range []int64{1000, 1, 300_000, 1, 0, 10} {
		n := &Node{Mode: TypeRegular | 0o666, Size: size}
		errs = append(errs, w.Add(fmt.Sprint(i), n, bytes.NewReader(make([]byte, size))))
	}
	if err := errors.Join(append(errs, w.Leave(), w.Close())...); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()
	var want []Entry
	for r := NewReader(bytes.NewReader(b)); ; {
		e, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	for _, step := range []int{1, 7, 500, 1 << 20} {
		s := &skipping{Reader: bytes.NewReader(b), step: step}
		r := NewReader(s)
		for i, w := range want {
			e, err := r.Next()
			if err != nil || e.Path != w.Path || e.Offset != w.Offset {
				t.Fatalf("%d at once, node %d: got %q at %d, %v, want %q at %d", step, i, e.Path, e.Offset, err, w.Path, w.Offset)
			}
			if e.Node != nil && e.Node.Size == 1 { // some are read
				if c, err := io.ReadAll(r); err != nil || len(c) != 1 {
					t.Errorf("got %q, %v", c, err)
				}
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%d at once, at the end: got %v, want %v", step, err, io.EOF)
		}
		if s.read+s.skipped != len(b) || s.skipped < 100_000 {
			t.Errorf("%d at once: read %d bytes and skipped %d of %d", step, s.read, s.skipped, len(b))
		}
	}
	r := NewReader(&skipping{Reader: bytes.NewReader(b[:100_000]), step: 500})
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, ErrFormat) {
		t.Errorf("cut short: got %v, want %v", err, ErrFormat)
	}
}

// sparse is a ReaderAt that is zero but for some parts.
type sparse []struct {
	off int64
	b   []byte
}

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for _, p := range s {
		if from := p.off - off; from >= 0 && from < int64(len(b)) {
			copy(b[from:], p.b)
		} else if from < 0 && -from < int64(len(p.b)) {
			copy(b, p.b[-from:])
		}
	}
	return len(b), nil
}

func FuzzReader(f *testing.F) {
	for _, file := range append(glob(f, "bad/*.catar"), glob(f, "catar/s-*.catar")...) {
		f.Add(readFile(f, strings.TrimPrefix(file, vectors)))
	}
	f.Add(richArchive(f, Best))
	f.Add(richArchive(f, Unix))
	f.Fuzz(func(t *testing.T, b []byte) { differential(t, b) })
}

// FuzzTree looks up names in archives of which only the touched parts are sound.
func FuzzTree(f *testing.F) {
	for _, file := range glob(f, "catar/s-*.catar") {
		f.Add(readFile(f, strings.TrimPrefix(file, vectors)), "f")
	}
	f.Add(richArchive(f, Best), "dir/in")
	f.Add(writeFiles(f, 0, collision1, collision2), collision2)
	f.Fuzz(func(t *testing.T, b []byte, path string) {
		tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		it, err := tree.Find(path)
		if err != nil {
			return
		}
		start, end := it.Range()
		if start < 0 || end > int64(len(b)) || it.body < start || it.body+it.Node.Size > end {
			t.Errorf("%q from %d to %d, content of %d at %d", path, start, end, it.Node.Size, it.body)
		}
		if _, err := io.ReadAll(it.Content()); err != nil {
			t.Error(err)
		}
		for _, err := range it.All() {
			if err != nil {
				return
			}
		}
	})
}
