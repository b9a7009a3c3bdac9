package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"

	"github.com/castorsync/castor/archive"
)

// Change is a node in which two trees differ.
type Change struct {
	Path string   `json:"path"` // with slashes; "" is the root
	Kind Kind     `json:"change"`
	What []string `json:"what,omitempty"` // "content", "size", "type", "mode", "time", …
}

// Kind is how a node differs.
type Kind string

// The kinds of changes.
const (
	Added    Kind = "added" // with all below it, each a change of its own
	Removed  Kind = "removed"
	Modified Kind = "changed"  // it has other content
	Metadata Kind = "metadata" // only what is said about it differs
)

// Compare calls each for the nodes in which new differs from old, in the order of
// paths, until each returns an error, which it then returns. Metadata is compared as
// far as both archives keep it and mask, 0 meaning all, has it.
func Compare(ctx context.Context, old, new *archive.Tree, mask archive.Features, each func(Change) error) error {
	f := []archive.Features{old.Features(), new.Features()}
	if mask != 0 {
		f = append(f, mask.Normalize())
	}
	c := &comparer{ctx: ctx, f: common(f), each: each}
	return c.both(old.Root(), new.Root())
}

// common returns what all of list keep, times in the coarsest of their forms.
func common(list []archive.Features) archive.Features {
	f := list[0]
	for _, g := range list[1:] {
		f = f.Replay(g)
	}
	if !f.Any(timeFeatures) {
		return f
	}
	f &^= timeFeatures
	for _, form := range []archive.Features{archive.TwoSecTime, archive.SecTime, archive.USecTime} {
		if slices.ContainsFunc(list, func(g archive.Features) bool { return g.Has(form) }) {
			return f | form
		}
	}
	return f | archive.NSecTime
}

type comparer struct {
	ctx  context.Context
	f    archive.Features // what is compared
	each func(Change) error
}

func (c *comparer) both(a, b *archive.Item) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	what, err := c.differs(a, b)
	if err != nil {
		return err
	}
	if len(what) > 0 {
		kind := Metadata
		switch what[0] {
		case "type", "size", "content", "target", "device":
			kind = Modified
		}
		if err := c.each(Change{b.Path, kind, what}); err != nil {
			return err
		}
	}
	if a.Node.IsDir() != b.Node.IsDir() {
		if err := c.below(a, Removed); err != nil {
			return err
		}
		return c.below(b, Added)
	}
	if !a.Node.IsDir() {
		return nil
	}
	return c.children(a, b)
}

func (c *comparer) children(a, b *archive.Item) error {
	nextA, stopA := iter.Pull2(a.Children())
	defer stopA()
	nextB, stopB := iter.Pull2(b.Children())
	defer stopB()
	x, errX, okX := nextA()
	y, errY, okY := nextB()
	for okX || okY {
		if err := errors.Join(errX, errY); err != nil {
			return err
		}
		var err error
		switch {
		case !okY || okX && x.Name() < y.Name():
			err = c.only(x, Removed)
			x, errX, okX = nextA()
		case !okX || y.Name() < x.Name():
			err = c.only(y, Added)
			y, errY, okY = nextB()
		default:
			err = c.both(x, y)
			x, errX, okX = nextA()
			y, errY, okY = nextB()
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(errX, errY)
}

// only tells of a node that one tree has, and of all below it.
func (c *comparer) only(it *archive.Item, kind Kind) error {
	if !c.f.Stores(it.Node.Mode) {
		return nil // the other cannot have it
	}
	if err := c.each(Change{Path: it.Path, Kind: kind}); err != nil {
		return err
	}
	return c.below(it, kind)
}

func (c *comparer) below(it *archive.Item, kind Kind) error {
	if !it.Node.IsDir() {
		return nil
	}
	for child, err := range it.Children() {
		if err == nil && c.ctx.Err() != nil {
			err = context.Cause(c.ctx)
		}
		if err == nil {
			err = c.only(child, kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// differs says in what two nodes differ, the most important first.
func (c *comparer) differs(a, b *archive.Item) (what []string, err error) {
	x, y := cloneNode(a.Node), cloneNode(b.Node)
	c.f.Strip(x)
	c.f.Strip(y)
	takeLinkGroup(x) // the marks of hard links are no metadata
	takeLinkGroup(y)
	add := func(name string, differs bool) {
		if differs {
			what = append(what, name)
		}
	}
	if x.Type() != y.Type() {
		return []string{"type"}, nil // what else differs says nothing
	}
	if x.IsRegular() {
		if x.Size != y.Size {
			add("size", true)
		} else {
			same, err := c.sameContent(a, b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", shown(a.Path), err)
			}
			add("content", !same)
		}
	}
	add("target", x.Target != y.Target)
	add("device", x.Major != y.Major || x.Minor != y.Minor)
	add("mode", x.Perm() != y.Perm())
	add("owner", x.UID != y.UID || x.GID != y.GID || x.User != y.User || x.Group != y.Group)
	add("time", x.MTime != y.MTime)
	add("attributes", x.Flags != y.Flags)
	add("xattrs", !reflect.DeepEqual(x.XAttrs, y.XAttrs) && len(x.XAttrs)+len(y.XAttrs) > 0)
	add("acl", !x.ACL.Equal(y.ACL))
	add("selinux", x.SELinux != y.SELinux)
	add("fcaps", !bytes.Equal(x.FCaps, y.FCaps))
	add("projid", x.ProjectID != y.ProjectID)
	return what, nil
}

// cloneNode copies what Strip changes.
func cloneNode(n *archive.Node) *archive.Node {
	c := *n
	c.XAttrs = append([]archive.XAttr(nil), n.XAttrs...)
	if n.ACL.Access != nil {
		a := *n.ACL.Access
		a.Users, a.Groups = append([]archive.ACLEntry(nil), a.Users...), append([]archive.ACLEntry(nil), a.Groups...)
		c.ACL.Access = &a
	}
	if n.ACL.Default != nil {
		d := *n.ACL.Default
		d.Users, d.Groups = append([]archive.ACLEntry(nil), d.Users...), append([]archive.ACLEntry(nil), d.Groups...)
		c.ACL.Default = &d
	}
	return &c
}

func (c *comparer) sameContent(a, b *archive.Item) (bool, error) {
	ra, rb := a.Content(), b.Content()
	bufA, bufB := make([]byte, smallFile), make([]byte, smallFile)
	for {
		if c.ctx.Err() != nil {
			return false, context.Cause(c.ctx)
		}
		n, err := io.ReadFull(ra, bufA)
		m, errB := io.ReadFull(rb, bufB[:n])
		if errB != nil && errB != io.EOF {
			return false, errB
		}
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}
