//go:build unix

package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/internal/testneed"
)

// temporary is the name that the temporary file of file has.
const temporary = ".file.castor-tmp"

// TestTakeOver finds what a killed run left.
func TestTakeOver(t *testing.T) {
	for _, resume := range []bool{false, true} {
		dir := t.TempDir()
		name := filepath.Join(dir, "file")
		f := create(t, name, false, "")
		writeString(t, f, "what a killed run had got")
		if got := filepath.Base(f.Name()); got != temporary {
			t.Errorf("temporary file %q, want %q", got, temporary)
		}
		f.Close() // as the end of the process does
		left := ""
		if resume {
			left = "what a killed run had got"
		}
		f = create(t, name, resume, left)
		if got := filepath.Base(f.Name()); got != temporary {
			t.Errorf("after a killed run: temporary file %q, want %q", got, temporary)
		}
		writeString(t, f, "WHAT")
		if err := f.Commit(true); err != nil {
			t.Fatal(err)
		}
		checkFile(t, name, "WHAT"+strings.TrimPrefix(left, "what"))
		if got := ls(t, dir); len(got) != 1 {
			t.Errorf("files %q are left", got)
		}
	}
}

// TestOwner replaces a file of somebody else, which stays theirs; so does what a killed run
// has left stay ours.
func TestOwner(t *testing.T) {
	testneed.Root(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("old"), 0o660); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(name, 1234, 5678), os.Chmod(name, 0o660)); err != nil {
		t.Fatal(err)
	}
	f := create(t, name, false, "")
	f.Close() // as the end of the process does
	f = create(t, name, true, "")
	if got := filepath.Base(f.Name()); got != temporary {
		t.Errorf("after a killed run: temporary file %q, want %q", got, temporary)
	}
	writeString(t, f, "new")
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	checkFile(t, name, "new")
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o777 != 0o660 {
		t.Errorf("owner %d:%d, mode %#o, %v", st.Uid, st.Gid, st.Mode, err)
	}
}

// TestPlanted has something under the temporary name that is not ours: it is
// left alone.
func TestPlanted(t *testing.T) {
	for what, plant := range map[string]func(victim, tmp string) error{
		"symbolic link":          os.Symlink,
		"dangling symbolic link": func(victim, tmp string) error { return os.Symlink(victim+"2", tmp) },
		"hard link":              os.Link,
		"fifo":                   func(_, tmp string) error { return unix.Mkfifo(tmp, 0o666) },
		"directory":              func(_, tmp string) error { return os.Mkdir(tmp, 0o777) },
		"file of somebody else": func(victim, tmp string) error {
			if err := os.WriteFile(tmp, []byte("victim"), 0o666); err != nil {
				return err
			}
			return os.Chown(tmp, 12345, 12345)
		},
	} {
		for _, resume := range []bool{false, true} {
			t.Run(fmt.Sprint(what, resume), func(t *testing.T) {
				dir := t.TempDir()
				name, victim := filepath.Join(dir, "file"), filepath.Join(dir, "victim")
				tmp := filepath.Join(dir, temporary)
				writeFile(t, victim, "victim")
				if err := plant(victim, tmp); err != nil {
					t.Skip(err)
				}
				before, err := os.Lstat(tmp)
				if err != nil {
					t.Fatal(err)
				}
				f := create(t, name, resume, "")
				writeString(t, f, "content")
				if f.Name() == tmp {
					t.Error("the planted name is used")
				}
				if err := f.Commit(false); err != nil {
					t.Fatal(err)
				}
				checkFile(t, name, "content")
				checkFile(t, victim, "victim")
				after, err := os.Lstat(tmp)
				if err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
					t.Errorf("what was planted has changed: %v", err)
				}
				if got, want := ls(t, dir), []string{temporary, "file", "victim"}; !slices.Equal(got, want) {
					t.Errorf("files %q are left, want %q", got, want)
				}
			})
		}
	}
}

func TestPermissions(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	for _, tt := range []struct {
		old  fs.FileMode // of the file that is there; 0: none
		left fs.FileMode // of the file that a killed run left; 0: none
		want fs.FileMode
	}{
		{0, 0, 0o640},
		{0o600, 0, 0o600},
		{0o777, 0, 0o777},
		{0o444, 0, 0o444},
		{0o600, 0o644, 0o600},
		{0o644, 0o600, 0o644},
	} {
		dir := t.TempDir()
		name := filepath.Join(dir, "file")
		for path, mode := range map[string]fs.FileMode{name: tt.old, filepath.Join(dir, temporary): tt.left} {
			if mode == 0 {
				continue
			}
			writeFile(t, path, "old")
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		f := create(t, name, false, "")
		if fi, err := f.Stat(); err != nil || fi.Mode().Perm()&^tt.want != 0 {
			t.Errorf("%+v: the temporary file has mode %v, %v", tt, fi.Mode(), err)
		}
		if err := f.Commit(false); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(name); err != nil || fi.Mode() != tt.want {
			t.Errorf("%+v: mode %v, %v, want %v", tt, fi.Mode(), err, tt.want)
		}
	}
}

// TestNotRegular refuses to replace what is no file.
func TestNotRegular(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o666); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{name, os.DevNull} {
		f, err := atomicfile.Create(name, false)
		if err == nil {
			f.Abort()
			t.Errorf("%s: no error", name)
		}
	}
	if got := ls(t, filepath.Dir(name)); len(got) != 1 {
		t.Errorf("files %q are left", got)
	}
}
