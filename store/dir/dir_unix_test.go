//go:build unix

package dir_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// TestPermissions checks that nobody writes to a chunk file, and that the umask
// says who reads it.
func TestPermissions(t *testing.T) {
	for _, tt := range []struct {
		umask     int
		file, dir fs.FileMode
	}{
		{0o022, 0o444, 0o755},
		{0o027, 0o440, 0o750},
		{0o077, 0o400, 0o700},
		{0, 0o444, 0o777},
	} {
		path := filepath.Join(t.TempDir(), "store")
		old := unix.Umask(tt.umask)
		for i, o := range []dir.Options{{Create: true}, {Durable: true}, {Plain: true}} {
			put(t, open(t, path, &o), storetest.Chunk(uint64(i), 100))
		}
		unix.Umask(old)
		err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := e.Info()
			want := tt.file
			if e.IsDir() {
				want = tt.dir
			}
			if err == nil && fi.Mode().Perm() != want {
				t.Errorf("umask %03o: %s has mode %03o, want %03o", tt.umask, name, fi.Mode().Perm(), want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestNotOurs has a store that may be read but not changed, as on a medium
// mounted read-only: asking for chunks works although no use can be recorded.
func TestNotOurs(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root may change everything: the tests with another user's files cover this")
		return
	}
	path := t.TempDir()
	c := storetest.Chunk(1, 100)
	s := open(t, path, nil)
	put(t, s, c)
	sub := filepath.Dir(file(path, c.ID, ""))
	date(t, file(path, c.ID, ".cacnk"), time.Hour)
	if err := os.Chmod(sub, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(sub, 0o755)
	checkHas(t, s, c, true)
	if _, err := store.Add(t.Context(), s, c); err != nil {
		t.Errorf("Add of a chunk that is there: %v", err)
	}
	if _, err := s.Remove(t.Context(), c.ID, time.Now().Add(time.Hour)); err == nil {
		t.Error("Remove: no error")
	}
	checkHas(t, s, c, true)
}

// TestPipe has a pipe under a chunk's name: it counts as absent, and nobody
// waits for it.
func TestPipe(t *testing.T) {
	c := storetest.Chunk(1, 100)
	for _, suffix := range []string{"", ".cacnk"} {
		path := t.TempDir()
		s := open(t, path, nil)
		name := file(path, c.ID, suffix)
		write(t, name, nil, 0)
		os.Remove(name)
		if err := unix.Mkfifo(name, 0o666); err != nil {
			t.Skip(err)
		}
		checkHas(t, s, c, false)
		put(t, s, c)
		checkHas(t, s, c, true)
	}
}
