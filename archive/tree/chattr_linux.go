package tree

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// Attributes as the kernel numbers them, FS_*_FL of linux/fs.h.
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
)

var kernelFlags = []struct {
	f    archive.Features
	flag int
}{
	{archive.FlagAppend, flagAppend},
	{archive.FlagNoATime, 0x80},
	{archive.FlagCompr, 0x4},
	{archive.FlagNoCOW, 0x800000},
	{archive.FlagNoDump, 0x40},
	{archive.FlagDirSync, 0x10000},
	{archive.FlagImmutable, flagImmutable},
	{archive.FlagSync, 0x8},
	{archive.FlagNoComp, 0x400},
	{archive.FlagProjInherit, 0x20000000},
}

// setChattr makes those of an open node's attributes that are in mask what set says.
func setChattr(fd int, set, mask archive.Features) error {
	now, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	want := now
	for _, k := range kernelFlags {
		if set.Has(k.f) {
			want |= k.flag
		} else if mask.Has(k.f) {
			want &^= k.flag
		}
	}
	if want == now {
		return nil
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, want)
}

// setProject sets the project id of an open node.
func setProject(fd int, id uint32) error {
	// struct fsxattr, FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR of linux/fs.h
	var attr struct {
		flags, extent, extents, project, cow uint32
		_                                    [8]byte
	}
	const get, set = 0x801c581f, 0x401c5820
	if err := ioctl(fd, get, unsafe.Pointer(&attr)); err != nil || attr.project == id {
		return err
	}
	attr.project = id
	return ioctl(fd, set, unsafe.Pointer(&attr))
}

// setFAT makes those of an open node's FAT attributes that are in mask what set says.
func setFAT(fd int, set, mask archive.Features) error {
	// FAT_IOCTL_GET_ATTRIBUTES and FAT_IOCTL_SET_ATTRIBUTES of linux/msdos_fs.h
	const get, put = 0x80047210, 0x40047211
	var now uint32
	if err := ioctl(fd, get, unsafe.Pointer(&now)); err != nil {
		if set == 0 {
			return nil // what has no such attributes has none to clear
		}
		return err
	}
	want := now
	for _, a := range []struct {
		f   archive.Features
		bit uint32
	}{{archive.FlagHidden, 2}, {archive.FlagSystem, 4}, {archive.FlagArchive, 0x20}} {
		if set.Has(a.f) {
			want |= a.bit
		} else if mask.Has(a.f) {
			want &^= a.bit
		}
	}
	if want == now {
		return nil
	}
	return ioctl(fd, put, unsafe.Pointer(&want))
}

// BTRFS_IOC_SUBVOL_GETFLAGS, …SETFLAGS and BTRFS_SUBVOL_RDONLY of linux/btrfs.h
const (
	subvolGetFlags, subvolSetFlags = 0x80089419, 0x4008941a
	subvolReadOnly                 = 2
)

// setReadOnly makes a subvolume of btrfs read-only.
func setReadOnly(d *destDir) error {
	var flags uint64
	if err := ioctl(d.fd, subvolGetFlags, unsafe.Pointer(&flags)); err != nil {
		return err
	}
	flags |= subvolReadOnly
	return ioctl(d.fd, subvolSetFlags, unsafe.Pointer(&flags))
}

// clearReadOnly makes d writable if it is a read-only subvolume of btrfs. What goes
// wrong shows when something is written.
func clearReadOnly(d *destDir) {
	var flags uint64
	if ioctl(d.fd, subvolGetFlags, unsafe.Pointer(&flags)) == nil && flags&subvolReadOnly != 0 {
		flags &^= subvolReadOnly
		ioctl(d.fd, subvolSetFlags, unsafe.Pointer(&flags))
	}
}
