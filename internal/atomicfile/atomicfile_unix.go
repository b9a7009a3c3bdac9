//go:build unix

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const closeBeforeRename = false

var errTaken = errors.New("temporary file is in use or not ours")

// takeOver opens or creates the temporary file name and locks it. It refuses a
// file that somebody else may have planted or is writing.
func takeOver(name string, perm fs.FileMode) (*os.File, error) {
	for range 10 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, perm)
		if err != nil {
			return nil, err
		}
		if err := lock(f, name); err == nil {
			return f, nil
		} else if f.Close(); err == errTaken {
			return nil, err
		}
	}
	return nil, errTaken
}

// chown gives f owner and group of another file, or what of that may be given.
func chown(f *os.File, like fs.FileInfo) {
	want, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	fi, err := f.Stat()
	if err != nil {
		return
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && (st.Uid != want.Uid || st.Gid != want.Gid) {
		if f.Chown(int(want.Uid), int(want.Gid)) != nil {
			f.Chown(-1, int(want.Gid))
		}
	}
}

// lock locks f and checks that it is ours and still has its name. Any error but
// errTaken is worth another try.
func lock(f *os.File, name string) error {
	fi, err := f.Stat()
	if err != nil {
		return errTaken
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		return errTaken
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errTaken
	}
	// The run that held the lock may have renamed the file into place before it
	// let go: then it is no temporary file any more.
	now, err := os.Lstat(name)
	if err != nil || !os.SameFile(fi, now) {
		return errors.New("renamed")
	}
	return nil
}
