package tree

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

// Available is what of a tree this system can read.
const Available = archive.All | archive.SHA512256 | archive.BLAKE3 |
	archive.ExcludeFile | archive.ExcludeSubmounts | archive.ExcludeNoDump

// Flags of open(2) for nodes of which little is known: no link is followed, and
// nothing waits for the other end of a fifo.
const (
	lookFlags   = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_NONBLOCK
	folderFlags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_DIRECTORY
)

// folder is an open directory of the tree.
type folder struct {
	path  string
	refs  refs
	w     *walker
	fd    int
	st    unix.Stat_t
	magic uint32 // of the file system
	mount uint64 // if submounts are excluded
}

func (d *folder) Close() error { return unix.Close(d.fd) }

func (d *folder) release() {
	if d.refs.Add(-1) == 0 {
		d.w.close(d)
	}
}

// openTop opens the root of the tree.
func (w *walker) openTop(root *os.Root) (*folder, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := openat(int(f.Fd()), ".", folderFlags)
	if err != nil {
		return nil, err
	}
	d := &folder{w: w, fd: fd}
	err = retry(func() error { return unix.Fstat(fd, &d.st) })
	if err == nil {
		d.magic, err = magicOf(fd)
	}
	if err == nil && w.f.Has(archive.ExcludeSubmounts) {
		d.mount, err = mountOf(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	d.refs.Add(1)
	w.keep(d)
	return d, nil
}

// openFolder opens a directory in d. It returns nil if it is not to be in the
// archive.
func (w *walker) openFolder(parent *folder, name string) (*folder, error) {
	fd, err := openat(parent.fd, name, folderFlags)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = errVanished
	}
	if err != nil {
		return nil, err
	}
	d := &folder{w: w, fd: fd, path: inPath(parent.path, name)}
	out, err := false, retry(func() error { return unix.Fstat(fd, &d.st) })
	if err == nil {
		d.magic, err = parent.magicAt(fd, &d.st)
	}
	if err == nil {
		out, err = parent.leavesOut(&attributeSource{fd: fd}, &d.mount)
	}
	if err != nil || out {
		unix.Close(fd)
		return nil, err
	}
	d.refs.Add(1)
	w.keep(d)
	return d, nil
}

// magicAt returns the magic number of the file system of an open node in d.
func (d *folder) magicAt(fd int, st *unix.Stat_t) (uint32, error) {
	if st.Dev == d.st.Dev {
		return d.magic, nil
	}
	return magicOf(fd)
}

// leavesOut says whether an open node in d is to be left out because of its
// attributes or where it is mounted. It sets mount to where.
func (d *folder) leavesOut(src *attributeSource, mount *uint64) (bool, error) {
	if d.w.f.Has(archive.ExcludeSubmounts) {
		var err error
		if *mount, err = mountOf(src.fd); err != nil || *mount != d.mount {
			return true, err
		}
	}
	if !d.w.f.Has(archive.ExcludeNoDump) {
		return false, nil
	}
	flags, err := src.chattr()
	return flags.Has(archive.FlagNoDump), err
}

// pseudo says whether d is on a file system that the kernel makes up.
func (d *folder) pseudo() bool { return pseudoFS(d.magic) }

var direntBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// list returns what is in d, in any order.
func (d *folder) list() ([]dirent, error) {
	buf := direntBuffers.Get().(*[32 << 10]byte)
	defer direntBuffers.Put(buf)
	var entries []dirent
	for {
		n := 0
		if err := retry(func() (err error) { n, err = unix.Getdents(d.fd, buf[:]); return err }); err != nil {
			return nil, err
		}
		if n <= 0 {
			return entries, nil
		}
		entries = appendDirents(entries, buf[:n])
		if len(entries) > archive.MaxChildren {
			return nil, fmt.Errorf("more than %d nodes in a directory", archive.MaxChildren)
		}
	}
}

// appendDirents appends what getdents64(2) has returned.
func appendDirents(entries []dirent, b []byte) []dirent {
	const lenAt, typeAt, nameAt = 16, 18, 19 // struct linux_dirent64
	for len(b) >= nameAt {
		size := int(binary.NativeEndian.Uint16(b[lenAt:]))
		if size < nameAt || size > len(b) {
			break
		}
		name, _, _ := bytes.Cut(b[nameAt:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, dirent{s, uint32(b[typeAt]) << 12}) // DT_* are the types of modes
		}
		b = b[size:]
	}
	return entries
}

// typeOf returns the type of a node in d.
func (d *folder) typeOf(name string) (uint32, error) {
	var st unix.Stat_t
	err := d.stat(name, &st)
	return st.Mode & archive.TypeMask, err
}

func (d *folder) stat(name string, st *unix.Stat_t) error {
	return retry(func() error { return unix.Fstatat(d.fd, name, st, unix.AT_SYMLINK_NOFOLLOW) })
}

func (d *folder) lstat(name string) (fs.FileInfo, error) {
	return os.Lstat(procPath(d.fd) + "/" + name)
}

// readFile returns the content of a small file in d.
func (d *folder) readFile(name string, limit int64) ([]byte, error) {
	fd, err := openat(d.fd, name, lookFlags)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("has more than %d bytes", limit)
	}
	return b, err
}

