package assemble

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// An old file that cannot be read is replaced, even if the first seed happens to
// be the content as it stands.
func TestOldUnreadable(t *testing.T) {
	unprivileged(t, func(dir string) {
		content := noise(1, 50*kib)
		x := indexOf(t, content, small)
		path := write(t, dir, "dest", []byte("old"))
		if err := os.Chmod(path, 0o200); err != nil {
			t.Fatal(err)
		}
		s := seed(t, dir, content, nil)
		asNobody(t)
		if _, err := os.Open(path); !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("got error %v, want it not to be readable", err)
		}
		if _, err := File(t.Context(), x, path, nil, FileOptions{Seeds: []Seed{s}}); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() != x.Size() {
			t.Errorf("got a file of %d bytes, want the content of %d", fi.Size(), x.Size())
		}
	})
}

// unprivileged calls test on a goroutine that [asNobody] may turn into one
// without privileges, with a directory that anybody may write to.
func unprivileged(t *testing.T, test func(dir string)) {
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		test(dir)
	}()
	<-done
}

// asNobody takes root's privileges over files from the goroutine, if it has any.
func asNobody(t *testing.T) {
	if os.Geteuid() == 0 {
		unix.Setfsuid(65534)
	}
}
