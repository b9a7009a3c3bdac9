package archive

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// Strip reduces n to what an archive with the features f keeps of it: it clears
// what f does not cover, rounds the time, and sorts the lists of attributes and
// ACL entries, in place. It leaves alone what the archive cannot hold although it
// should, such as a user number of 70000 in 16 bits, for the Writer to refuse.
// Nodes that are compared with those of an archive are to be stripped first.
func (f Features) Strip(n *Node) {
	n.Mode = f.mode(n.Mode)
	n.Flags &= f & Attributes
	if !n.IsDir() {
		n.Flags &^= Subvolume | SubvolumeRO
	}
	if !n.IsDir() && !n.IsRegular() {
		n.Flags, n.ProjectID = 0, 0
	}
	if !f.Any(uids) {
		n.UID, n.GID = 0, 0
	}
	n.MTime = f.MTime(n.MTime)
	n.User, n.Group = f.userName(n.User), f.userName(n.Group)
	f.stripXAttrs(n)
	f.stripACL(n)
	if !f.Has(SELinux) {
		n.SELinux = ""
	}
	if !f.Has(FCaps) || !n.IsRegular() {
		n.FCaps = nil
	}
	if !f.Has(QuotaProjID) {
		n.ProjectID = 0
	}
	if !n.IsSymlink() {
		n.Target = ""
	}
	if !n.IsDevice() {
		n.Major, n.Minor = 0, 0
	}
	if !n.IsRegular() {
		n.Size = 0
	}
}

// mode returns what f keeps of a mode.
func (f Features) mode(mode uint32) uint32 {
	typ := mode & TypeMask
	all := uint32(0o666)
	if typ == TypeDir {
		all = 0o777
	}
	switch {
	case typ == TypeSymlink:
		return typ | 0o777
	case f.Any(Permissions | ACLs):
		return typ | mode&PermMask
	case f.Has(ReadOnly) && mode&0o222 == 0:
		return typ | all&^0o222
	}
	return typ | all
}

func (f Features) userName(s string) string {
	if !f.Has(UserNames) || s == "root" {
		return ""
	}
	return s
}

func (f Features) stripXAttrs(n *Node) {
	if !f.Has(XAttrs) || n.IsSymlink() {
		n.XAttrs = nil
		return
	}
	n.XAttrs = slices.DeleteFunc(n.XAttrs, func(x XAttr) bool { return !storedXAttr(x.Name) })
	slices.SortFunc(n.XAttrs, func(a, b XAttr) int { return cmp.Compare(a.Name, b.Name) })
}

// storedXAttr says whether an attribute of that name is kept as such.
func storedXAttr(name string) bool {
	for _, prefix := range []string{"user.", "trusted."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest != ""
		}
	}
	return false
}

func (f Features) stripACL(n *Node) {
	if !f.Has(ACLs) || n.IsSymlink() {
		n.ACL = ACL{}
		return
	}
	if a := n.ACL.Access; a != nil {
		f.stripACLEntries(a.Users)
		f.stripACLEntries(a.Groups)
	}
	if !n.IsDir() {
		n.ACL.Default = nil
	}
	if d := n.ACL.Default; d != nil {
		f.stripACLEntries(d.Users)
		f.stripACLEntries(d.Groups)
	}
}

func (f Features) stripACLEntries(list []ACLEntry) {
	for i := range list {
		if !f.Any(uids) {
			list[i].ID = 0
		}
		list[i].Name = f.userName(list[i].Name)
	}
	slices.SortFunc(list, ACLEntry.Compare)
}

// Compare orders entries as an archive does: by number, name and permissions.
func (e ACLEntry) Compare(o ACLEntry) int {
	return cmp.Or(cmp.Compare(e.ID, o.ID), cmp.Compare(e.Name, o.Name), cmp.Compare(e.Perm, o.Perm))
}

// granularity returns the steps of time that f keeps, in nanoseconds; 0 if it
// keeps no times.
func (f Features) granularity() uint64 {
	switch {
	case f.Has(NSecTime):
		return 1
	case f.Has(USecTime):
		return 1e3
	case f.Has(SecTime):
		return 1e9
	case f.Has(TwoSecTime):
		return 2e9
	}
	return 0
}

// MTime returns what an archive with f keeps of a time in nanoseconds since 1970:
// the time rounded down, and 0 if it keeps none.
func (f Features) MTime(ns int64) int64 { return f.decodeTime(f.encodeTime(ns)) }

// encodeTime returns the word for a time. As casync does, it takes times before
// 1970 modulo 2^64 first and rounds them down then; all bits set is reserved.
func (f Features) encodeTime(ns int64) uint64 {
	g := f.granularity()
	if g == 0 {
		return 0
	}
	if ns == -1 {
		ns--
	}
	return uint64(ns) - uint64(ns)%g
}

// decodeTime is the inverse of encodeTime: it returns the time that rounds down
// to u and is a whole step before 1970 as well, if there is one.
func (f Features) decodeTime(u uint64) int64 {
	t := int64(u)
	if g := int64(f.granularity()); t < 0 && g != 0 && t <= -g {
		t -= t % g
	}
	return t
}

// Equal says whether a and b are the same in everything.
func (n *Node) Equal(o *Node) bool {
	return n.Mode == o.Mode && n.Flags == o.Flags && n.UID == o.UID && n.GID == o.GID && n.MTime == o.MTime &&
		n.User == o.User && n.Group == o.Group && n.SELinux == o.SELinux && n.ProjectID == o.ProjectID &&
		n.Target == o.Target && n.Major == o.Major && n.Minor == o.Minor && n.Size == o.Size &&
		bytes.Equal(n.FCaps, o.FCaps) && n.ACL.Equal(o.ACL) &&
		slices.EqualFunc(n.XAttrs, o.XAttrs, func(a, b XAttr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) })
}

// Equal says whether a and o are the same.
func (a ACL) Equal(o ACL) bool {
	if (a.Access == nil) != (o.Access == nil) || (a.Default == nil) != (o.Default == nil) {
		return false
	}
	if x, y := a.Access, o.Access; x != nil && (x.GroupObj != y.GroupObj ||
		!slices.Equal(x.Users, y.Users) || !slices.Equal(x.Groups, y.Groups)) {
		return false
	}
	x, y := a.Default, o.Default
	return x == nil || x.UserObj == y.UserObj && x.GroupObj == y.GroupObj && x.Other == y.Other && x.Mask == y.Mask &&
		slices.Equal(x.Users, y.Users) && slices.Equal(x.Groups, y.Groups)
}
