package tarfile

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/castorsync/castor/archive"
)

// Keys of PAX records that GNU tar and star have for what is not in POSIX.
const (
	keyXAttr   = "SCHILY.xattr."
	keyAccess  = "SCHILY.acl.access"
	keyDefault = "SCHILY.acl.default"
	keySELinux = "RHT.security.selinux"
	keySparse  = "GNU.sparse."

	xattrCaps    = "security.capability"
	xattrSELinux = "security.selinux"
)

// Types of entries that GNU tar writes and package tar has no name for.
const (
	typeDumpDir = 'D' // a directory with a list of what is in it, of incremental backups
	typeVolume  = 'V' // the name of the tar
)

// maxLinkPath is the greatest length in bytes of a path that is a mark.
const maxLinkPath = 1024

// Attribute names are part of the keys of records, where = ends them. GNU tar's codes.
var (
	encodeKey = strings.NewReplacer("%", "%25", "=", "%3D")
	decodeKey = strings.NewReplacer("%25", "%", "%3D", "=")
)

const anyUID = archive.UID16 | archive.UID32

// headerOf returns the header of a node of an archive with the features f.
func headerOf(path string, n *archive.Node, f archive.Features) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: "./" + path, Mode: int64(n.Perm()),
		Uid: int(n.UID), Gid: int(n.GID), Uname: ownerName(f, n.User, n.UID), Gname: ownerName(f, n.Group, n.GID),
		ModTime: time.Unix(0, n.MTime), PAXRecords: map[string]string{},
	}
	if h.Uid < 0 || h.Gid < 0 {
		return nil, fmt.Errorf("user %d, group %d: too great for this program", n.UID, n.GID)
	}
	switch n.Type() {
	case archive.TypeRegular:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
	case archive.TypeDir:
		h.Typeflag = tar.TypeDir
		if path != "" {
			h.Name += "/"
		}
	case archive.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case archive.TypeChar:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.Major), int64(n.Minor)
	case archive.TypeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(n.Major), int64(n.Minor)
	case archive.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("mode %#o: no such type in tar", n.Mode)
	}
	addRecords(h.PAXRecords, n, f)
	return h, nil
}

// ownerName returns the name of a user or group: that which is stored, or root's, which
// never is.
func ownerName(f archive.Features, stored string, id uint32) string {
	if stored == "" && id == 0 && f.Has(archive.UserNames) {
		return "root"
	}
	return stored
}

func addRecords(to map[string]string, n *archive.Node, f archive.Features) {
	for _, x := range n.XAttrs {
		to[keyXAttr+encodeKey.Replace(x.Name)] = string(x.Value)
	}
	if len(n.FCaps) > 0 {
		to[keyXAttr+xattrCaps] = string(n.FCaps)
	}
	if n.SELinux != "" {
		to[keySELinux] = n.SELinux
	}
	numbers := f.Any(anyUID)
	if a := n.AccessList(); a != nil {
		to[keyAccess] = formatACL(a, numbers)
	}
	if d := n.ACL.Default; d != nil {
		to[keyDefault] = formatACL(d, numbers)
	}
}

var errLeftOut = errors.New("left out: tar has no place for it")

// nodeType returns the type of node that an entry makes, 0 for a hard link.
func nodeType(flag byte) (uint32, error) {
	switch flag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return archive.TypeRegular, nil
	case tar.TypeDir, typeDumpDir:
		return archive.TypeDir, nil
	case tar.TypeSymlink:
		return archive.TypeSymlink, nil
	case tar.TypeChar:
		return archive.TypeChar, nil
	case tar.TypeBlock:
		return archive.TypeBlock, nil
	case tar.TypeFifo:
		return archive.TypeFIFO, nil
	case tar.TypeLink:
		return 0, nil
	}
	return 0, fmt.Errorf("type %q of an entry is not known", flag)
}

