package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// countingReaderAt counts what is read.
type countingReaderAt struct {
	io.ReaderAt
	reads, bytes atomic.Int64
}

func (r *countingReaderAt) ReadAt(b []byte, off int64) (int, error) {
	r.reads.Add(1)
	r.bytes.Add(int64(len(b)))
	return r.ReaderAt.ReadAt(b, off)
}

// manyFiles writes dirs directories of n/dirs files each, with names as long as
// usual and a few hundred bytes of content.
func manyFiles(t testing.TB, n, dirs int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Best)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 300)
	dir, file := rich(TypeDir), rich(TypeRegular)
	dir.ACL, file.ACL = ACL{}, ACL{}
	file.Size = int64(len(data))
	err = w.Enter("", dir)
	for d := range dirs {
		err = errors.Join(err, w.Enter(fmt.Sprintf("directory-%06d", d), dir))
		for i := range n / dirs {
			if e := w.Add(fmt.Sprintf("file-%08d.txt", i), file, bytes.NewReader(data)); e != nil {
				t.Fatal(e)
			}
		}
		err = errors.Join(err, w.Leave())
	}
	if err := errors.Join(err, w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A lookup and a list of one directory read a small part of the archive, in few
// reads.
func TestTreeReads(t *testing.T) {
	for _, tt := range []struct {
		files, dirs         int
		reads, bytes        int64 // for a lookup from the root
		listReads, listData int64 // for a list of one directory
	}{
		{100_000, 1, 22, 80 << 10, 1 << 10, 60 << 20},
		{100_000, 100, 14, 50 << 10, 20, 1 << 20},
	} {
		if testing.Short() {
			tt.files /= 10
		}
		b := manyFiles(t, tt.files, tt.dirs)
		ra := &countingReaderAt{ReaderAt: bytes.NewReader(b)}
		tree, err := OpenTree(ra, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		var dir *Item
		for range 100 {
			ra.reads.Store(0)
			ra.bytes.Store(0)
			if dir, err = tree.Find(fmt.Sprintf("directory-%06d", rand.IntN(tt.dirs))); err != nil {
				t.Fatal(err)
			}
			if _, err = dir.Lookup(fmt.Sprintf("file-%08d.txt", rand.IntN(tt.files/tt.dirs))); err != nil {
				t.Fatal(err)
			}
			if r, n := ra.reads.Load(), ra.bytes.Load(); r > tt.reads || n > tt.bytes {
				t.Fatalf("lookup among %d: %d reads of %d bytes", tt.files/tt.dirs, r, n)
			}
		}
		t.Logf("lookup among %d: %d reads of %d bytes", tt.files/tt.dirs, ra.reads.Load(), ra.bytes.Load())
		ra.reads.Store(0)
		ra.bytes.Store(0)
		n := 0
		for _, err := range dir.Children() {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if r, size := ra.reads.Load(), ra.bytes.Load(); n != tt.files/tt.dirs || r > tt.listReads || size > tt.listData {
			t.Errorf("list of %d: %d reads of %d bytes", n, r, size)
		}
		t.Logf("list of %d: %d reads of %d bytes of %d", n, ra.reads.Load(), ra.bytes.Load(), len(b))
	}
}

// Large files in between are not read by a list.
func TestTreeLargeFiles(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Enter("", &Node{Mode: TypeDir | 0o777})
	data := make([]byte, 1<<20)
	for i := range 8 {
		err = errors.Join(err, w.Add(fmt.Sprint(i), &Node{Mode: TypeRegular | 0o666, Size: int64(len(data))}, bytes.NewReader(data)))
	}
	if err := errors.Join(err, w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	ra := &countingReaderAt{ReaderAt: bytes.NewReader(b.Bytes())}
	tree, err := OpenTree(ra, int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range tree.Root().All() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := ra.bytes.Load(); n > 64<<10 {
		t.Errorf("read %d bytes", n)
	}
}

func TestTreeConcurrent(t *testing.T) {
	b := readFile(t, "catar/t1.default.catar")
	nodes, err := readAll(b)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range nodes {
				n := nodes[(i*7+g)%len(nodes)]
				if it, err := tree.Find(n.Path); err != nil || !it.Node.Equal(n.Node) {
					t.Errorf("%q: %v", n.Path, err)
				}
			}
			for _, err := range tree.Root().All() {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestFind(t *testing.T) {
	b := richArchive(t, Best)
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"": "", ".": "", "/": "", "./dir//in/.": "dir/in", "/link": "link"} {
		if it, err := tree.Find(path); err != nil || it.Path != want {
			t.Errorf("%q: %v, want %q", path, err, want)
		}
	}
	for path, want := range map[string]error{"..": fs.ErrInvalid, "dir/no": fs.ErrNotExist, "link/x": errNotDir, "a\x00": fs.ErrInvalid} {
		_, err := tree.Find(path)
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || !errors.Is(err, want) {
			t.Errorf("%q: %v (%v), want %v", path, err, pe, want)
		}
	}
	// Stopping early is no error.
	for range tree.Root().All() {
		break
	}
	for range tree.Root().Children() {
		break
	}
	link, err := tree.Find("link")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range link.Children() {
		if !errors.Is(err, errNotDir) {
			t.Errorf("children of a link: %v", err)
		}
	}
}

// Whatever a table says of a node that is looked up is checked.
func TestTreeTable(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	base := writeFiles(t, 0, names...)
	table := len(base) - goodbyeMinSize - len(names)*goodbyeItemSize
	for at := table; at < len(base); at++ {
		b := bytes.Clone(base)
		b[at] ^= 0x41
		tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
		for _, name := range names {
			if err == nil {
				var it *Item
				it, err = tree.Find(name)
				if err == nil {
					if got, _ := io.ReadAll(it.Content()); string(got) != name {
						t.Errorf("byte %d: %q has %q", at, name, got)
					}
				}
			}
		}
		if err == nil {
			t.Errorf("byte %d: no error", at)
		}
	}
}
