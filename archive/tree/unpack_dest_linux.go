package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

// destDir is an open directory of the destination. All that is done in it is done
// by single names, and follows no link. Errors tell the system call; who calls
// knows the path.
type destDir struct{ fd int }

// call makes a system call, until no signal interrupts it.
func call(name string, f func() error) error { return os.NewSyscallError(name, retry(f)) }

func openDest(path string) (*destDir, error) {
	d := &destDir{}
	err := retry(func() (err error) {
		d.fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return d, nil
}

// Close implements [io.Closer].
func (d *destDir) Close() error { return unix.Close(d.fd) }

// open opens the directory name; errNoDir says that something else is there.
func (d *destDir) open(name string) (*destDir, error) {
	fd, err := openat(d.fd, name, folderFlags)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, errNoDir
	case err != nil:
		return nil, os.NewSyscallError("openat", err)
	}
	return &destDir{fd}, nil
}

// allow lets the owner read, write and enter the directory name, which open is not
// permitted to. It returns the mode that it had.
func (d *destDir) allow(name string) (was uint32, err error) {
	fd, err := openat(d.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return 0, os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	was = st.Mode & archive.PermMask
	return was, os.NewSyscallError("chmod", unix.Chmod(procPath(fd), was|0o700))
}

// makeWritable lets the owner write to d, and returns the mode that it had, if
// that is needed.
func (d *destDir) makeWritable() (was uint32, changed bool) {
	uid := os.Geteuid()
	if uid == 0 {
		return 0, false
	}
	var st unix.Stat_t
	if unix.Fstat(d.fd, &st) != nil || int(st.Uid) != uid || st.Mode&0o700 == 0o700 {
		return 0, false
	}
	was = st.Mode & archive.PermMask
	return was, unix.Fchmod(d.fd, was|0o700) == nil
}

// info returns what d is.
func (d *destDir) info() (i destInfo, err error) {
	err = os.NewSyscallError("fstat", unix.Fstat(d.fd, &i.st))
	return i, err
}

func (d *destDir) chmod(mode uint32) error {
	return call("fchmod", func() error { return unix.Fchmod(d.fd, mode) })
}

func (d *destDir) mkdir(name string) error {
	return call("mkdirat", func() error { return unix.Mkdirat(d.fd, name, 0o700) })
}

// inherits reports whether new nodes in d get more than their own: the group of d,
// its default ACL or its attributes.
func (d *destDir) inherits() bool {
	var st unix.Stat_t
	if unix.Fstat(d.fd, &st) != nil || st.Mode&unix.S_ISGID != 0 {
		return true
	}
	if flags, err := unix.IoctlGetInt(d.fd, unix.FS_IOC_GETFLAGS); err == nil {
		for _, k := range kernelFlags {
			if flags&k.flag != 0 {
				return true
			}
		}
	}
	_, err := unix.Fgetxattr(d.fd, archive.DefaultACLName, nil)
	return err != unix.ENODATA && err != unix.EOPNOTSUPP
}

// names calls each for the names in d.
func (d *destDir) names(each func(name string)) error {
	buf := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buf)
	if _, err := unix.Seek(d.fd, 0, io.SeekStart); err != nil {
		return os.NewSyscallError("lseek", err)
	}
	var entries []dirent
	for {
		n := 0
		err := retry(func() (err error) { n, err = unix.Getdents(d.fd, buf[:]); return err })
		if err != nil || n <= 0 {
			return os.NewSyscallError("getdents64", err)
		}
		entries = appendDirents(entries[:0], buf[:n])
		for _, e := range entries {
			each(e.name)
		}
	}
}

// lstat looks at a node; an error that is fs.ErrNotExist says that there is none.
func (d *destDir) lstat(name string) (destInfo, error) {
	var i destInfo
	err := call("fstatat", func() error { return unix.Fstatat(d.fd, name, &i.st, unix.AT_SYMLINK_NOFOLLOW) })
	return i, err
}

func (d *destDir) rename(from, to string) error {
	return call("renameat", func() error { return unix.Renameat(d.fd, from, d.fd, to) })
}

// remove removes a node that is no directory.
func (d *destDir) remove(name string) error {
	return call("unlinkat", func() error { return unix.Unlinkat(d.fd, name, 0) })
}

// removeAll removes a node and all below it.
func (d *destDir) removeAll(name string) error {
	err := d.remove(name)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return err
	}
	c, err := d.open(name)
	if errors.Is(err, fs.ErrPermission) {
		if _, err = d.allow(name); err == nil {
			c, err = d.open(name)
		}
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.makeWritable()
	var below []string
	if err := c.names(func(name string) { below = append(below, name) }); err != nil {
		return err
	}
	for _, name := range below {
		if err := c.removeAll(name); err != nil {
			return err
		}
	}
	return call("unlinkat", func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
}

func (d *destDir) symlink(target, name string) error {
	return call("symlinkat", func() error { return unix.Symlinkat(target, d.fd, name) })
}

func (d *destDir) readlink(name string) (string, error) {
	b := make([]byte, archive.MaxTarget+1)
	n, err := unix.Readlinkat(d.fd, name, b)
	return string(b[:max(n, 0)]), os.NewSyscallError("readlinkat", err)
}

// mknod makes a fifo, a socket or a device.
func (d *destDir) mknod(name string, n *archive.Node) error {
	dev := 0
	if n.IsDevice() {
		dev = int(unix.Mkdev(n.Major, n.Minor))
	}
	return call("mknodat", func() error { return unix.Mknodat(d.fd, name, n.Type()|0o600, dev) })
}

// link makes name in d another name of what is called that in from.
func (d *destDir) link(from *destDir, fromName, name string) error {
	return call("linkat", func() error { return unix.Linkat(from.fd, fromName, d.fd, name, 0) })
}

// create makes a file, which must not exist, with at most the permissions perm.
func (d *destDir) create(name string, perm uint32) (*destFile, error) {
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f := &destFile{}
	err := retry(func() (err error) { f.fd, err = unix.Openat(d.fd, name, flags, perm); return err })
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return f, nil
}

// openFile opens the regular file that seen describes for reading.
func (d *destDir) openFile(name string, seen destInfo) (*destFile, error) {
	fd, err := openat(d.fd, name, lookFlags)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	f := &destFile{fd: fd}
	var now destInfo
	err = os.NewSyscallError("fstat", unix.Fstat(fd, &now.st))
	if err == nil && (!now.same(seen) || now.kind() != archive.TypeRegular) {
		err = errSwapped
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	f.size, f.seen = now.size(), statusOf(&now.st)
	return f, nil
}

// destInfo is what is known of a node that is there.
type destInfo struct{ st unix.Stat_t }

func (i *destInfo) kind() uint32         { return i.st.Mode & archive.TypeMask }
func (i *destInfo) size() int64          { return i.st.Size }
func (i *destInfo) links() uint64        { return uint64(i.st.Nlink) }
func (i *destInfo) same(j destInfo) bool { return i.st.Dev == j.st.Dev && i.st.Ino == j.st.Ino }

// untouched reports whether the node is a file of which was was told, and nothing has
// happened to it since.
func (i *destInfo) untouched(was status) bool { return statusOf(&i.st).untouched(was) }

func (i *destInfo) isDevice(major, minor uint32) bool {
	return unix.Major(uint64(i.st.Rdev)) == major && unix.Minor(uint64(i.st.Rdev)) == minor
}

// destFile is an open regular file.
type destFile struct {
	fd   int
	size int64  // when it was opened for reading
	seen status // likewise
}

// written reports whether f was written to since it was opened for reading, as far as
// times tell.
func (f *destFile) written() bool {
	now, err := (&sourceFile{f.fd}).status()
	return err != nil || !now.same(f.seen)
}

// Close implements [io.Closer]. The error may be one of writing.
func (f *destFile) Close() error { return os.NewSyscallError("close", unix.Close(f.fd)) }

// ReadAt implements [io.ReaderAt].
func (f *destFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := (&sourceFile{f.fd}).ReadAt(b, off)
	if err != io.EOF {
		err = os.NewSyscallError("pread", err)
	}
	return n, err
}

// WriteAt implements [io.WriterAt].
func (f *destFile) WriteAt(b []byte, off int64) (done int, err error) {
	for done < len(b) {
		n := 0
		err := retry(func() (err error) { n, err = unix.Pwrite(f.fd, b[done:], off+int64(done)); return err })
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return done, os.NewSyscallError("pwrite", err)
		}
		done += n
	}
	return done, nil
}

func (f *destFile) truncate(size int64) error {
	return call("ftruncate", func() error { return unix.Ftruncate(f.fd, size) })
}

// asFile returns another handle of the same open file.
func (f *destFile) asFile() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", f.fd)), nil
}