// node returns what an archive says of d.
func (d *folder) node(w *walker) (*archive.Node, error) {
	return w.describe(&d.st, attributeSource{fd: d.fd}, d.magic)
}

// look looks at a node in d that is no directory.
func (d *folder) look(w *walker, it *item) error {
	if it.typ == archive.TypeRegular {
		fd, err := openat(d.fd, it.name, lookFlags)
		if err == nil {
			return d.lookFile(w, it, fd)
		}
		if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENXIO) { // a link or socket is there now
			return err
		}
	}
	var st unix.Stat_t
	if err := d.stat(it.name, &st); err != nil {
		return err
	}
	typ := st.Mode & archive.TypeMask
	switch {
	case typ == archive.TypeDir, typ == archive.TypeRegular && it.typ == typ:
		return errVanished // what was there
	case typ == archive.TypeRegular:
		it.typ = typ
		return d.look(w, it)
	case !w.f.Stores(typ):
		it.excluded = true
		return nil
	}
	n, err := w.describe(&st, attributeSource{path: procPath(d.fd) + "/" + it.name}, d.magic)
	if err == nil && typ == archive.TypeSymlink {
		n.Target, err = d.readlink(it.name)
	}
	it.node = n
	return err
}

// lookFile looks at what was opened as a regular file. It takes over fd.
func (d *folder) lookFile(w *walker, it *item, fd int) error {
	file := &sourceFile{fd}
	err := d.describeFile(w, it, file)
	if err != nil || it.excluded {
		file.Close()
		return err
	}
	return w.load(it, file)
}

func (d *folder) describeFile(w *walker, it *item, file *sourceFile) error {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(file.fd, &st) }); err != nil {
		return err
	}
	if st.Mode&archive.TypeMask != archive.TypeRegular {
		return errVanished
	}
	magic, err := d.magicAt(file.fd, &st)
	if err != nil {
		return err
	}
	var mount uint64
	src := attributeSource{fd: file.fd}
	if it.excluded, err = d.leavesOut(&src, &mount); err != nil || it.excluded {
		return err
	}
	it.status = statusOf(&st)
	it.node, err = w.describe(&st, src, magic)
	return err
}

func (d *folder) readlink(name string) (string, error) {
	b := make([]byte, archive.MaxTarget+1)
	n := 0
	err := retry(func() (err error) { n, err = unix.Readlinkat(d.fd, name, b); return err })
	if errors.Is(err, unix.EINVAL) {
		err = errVanished // no link any more
	}
	return string(b[:max(n, 0)]), err
}

// procPath returns a path to an open file or directory.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openat opens a node, and waits if it is under a lease, which the kernel does not
// do when nothing is to wait for a fifo.
func openat(dir int, name string, flags int) (fd int, err error) {
	err = retry(func() (err error) { fd, err = unix.Openat(dir, name, flags, 0); return err })
	if errors.Is(err, unix.EWOULDBLOCK) {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&archive.TypeMask == archive.TypeRegular {
			err = retry(func() (err error) { fd, err = unix.Openat(dir, name, flags&^unix.O_NONBLOCK, 0); return err })
		}
	}
	return fd, err
}

