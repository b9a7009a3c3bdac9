//go:build !linux

package tree

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/castorsync/castor/archive"
)

// Available is what of a tree this system can read: neither owners nor attributes,
// nor devices.
const Available = archive.SecTime | archive.USecTime | archive.NSecTime | archive.TwoSecTime |
	archive.ReadOnly | archive.Permissions | archive.Symlinks | archive.FIFOs | archive.Sockets |
	archive.SHA512256 | archive.BLAKE3 | archive.ExcludeFile

// folder is an open directory of the tree.
type folder struct {
	path string
	refs refs
	w    *walker
	root *os.Root
	info fs.FileInfo
}

func (d *folder) Close() error { return d.root.Close() }

func (d *folder) release() {
	if d.refs.Add(-1) == 0 {
		d.w.close(d)
	}
}

func (w *walker) openTop(root *os.Root) (*folder, error) { return w.newFolder(root, ".", "") }

// openFolder opens a directory in d.
func (w *walker) openFolder(parent *folder, name string) (*folder, error) {
	return w.newFolder(parent.root, name, inPath(parent.path, name))
}

func (w *walker) newFolder(parent *os.Root, name, path string) (*folder, error) {
	before, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	root, err := parent.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && !os.SameFile(before, info) {
		err = errVanished // a link is there now
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	d := &folder{path: path, w: w, root: root, info: info}
	d.refs.Add(1)
	w.keep(d)
	return d, nil
}

func (d *folder) pseudo() bool { return false }

// list returns what is in d, in any order.
func (d *folder) list() ([]dirent, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	entries := make([]dirent, len(infos))
	for i, e := range infos {
		entries[i] = dirent{e.Name(), modeOf(e.Type()) & archive.TypeMask}
	}
	return entries, nil
}

// typeOf returns the type of a node in d.
func (d *folder) typeOf(name string) (uint32, error) {
	fi, err := d.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	return modeOf(fi.Mode()) & archive.TypeMask, nil
}

func (d *folder) lstat(name string) (fs.FileInfo, error) { return d.root.Lstat(name) }

// readFile returns the content of a small file in d.
func (d *folder) readFile(name string, limit int64) ([]byte, error) {
	f, _, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("has more than %d bytes", limit)
	}
	return b, err
}

// open opens a regular file in d.
func (d *folder) open(name string) (*os.File, fs.FileInfo, error) {
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, errors.New("is not a regular file")
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(before, fi) {
		err = errVanished // a link is there now
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// node returns what an archive says of d.
func (d *folder) node(*walker) (*archive.Node, error) { return describe(d.info), nil }

func describe(fi fs.FileInfo) *archive.Node {
	return &archive.Node{Mode: modeOf(fi.Mode()), MTime: fi.ModTime().UnixNano(), Size: fi.Size()}
}

// modeOf returns a mode in the archive's terms.
func modeOf(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.mode != 0 {
			mode |= b.bit
		}
	}
	switch m.Type() {
	case 0:
		return mode | archive.TypeRegular
	case fs.ModeDir:
		return mode | archive.TypeDir
	case fs.ModeSymlink:
		return mode | archive.TypeSymlink
	case fs.ModeNamedPipe:
		return mode | archive.TypeFIFO
	case fs.ModeSocket:
		return mode | archive.TypeSocket
	}
	return mode | archive.TypeChar // and what else there is: none of it is stored
}

// look looks at a node in d that is no directory.
func (d *folder) look(w *walker, it *item) error {
	if it.typ == archive.TypeRegular {
		f, fi, err := d.open(it.name)
		if err != nil {
			return err
		}
		it.node, it.status = describe(fi), statusOf(fi)
		return w.load(it, &sourceFile{f})
	}
	fi, err := d.root.Lstat(it.name)
	if err != nil {
		return err
	}
	if modeOf(fi.Mode())&archive.TypeMask != it.typ {
		return errVanished // what was there
	}
	it.node = describe(fi)
	if it.typ == archive.TypeSymlink {
		it.node.Target, err = d.root.Readlink(it.name)
	}
	return err
}

// sourceFile is an open regular file.
type sourceFile struct{ *os.File }

func (f *sourceFile) announce(int64) {}

func (f *sourceFile) status() (status, error) {
	fi, err := f.Stat()
	if err != nil {
		return status{}, err
	}
	return statusOf(fi), nil
}

// status tells whether a file is still the same. names is how many it has, 0 if
// that is not known.
type status struct {
	fileID
	size  int64
	mtime time.Time
	names uint64
}

func statusOf(fi fs.FileInfo) status { return status{size: fi.Size(), mtime: fi.ModTime()} }

// same says whether the content is the same, as far as times tell.
func (s status) same(t status) bool { return s.size == t.size && s.mtime.Equal(t.mtime) }

func (s status) untouched(t status) bool { return s.same(t) }

// settled is false: without the time of its last change, which nobody can set back,
// nothing tells that a file has the same content as long ago.
func (s status) settled(time.Time) bool { return false }

func (s status) appendIdentity(b []byte) []byte { return b }

// sourceDir is an open directory.
type sourceDir struct{ *os.Root }

// openSourceDir opens a directory of the tree at root, which is that if path is empty.
func openSourceDir(root *os.Root, path string) (*sourceDir, error) {
	d, err := root.OpenRoot(cmp.Or(path, "."))
	if err != nil {
		return nil, err
	}
	return &sourceDir{d}, nil
}

// openFile opens a regular file in d, and says what it was just before; if it is
// something else now, the error wraps fs.ErrNotExist.
func (d *sourceDir) openFile(name string) (*sourceFile, status, error) {
	fi, err := d.Lstat(name)
	if err != nil {
		return nil, status{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, status{}, errVanished
	}
	f, err := d.Open(name)
	if err != nil {
		return nil, status{}, err
	}
	return &sourceFile{f}, statusOf(fi), nil
}
