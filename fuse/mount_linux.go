//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// readSize is the greatest size of a read request in bytes: what the kernel allows.
const readSize = 1 << 20

// background is how many requests the kernel has on the way for readers that do not
// wait for them, such as its read-ahead.
const background = 64

// forever is how long the kernel may keep what never changes.
const forever = 365 * 24 * time.Hour

// Mount is a mounted FS.
type Mount struct {
	dir  string
	s    *serving
	done chan struct{} // closed when it is unmounted
}

// Check returns why nothing can be mounted at dir, as far as that can be told before.
func Check(dir string) error {
	_, err := check(dir)
	return err
}

// check returns dir as an absolute path.
func check(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(abs)
	switch {
	case errors.Is(err, unix.ENOTCONN) || err == nil && dead(abs):
		return "", fmt.Errorf("%s: a mount that nobody serves any more is there: castor unmount removes it", dir)
	case err != nil:
		return "", fmt.Errorf("mount point: %w", err)
	case !fi.IsDir():
		return "", fmt.Errorf("mount point %s is not a directory", dir)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	if m, ok, err := mountAt(abs); err == nil && ok && m.fstype == fstype {
		return "", fmt.Errorf("%s: castor has already mounted %s there", dir, m.source)
	}
	names, err := readSomeNames(abs)
	if err != nil {
		return "", fmt.Errorf("mount point: %w", err)
	}
	if len(names) > 0 {
		return "", fmt.Errorf("mount point %s is not empty", dir)
	}
	if _, err := os.Stat(devFuse); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no %s: load the kernel's module fuse (modprobe fuse); a container must be given the device", devFuse)
	}
	if _, err := helper(); err != nil && os.Geteuid() != 0 {
		return "", err
	}
	return abs, nil
}

func readSomeNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, _ := f.Readdirnames(1) // io.EOF if there is none
	return names, nil
}

// Mount mounts f at dir, which must be an empty directory. It is served until somebody
// unmounts it; the content must not be closed before Wait returns.
//
// Root mounts by itself, others with the program fusermount3.
func (f *FS) Mount(dir string, o *Options) (*Mount, error) {
	if o == nil {
		o = &Options{}
	}
	abs, err := check(dir)
	if err != nil {
		return nil, err
	}
	fd, err := attach(abs, o)
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	s := newServing(f, o)
	without := uint64(gofuse.CAP_PASSTHROUGH) // with it one overlay fewer can be put on the mount
	if f.tree == nil && o.Whole != nil {
		without = 0
	}
	timeout := forever
	// The server takes the connection as it is and leaves mounting and unmounting to us:
	// it has no way to tell why they fail.
	server, err := gofuse.NewServer(gofs.NewNodeFS(s.root(), &gofs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NegativeTimeout: &timeout,
		NullPermissions: true,
		RootStableAttr:  &gofs.StableAttr{Ino: rootIno},
		ExternalNodeID:  true, // so that nodes can be named to the kernel
		Logger:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}), fmt.Sprintf("/dev/fd/%d", fd), &gofuse.MountOptions{
		MaxBackground:            background,
		MaxWrite:                 readSize,
		MaxReadAhead:             readSize,
		Name:                     subtype,
		EnableAcl:                s.hasACLs(),
		EnableSymlinkCaching:     true,
		DisabledCapabilities:     without,
		DisableSplice:            true, // what is in memory cannot be spliced: each read would fill a pipe in vain
		ExplicitDataCacheControl: true,
		Logger:                   slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	})
	if err != nil {
		unix.Close(fd)
		detach(abs, true)
		return nil, fmt.Errorf("mount at %s: the kernel does not agree: %w", dir, err)
	}
	if without == 0 {
		s.pass(server, o.Whole)
	}
	m := &Mount{dir: abs, s: s, done: make(chan struct{})}
	unmounted := make(chan struct{})
	at, _, _ := mountAt(abs) // without it nothing is known of what is mounted on files
	s.nodes.drop = prune(server, at.device)
	go s.nodes.forget(unmounted)
	go func() {
		defer close(m.done)
		server.Serve()
		s.closeDirs()
		close(unmounted)
		<-s.nodes.done
	}()
	return m, nil
}

// pass has the kernel read whole by itself, if it does that.
func (s *serving) pass(server *gofuse.Server, whole *os.File) {
	id, errno := server.RegisterBackingFd(&gofuse.BackingMap{Fd: int32(whole.Fd())})
	if errno == 0 {
		errno = server.UnregisterBackingFd(id)
	}
	if errno != 0 {
		s.log.Warn("the kernel does not read the file by itself, and so castor does", "file", whole.Name(), "error", errno)
		return
	}
	s.whole = whole
}

// Wait returns when the mount is not there any more and all requests are answered.
func (m *Mount) Wait() { <-m.done }

// Unmount ends the mount and waits until it is gone. The error wraps [ErrBusy] if files
// in it are in use; a lazy one takes it from sight then, and those who use it can go on
// until the process ends.
func (m *Mount) Unmount(lazy bool) error {
	select {
	case <-m.done:
		return nil
	default:
	}
	if err := detach(m.dir, lazy); err != nil {
		return err
	}
	if !lazy {
		m.Wait()
	}
	return nil
}

// Stats returns what the mount has done so far.
func (m *Mount) Stats() Stats { return m.s.stats() }
