//go:build !386 && !arm && !mips && !mipsle

package fuse

import "github.com/castorsync/castor/archive"

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
	if a := n.AccessList(); a != nil {
		add(archive.AccessACLName, a.Encode)
	}
	if a := n.ACL.Default; a != nil {
		add(archive.DefaultACLName, a.Encode)
	}
	if len(n.FCaps) > 0 {
		add("security.capability", func() []byte { return n.FCaps })
	}
	if n.SELinux != "" {
		add("security.selinux", func() []byte { return append([]byte(n.SELinux), 0) })
	}
	return all
}
