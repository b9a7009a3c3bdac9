//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Unmount unmounts what castor has mounted at dir, in whichever process. The error
// wraps [ErrNotMounted] if there is nothing, and [ErrBusy] if files in it are in use; a
// lazy one takes it from sight then, and it ends with its last user. A mount that
// nobody serves any more, because its process was killed, is always removed.
func Unmount(dir string, lazy bool) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// The directory itself cannot be asked if nobody serves it.
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return err
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	if to, err := os.Readlink(abs); err == nil {
		if abs = to; !filepath.IsAbs(to) {
			abs = filepath.Join(parent, to)
		}
	}
	m, ok, err := mountAt(abs)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%s: %w", dir, ErrNotMounted)
	case m.fstype != fstype:
		return fmt.Errorf("%s: %w, but %s of the type %s is", dir, ErrNotMounted, m.source, m.fstype)
	}
	if err := detach(abs, lazy || dead(abs)); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// dead reports whether nobody serves the mount at dir any more. It asks for what the
// kernel does not keep.
func dead(dir string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
}

// mountInfo is what the kernel says of a mount.
type mountInfo struct {
	id, parent     string
	device         string // of the file system
	root           string // what of the file system is mounted
	dir            string // where
	fstype, source string
}

// mountAt returns what is mounted at dir, the uppermost if there are several.
func mountAt(dir string) (m mountInfo, ok bool, err error) {
	all, err := mountsOf("self")
	for _, i := range all {
		if i.dir == dir {
			m, ok = i, true
		}
	}
	return m, ok, err
}

// mountsOf returns all mounts that a process sees.
func mountsOf(pid string) (all []mountInfo, err error) {
	f, err := os.Open("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) >= 5 && len(a) >= 2 {
			all = append(all, mountInfo{b[0], b[1], b[2], unescape(b[3]), unescape(b[4]), a[0], unescape(a[1])})
		}
	}
	return all, lines.Err()
}

// unescape undoes how the kernel writes white space and backslashes in its tables.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace
