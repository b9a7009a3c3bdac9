package share

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/index/blob"
)

// A tree is shared as one archive, again when anything in it has changed, and what has
// changed since is never given as if it had not.
func TestTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "os")
	write := func(name, content string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/issue", "one\n")
	write("readme", "hello\n")
	s, err := New(nil, &Options{Trees: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	scan := func() (changed bool) {
		t.Helper()
		if err := s.Scan(context.Background(), func(f []File) { files, changed = f, true }); err != nil {
			t.Fatal(err)
		}
		return changed
	}
	issue := func(f File) (string, error) {
		t.Helper()
		b := blob.New(f.Index, f.Store, nil)
		defer b.Close()
		tr, err := archive.OpenTree(b, b.Size())
		if err != nil {
			return "", err
		}
		it, err := tr.Find("etc/issue")
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(it.Content())
		return string(text), err
	}
	if !scan() || len(files) != 1 || files[0].Name != "os" || files[0].Root != files[0].Index.Root() {
		t.Fatalf("first scan: %+v", files)
	}
	if got, err := issue(files[0]); got != "one\n" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	if scan() {
		t.Error("a scan of what has not changed tells a change")
	}
	old := files[0]
	time.Sleep(10 * time.Millisecond)
	write("etc/issue", "two\n")
	if got, err := issue(old); err == nil {
		t.Errorf("what has changed is read as %q", got)
	}
	if !scan() || files[0].Root == old.Root || files[0].Version <= old.Version {
		t.Fatalf("after a change: %+v", files)
	}
	if got, err := issue(files[0]); got != "two\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if !scan() || len(files) != 0 {
		t.Errorf("after it has gone: %+v", files)
	}
	if _, err := New(nil, &Options{Trees: []string{filepath.Join(dir, "absent")}}); err == nil {
		t.Error("a tree that is not there is no error")
	}
}

// A tree that was touched and is the same goes on being read through what was told of it
// before.
func TestTreeTouched(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "os")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, noise(1, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := New(nil, &Options{Trees: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	scan := func() {
		t.Helper()
		if err := s.Scan(t.Context(), func(f []File) { files = f }); err != nil || len(files) != 1 {
			t.Fatalf("%d trees, %v", len(files), err)
		}
	}
	scan()
	old := files[0]
	if err := os.Chmod(name, 0o644); err != nil { // which changes its ctime
		t.Fatal(err)
	}
	scan()
	if _, lacks := chunks(t, old); lacks > 0 || files[0].Version != old.Version || files[0].Root != old.Root {
		t.Errorf("%d chunks lack; version %d, was %d", lacks, files[0].Version, old.Version)
	}
}

// A tree is shared as soon as it is indexed, whatever else is to be.
func TestTreesOneByOne(t *testing.T) {
	var dirs []string
	for _, name := range []string{"a", "b"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	s, err := New(nil, &Options{Trees: dirs})
	if err != nil {
		t.Fatal(err)
	}
	var told []int
	if err := s.Scan(t.Context(), func(f []File) { told = append(told, len(f)) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []int{1, 2}) {
		t.Errorf("told of %v trees, want 1 and then 2", told)
	}
}
