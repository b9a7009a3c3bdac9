package atomicfile_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/castorsync/castor/internal/atomicfile"
)

// ls returns the names in dir.
func ls(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkFile fails the test unless name has that content.
func checkFile(t *testing.T, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		t.Errorf("%s holds %q, error %v, want %q", filepath.Base(name), b, err, want)
	}
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// create begins to write name, whose content so far is old.
func create(t *testing.T, name string, resume bool, old string) *atomicfile.File {
	t.Helper()
	f, err := atomicfile.Create(name, resume)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Abort)
	if b, err := io.ReadAll(f); err != nil || string(b) != old {
		t.Errorf("new file holds %q, error %v, want %q", b, err, old)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func writeString(t *testing.T, f *atomicfile.File, s string) {
	t.Helper()
	if _, err := f.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

func TestCommit(t *testing.T) {
	for _, sync := range []bool{false, true} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprint("sync ", sync, " old ", old), func(t *testing.T) {
				dir := t.TempDir()
				name := filepath.Join(dir, "file")
				if old {
					writeFile(t, name, "old")
				}
				f := create(t, name, false, "")
				writeString(t, f, "new content")
				if old {
					checkFile(t, name, "old")
				} else if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("file is there before Commit: %v", err)
				}
				if want := filepath.Dir(f.Name()); filepath.Dir(f.Path()) != want || filepath.Base(f.Path()) != "file" {
					t.Errorf("Path() = %s, temporary file in %s", f.Path(), want)
				}
				if err := f.Commit(sync); err != nil {
					t.Fatal(err)
				}
				f.Abort() // nothing now
				checkFile(t, name, "new content")
				if got := ls(t, dir); len(got) != 1 {
					t.Errorf("files %q are left", got)
				}
				if _, err := f.WriteString("x"); !errors.Is(err, os.ErrClosed) {
					t.Errorf("Write after Commit: %v", err)
				}
			})
		}
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"old", "new"} {
		path := filepath.Join(dir, name)
		if name == "old" {
			writeFile(t, path, "old content")
		}
		f := create(t, path, false, "")
		writeString(t, f, "half of the n")
		f.Abort()
		f.Abort()
		if _, err := f.WriteString("x"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Write after Abort: %v", err)
		}
	}
	if got := ls(t, dir); !slices.Equal(got, []string{"old"}) {
		t.Errorf("files %q are left", got)
	}
	checkFile(t, filepath.Join(dir, "old"), "old content")
}

// TestCommitFails has a target that turns into a directory meanwhile.
func TestCommitFails(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	f := create(t, name, false, "")
	writeString(t, f, "content")
	if err := os.MkdirAll(filepath.Join(name, "x"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(true); err == nil {
		t.Error("Commit: no error")
	}
	if got := ls(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("files %q are left", got)
	}
	if _, err := f.WriteString("x"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Commit: %v", err)
	}
}

func TestCreateFails(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), "")
	for _, tt := range []struct {
		name string
		want error
		text string
	}{
		{"none/file", fs.ErrNotExist, "none"},
		{"file/below", nil, "file"},
		{".", nil, "not a regular file"},
	} {
		_, err := atomicfile.Create(filepath.Join(dir, filepath.FromSlash(tt.name)), false)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("Create(%q): %v, want an error with %q", tt.name, err, tt.text)
		}
	}
	if got := ls(t, dir); len(got) != 1 {
		t.Errorf("files %q are left", got)
	}
}

// TestTwo writes a file twice at once: the second writer uses a name of its own,
// with resume and without.
func TestTwo(t *testing.T) {
	for _, resume := range []bool{false, true} {
		for _, firstLast := range []bool{false, true} {
			dir := t.TempDir()
			name := filepath.Join(dir, "file")
			a := create(t, name, resume, "")
			writeString(t, a, "from a")
			b := create(t, name, resume, "")
			if a.Name() == b.Name() {
				t.Fatalf("both write to %s", a.Name())
			}
			writeString(t, b, "from b")
			want := "from b"
			if firstLast {
				a, b, want = b, a, "from a"
			}
			for _, f := range []*atomicfile.File{a, b} {
				if err := f.Commit(false); err != nil {
					t.Error(err)
				}
			}
			checkFile(t, name, want)
			if got := ls(t, dir); len(got) != 1 {
				t.Errorf("files %q are left", got)
			}
		}
	}
}

