package tree

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

// Magic numbers of statfs(2), beside those of restoring, of linux/magic.h.
const (
	magicExt4 = 0xef53
	magicXFS  = 0x58465342
)

// pseudoFS says whether a file system is one that the kernel makes up.
func pseudoFS(magic uint32) bool {
	switch magic {
	case 0x42494e4d, // binfmt_misc
		0x63677270, // cgroup2
		0x0027e0eb, // cgroup
		0x62656570, // configfs
		0x64626720, // debugfs
		0x00001cd1, // devpts
		0xde5e81e4, // efivarfs
		0x65735543, // fusectl
		0x958458f6, // hugetlbfs
		0x19800202, // mqueue
		0x6e667364, // nfsd
		0x00009fa0, // proc
		0x6165676c, // pstore
		0x67596969, // rpc_pipefs
		0x73636673, // securityfs
		0xf97cff8c, // selinuxfs
		0x43415d53, // smackfs
		0x62656572: // sysfs
		return true
	}
	return false
}

// attributeSource is where extended attributes are read from: an open file or, for
// nodes that are not opened, a path whose last link is not followed.
type attributeSource struct {
	fd   int
	path string // if it is not empty

	// names of those that there are, a zero byte before and behind each. Most nodes
	// have none, and are asked once. Nil: it is not known.
	names []byte

	flags     archive.Features // what chattr returns, if it was asked before
	flagsRead bool
}

// describe returns what an archive says of a node, but for the target of a link.
// Of what the features do not ask for, some is left out.
func (w *walker) describe(st *unix.Stat_t, src attributeSource, magic uint32) (*archive.Node, error) {
	n := &archive.Node{Mode: st.Mode & (archive.TypeMask | archive.PermMask), MTime: st.Mtim.Nano()}
	if src.path == "" && w.f.Any(archive.XAttrs|archive.ACLs|archive.SELinux|archive.FCaps) {
		if err := src.list(); err != nil {
			return nil, fmt.Errorf("extended attributes: %w", err)
		}
	}
	steps := []struct {
		what string
		err  error
	}{
		{"owner", w.describeOwner(n, st)},
		{"attributes", w.describeFlags(n, st, src, magic)},
		{"project id", w.describeProject(n, src, magic)},
		{"extended attributes", w.describeXAttrs(n, src)},
		{"capabilities", w.describeCaps(n, src)},
		{"ACL", w.describeACL(n, src)},
		{"SELinux label", w.describeLabel(n, src)},
	}
	for _, s := range steps {
		if s.err != nil {
			return nil, fmt.Errorf("%s: %w", s.what, s.err)
		}
	}
	switch {
	case n.IsRegular() && st.Size < 0:
		return nil, fmt.Errorf("size of %d bytes", st.Size) // a file system in user space may say so
	case n.IsRegular() && !pseudoFS(magic):
		n.Size = st.Size
	case n.IsDevice():
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return n, nil
}

func (w *walker) describeOwner(n *archive.Node, st *unix.Stat_t) (err error) {
	uid, err1 := w.ids.number(st.Uid)
	gid, err2 := w.ids.number(st.Gid)
	user, err3 := w.ids.user(st.Uid)
	group, err4 := w.ids.group(st.Gid)
	n.UID, n.GID, n.User, n.Group = uid, gid, user, group
	return cmp.Or(err1, err2, err3, err4)
}

func (w *walker) describeFlags(n *archive.Node, st *unix.Stat_t, src attributeSource, magic uint32) error {
	if !n.IsDir() && !n.IsRegular() {
		return nil
	}
	if w.f.Any(archive.Chattr) {
		flags, err := src.chattr()
		if err != nil {
			return err
		}
		n.Flags |= flags
	}
	if w.f.Any(archive.FATAttrs) && (magic == magicFAT || magic == magicFUSE) {
		flags, err := fatOf(src.fd)
		if err != nil {
			return err
		}
		n.Flags |= flags
	}
	const subvolumeInode = 256 // BTRFS_FIRST_FREE_OBJECTID, the root of every subvolume
	if n.IsDir() && w.f.Has(archive.Subvolume) && magic == magicBtrfs && st.Ino == subvolumeInode {
		flags, err := subvolumeOf(src.fd)
		if err != nil {
			return err
		}
		n.Flags |= flags
	}
	return nil
}

// chattr returns the attributes of an open node; none if its file system has none.
func (s *attributeSource) chattr() (archive.Features, error) {
	if s.flagsRead {
		return s.flags, nil
	}
	flags, err := unix.IoctlGetUint32(s.fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0, unlessUnsupported(err)
	}
	for _, k := range kernelFlags {
		if int(flags)&k.flag != 0 {
			s.flags |= k.f
		}
	}
	s.flagsRead = true
	return s.flags, nil
}

func fatOf(fd int) (f archive.Features, err error) {
	const get = 0x80047210 // FAT_IOCTL_GET_ATTRIBUTES of linux/msdos_fs.h
	flags, err := unix.IoctlGetUint32(fd, get)
	if err != nil {
		return 0, unlessUnsupported(err)
	}
	for _, k := range []struct {
		bit uint32
		f   archive.Features
	}{{0x02, archive.FlagHidden}, {0x04, archive.FlagSystem}, {0x20, archive.FlagArchive}} {
		if flags&k.bit != 0 {
			f |= k.f
		}
	}
	return f, nil
}

func subvolumeOf(fd int) (archive.Features, error) {
	const get, readOnly = 0x80089419, 2 // BTRFS_IOC_SUBVOL_GETFLAGS and BTRFS_SUBVOL_RDONLY of linux/btrfs.h
	var flags uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), get, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return 0, errno
	}
	if flags&readOnly != 0 {
		return archive.Subvolume | archive.SubvolumeRO, nil
	}
	return archive.Subvolume, nil
}

