package dir_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// TestAnotherUser shares a store with a user who may not set the times of its
// files. A chunk whose use cannot be recorded is written anew.
func TestAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	base := t.TempDir()
	path := filepath.Join(base, "store")
	old, young := storetest.Chunk(1, 1000), storetest.Chunk(2, 1000)
	put(t, open(t, path, &dir.Options{Create: true}), old, young)
	date(t, file(path, old.ID, ".cacnk"), time.Hour)
	for name, mode := range map[string]fs.FileMode{
		filepath.Dir(base):                     0o755,
		base:                                   0o755,
		path:                                   0o777,
		filepath.Dir(file(path, old.ID, "")):   0o777,
		filepath.Dir(file(path, young.ID, "")): 0o777,
	} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	const uid = 12345
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setfsuid(uid); err != nil {
			t.Error(err)
			return
		}
		s, err := dir.Open(path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		checkHas(t, s, old, true)
		if a, err := s.Add(t.Context(), young); err != nil || a.New {
			t.Errorf("Add of a young chunk of somebody else = %+v, %v", a, err)
		}
		if _, err := s.Add(t.Context(), old); err != nil {
			t.Errorf("Add of an old chunk of somebody else: %v", err)
		}
	}()
	<-done
	for name, want := range map[string]uint32{file(path, old.ID, ".cacnk"): uid, file(path, young.ID, ".cacnk"): 0} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Sys().(*syscall.Stat_t).Uid; got != want || time.Since(fi.ModTime()) > time.Minute {
			t.Errorf("%s: owner %d, time %v, want %d, now", name, got, fi.ModTime(), want)
		}
	}
	checkHas(t, open(t, path, nil), old, true)
}
