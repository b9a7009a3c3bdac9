package share

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asNobody calls f without root's privileges over files.
func asNobody(f func()) {
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		unix.Setfsuid(65534)
		f()
	}()
	<-done
}

func TestUnreadable(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"f": []byte("x"), "d/g": nil, "h": nil})
	for _, d := range []string{filepath.Dir(tr.dir), tr.dir} {
		os.Chmod(d, 0o755) // for nobody
	}
	os.Chmod(tr.path("f"), 0)
	os.Chmod(tr.path("d"), 0)
	defer os.Chmod(tr.path("d"), 0o777)
	asNobody(func() {
		for range 3 {
			if names, _ := tr.scan(); !slices.Equal(names, []string{"h"}) {
				t.Errorf("shared %q", names)
			}
		}
	})
	if n := strings.Count(tr.log.String(), "not shared"); n != 2 {
		t.Errorf("told %d times, want twice: %s", n, tr.log.String())
	}
	os.Chmod(tr.path("f"), 0o644)
	tr.share.files["f"].retry = time.Time{}
	asNobody(func() {
		if names, _ := tr.scan(); !slices.Equal(names, []string{"f", "h"}) {
			t.Errorf("shared %q", names)
		}
	})
}
