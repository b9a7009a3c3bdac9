//go:build !linux

package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/castorsync/castor/archive"
)

// destDir is an open directory of the destination. All that is done in it is done
// by single names, and follows no link.
type destDir struct{ root *os.Root }

func openDest(path string) (*destDir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &destDir{root}, nil
}

// Close implements [io.Closer].
func (d *destDir) Close() error { return d.root.Close() }

// open opens the directory name; errNoDir says that something else is there.
func (d *destDir) open(name string) (*destDir, error) {
	seen, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !seen.IsDir() {
		return nil, errNoDir
	}
	root, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	now, err := root.Stat(".")
	if err == nil && !os.SameFile(seen, now) {
		err = errSwapped // a link is there now
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return &destDir{root}, nil
}

// allow lets the owner read, write and enter the directory name, which open is not
// permitted to. It returns the mode that it had.
func (d *destDir) allow(name string) (was uint32, err error) {
	fi, err := d.root.Lstat(name)
	if err != nil || !fi.IsDir() {
		return 0, errors.Join(errNoDir, err)
	}
	return uint32(fi.Mode().Perm()), d.root.Chmod(name, fi.Mode().Perm()|0o700)
}

// makeWritable lets the owner write to d, and returns the mode that it had, if
// that is needed.
func (d *destDir) makeWritable() (was uint32, changed bool) {
	fi, err := d.root.Stat(".")
	if err != nil || fi.Mode().Perm()&0o700 == 0o700 {
		return 0, false
	}
	was = uint32(fi.Mode().Perm())
	return was, d.chmod(was|0o700) == nil
}

func (d *destDir) chmod(mode uint32) error { return d.root.Chmod(".", fs.FileMode(mode).Perm()) }

func (d *destDir) mkdir(name string) error { return d.root.Mkdir(name, 0o700) }

// inherits reports whether new nodes in d get more than their own.
func (d *destDir) inherits() bool { return true }

// names calls each for the names in d.
func (d *destDir) names(each func(name string)) error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1000)
		for _, name := range names {
			each(name)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// info returns what d is.
func (d *destDir) info() (destInfo, error) {
	fi, err := d.root.Stat(".")
	return destInfo{fi}, err
}

// lstat looks at a node; an error that is fs.ErrNotExist says that there is none.
func (d *destDir) lstat(name string) (destInfo, error) {
	fi, err := d.root.Lstat(name)
	return destInfo{fi}, err
}

func (d *destDir) rename(from, to string) error { return d.root.Rename(from, to) }

// remove removes a node that is no directory.
func (d *destDir) remove(name string) error { return d.root.Remove(name) }

// removeAll removes a node and all below it.
func (d *destDir) removeAll(name string) error { return d.root.RemoveAll(name) }

func (d *destDir) symlink(target, name string) error { return d.root.Symlink(target, name) }

func (d *destDir) readlink(name string) (string, error) { return d.root.Readlink(name) }

// mknod makes a fifo, a socket or a device, where it can.
func (d *destDir) mknod(string, *archive.Node) error { return errors.ErrUnsupported }

// link makes name in d another name of what is called that in from, where it can.
func (d *destDir) link(*destDir, string, string) error { return errors.ErrUnsupported }

// create makes a file, which must not exist, with at most the permissions perm.
func (d *destDir) create(name string, perm uint32) (*destFile, error) {
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fs.FileMode(perm))
	if err != nil {
		return nil, err
	}
	return &destFile{File: f, root: d.root, name: name}, nil
}

// openFile opens the regular file that seen describes for reading.
func (d *destDir) openFile(name string, seen destInfo) (*destFile, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && !os.SameFile(seen.fi, now) {
		err = errSwapped
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &destFile{f, d.root, name, now.Size(), statusOf(now)}, nil
}

// destInfo is what is known of a node that is there.
type destInfo struct{ fi fs.FileInfo }

func (i *destInfo) kind() uint32 {
	switch i.fi.Mode().Type() {
	case 0:
		return archive.TypeRegular
	case fs.ModeDir:
		return archive.TypeDir
	case fs.ModeSymlink:
		return archive.TypeSymlink
	}
	return 0
}

func (i *destInfo) size() int64                  { return i.fi.Size() }
func (i *destInfo) links() uint64                { return 1 } // Go does not say
func (i *destInfo) same(j destInfo) bool         { return os.SameFile(i.fi, j.fi) }
func (i *destInfo) isDevice(uint32, uint32) bool { return false }
func (i *destInfo) untouched(status) bool        { return false } // without ctime nobody can tell

// destFile is an open regular file.
type destFile struct {
	*os.File
	root *os.Root // that it is in
	name string
	size int64  // when it was opened for reading
	seen status // likewise
}

// written reports whether f was written to since it was opened for reading, as far as
// times tell.
func (f *destFile) written() bool {
	now, err := (&sourceFile{f.File}).status()
	return err != nil || !now.same(f.seen)
}

func (f *destFile) truncate(size int64) error { return f.Truncate(size) }

// asFile would return another handle of the same open file.
func (f *destFile) asFile() (*os.File, error) { return nil, errors.ErrUnsupported }
