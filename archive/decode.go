package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/castorsync/castor/internal/caformat"
)

// ErrFormat is wrapped by every error about the content of an archive, as opposed
// to one about reading it.
var ErrFormat = errors.New("not a valid archive")

// source is where records are read from.
type source interface {
	// peek returns the next n bytes without taking them; they are valid until the
	// next call. It returns io.EOF if there are none, io.ErrUnexpectedEOF if there
	// are fewer than n.
	peek(n int) ([]byte, error)
	// discard takes n bytes that peek has returned.
	discard(n int)
}

// formatError says what is wrong with an archive.
func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFormat, fmt.Errorf(format, args...))
}

// peek is peek of src for bytes that must be there.
func peek(src source, n int, what string) ([]byte, error) {
	b, err := src.peek(n)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, formatError("ends within %s: truncated?", what)
	}
	return b, err
}

// header returns the size, header included, and the type of the next record, and
// does not take them.
func header(src source) (size, typ uint64, err error) {
	b, err := peek(src, headerSize, "the header of a record")
	if err != nil {
		return 0, 0, err
	}
	size, typ = word(b, 0), word(b, 1)
	if size < headerSize {
		return 0, 0, formatError("record of %d bytes, less than its header", size)
	}
	return size, typ, nil
}

// word returns the ith word of b.
func word(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }

// record takes the next record, whose size and type header has returned, and
// returns what follows its header; valid until the next use of src.
func record(src source, size uint64, limit int) ([]byte, error) {
	if size > headerSize+uint64(limit) {
		return nil, formatError("record of %d bytes, more than %d", size, headerSize+limit)
	}
	b, err := peek(src, int(size), "a record")
	if err != nil {
		return nil, err
	}
	src.discard(int(size))
	return b[headerSize:], nil
}

