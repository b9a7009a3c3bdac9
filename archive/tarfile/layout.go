package tarfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/castorsync/castor/archive"
)

// file is a node and where its content is. It may have several names.
type file struct {
	archive.Node
	off     int64  // of the content
	spooled bool   // in the spool, not in the tar
	implied bool   // a directory that the tar has not had so far
	linked  bool   // has had several names
	names   int    // that it has in the end, if it is linked
	first   string // of those, the first path
}

// place is a name in the tree.
type place struct {
	*file
	in map[string]*place // of a directory; nil as long as that is empty
}

// placeCost is about how many bytes of memory a node takes, beside its texts.
const placeCost = 560

// cost returns about how many bytes of memory a node takes.
func cost(n *archive.Node) int {
	size := placeCost + len(n.User) + len(n.Group) + len(n.Target) + len(n.SELinux) + len(n.FCaps)
	for _, x := range n.XAttrs {
		size += 40 + len(x.Name) + len(x.Value)
	}
	for _, list := range aclLists(n) {
		for _, e := range list {
			size += 32 + len(e.Name)
		}
	}
	return size
}

func aclLists(n *archive.Node) (lists [][]archive.ACLEntry) {
	if a := n.ACL.Access; a != nil {
		lists = append(lists, a.Users, a.Groups)
	}
	if d := n.ACL.Default; d != nil {
		lists = append(lists, d.Users, d.Groups)
	}
	return lists
}

// split returns the names of a path in a tar.
func split(path string) (names []string, err error) {
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			return nil, errors.New(`a path with ".." in it is not allowed`)
		case len(name) > archive.MaxName:
			return nil, fmt.Errorf("a name of %d bytes, more than %d", len(name), archive.MaxName)
		case strings.IndexByte(name, 0) >= 0:
			return nil, fmt.Errorf("name %q is not allowed", name)
		case len(names) == archive.MaxDepth-1:
			return nil, fmt.Errorf("more than %d nodes deep", archive.MaxDepth)
		}
		names = append(names, name)
	}
	return names, nil
}

// put makes f what is at a path. Directories on the way that are missing are made, with
// the time of f.
func (m *importer) put(names []string, f *file) error {
	if len(names) == 0 {
		if !f.IsDir() {
			return errors.New("the root is a directory")
		}
		return m.replace(m.root, f)
	}
	at := m.root
	for i, name := range names {
		if !at.IsDir() {
			return fmt.Errorf("%s is a %s, not a directory", show(strings.Join(names[:i], "/")), typeName(at.Mode))
		}
		old := at.in[name]
		last := i == len(names)-1
		switch {
		case last && old != nil && len(old.in) > 0 && !f.IsDir():
			return errors.New("it is a directory already, which is not empty")
		case last && old != nil:
			return m.replace(old, f)
		case last:
			return m.add(at, name, f)
		case old == nil:
			if err := m.add(at, name, m.imply(f.MTime)); err != nil {
				return err
			}
			old = at.in[name]
		}
		at = old
	}
	return nil
}

// imply returns a directory that is not in the tar.
func (m *importer) imply(mtime int64) *file {
	d := &file{Node: archive.Node{Mode: archive.TypeDir | 0o755, MTime: mtime}, implied: true}
	m.f.Strip(&d.Node)
	m.stats.Implied++
	return d
}

// add adds a name to a directory.
func (m *importer) add(dir *place, name string, f *file) error {
	if err := m.charge(len(name) + f.cost()); err != nil {
		return err
	}
	if dir.in == nil {
		dir.in = map[string]*place{}
	}
	dir.in[strings.Clone(name)] = &place{file: f}
	return nil
}

// replace makes f what has the name of p. What was in a directory stays.
func (m *importer) replace(p *place, f *file) error {
	if err := m.charge(f.cost() - p.file.cost()); err != nil {
		return err
	}
	if p.implied {
		m.stats.Implied--
	}
	p.file = f
	return nil
}

// cost returns about how many bytes of memory one more name of f takes.
func (f *file) cost() int {
	if f.linked {
		return placeCost
	}
	return cost(&f.Node)
}

// charge counts memory.
func (m *importer) charge(size int) error {
	if m.held += int64(size); m.held > m.o.MaxMemory {
		return fmt.Errorf("more than %d MiB of memory for names and metadata", m.o.MaxMemory>>20)
	}
	return nil
}

// find returns what is at a path so far, nil if there is nothing.
func (m *importer) find(names []string) *place {
	at := m.root
	for _, name := range names {
		if at = at.in[name]; at == nil {
			return nil
		}
	}
	return at
}

func typeName(mode uint32) string {
	switch mode & archive.TypeMask {
	case archive.TypeRegular:
		return "file"
	case archive.TypeSymlink:
		return "symbolic link"
	}
	return "special file"
}
