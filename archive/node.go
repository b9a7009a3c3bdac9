package archive

import (
	"io/fs"
	"time"
)

// Types of nodes, as Node.Mode holds them: the values that Linux uses, on every
// system.
const (
	TypeMask    = 0o170000
	TypeFIFO    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
	TypeSocket  = 0o140000

	// PermMask is the mask of the permissions, set-id and sticky bits included.
	PermMask = 0o7777
)

// Limits of the format. A [Writer] refuses what exceeds them, and so do the
// readers.
const (
	MaxDepth        = 64        // nodes on a path, the root included
	MaxName         = 255       // bytes of a file name, a user's name or an attribute's name
	MaxTarget       = 4095      // bytes of a symlink's target
	MaxXAttrValue   = 64 << 10  // bytes of the value of one extended attribute
	MaxSELinuxLabel = 4096 - 1  // bytes of an SELinux label
	MaxFCaps        = 64 << 10  // bytes of file capabilities
	MaxMajor        = 1<<12 - 1 // greatest major number of a device
	MaxMinor        = 1<<20 - 1 // greatest minor number of a device
)

// Node is what an archive says about a file, a directory or another node of a
// tree; its name is not part of it. What the archive's features do not cover is
// zero: [Features.Strip] makes it so.
type Node struct {
	Mode      uint32   // one of the types, and permissions
	Flags     Features // attributes as chattr and FAT know them, and subvolumes; of files and directories only
	UID, GID  uint32
	MTime     int64  // nanoseconds since 1970; negative before
	User      string // owner's name; "" for root and where it is not known
	Group     string
	XAttrs    []XAttr // user.* and trusted.*, ascending by name
	ACL       ACL
	SELinux   string // label; "" if there is none
	FCaps     []byte // value of security.capability; empty if there is none
	ProjectID uint32 // for quotas; 0 if there is none

	Target       string // of a symlink
	Major, Minor uint32 // of a device
	Size         int64  // of a regular file, in bytes
}

// XAttr is an extended attribute.
type XAttr struct {
	Name  string
	Value []byte // may be empty
}

// ACL holds what a node's access control lists say beyond its permissions.
type ACL struct {
	Access  *AccessACL  // nil if the permissions are all there is
	Default *DefaultACL // nil if there is none; of directories only
}

// AccessACL is an access control list with a mask. The mask is in the group bits
// of Node.Mode.
type AccessACL struct {
	GroupObj      ACLPerm    // what the owning group may do
	Users, Groups []ACLEntry // ascending, see [ACLEntry.Compare]
}

// DefaultACL is the list that new nodes in a directory inherit.
type DefaultACL struct {
	UserObj, GroupObj, Other ACLPerm
	Mask                     ACLPerm    // NoMask if there is none; then Users and Groups are empty
	Users, Groups            []ACLEntry // ascending
}

// ACLEntry says what one user or one group may do.
type ACLEntry struct {
	ID   uint32 // 0 if the archive identifies users by name alone
	Name string // "" if it is not known
	Perm ACLPerm
}

// ACLPerm is a set of permissions: 4 is read, 2 is write, 1 is execute.
type ACLPerm uint8

// NoMask is DefaultACL.Mask of a list without a mask.
const NoMask ACLPerm = 0xff

// Type returns the type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// Perm returns the mode without its type bits.
func (n *Node) Perm() uint32 { return n.Mode & PermMask }

// IsDir says whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == TypeDir }

// IsRegular says whether n is a regular file.
func (n *Node) IsRegular() bool { return n.Type() == TypeRegular }

// IsSymlink says whether n is a symbolic link.
func (n *Node) IsSymlink() bool { return n.Type() == TypeSymlink }

// IsDevice says whether n is a block or character device.
func (n *Node) IsDevice() bool { return n.Type() == TypeBlock || n.Type() == TypeChar }

// Time returns MTime as a time in UTC.
func (n *Node) Time() time.Time { return time.Unix(0, n.MTime).UTC() }

// FileMode returns the mode in Go's terms.
func (n *Node) FileMode() fs.FileMode {
	m := fs.FileMode(n.Mode & 0o777)
	for _, b := range []struct {
		bit  uint32
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if n.Mode&b.bit != 0 {
			m |= b.mode
		}
	}
	switch n.Type() {
	case TypeDir:
		m |= fs.ModeDir
	case TypeSymlink:
		m |= fs.ModeSymlink
	case TypeBlock:
		m |= fs.ModeDevice
	case TypeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case TypeFIFO:
		m |= fs.ModeNamedPipe
	case TypeSocket:
		m |= fs.ModeSocket
	}
	return m
}

// HardLinkXAttr is the extended attribute that marks the names of one file in an
// archive, if they are to be restored as such. Its value is the same for all of them:
// the path in the tree of the first. Each name has the content as well, so that what
// does not know the mark extracts files that are equal. In file systems the name is
// castor's own: what a tree has there is not passed on.
const HardLinkXAttr = "user.castor.hardlink"
