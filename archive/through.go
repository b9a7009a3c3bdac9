package archive

import "io"

// Through returns the tree read through ra, which must have the same archive.
func (t *Tree) Through(ra io.ReaderAt) *Tree {
	u := &Tree{ra: ra, f: t.f}
	u.root = t.root.In(u)
	return u
}

// In returns the node as one of t, which must be of the same archive.
func (it *Item) In(t *Tree) *Item {
	c := *it
	c.t = t
	return &c
}
