package archive

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// check returns an error unless n is a node that an archive with the features f
// can hold. What is written and what was read must both pass it.
func (f Features) check(n *Node) error {
	if err := f.checkMode(n); err != nil {
		return err
	}
	if err := f.checkOwner(n); err != nil {
		return err
	}
	if err := f.checkXAttrs(n); err != nil {
		return err
	}
	if err := f.checkACL(n); err != nil {
		return err
	}
	if err := f.checkLabels(n); err != nil {
		return err
	}
	if f.MTime(n.MTime) != n.MTime {
		return fmt.Errorf("time of %d ns is not rounded to what the features keep", n.MTime)
	}
	return checkBody(n)
}

func (f Features) checkMode(n *Node) error {
	switch {
	case n.Mode&^(TypeMask|PermMask) != 0:
		return fmt.Errorf("mode %#o has unknown bits", n.Mode)
	case !f.Stores(n.Mode):
		return fmt.Errorf("mode %#o: nodes of this type are not among the features", n.Mode)
	case f.mode(n.Mode) != n.Mode:
		return fmt.Errorf("mode %#o says more than the features keep", n.Mode)
	case n.Flags&^(f&Attributes) != 0:
		return fmt.Errorf("attributes %v are not among the features", n.Flags&^(f&Attributes))
	case n.Flags != 0 && !n.IsDir() && !n.IsRegular():
		return fmt.Errorf("attributes %v on a node of mode %#o", n.Flags, n.Mode)
	case n.Flags.Any(Subvolume|SubvolumeRO) && !n.IsDir():
		return errors.New("a subvolume that is no directory")
	}
	return nil
}

func (f Features) checkOwner(n *Node) error {
	if !f.validID(n.UID) || !f.validID(n.GID) {
		return fmt.Errorf("user %d, group %d: not numbers that the features keep", n.UID, n.GID)
	}
	for _, name := range []string{n.User, n.Group} {
		if err := f.checkUserName(name); err != nil {
			return err
		}
	}
	return nil
}

// validID refuses, with the numbers that are too great, those that stand for "no
// user" in 16 and 32 bits.
func (f Features) validID(id uint32) bool {
	switch {
	case f.Has(UID16):
		return id < math.MaxUint16
	case f.Has(UID32):
		return id != math.MaxUint16 && id != math.MaxUint32
	}
	return id == 0
}

// checkUserName takes every name that a system may have for a user. The name
// root, and its number, are never written.
func (f Features) checkUserName(s string) error {
	switch {
	case s == "":
		return nil
	case !f.Has(UserNames):
		return fmt.Errorf("user or group name %q: names are not among the features", s)
	case len(s) > MaxName, s == "root", s == "0", strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == ':' || r == '/'
	}):
		return fmt.Errorf("user or group name %.256q is not allowed", s)
	}
	return nil
}

func (f Features) checkXAttrs(n *Node) error {
	if len(n.XAttrs) == 0 {
		return nil
	}
	if !f.Has(XAttrs) || n.IsSymlink() {
		return errors.New("extended attributes where there can be none")
	}
	for i, x := range n.XAttrs {
		switch {
		case !storedXAttr(x.Name), len(x.Name) > MaxName, strings.IndexByte(x.Name, 0) >= 0:
			return fmt.Errorf("extended attribute %.256q: the name is not allowed", x.Name)
		case len(x.Value) > MaxXAttrValue:
			return fmt.Errorf("extended attribute %q: %d bytes, more than %d", x.Name, len(x.Value), MaxXAttrValue)
		case i > 0 && x.Name <= n.XAttrs[i-1].Name:
			return fmt.Errorf("extended attribute %q is not in order", x.Name)
		}
	}
	return nil
}

func (f Features) checkACL(n *Node) error {
	a, d := n.ACL.Access, n.ACL.Default
	if a == nil && d == nil {
		return nil
	}
	if !f.Has(ACLs) || n.IsSymlink() {
		return errors.New("ACL where there can be none")
	}
	if a != nil {
		if a.GroupObj > 7 {
			return fmt.Errorf("ACL permissions %#o", a.GroupObj)
		}
		if err := f.checkACLEntries(a.Users, a.Groups); err != nil {
			return err
		}
	}
	if d == nil {
		return nil
	}
	switch {
	case !n.IsDir():
		return errors.New("default ACL of a node that is no directory")
	case d.UserObj|d.GroupObj|d.Other > 7, d.Mask > 7 && d.Mask != NoMask:
		return errors.New("default ACL: no such permissions")
	case d.Mask == NoMask && len(d.Users)+len(d.Groups) > 0:
		return errors.New("default ACL with users or groups, but without a mask")
	}
	return f.checkACLEntries(d.Users, d.Groups)
}

func (f Features) checkACLEntries(lists ...[]ACLEntry) error {
	for _, list := range lists {
		for i, e := range list {
			if e.Perm > 7 {
				return fmt.Errorf("ACL permissions %#o", e.Perm)
			}
			if !f.validID(e.ID) {
				return fmt.Errorf("ACL of number %d: not a number that the features keep", e.ID)
			}
			if err := f.checkUserName(e.Name); err != nil {
				return err
			}
			if i > 0 && e.Compare(list[i-1]) <= 0 {
				return fmt.Errorf("ACL entry of %d %q is not in order", e.ID, e.Name)
			}
		}
	}
	return nil
}

func (f Features) checkLabels(n *Node) error {
	switch {
	case n.SELinux != "" && !f.Has(SELinux), len(n.FCaps) > 0 && !f.Has(FCaps), n.ProjectID != 0 && !f.Has(QuotaProjID):
		return errors.New("SELinux label, file capabilities or project number, which is not among the features")
	case len(n.SELinux) > MaxSELinuxLabel, strings.IndexByte(n.SELinux, 0) >= 0:
		return fmt.Errorf("SELinux label %.64q… is not allowed", n.SELinux)
	case len(n.FCaps) > 0 && !n.IsRegular():
		return errors.New("file capabilities on a node that is no file")
	case len(n.FCaps) > MaxFCaps:
		return fmt.Errorf("file capabilities of %d bytes, more than %d", len(n.FCaps), MaxFCaps)
	case n.ProjectID != 0 && !n.IsRegular() && !n.IsDir():
		return errors.New("project number on a node that is neither file nor directory")
	}
	return nil
}

func checkBody(n *Node) error {
	switch {
	case n.IsSymlink() != (n.Target != ""), len(n.Target) > MaxTarget, strings.IndexByte(n.Target, 0) >= 0:
		return fmt.Errorf("symlink target of %d bytes on a node of mode %#o is not allowed", len(n.Target), n.Mode)
	case !n.IsDevice() && (n.Major != 0 || n.Minor != 0), n.Major > MaxMajor, n.Minor > MaxMinor:
		return fmt.Errorf("device %d:%d on a node of mode %#o is not allowed", n.Major, n.Minor, n.Mode)
	case n.Size < 0, n.Size > MaxSize, n.Size != 0 && !n.IsRegular():
		return fmt.Errorf("size %d on a node of mode %#o is not allowed", n.Size, n.Mode)
	}
	return nil
}

// checkName returns an error unless s can be the name of a file in a directory.
func checkName(s string) error {
	switch {
	case s == "", s == ".", s == "..", len(s) > MaxName, strings.ContainsAny(s, "/\x00"):
		return fmt.Errorf("name %.256q is not allowed", s)
	}
	return nil
}