// TestMany writes a file from many goroutines. Whoever reads finds it whole.
func TestMany(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	writeFile(t, name, strings.Repeat("0", 5000))
	done := make(chan struct{})
	var writers, reader sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				f, err := atomicfile.Create(name, i%2 == 0)
				if err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				err = f.Truncate(0)
				for range 5 {
					if err == nil {
						_, err = f.WriteString(strings.Repeat(string(rune('a'+w)), 1000))
					}
				}
				if i%5 == 4 {
					f.Abort()
				} else if err == nil {
					err = f.Commit(false)
				}
				if err != nil {
					t.Errorf("writing: %v", err)
				}
			}
		})
	}
	reader.Go(func() {
		for {
			b, err := os.ReadFile(name)
			if err != nil || len(b) != 5000 || strings.Count(string(b), string(b[:1])) != 5000 {
				t.Errorf("read %d bytes, error %v, not whole", len(b), err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(done)
	reader.Wait()
	if got := ls(t, dir); len(got) != 1 {
		t.Errorf("files %q are left", got)
	}
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	real, links := filepath.Join(dir, "real"), filepath.Join(dir, "links")
	for _, d := range []string{real, links} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(real, "file")
	for link, to := range map[string]string{"absolute": target, "relative": "../real/file", "chain": "relative", "dangling": "../real/none", "dir": "../real"} {
		if err := os.Symlink(filepath.FromSlash(to), filepath.Join(links, link)); err != nil {
			t.Skip(err) // as on Windows
		}
	}
	writeFile(t, target, "old")
	for _, link := range []string{"absolute", "relative", "chain", "dir/file"} {
		f := create(t, filepath.Join(links, filepath.FromSlash(link)), false, "")
		writeString(t, f, link)
		if err := f.Commit(false); err != nil {
			t.Errorf("%s: %v", link, err)
		}
		checkFile(t, target, link)
		if fi, err := os.Lstat(target); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%s: the destination is %v, %v", link, fi.Mode(), err)
		}
	}
	if _, err := atomicfile.Create(filepath.Join(links, "dangling"), false); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("dangling: %v", err)
	}
	for _, link := range []string{"absolute", "relative", "chain", "dangling", "dir"} {
		if fi, err := os.Lstat(filepath.Join(links, link)); err != nil || fi.Mode().Type() != fs.ModeSymlink {
			t.Errorf("%s is no link any more: %v", link, err)
		}
	}
	if a, b := ls(t, links), ls(t, real); len(a) != 5 || len(b) != 1 {
		t.Errorf("files %q, %q are left", a, b)
	}
}

// TestLongNames has names as long as file systems take them, and two that begin
// alike.
func TestLongNames(t *testing.T) {
	dir := t.TempDir()
	names := []string{
		"x",
		strings.Repeat("a", 200),
		strings.Repeat("a", 255),
		strings.Repeat("a", 254) + "b",
		strings.Repeat("ä", 127),
		"b" + strings.Repeat("ä", 127),
	}
	var files []*atomicfile.File
	for _, name := range names {
		f := create(t, filepath.Join(dir, name), false, "")
		writeString(t, f, name)
		files = append(files, f)
	}
	for _, f := range files {
		if err := f.Commit(false); err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		checkFile(t, filepath.Join(dir, name), name)
	}
	if got := ls(t, dir); len(got) != len(names) {
		t.Errorf("files %q are left", got)
	}
	if _, err := atomicfile.Create(filepath.Join(dir, strings.Repeat("a", 256)), false); err == nil {
		t.Log("a name of 256 bytes works here")
	}
}

func TestSyncDir(t *testing.T) {
	dir := t.TempDir()
	if err := atomicfile.SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := atomicfile.SyncDir(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of what is not there: %v", err)
	}
}