// retry calls f until no signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func magicOf(fd int) (uint32, error) {
	var st unix.Statfs_t
	err := retry(func() error { return unix.Fstatfs(fd, &st) })
	return uint32(st.Type), err
}

// mountOf returns the number of the mount that an open node is on.
func mountOf(fd int) (uint64, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, fmt.Errorf("submounts cannot be told: %w", err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if s, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(s), 10, 64)
		}
	}
	return 0, fmt.Errorf("submounts cannot be told: %w", errors.ErrUnsupported)
}

// sourceFile is an open regular file.
type sourceFile struct{ fd int }

func (f *sourceFile) Close() error { return unix.Close(f.fd) }

// ReadAt implements [io.ReaderAt].
func (f *sourceFile) ReadAt(b []byte, off int64) (done int, err error) {
	for done < len(b) {
		n := 0
		err := retry(func() (err error) { n, err = unix.Pread(f.fd, b[done:], off+int64(done)); return err })
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

// announce tells the kernel that the file is going to be read from its beginning.
func (f *sourceFile) announce(size int64) {
	unix.Fadvise(f.fd, 0, 0, unix.FADV_SEQUENTIAL)
	unix.Fadvise(f.fd, 0, min(size, prefetchDepth*prefetchBlock), unix.FADV_WILLNEED)
}

func (f *sourceFile) status() (status, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(f.fd, &st) })
	return statusOf(&st), err
}

// status tells whether a file is still the same. names is how many it has.
type status struct {
	fileID
	size         int64
	mtime, ctime unix.Timespec
	names        uint64
}

func statusOf(st *unix.Stat_t) status {
	return status{fileID{uint64(st.Dev), st.Ino}, st.Size, st.Mtim, st.Ctim, uint64(st.Nlink)}
}

// same says whether the content is the same, as far as times tell.
func (s status) same(t status) bool {
	return s.fileID == t.fileID && s.size == t.size && s.mtime == t.mtime
}

// untouched says whether nothing has happened to the file at all. Unlike its mtime,
// nobody can set the ctime of a file back.
func (s status) untouched(t status) bool { return s.same(t) && s.ctime == t.ctime }

// settled says whether the file was last touched before a time.
func (s status) settled(before time.Time) bool {
	return time.Unix(s.mtime.Unix()).Before(before) && time.Unix(s.ctime.Unix()).Before(before)
}

// appendIdentity appends what is equal only for the same file with the same content.
func (s status) appendIdentity(b []byte) []byte {
	for _, n := range []int64{
		int64(s.dev), int64(s.ino), s.size,
		int64(s.mtime.Sec), int64(s.mtime.Nsec), int64(s.ctime.Sec), int64(s.ctime.Nsec),
	} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// sourceDir is an open directory.
type sourceDir struct{ *os.File }

// openSourceDir opens a directory of the tree at root, which is that if path is empty.
func openSourceDir(root *os.Root, path string) (*sourceDir, error) {
	f, err := root.OpenFile(cmp.Or(path, "."), folderFlags, 0)
	if err != nil {
		return nil, err
	}
	return &sourceDir{f}, nil
}

// openFile opens a regular file in d, and says what it was just before; if it is
// something else now, the error wraps fs.ErrNotExist.
func (d *sourceDir) openFile(name string) (*sourceFile, status, error) {
	var st unix.Stat_t
	fd := int(d.Fd())
	if err := retry(func() error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return nil, status{}, err
	}
	if st.Mode&archive.TypeMask != archive.TypeRegular {
		return nil, status{}, errVanished
	}
	fd, err := openat(fd, name, lookFlags)
	if errors.Is(err, unix.ELOOP) {
		err = errVanished
	}
	if err != nil {
		return nil, status{}, err
	}
	return &sourceFile{fd}, statusOf(&st), nil
}
