package archive

import (
	"encoding/binary"
	"math"

	"github.com/castorsync/castor/internal/caformat"
)

// headerSize is the size of what every record begins with: its size and its type.
const headerSize = 16

// maxHead bounds the records of one node, but for what a file or a directory
// holds. Linux allows less than a tenth of that on most file systems.
const maxHead = 16 << 20

// MaxSize is the greatest size of a file in an archive.
const MaxSize = math.MaxInt64 - headerSize

// appendNode appends the records of n, which has been checked, up to the bytes of
// a file or the nodes in a directory.
func (f Features) appendNode(b []byte, n *Node) []byte {
	b = appendWords(b, caformat.Entry, uint64(f), uint64(n.Mode), uint64(n.Flags), uint64(n.UID), uint64(n.GID), f.encodeTime(n.MTime))
	b = appendText(b, caformat.User, n.User)
	b = appendText(b, caformat.Group, n.Group)
	for _, x := range n.XAttrs {
		b = appendHeader(b, caformat.XAttr, len(x.Name)+1+len(x.Value))
		b = append(append(append(b, x.Name...), 0), x.Value...)
	}
	if a := n.ACL.Access; a != nil {
		b = appendACL(b, caformat.ACLUser, a.Users)
		b = appendACL(b, caformat.ACLGroup, a.Groups)
		b = appendWords(b, caformat.ACLGroupObj, uint64(a.GroupObj))
	}
	if d := n.ACL.Default; d != nil {
		mask := uint64(d.Mask)
		if d.Mask == NoMask {
			mask = math.MaxUint64
		}
		b = appendWords(b, caformat.ACLDefault, uint64(d.UserObj), uint64(d.GroupObj), uint64(d.Other), mask)
		b = appendACL(b, caformat.ACLDefaultUser, d.Users)
		b = appendACL(b, caformat.ACLDefaultGroup, d.Groups)
	}
	b = appendText(b, caformat.SELinuxLabel, n.SELinux)
	if len(n.FCaps) > 0 {
		b = append(appendHeader(b, caformat.FileCaps, len(n.FCaps)), n.FCaps...)
	}
	if n.ProjectID != 0 {
		b = appendWords(b, caformat.ProjectID, uint64(n.ProjectID))
	}
	switch {
	case n.IsRegular():
		b = binary.LittleEndian.AppendUint64(b, headerSize+uint64(n.Size))
		b = binary.LittleEndian.AppendUint64(b, caformat.Payload)
	case n.IsDevice():
		b = appendWords(b, caformat.Device, uint64(n.Major), uint64(n.Minor))
	}
	return appendText(b, caformat.SymlinkTarget, n.Target)
}

func appendHeader(b []byte, typ uint64, size int) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, headerSize+uint64(size)), typ)
}

func appendWords(b []byte, typ uint64, words ...uint64) []byte {
	b = appendHeader(b, typ, 8*len(words))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// appendText appends a record of s and a NUL, and nothing if s is empty.
func appendText(b []byte, typ uint64, s string) []byte {
	if s == "" {
		return b
	}
	return append(append(appendHeader(b, typ, len(s)+1), s...), 0)
}

// appendGoodbyeItem appends an item, or the tail, of a table.
func appendGoodbyeItem(b []byte, a, size, c uint64) []byte {
	b = binary.LittleEndian.AppendUint64(b, a)
	b = binary.LittleEndian.AppendUint64(b, size)
	return binary.LittleEndian.AppendUint64(b, c)
}

func appendACL(b []byte, typ uint64, list []ACLEntry) []byte {
	for _, e := range list {
		size := 16
		if e.Name != "" {
			size += len(e.Name) + 1
		}
		b = appendHeader(b, typ, size)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.ID))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.Perm))
		if e.Name != "" {
			b = append(append(b, e.Name...), 0)
		}
	}
	return b
}