// filename takes a FILENAME record.
func filename(src source) (string, error) {
	size, typ, err := header(src)
	if err != nil {
		return "", err
	}
	if typ != caformat.Filename {
		return "", formatError("record of type %#x where a name is due", typ)
	}
	b, err := record(src, size, MaxName+1)
	if err != nil {
		return "", err
	}
	name, err := text(b)
	if err == nil {
		err = checkName(name)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return name, nil
}

// bodyStage is the stage of the records that end a node.
const bodyStage = 14

// stageOf returns the place of a record among those of a node, and whether there
// may be several; 0 if it is none of them.
func stageOf(typ uint64) (stage int, repeats bool) {
	switch typ {
	case caformat.Entry:
		return 1, false
	case caformat.User:
		return 2, false
	case caformat.Group:
		return 3, false
	case caformat.XAttr:
		return 4, true
	case caformat.ACLUser:
		return 5, true
	case caformat.ACLGroup:
		return 6, true
	case caformat.ACLGroupObj:
		return 7, false
	case caformat.ACLDefault:
		return 8, false
	case caformat.ACLDefaultUser:
		return 9, true
	case caformat.ACLDefaultGroup:
		return 10, true
	case caformat.SELinuxLabel:
		return 11, false
	case caformat.FileCaps:
		return 12, false
	case caformat.ProjectID:
		return 13, false
	case caformat.Payload, caformat.SymlinkTarget, caformat.Device:
		return bodyStage, false
	}
	return 0, false
}

// body returns the type of the record that ends a node, 0 if there is none.
func (n *Node) body() uint64 {
	switch {
	case n.IsRegular():
		return caformat.Payload
	case n.IsSymlink():
		return caformat.SymlinkTarget
	case n.IsDevice():
		return caformat.Device
	}
	return 0
}

// decoder collects the records of a node.
type decoder struct {
	f     Features // of the archive; 0 before the first ENTRY, whose features it takes
	first bool     // no ENTRY has been read
	n     *Node
	acl   struct {
		users, groups, defaultUsers, defaultGroups []ACLEntry
	}
}

// readNode reads the records of a node up to the bytes of a file, the records in
// a directory, or whatever follows a node of another type. The first node of an
// archive says which features it has.
func readNode(src source, f *Features, first bool) (*Node, error) {
	d := decoder{f: *f, first: first, n: new(Node)}
	if err := d.records(src); err != nil {
		return nil, err
	}
	if err := d.finish(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	*f = d.f
	return d.n, nil
}

func (d *decoder) records(src source) error {
	stage, total := 0, uint64(0)
	for {
		if stage > 0 && d.n.body() == 0 {
			if ends, err := d.endsHere(src); ends || err != nil {
				return err
			}
		}
		size, typ, err := header(src)
		if err != nil {
			return err
		}
		next, repeats := stageOf(typ)
		switch {
		case next == 0, stage == 0 && typ != caformat.Entry, next == bodyStage && typ != d.n.body():
			return formatError("unexpected record of type %#x", typ)
		case next < stage, next == stage && !repeats:
			return formatError("record of type %#x is not in order", typ)
		}
		stage = next
		if typ == caformat.Payload {
			src.discard(headerSize)
			return d.payload(size)
		}
		b, err := record(src, size, maxRecord)
		if err != nil {
			return err
		}
		if total += size; total > maxHead {
			return formatError("attributes of more than %d bytes", maxHead)
		}
		if err := d.record(typ, b); err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if stage == bodyStage {
			return nil
		}
	}
}

// maxRecord bounds what any record of a node may hold: that is a long attribute.
const maxRecord = MaxName + 1 + MaxXAttrValue

// endsHere says whether the records of a node that has no body end here.
func (d *decoder) endsHere(src source) (bool, error) {
	b, err := src.peek(headerSize)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return err == io.EOF && !d.n.IsDir(), nil // otherwise header says what is wrong
	}
	if err != nil {
		return false, err
	}
	typ := word(b, 1)
	return typ == caformat.Filename || typ == caformat.Goodbye, nil
}

func (d *decoder) payload(size uint64) error {
	if size -= headerSize; size > MaxSize {
		return formatError("file of %d bytes", size)
	}
	d.n.Size = int64(size)
	return nil
}

// record takes what a record says, except whether a node may have that.
func (d *decoder) record(typ uint64, b []byte) (err error) {
	n := d.n
	switch typ {
	case caformat.Entry:
		return d.entry(b)
	case caformat.User:
		n.User, err = text(b)
	case caformat.Group:
		n.Group, err = text(b)
	case caformat.XAttr:
		return d.xattr(b)
	case caformat.ACLUser:
		return aclEntry(&d.acl.users, b)
	case caformat.ACLGroup:
		return aclEntry(&d.acl.groups, b)
	case caformat.ACLDefaultUser:
		return aclEntry(&d.acl.defaultUsers, b)
	case caformat.ACLDefaultGroup:
		return aclEntry(&d.acl.defaultGroups, b)
	case caformat.ACLGroupObj:
		var w [1]uint64
		err = words(b, w[:], 7)
		n.ACL.Access = &AccessACL{GroupObj: ACLPerm(w[0])}
	case caformat.ACLDefault:
		return d.defaultACL(b)
	case caformat.SELinuxLabel:
		n.SELinux, err = text(b)
	case caformat.FileCaps:
		if len(b) == 0 {
			return errors.New("empty file capabilities")
		}
		n.FCaps = bytes.Clone(b)
	case caformat.ProjectID:
		var w [1]uint64
		if err = words(b, w[:], math.MaxUint32); err == nil && w[0] == 0 {
			err = errors.New("project number 0")
		}
		n.ProjectID = uint32(w[0])
	case caformat.SymlinkTarget:
		n.Target, err = text(b)
	case caformat.Device:
		var w [2]uint64
		err = words(b, w[:], math.MaxUint32)
		n.Major, n.Minor = uint32(w[0]), uint32(w[1])
	}
	return err
}

func (d *decoder) entry(b []byte) error {
	if len(b) != 48 {
		return fmt.Errorf("ENTRY record of %d bytes", headerSize+len(b))
	}
	f, mode, flags, uid, gid, mtime := Features(word(b, 0)), word(b, 1), Features(word(b, 2)), word(b, 3), word(b, 4), word(b, 5)
	if d.first {
		if err := f.Validate(); err != nil {
			return err
		}
		d.f = f
	} else if f != d.f {
		return fmt.Errorf("features %#x, those of the archive are %#x", uint64(f), uint64(d.f))
	}
	if mode > math.MaxUint32 || uid > math.MaxUint32 || gid > math.MaxUint32 {
		return fmt.Errorf("mode %#o, user %d, group %d: too great", mode, uid, gid)
	}
	*d.n = Node{Mode: uint32(mode), Flags: flags, UID: uint32(uid), GID: uint32(gid), MTime: f.decodeTime(mtime)}
	if mtime == math.MaxUint64 || f.encodeTime(d.n.MTime) != mtime {
		return fmt.Errorf("time %#x is not one that the features keep", mtime)
	}
	return f.checkMode(d.n)
}

func (d *decoder) xattr(b []byte) error {
	name, value, ok := bytes.Cut(b, []byte{0})
	if !ok {
		return errors.New("extended attribute without a value")
	}
	d.n.XAttrs = append(d.n.XAttrs, XAttr{Name: string(name), Value: bytes.Clone(value)})
	return nil
}

func (d *decoder) defaultACL(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("default ACL of %d bytes", len(b))
	}
	a := &DefaultACL{Mask: NoMask}
	for i, p := range []*ACLPerm{&a.UserObj, &a.GroupObj, &a.Other, &a.Mask} {
		w := word(b, i)
		if p == &a.Mask && w == math.MaxUint64 {
			break
		}
		if w > 7 {
			return fmt.Errorf("ACL permissions %#o", w)
		}
		*p = ACLPerm(w)
	}
	d.n.ACL.Default = a
	return nil
}