// node returns the node of a type that a header describes. It keeps no text of the
// header, as all texts of one are parts of a large one.
func (m *importer) node(path string, h *tar.Header, typ uint32) (*archive.Node, error) {
	n := &archive.Node{Mode: typ | uint32(h.Mode)&archive.PermMask}
	var err error
	if n.MTime, err = nanoseconds(h.ModTime); err != nil {
		return nil, err
	}
	if err := m.owner(n, h); err != nil {
		return nil, err
	}
	switch typ {
	case archive.TypeRegular:
		n.Size = h.Size
	case archive.TypeSymlink:
		n.Target = strings.Clone(h.Linkname)
	case archive.TypeChar, archive.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > archive.MaxMajor || h.Devminor < 0 || h.Devminor > archive.MaxMinor {
			return nil, fmt.Errorf("device %d:%d is not allowed", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	m.attributes(n, h.PAXRecords)
	if err := m.acls(n, h.PAXRecords); err != nil {
		m.tell(Problem{path, "acl", err})
	}
	m.f.Strip(n)
	return n, nil
}

// nanoseconds returns a time as archives have it.
func nanoseconds(t time.Time) (int64, error) {
	ns := t.UnixNano()
	if !time.Unix(0, ns).Equal(t) {
		return 0, fmt.Errorf("time of %d s since 1970: want one from 1678 to 2262", t.Unix())
	}
	return ns, nil
}

func (m *importer) owner(n *archive.Node, h *tar.Header) (err error) {
	if n.UID, n.User, err = m.users.note(h.Uid, h.Uname); err != nil {
		return err
	}
	n.GID, n.Group, err = m.groups.note(h.Gid, h.Gname)
	return err
}

// attributes takes over extended attributes that an archive can have.
func (m *importer) attributes(n *archive.Node, records map[string]string) {
	for k, v := range records {
		name, ok := strings.CutPrefix(k, keyXAttr)
		if !ok {
			continue
		}
		switch name = decodeKey.Replace(name); name {
		case archive.HardLinkXAttr:
		case xattrCaps:
			n.FCaps = []byte(v)
		case xattrSELinux:
			n.SELinux = strings.Clone(strings.TrimRight(v, "\x00"))
		default: // Strip drops what is not to be kept
			n.XAttrs = append(n.XAttrs, archive.XAttr{Name: strings.Clone(name), Value: []byte(v)})
		}
	}
	if v, ok := records[keySELinux]; ok {
		n.SELinux = strings.Clone(strings.TrimRight(v, "\x00"))
	}
}

func (m *importer) acls(n *archive.Node, records map[string]string) error {
	if !m.f.Has(archive.ACLs) || n.IsSymlink() {
		return nil
	}
	a, err := parseACL(records[keyAccess], m.resolve)
	if err != nil {
		return err
	}
	// Without a mask, the permissions of the mode are all there is.
	if a != nil && a.Mask != archive.NoMask {
		n.ACL.Access = &archive.AccessACL{GroupObj: a.GroupObj, Users: a.Users, Groups: a.Groups}
		n.Mode = n.Mode&^0o070 | uint32(a.Mask)<<3
	}
	if n.IsDir() {
		n.ACL.Default, err = parseACL(records[keyDefault], m.resolve)
	}
	return err
}

// resolve completes an entry of an ACL.
func (m *importer) resolve(e aclEntry, group bool) (archive.ACLEntry, error) {
	ids := &m.users
	if group {
		ids = &m.groups
	}
	switch {
	case e.id < 0 && m.f.Any(anyUID):
		id, ok := ids.find(e.name)
		if !ok {
			return archive.ACLEntry{}, fmt.Errorf("there is no number for the name %.100q", e.name)
		}
		return archive.ACLEntry{ID: id, Name: e.name}, nil
	case e.id < 0:
		return archive.ACLEntry{Name: e.name}, nil
	}
	return archive.ACLEntry{ID: uint32(e.id), Name: ids.orNumber(e.name, uint32(e.id))}, nil
}

// owners are users or groups.
type owners struct {
	f      archive.Features
	lookup func(string) (uint32, bool) // may be nil
	known  map[string]uint32           // by the entries so far
}

// maxOwners bounds how many names are remembered.
const maxOwners = 1 << 16

// note checks and remembers an owner of an entry.
func (o *owners) note(id int, name string) (uint32, string, error) {
	if id < 0 || int64(id) > math.MaxUint32 {
		return 0, "", fmt.Errorf("user or group %d is not allowed", id)
	}
	name = strings.Clone(name)
	if name != "" && len(name) <= archive.MaxName && len(o.known) < maxOwners {
		if _, ok := o.known[name]; !ok {
			o.known[name] = uint32(id)
		}
	}
	return uint32(id), o.orNumber(name, uint32(id)), nil
}

// orNumber returns what an archive has as the name. With a number, root has none.
// Without, the number is the name of those that have none.
func (o *owners) orNumber(name string, id uint32) string {
	switch {
	case o.f.Any(anyUID) && id == 0:
		return ""
	case !o.f.Any(anyUID) && name == "" && id != 0:
		return strconv.FormatUint(uint64(id), 10)
	}
	return name
}

// find returns the number of a name: that which it has in the tar, or the system's.
func (o *owners) find(name string) (uint32, bool) {
	if name == "root" {
		return 0, true
	}
	if id, ok := o.known[name]; ok {
		return id, true
	}
	if o.lookup == nil {
		return 0, false
	}
	return o.lookup(name)
}