func (w *walker) describeProject(n *archive.Node, src attributeSource, magic uint32) error {
	if !w.f.Has(archive.QuotaProjID) || !n.IsDir() && !n.IsRegular() ||
		magic != magicExt4 && magic != magicXFS && magic != magicFUSE {
		return nil
	}
	const get = 0x801c581f // FS_IOC_FSGETXATTR of linux/fs.h, which fills a struct fsxattr
	var attr struct {
		flags, extent, extents, project, cow uint32
		_                                    [8]byte
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(src.fd), get, uintptr(unsafe.Pointer(&attr))); errno != 0 {
		return unlessUnsupported(errno)
	}
	n.ProjectID = attr.project
	return nil
}

// unlessUnsupported returns nil if err says that there is no such thing.
func unlessUnsupported(err error) error {
	for _, none := range []unix.Errno{unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL, unix.EBADF} {
		if err == none {
			return nil
		}
	}
	return err
}

// describeXAttrs reads the attributes that an archive has as such. Only what is
// opened can have some.
func (w *walker) describeXAttrs(n *archive.Node, src attributeSource) error {
	if !w.f.Has(archive.XAttrs) || src.path != "" {
		return nil
	}
	for name := range bytes.SplitSeq(src.names, []byte{0}) {
		if !bytes.HasPrefix(name, []byte("user.")) && !bytes.HasPrefix(name, []byte("trusted.")) {
			continue
		}
		value, ok, err := src.get(string(name))
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if ok {
			n.XAttrs = append(n.XAttrs, archive.XAttr{Name: string(name), Value: value})
		}
	}
	return nil
}

func (w *walker) describeCaps(n *archive.Node, src attributeSource) (err error) {
	if w.f.Has(archive.FCaps) && n.IsRegular() {
		n.FCaps, _, err = src.get("security.capability")
	}
	return err
}

func (w *walker) describeLabel(n *archive.Node, src attributeSource) error {
	if !w.f.Has(archive.SELinux) {
		return nil
	}
	b, _, err := src.get("security.selinux")
	label, _, _ := bytes.Cut(b, []byte{0})
	n.SELinux = string(label)
	return err
}

// list finds out which attributes there are.
func (s *attributeSource) list() error {
	list, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(s.fd, b) })
	if list != nil {
		s.names = append([]byte{0}, list...)
	}
	return err
}

// lacks reports whether it is known that there is no attribute of that name.
func (s attributeSource) lacks(name string) bool {
	return s.names != nil && (len(s.names) == 1 || !bytes.Contains(s.names, []byte("\x00"+name+"\x00")))
}

// get returns the value of an attribute, and whether there is one.
func (s attributeSource) get(name string) (value []byte, ok bool, err error) {
	if s.lacks(name) {
		return nil, false, nil
	}
	value, err = grow(func(b []byte) (int, error) {
		if s.path != "" {
			return unix.Lgetxattr(s.path, name, b)
		}
		return unix.Fgetxattr(s.fd, name, b)
	})
	if err == unix.ENODATA {
		return nil, false, nil
	}
	if err == unix.ENOENT && s.path != "" {
		if _, err := os.Stat(s.path[:strings.LastIndexByte(s.path, '/')]); err != nil {
			return nil, false, &fatalError{fmt.Errorf("/proc is needed: %w", err)}
		}
	}
	return value, err == nil && value != nil, err
}

// grow calls get with buffers that grow until they are large enough. It returns nil
// if there is no such thing here.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	const most = 1 << 20 // the kernel's greatest is 64 KiB
	var small [512]byte
	for b := small[:]; ; b = make([]byte, 8*len(b)) {
		n := 0
		err := retry(func() (err error) { n, err = get(b); return err })
		switch {
		case err == nil:
			return append([]byte{}, b[:n]...), nil
		case err == unix.EOPNOTSUPP, err == unix.EBADF:
			return nil, nil
		case err != unix.ERANGE || len(b) > most:
			return nil, err
		}
	}
}
