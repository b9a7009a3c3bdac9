package archive

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// The binary form that Linux has for access control lists in extended attributes,
// linux/posix_acl_xattr.h: a version, and entries of tag, permissions and number.
const (
	aclVersion    = 2
	aclHeaderSize = 4 // bytes
	aclEntrySize  = 8
	noID          = 0xffffffff // of entries that name nobody
)

// Tags of entries, in the order in which they are.
const (
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
)

// The extended attributes that hold lists in the form of [DefaultACL.Encode].
const (
	AccessACLName  = "system.posix_acl_access"
	DefaultACLName = "system.posix_acl_default"
)

// AccessList returns the access control list of n with all its entries, of which some
// are in the mode; nil if n has none. It shares the slices of n.
func (n *Node) AccessList() *DefaultACL {
	a := n.ACL.Access
	if a == nil {
		return nil
	}
	perm := n.Perm()
	return &DefaultACL{
		UserObj: ACLPerm(perm >> 6 & 7), GroupObj: a.GroupObj, Other: ACLPerm(perm & 7), Mask: ACLPerm(perm >> 3 & 7),
		Users: a.Users, Groups: a.Groups,
	}
}

// Encode returns the list in the form that Linux has for it in an extended attribute. Only
// the numbers of users and groups are in it.
func (a *DefaultACL) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	add := func(tag uint16, perm ACLPerm, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(perm))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	named := func(tag uint16, list []ACLEntry) {
		for _, e := range slices.SortedFunc(slices.Values(list), func(a, b ACLEntry) int { return cmp.Compare(a.ID, b.ID) }) {
			add(tag, e.Perm, e.ID)
		}
	}
	add(tagUserObj, a.UserObj, noID)
	named(tagUser, a.Users)
	add(tagGroupObj, a.GroupObj, noID)
	named(tagGroup, a.Groups)
	if a.Mask != NoMask {
		add(tagMask, a.Mask, noID)
	}
	add(tagOther, a.Other, noID)
	return b
}

var errACL = errors.New("not an access control list in the form of Linux")

// DecodeACL is the reverse of [DefaultACL.Encode]. A list without entries is nil.
func DecodeACL(b []byte) (*DefaultACL, error) {
	if len(b) < aclHeaderSize || (len(b)-aclHeaderSize)%aclEntrySize != 0 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, errACL
	}
	if len(b) == aclHeaderSize {
		return nil, nil
	}
	a := &DefaultACL{Mask: NoMask}
	for b = b[aclHeaderSize:]; len(b) > 0; b = b[aclEntrySize:] {
		perm, id := ACLPerm(b[2]), binary.LittleEndian.Uint32(b[4:])
		switch binary.LittleEndian.Uint16(b) {
		case tagUserObj:
			a.UserObj = perm
		case tagUser:
			a.Users = append(a.Users, ACLEntry{ID: id, Perm: perm})
		case tagGroupObj:
			a.GroupObj = perm
		case tagGroup:
			a.Groups = append(a.Groups, ACLEntry{ID: id, Perm: perm})
		case tagMask:
			a.Mask = perm
		case tagOther:
			a.Other = perm
		default:
			return nil, errACL
		}
	}
	return a, nil
}