func aclEntry(list *[]ACLEntry, b []byte) (err error) {
	if len(b) < 16 {
		return fmt.Errorf("ACL entry of %d bytes", len(b))
	}
	id, perm := word(b, 0), word(b, 1)
	if id > math.MaxUint32 || perm > 7 {
		return fmt.Errorf("ACL of number %d, permissions %#o", id, perm)
	}
	e := ACLEntry{ID: uint32(id), Perm: ACLPerm(perm)}
	if len(b) > 16 {
		e.Name, err = text(b[16:])
	}
	*list = append(*list, e)
	return err
}

// finish joins the records and checks the node.
func (d *decoder) finish() error {
	a := &d.n.ACL
	if a.Access != nil {
		a.Access.Users, a.Access.Groups = d.acl.users, d.acl.groups
	} else if len(d.acl.users)+len(d.acl.groups) > 0 {
		return errors.New("ACL with users or groups, but without one for the owning group")
	}
	if a.Default != nil {
		a.Default.Users, a.Default.Groups = d.acl.defaultUsers, d.acl.defaultGroups
	} else if len(d.acl.defaultUsers)+len(d.acl.defaultGroups) > 0 {
		return errors.New("default ACL with users or groups alone")
	}
	return d.f.check(d.n)
}

// text returns a record's text: all of it but the NUL that ends it.
func text(b []byte) (string, error) {
	n := len(b) - 1
	if n < 1 || b[n] != 0 {
		return "", errors.New("text that is empty or does not end with NUL")
	}
	s := string(b[:n])
	if strings.IndexByte(s, 0) >= 0 {
		return "", errors.New("text with a NUL in it")
	}
	return s, nil
}

// words fills w from a record that must have exactly that many words, of which
// none is greater than limit.
func words(b []byte, w []uint64, limit uint64) error {
	if len(b) != 8*len(w) {
		return fmt.Errorf("record of %d bytes, want %d", headerSize+len(b), headerSize+8*len(w))
	}
	for i := range w {
		if w[i] = word(b, i); w[i] > limit {
			return fmt.Errorf("number %d, more than %d", w[i], limit)
		}
	}
	return nil
}
