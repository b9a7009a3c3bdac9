//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/castorsync/castor/archive"
)

// attribute is an extended attribute as the kernel knows it.
type attribute struct {
	name  string
	value func() []byte
}

// xattrs returns the extended attributes of a node.
func xattrs(n *archive.Node) (all []attribute) {
	add := func(name string, value func() []byte) { all = append(all, attribute{name, value}) }
	for _, a := range n.XAttrs {
		add(a.Name, func() []byte { return a.Value })
	}
	if n.ACL.Access != nil {
		add("system.posix_acl_access", func() []byte { return accessACL(n.Perm(), n.ACL.Access) })
	}
	if n.ACL.Default != nil {
		add("system.posix_acl_default", func() []byte { return defaultACL(n.ACL.Default) })
	}
	if len(n.FCaps) > 0 {
		add("security.capability", func() []byte { return n.FCaps })
	}
	if n.SELinux != "" {
		add("security.selinux", func() []byte { return append([]byte(n.SELinux), 0) })
	}
	return all
}

// The binary form of access control lists, linux/posix_acl_xattr.h.
const (
	aclVersion  = 2
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
	noID        = 0xffffffff
)

func accessACL(perm uint32, a *archive.AccessACL) []byte {
	return encodeACL(archive.ACLPerm(perm>>6&7), a.Users, a.GroupObj, a.Groups, archive.ACLPerm(perm>>3&7), archive.ACLPerm(perm&7))
}

func defaultACL(a *archive.DefaultACL) []byte {
	return encodeACL(a.UserObj, a.Users, a.GroupObj, a.Groups, a.Mask, a.Other)
}

func encodeACL(user archive.ACLPerm, users []archive.ACLEntry, group archive.ACLPerm, groups []archive.ACLEntry, mask, other archive.ACLPerm) []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	add := func(tag uint16, perm archive.ACLPerm, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(perm))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	add(tagUserObj, user, noID)
	for _, e := range byID(users) {
		add(tagUser, e.Perm, e.ID)
	}
	add(tagGroupObj, group, noID)
	for _, e := range byID(groups) {
		add(tagGroup, e.Perm, e.ID)
	}
	if mask != archive.NoMask {
		add(tagMask, mask, noID)
	}
	add(tagOther, other, noID)
	return b
}

// byID returns entries in the order that the kernel wants.
func byID(list []archive.ACLEntry) []archive.ACLEntry {
	return slices.SortedFunc(slices.Values(list), func(a, b archive.ACLEntry) int { return cmp.Compare(a.ID, b.ID) })
}
