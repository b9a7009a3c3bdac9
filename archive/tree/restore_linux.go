package tree

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

// openFlags keep a file that turns out to be a fifo from holding up the run.
const openFlags = unix.O_NONBLOCK

// fileSystem is what is known of the destination's file system.
type fileSystem struct {
	fat   bool // it may have the attributes of FAT
	btrfs bool
}

// Magic numbers of statfs(2).
const (
	magicFAT   = 0x4d44
	magicFUSE  = 0x65735546
	magicBtrfs = 0x9123683e
)

func examine(d *destDir) (s fileSystem) {
	var st unix.Statfs_t
	if unix.Fstatfs(d.fd, &st) == nil {
		s.fat = st.Type == magicFAT || st.Type == magicFUSE
		s.btrfs = uint32(st.Type) == magicBtrfs
	}
	return s
}

// lock excludes other runs for the same directory until it is closed, where the
// file system has locks.
func lock(d *destDir) error {
	err := retry(func() error { return unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return err
	}
	return nil
}

// syncTree makes the whole file system durable, with one call.
func syncTree(d *destDir) error { return os.NewSyscallError("syncfs", unix.Syncfs(d.fd)) }

// makeSubvolume makes a subvolume of btrfs.
func makeSubvolume(d *destDir, name string) error {
	// struct btrfs_ioctl_vol_args and BTRFS_IOC_SUBVOL_CREATE of linux/btrfs.h
	var args struct {
		fd   int64
		name [4088]byte
	}
	const subvolCreate = 0x5000940e
	copy(args.name[:len(args.name)-1], name)
	if err := ioctl(d.fd, subvolCreate, unsafe.Pointer(&args)); err != nil {
		return err
	}
	_, err := d.allow(name)
	return err
}

// Attributes that must be set before there is data, and those that hinder changes.
const (
	earlyFlags = archive.FlagNoATime | archive.FlagCompr | archive.FlagNoCOW | archive.FlagNoComp | archive.FlagProjInherit
	lateFlags  = archive.Chattr &^ earlyFlags
	hindrances = archive.FlagImmutable | archive.FlagAppend
)

// prepare sets what must be set on a file before it has content, and removes what
// hinders that and is not to stay.
func (u *unpacker) prepare(t target, n *archive.Node) error {
	if !u.mask.Any(archive.Chattr | archive.QuotaProjID) {
		return nil
	}
	early := u.mask & (earlyFlags | hindrances&^n.Flags)
	if err := u.chattr(t, n, early); err != nil || t.lateProject() {
		return err
	}
	return u.project(t, n)
}

// lateProject reports whether a file is to have its project id after its name: where
// files inherit one, those of another cannot be renamed.
func (t *target) lateProject() bool { return t.unsealed && !t.bare }

// chattr makes those of a node's attributes that are in mask what they are to be.
func (u *unpacker) chattr(t target, n *archive.Node, mask archive.Features) error {
	set := n.Flags & mask
	if set == 0 && (t.bare || mask == 0) {
		return nil
	}
	err := setChattr(t.fd(), set, mask)
	if set == 0 && unlessUnsupported(err) == nil {
		return nil // what has no attributes has none to clear
	}
	return u.problem(t.path, "attributes", err)
}

func (u *unpacker) project(t target, n *archive.Node) error {
	if !u.mask.Has(archive.QuotaProjID) || n.ProjectID == 0 && t.bare {
		return nil
	}
	err := setProject(t.fd(), n.ProjectID)
	if n.ProjectID == 0 && unlessUnsupported(err) == nil {
		return nil // what has no project ids has none to clear
	}
	return u.problem(t.path, "project id", err)
}

// seal sets what hinders changes of a file or directory, when there are no more.
func (u *unpacker) seal(t target, n *archive.Node) error {
	if t.lateProject() {
		if err := u.project(t, n); err != nil {
			return err
		}
	}
	if err := u.chattr(t, n, u.mask&lateFlags); err != nil {
		return err
	}
	if fat := n.Flags & u.mask & archive.FATAttrs; fat != 0 || u.fs.fat && u.mask.Any(archive.FATAttrs) {
		if err := u.problem(t.path, "FAT attributes", setFAT(t.fd(), fat, u.mask&archive.FATAttrs)); err != nil {
			return err
		}
	}
	if n.IsDir() && u.mask.Has(archive.SubvolumeRO) && n.Flags.Has(archive.SubvolumeRO) {
		return u.problem(t.path, "read-only subvolume", setReadOnly(t.self))
	}
	return nil
}

// restore restores the metadata of a node in the order in which one thing does not
// undo another: owners clear capabilities, permissions change ACLs and may forbid to
// set attributes. What hinders changes comes last. What is right already is left
// alone, so that nothing is asked of a file that must not change, or of a system that
// has no such thing.
func (u *unpacker) restore(t target, n *archive.Node) error {
	opened := t.file != nil || t.self != nil
	if opened && !t.unsealed {
		if err := u.prepare(t, n); err != nil {
			return err
		}
	}
	h, err := t.open(n)
	if err != nil {
		return err
	}
	defer h.close()
	for _, step := range []func(*handle, target, *archive.Node) error{
		u.owner, u.xattrs, u.permissions, u.caps, u.label, u.time,
	} {
		if err := step(h, t, n); err != nil {
			return err
		}
	}
	if opened && !t.unsealed {
		return u.seal(t, n)
	}
	return nil
}

// fd returns the descriptor of an open file or directory.
func (t *target) fd() int {
	if t.file != nil {
		return t.file.fd
	}
	return t.self.fd
}

// handle is how system calls reach a node.
type handle struct {
	fd      int
	path    string // if not empty, fd was opened with O_PATH and this leads to it
	st      unix.Stat_t
	chowned bool     // so that st.Mode may be wrong
	names   []string // of its extended attributes
}

// open returns a handle of t, which is a node of n's type. What is no file is opened
// by its name without opening what it stands for; nobody may have put something else
// there, or another name of what is elsewhere.
func (t *target) open(n *archive.Node) (h *handle, err error) {
	h = &handle{}
	if t.name == "" {
		h.fd = t.fd()
	} else {
		h.fd, err = openat(t.dir.fd, t.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("openat", err)
		}
		h.path = procPath(h.fd)
	}
	err = os.NewSyscallError("fstat", unix.Fstat(h.fd, &h.st))
	if err == nil && h.path != "" && (h.st.Mode&archive.TypeMask != n.Type() || h.st.Nlink != 1) {
		err = errSwapped
	}
	if err != nil {
		h.close()
		return nil, err
	}
	if !t.bare && h.st.Mode&archive.TypeMask != archive.TypeSymlink {
		h.list()
	}
	return h, nil
}

func (h *handle) close() {
	if h.path != "" {
		unix.Close(h.fd)
	}
}

// list reads the names of the extended attributes. If that is not possible, there
// are none to remove.
func (h *handle) list() {
	b, err := grow(func(b []byte) (int, error) {
		if h.path != "" {
			return unix.Listxattr(h.path, b)
		}
		return unix.Flistxattr(h.fd, b)
	})
	if err == nil && len(b) > 0 {
		h.names = strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	}
}

// set sets an extended attribute, unless it is right.
func (h *handle) set(name string, value []byte) error {
	if slices.Contains(h.names, name) {
		src := attributeSource{fd: h.fd, path: h.path}
		if now, ok, err := src.get(name); err == nil && ok && bytes.Equal(now, value) {
			return nil
		}
	}
	var err error
	if h.path != "" {
		err = unix.Setxattr(h.path, name, value, 0)
	} else {
		err = unix.Fsetxattr(h.fd, name, value, 0)
	}
	if err == unix.ENOSPC && len(value) > smallXAttr {
		err = fmt.Errorf("%w: too large for the file system", unix.E2BIG)
	}
	return err
}

// smallXAttr is a size of attributes in bytes that every file system takes that has
// some. That there is no space for larger ones need not mean that the disk is full.
const smallXAttr = 512

// remove removes an extended attribute, if it is there.
func (h *handle) remove(name string) error {
	if !slices.Contains(h.names, name) {
		return nil
	}
	var err error
	if h.path != "" {
		err = unix.Removexattr(h.path, name)
	} else {
		err = unix.Fremovexattr(h.fd, name)
	}
	if err == unix.ENODATA {
		return nil
	}
	return err
}

// owner sets user and group.
func (u *unpacker) owner(h *handle, t target, n *archive.Node) error {
	if !u.mask.Any(ownerFeatures) {
		return nil
	}
	uid, gid, err := u.ids(n)
	if err == nil && h.st.Uid == uid && h.st.Gid == gid {
		return nil
	}
	if err == nil {
		err = unix.Fchownat(h.fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH)
	}
	if err == nil {
		h.st.Uid, h.st.Gid, h.chowned = uid, gid, true
	}
	return u.problem(t.path, "owner", err)
}

const ownerFeatures = uidFeatures | archive.UserNames

// ids returns the numbers of a node's owner.
func (u *unpacker) ids(n *archive.Node) (uid, gid uint32, err error) {
	if uid, err = u.number(n.User, n.UID, u.owners.user); err == nil {
		gid, err = u.number(n.Group, n.GID, u.owners.group)
	}
	return uid, gid, err
}

// sameOwner reports whether owner and permissions are those of n, as far as they are
// restored.
func (u *unpacker) sameOwner(i *destInfo, n *archive.Node) bool {
	if u.mask.Any(archive.Permissions|archive.ACLs) && i.st.Mode&archive.PermMask != n.Perm() {
		return false
	}
	if !u.mask.Any(ownerFeatures) {
		return true
	}
	uid, gid, err := u.ids(n)
	return err == nil && i.st.Uid == uid && i.st.Gid == gid
}

// permissions sets mode and ACLs.
func (u *unpacker) permissions(h *handle, t target, n *archive.Node) error {
	if n.IsSymlink() {
		return nil
	}
	acls := u.mask.Has(archive.ACLs)
	if acls && n.ACL.Access == nil {
		if err := u.problem(t.path, "ACL", h.remove(archive.AccessACLName)); err != nil {
			return err
		}
	}
	if mode, ok := u.modeOf(h, t, n); ok {
		if err := u.chmod(h, t, n, mode); err != nil {
			return err
		}
	}
	if acls && n.ACL.Access != nil {
		if err := u.setACL(h, t, archive.AccessACLName, n.AccessList()); err != nil {
			return err
		}
	}
	switch {
	case !acls || !n.IsDir():
		return nil
	case n.ACL.Default == nil:
		return u.problem(t.path, "default ACL", h.remove(archive.DefaultACLName))
	}
	return u.setACL(h, t, archive.DefaultACLName, n.ACL.Default)
}

// modeOf returns the permissions that a node is to have, and whether they are to be
// set.
func (u *unpacker) modeOf(h *handle, t target, n *archive.Node) (mode uint32, set bool) {
	now := h.st.Mode & archive.PermMask
	if t.bare || t.unsealed {
		now = 0o666 &^ umask()
		if n.IsDir() {
			now = 0o777 &^ umask()
		}
	}
	switch {
	case u.mask.Any(archive.Permissions | archive.ACLs):
		return n.Perm(), true
	case !u.mask.Has(archive.ReadOnly):
		return now, t.bare || t.unsealed
	case n.Perm()&0o222 == 0:
		return now &^ 0o222, true
	}
	return now | 0o200, true
}

// umask returns the process's, without umask(2), which would change it.
var umask = sync.OnceValue(func() uint32 {
	b, _ := os.ReadFile("/proc/self/status")
	if _, rest, ok := strings.Cut(string(b), "\nUmask:"); ok {
		line, _, _ := strings.Cut(rest, "\n")
		if n, err := strconv.ParseUint(strings.TrimSpace(line), 8, 32); err == nil {
			return uint32(n)
		}
	}
	return 0o022
})

// chmod sets permissions, but not the set-id bits for an owner that is not the one
// that the archive says.
func (u *unpacker) chmod(h *handle, t target, n *archive.Node, mode uint32) error {
	if mode&0o6000 != 0 && u.mask.Any(ownerFeatures) {
		if uid, gid, err := u.ids(n); err != nil || h.st.Uid != uid || h.st.Gid != gid {
			if err := u.problem(t.path, "set-id bits", errForeignOwner); err != nil {
				return err
			}
			mode &^= 0o6000
		}
	}
	if !h.chowned && h.st.Mode&archive.PermMask == mode {
		return nil
	}
	var err error
	if h.path != "" {
		err = unix.Chmod(h.path, mode)
	} else {
		err = unix.Fchmod(h.fd, mode)
	}
	return u.problem(t.path, "permissions", err)
}

var errForeignOwner = fmt.Errorf("%w: not set, since the owner could not be restored", fs.ErrPermission)

// xattrs sets user.* and trusted.* attributes, and removes others of those.
func (u *unpacker) xattrs(h *handle, t target, n *archive.Node) error {
	if !u.mask.Has(archive.XAttrs) || n.IsSymlink() {
		return nil
	}
	for _, name := range h.names {
		_, keep := slices.BinarySearchFunc(n.XAttrs, name, compareXAttr)
		if !keep && restorableXattr(name) {
			if err := u.problem(t.path, "attribute "+name, h.remove(name)); err != nil {
				return err
			}
		}
	}
	for _, x := range n.XAttrs {
		if !restorableXattr(x.Name) {
			continue // only what has a feature of its own may be set elsewhere
		}
		if err := u.problem(t.path, "attribute "+x.Name, h.set(x.Name, x.Value)); err != nil {
			return err
		}
	}
	return nil
}

func restorableXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// caps sets file capabilities.
func (u *unpacker) caps(h *handle, t target, n *archive.Node) error {
	const name = "security.capability"
	switch {
	case !u.mask.Has(archive.FCaps) || !n.IsRegular():
		return nil
	case len(n.FCaps) == 0:
		return u.problem(t.path, "capabilities", h.remove(name))
	case h.chowned: // that has cleared them
		h.names = slices.DeleteFunc(h.names, func(s string) bool { return s == name })
	}
	return u.problem(t.path, "capabilities", h.set(name, n.FCaps))
}

// label sets the SELinux label.
func (u *unpacker) label(h *handle, t target, n *archive.Node) error {
	if !u.mask.Has(archive.SELinux) || n.SELinux == "" {
		return nil
	}
	const name = "security.selinux"
	value := append([]byte(n.SELinux), 0)
	if n.IsSymlink() {
		return u.problem(t.path, "SELinux label", unix.Lsetxattr(procPath(t.dir.fd)+"/"+t.name, name, value, 0))
	}
	return u.problem(t.path, "SELinux label", h.set(name, value))
}

// time sets the time of the last change.
func (u *unpacker) time(h *handle, t target, n *archive.Node) error {
	if !u.mask.Any(timeFeatures) || h.st.Mtim.Nano() == n.MTime {
		return nil
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(n.MTime)}
	if h.path != "" {
		err := unix.UtimesNanoAt(h.fd, "", ts[:], unix.AT_EMPTY_PATH)
		if err == unix.EINVAL { // before Linux 5.8
			err = unix.UtimesNanoAt(t.dir.fd, t.name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
		}
		return u.problem(t.path, "time", err)
	}
	// Without a name, the call is for the descriptor.
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(h.fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return u.problem(t.path, "time", errno)
	}
	return nil
}
