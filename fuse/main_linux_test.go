//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testneed"
)

// mapVariable has the test binary map a file and print its digest.
const mapVariable = "FUSE_TEST_MAP"

func TestMain(m *testing.M) {
	if name := os.Getenv(mapVariable); name != "" {
		if err := printMapped(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// printMapped prints the digest of a file that it reads through a mapping, its last
// page first.
func printMapped(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	last := 0
	for i := len(b) - 1; i >= 0; i -= 4096 {
		last += int(b[i])
	}
	fmt.Printf("%x\n", sha256.Sum256(b))
	return nil
}

// need ends the test unless file systems can be mounted.
func need(t testing.TB) {
	t.Helper()
	testneed.Root(t)
	if _, err := os.Stat(devFuse); err != nil {
		testneed.Missing(t, "needs %s: %v", devFuse, err)
	}
}

// mount mounts f until the test ends, and returns where.
func mount(t testing.TB, f *FS, o *Options) (dir string, m *Mount) {
	t.Helper()
	need(t)
	dir = t.TempDir()
	m, err := f.Mount(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for try := 0; ; try++ {
			err := m.Unmount(false)
			if err == nil {
				return
			}
			if try == 50 { // readers that were killed may take a moment
				t.Error(err)
				m.Unmount(true)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	noPoll(t, dir)
	return dir, m
}

// noPoll makes it known to the kernel that the server answers no polls. Go's runtime
// asks for one when this process opens a file, and waits for it in a way that can
// keep the server from running.
func noPoll(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// output runs a program and returns its output.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testneed.Tool(t, name), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v", cmd.Args, err)
	}
	return string(out)
}

// count returns how many goroutines and open files there are.
func count(t testing.TB) (goroutines, files int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(list)
}
