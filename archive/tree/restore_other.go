//go:build !linux

package tree

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/castorsync/castor/archive"
)

const openFlags = 0

// fileSystem is what is known of the destination's file system.
type fileSystem struct{ btrfs bool }

func examine(*destDir) fileSystem { return fileSystem{} }

// lock does nothing: there is no lock for a directory here.
func lock(*destDir) error { return nil }

// syncTree makes the directory durable; its files were not synced one by one.
func syncTree(d *destDir) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func makeSubvolume(*destDir, string) error { return errors.ErrUnsupported }

func clearReadOnly(*destDir) {}

func (u *unpacker) sameOwner(*destInfo, *archive.Node) bool { return true }

func (u *unpacker) prepare(target, *archive.Node) error { return nil }

func (u *unpacker) seal(target, *archive.Node) error { return nil }

// restore restores permissions and times, as far as Go can; the rest is not
// restored on this system.
func (u *unpacker) restore(t target, n *archive.Node) error {
	var root *os.Root
	name := "."
	switch {
	case t.file != nil:
		return u.restoreFile(t, n)
	case t.self != nil:
		root = t.self.root
	case n.IsSymlink():
		return nil
	default:
		root, name = t.dir.root, t.name
	}
	if u.mask.Any(archive.Permissions | archive.ACLs) {
		if err := u.problem(t.path, "permissions", root.Chmod(name, n.FileMode().Perm())); err != nil {
			return err
		}
	}
	if u.mask.Any(timeFeatures) {
		return u.problem(t.path, "time", root.Chtimes(name, time.Time{}, n.Time()))
	}
	return nil
}

func (u *unpacker) restoreFile(t target, n *archive.Node) error {
	mode, set := fs.FileMode(0o666), t.unsealed
	if u.mask.Any(archive.Permissions | archive.ACLs) {
		mode, set = n.FileMode().Perm(), true
	}
	if set {
		if err := u.problem(t.path, "permissions", t.file.Chmod(mode)); err != nil {
			return err
		}
	}
	if u.mask.Any(timeFeatures) {
		return u.problem(t.path, "time", t.file.root.Chtimes(t.file.name, time.Time{}, n.Time()))
	}
	return nil
}
