package tree

import (
	"slices"

	"github.com/castorsync/castor/archive"
)

// maxLinkPath bounds the mark, so that every file system that has attributes takes
// it. Files whose first path is longer are not marked.
const maxLinkPath = 1024

// linkMarker marks the names of files with more than one.
type linkMarker map[fileID]*linkGroup

type fileID struct{ dev, ino uint64 }

type linkGroup struct {
	path string
	left uint64 // names that have not come
}

// mark sets or removes the mark of a regular file with that many names.
func (m linkMarker) mark(path string, n *archive.Node, id fileID, names uint64) {
	takeLinkGroup(n)
	if names < 2 {
		return
	}
	g := m[id]
	if g == nil {
		g = &linkGroup{path, names}
		m[id] = g
	}
	if g.left--; g.left == 0 {
		delete(m, id)
	}
	if len(g.path) > maxLinkPath {
		return
	}
	i, _ := slices.BinarySearchFunc(n.XAttrs, archive.HardLinkXAttr, compareXAttr)
	n.XAttrs = slices.Insert(n.XAttrs, i, archive.XAttr{Name: archive.HardLinkXAttr, Value: []byte(g.path)})
}

// takeLinkGroup removes the mark of a hard link from a node. It returns the name of
// its group, and whether there was a mark.
func takeLinkGroup(n *archive.Node) (group string, ok bool) {
	i, ok := slices.BinarySearchFunc(n.XAttrs, archive.HardLinkXAttr, compareXAttr)
	if !ok {
		return "", false
	}
	group = string(n.XAttrs[i].Value)
	n.XAttrs = slices.Delete(n.XAttrs, i, i+1)
	return group, true
}

func compareXAttr(x archive.XAttr, name string) int {
	switch {
	case x.Name < name:
		return -1
	case x.Name > name:
		return 1
	}
	return 0
}
