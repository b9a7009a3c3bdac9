package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/castorsync/castor/internal/testneed"
)

func dirNode() *Node             { return &Node{Mode: TypeDir | 0o755} }
func fileNode(size int64) *Node  { return &Node{Mode: TypeRegular | 0o644, Size: size} }
func content(s string) io.Reader { return strings.NewReader(s) }

// writeFiles writes a directory of files that hold their names.
func writeFiles(t testing.TB, f Features, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, f)
	if err != nil {
		t.Fatal(err)
	}
	dir, file := dirNode(), fileNode(0)
	f.Strip(dir)
	f.Strip(file)
	if err := w.Enter("", dir); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range names {
		file.Size = int64(len(name))
		if err := w.Add(name, file, content(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWriterErrors(t *testing.T) {
	failed := errors.New("failed")
	for _, tt := range []struct {
		name string
		do   func(w *Writer) error
		want string
	}{
		{"close before all", func(w *Writer) error { return w.Close() }, "root has not been left"},
		{"leave before all", func(w *Writer) error { return w.Leave() }, "no directory is open"},
		{"file as root", func(w *Writer) error { return w.Add("", fileNode(0), nil) }, "no directory to be in"},
		{"file entered as root", func(w *Writer) error { return w.Enter("", fileNode(0)) }, "not that of a directory"},
		{"root with name", func(w *Writer) error { return w.Enter("x", dirNode()) }, `root has a name, "x"`},
		{"no name", func(w *Writer) error { w.Enter("", dirNode()); return w.Enter("", dirNode()) }, `name "" is not allowed`},
		{"directory added", func(w *Writer) error { w.Enter("", dirNode()); return w.Add("d", dirNode(), nil) }, `archive "d": a directory`},
		{"order", func(w *Writer) error {
			w.Enter("", dirNode())
			w.Add("b", fileNode(0), nil)
			return w.Enter("a", dirNode())
		}, `archive "a": comes after "b"`},
		{"twice", func(w *Writer) error {
			w.Enter("", dirNode())
			w.Enter("d", dirNode())
			w.Add("a", fileNode(0), nil)
			return w.Add("a", fileNode(0), nil)
		}, `archive "d/a": a second node`},
		{"not stripped", func(w *Writer) error {
			w.Enter("", dirNode())
			return w.Add("a", &Node{Mode: TypeRegular, MTime: 1}, nil)
		}, `archive "a": time of 1 ns`},
		{"short content", func(w *Writer) error {
			w.Enter("", dirNode())
			return w.Add("a", fileNode(4), content("abc"))
		}, `archive "a": content ends after 3 of 4 bytes`},
		{"no content", func(w *Writer) error { w.Enter("", dirNode()); return w.Add("a", fileNode(4), nil) }, "no content"},
		{"content fails", func(w *Writer) error {
			w.Enter("", dirNode())
			return w.Add("a", fileNode(4), iotest.ErrReader(failed))
		}, `archive "a": failed`},
		{"too large", func(w *Writer) error {
			w.Enter("", dirNode())
			return w.Add("a", fileNode(MaxSize), content(""))
		}, "larger than 2^63"},
		{"after the root", func(w *Writer) error {
			w.Enter("", dirNode())
			w.Leave()
			return w.Enter("", dirNode())
		}, "the root has been left"},
		{"much metadata", func(w *Writer) error {
			n := dirNode()
			for i := range 300 {
				n.XAttrs = append(n.XAttrs, XAttr{fmt.Sprintf("user.%03d", i), make([]byte, MaxXAttrValue)})
			}
			return w.Enter("", n)
		}, "attributes of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := NewWriter(io.Discard, ACLs|UserNames|UID32|SecTime|XAttrs)
			if err != nil {
				t.Fatal(err)
			}
			err = tt.do(w)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if again := w.Close(); again == nil || again.Error() != err.Error() {
				t.Errorf("close afterwards: %v", again)
			}
		})
	}
	if _, err := NewWriter(io.Discard, UID16|UID32); err == nil {
		t.Error("features that are not normalized: no error")
	}
}

// Content is not read further than the size, and what fails below is returned.
func TestWriterContent(t *testing.T) {
	r := strings.NewReader("abcdef")
	w, err := NewWriter(io.Discard, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir, file := dirNode(), fileNode(3)
	w.f.Strip(dir)
	w.f.Strip(file)
	if err := errors.Join(w.Enter("", dir), w.Add("a", file, r)); err != nil || r.Len() != 3 {
		t.Errorf("%d bytes left, want 3; %v", r.Len(), err)
	}
	if err := errors.Join(w.Leave(), w.Close()); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err == nil {
		t.Error("closed twice")
	}

	full := errors.New("full")
	w, _ = NewWriter(failingWriter{full}, 0)
	if err := errors.Join(w.Enter("", dir), w.Leave(), w.Close()); !errors.Is(err, full) {
		t.Errorf("%v, want %v", err, full)
	}
}

// Without content, an archive is the same but for the content, and so are the
// offsets in it.
func TestAddHead(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, SecTime)
	if err != nil {
		t.Fatal(err)
	}
	dir, file := dirNode(), fileNode(2)
	w.Features().Strip(dir)
	w.Features().Strip(file)
	if err := w.Enter("", dir); err != nil {
		t.Fatal(err)
	}
	var entries []int64
	for _, name := range []string{"aa", "bb"} {
		entry, err := w.AddHead(name, file)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry)
		b.WriteString(name)
	}
	if err := errors.Join(w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if want := writeFiles(t, SecTime, "aa", "bb"); !bytes.Equal(b.Bytes(), want) || w.Offset() != int64(len(want)) {
		t.Errorf("%d bytes to offset %d, want %d", b.Len(), w.Offset(), len(want))
	}
	r := NewReader(bytes.NewReader(b.Bytes()))
	for i := -1; i < len(entries); i++ { // the root first
		if e, err := r.Next(); err != nil || i >= 0 && e.Offset != entries[i] {
			t.Errorf("node %d is at %d, %v; want %d", i, e.Offset, err, entries)
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestDepth(t *testing.T) {
	deep := func(n int) error {
		var b bytes.Buffer
		w, err := NewWriter(&b, 0)
		if err != nil {
			return err
		}
		dir := &Node{Mode: TypeDir | 0o777}
		for i := range n {
			if err := w.Enter([]string{"", "d"}[min(i, 1)], dir); err != nil {
				return err
			}
		}
		for range n {
			if err := w.Leave(); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		_, err = walkTree(b.Bytes())
		return errors.Join(err, readErr(b.Bytes()))
	}
	if err := deep(MaxDepth); err != nil {
		t.Error(err)
	}
	if err := deep(MaxDepth + 1); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("%d deep: %v", MaxDepth+1, err)
	}
}

func readErr(b []byte) error {
	_, err := readAll(b)
	return err
}

// Two names of the same hash, found by trying some 2^32.
const collision1, collision2 = "jlmmjkfnfjocmffh", "lkghkjdkaabpddfo"

func TestCollision(t *testing.T) {
	if nameHash(collision1) != nameHash(collision2) {
		t.Fatal("no collision")
	}
	names := []string{collision1, collision2}
	for i := range 40 {
		b := writeFiles(t, Best, names...)
		read, err := readAll(b)
		if err != nil {
			t.Fatal(err)
		}
		walked, err := walkTree(b)
		if err != nil {
			t.Fatal(err)
		}
		equalFound(t, walked, read)
		checkLookups(t, b, read)
		names = append(names, fmt.Sprint("name", i))
	}
}

// casync packs the same bytes, and reads what a Writer wrote as it was meant.
func TestCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(casync, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("casync %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	tmp := t.TempDir()
	dir, file := filepath.Join(tmp, "d"), filepath.Join(tmp, "x.catar")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{collision1, collision2, "a", "A", "ü", "z z", "a#"}
	for i := range 100 {
		names = append(names, fmt.Sprintf("%d", i*i))
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("make", "--without=all", file, dir)
	theirs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	none := ExcludeNoDump | ExcludeFile | SHA512256
	if ours := writeFiles(t, none, names...); !bytes.Equal(ours, theirs) {
		t.Errorf("wrote %d bytes, casync %d, not the same", len(ours), len(theirs))
	}

	for _, f := range []Features{Best, Unix, FUSE.Normalize()} {
		f |= none
		f = f.Normalize()
		b := richArchive(t, f)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		nodes, err := readAll(b)
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for _, n := range nodes {
			fmt.Fprintln(&want, MtreeLine(n.Path, n.Node, f, Digest{"sha512256", digestFunc("")(n.content)}))
		}
		equalText(t, run("mtree", file), want.String())
	}
}
