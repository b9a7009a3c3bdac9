package tree

import (
	"cmp"

	"github.com/castorsync/castor/archive"
)

// describeACL notes the access control lists of a node.
func (w *walker) describeACL(n *archive.Node, src attributeSource) error {
	if !w.f.Has(archive.ACLs) || n.IsSymlink() {
		return nil
	}
	a, err := w.readACL(src, archive.AccessACLName)
	if err != nil {
		return err
	}
	// Without a mask, the permissions of the mode are all there is.
	if a != nil && a.Mask != archive.NoMask {
		n.ACL.Access = &archive.AccessACL{GroupObj: a.GroupObj, Users: a.Users, Groups: a.Groups}
	}
	if n.IsDir() {
		n.ACL.Default, err = w.readACL(src, archive.DefaultACLName)
	}
	return err
}

// readACL returns a list with the numbers and names of the archive; nil if there is none.
func (w *walker) readACL(src attributeSource, name string) (*archive.DefaultACL, error) {
	b, ok, err := src.get(name)
	if err != nil || !ok {
		return nil, err
	}
	return w.parseACL(b)
}

func (w *walker) parseACL(b []byte) (*archive.DefaultACL, error) {
	a, err := archive.DecodeACL(b)
	if err != nil || a == nil {
		return nil, err
	}
	return a, cmp.Or(w.identify(a.Users, w.ids.user), w.identify(a.Groups, w.ids.group))
}

// identify gives entries the numbers and names of the archive.
func (w *walker) identify(list []archive.ACLEntry, name func(uint32) (string, error)) error {
	for i := range list {
		e := &list[i]
		id := e.ID
		var err error
		if e.ID, err = w.ids.number(id); err != nil {
			return err
		}
		if e.Name, err = name(id); err != nil {
			return err
		}
	}
	return nil
}

// setACL sets an access control list, without those who are not known here.
func (u *unpacker) setACL(h *handle, t target, name string, a *archive.DefaultACL) error {
	here := *a
	var err1, err2 error
	here.Users, err1 = u.known(a.Users, u.owners.user)
	here.Groups, err2 = u.known(a.Groups, u.owners.group)
	if err := u.problem(t.path, "ACL", cmp.Or(err1, err2)); err != nil {
		return err
	}
	return u.problem(t.path, "ACL", h.set(name, here.Encode()))
}

// known returns entries with their numbers here. With an error, those who are not known
// here are left out.
func (u *unpacker) known(list []archive.ACLEntry, find func(string) int64) (here []archive.ACLEntry, err error) {
	for _, e := range list {
		id, unknown := u.number(e.Name, e.ID, find)
		if unknown != nil {
			err = unknown
			continue
		}
		here = append(here, archive.ACLEntry{ID: id, Perm: e.Perm})
	}
	return here, err
}
