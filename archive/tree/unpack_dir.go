package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"

	"github.com/castorsync/castor/archive"
)

// directory is a directory of the destination. It is reached from the one above it
// by its name alone, and what is in it likewise: no path is looked up that an
// archive, or somebody who moves directories about, could lead astray.
type directory struct {
	*destDir // nil while it is closed
	parent   *directory
	path     string
	node     *archive.Node       // nil if its metadata is not to be restored
	fresh    bool                // it was made by this run
	inherits bool                // what is made in it has more than its own metadata
	old      map[string]struct{} // names in it that the archive has not had, to be removed
	mode     uint32              // that it had, if it had to be made writable
	changed  bool                // it had to be
	left     destInfo            // what it was when it was closed to be finished later

	refs atomic.Int32 // nodes in it that are on their way, and one until it is left
	late atomic.Bool  // it is finished when the whole archive has been read
}

func (d *directory) close() {
	if d.destDir != nil {
		d.Close()
		d.destDir = nil
	}
}

var (
	errNoDir   = errors.New("is no directory")
	errSwapped = errors.New("was replaced while it was looked at")
)

// enter makes the directory name in d if need be, and opens it.
func (u *unpacker) enter(d *directory, name string, e archive.Entry) (*directory, error) {
	delete(d.old, name)
	c := &directory{parent: d, path: e.Path, node: e.Node}
	var err error
	if !d.fresh {
		c.destDir, err = d.open(name)
		if errors.Is(err, fs.ErrPermission) {
			if c.mode, err = d.allow(name); err == nil {
				c.changed = true
				c.destDir, err = d.open(name)
			}
		}
		if err == errNoDir {
			err = d.remove(name)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c.destDir == nil {
		if err := u.makeDir(d, name, e); err != nil {
			return nil, err
		}
		c.fresh, c.inherits = true, d.inherits
		if c.destDir, err = d.open(name); err != nil {
			return nil, err
		}
	}
	if err := u.look(c); err != nil {
		c.close()
		return nil, err
	}
	c.refs.Store(1)
	d.refs.Add(1)
	return c, nil
}

// makeDir makes a directory, as a subvolume if it is to be one.
func (u *unpacker) makeDir(d *directory, name string, e archive.Entry) error {
	if u.mask.Has(archive.Subvolume) && e.Node.Flags.Has(archive.Subvolume) {
		err := makeSubvolume(d.destDir, name)
		if err == nil {
			return nil
		}
		if err := u.problem(e.Path, "subvolume", err); err != nil {
			return err
		}
	}
	return d.mkdir(name)
}

// look looks at what is in a directory that was there: what killed runs have left
// is removed, and the rest is noted if it may have to be.
func (u *unpacker) look(d *directory) error {
	if d.fresh {
		return nil
	}
	d.inherits = d.destDir.inherits()
	if mode, changed := d.makeWritable(); changed {
		d.mode, d.changed = mode, true
	}
	if u.fs.btrfs && u.mask.Has(archive.SubvolumeRO) {
		clearReadOnly(d.destDir)
	}
	deletes := u.o.Delete && d.node != nil // of the top, nothing may be known: see Part
	if deletes {
		d.old = map[string]struct{}{}
	}
	var stale []string
	err := d.names(func(name string) {
		if isTemp(name) {
			stale = append(stale, name)
		} else if deletes {
			d.old[name] = struct{}{}
		}
	})
	for _, name := range stale {
		if err == nil {
			err = d.removeAll(name)
		}
	}
	return err
}

// release drops a reference. The last one finishes the directory, unless something
// is to be removed in it or below it: that waits for the end of the archive.
func (u *unpacker) release(d *directory) {
	for ; d != nil && d.refs.Add(-1) == 0; d = d.parent {
		switch {
		case u.ctx.Err() != nil:
		case len(d.old) > 0 || d.late.Load() || d.parent == nil:
			u.postpone(d)
		default:
			if err := u.finish(d); err != nil {
				u.cancel(err)
			}
		}
		if d != u.top { // which is locked as long as it is open
			d.close()
		}
	}
}

// postpone leaves d, and those above it, whose metadata may forbid to enter them, to
// finishLate. There may be many, so that they do not stay open.
func (u *unpacker) postpone(d *directory) {
	if d.parent != nil {
		d.parent.late.Store(true)
	}
	var err error
	if d.left, err = d.info(); err != nil {
		u.cancel(fmt.Errorf("%s: %w", shown(d.path), err))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.late = append(u.late, d) // what is below d is in front of it
}

// finishLate removes what the archive does not have, and finishes the directories
// in which that was.
func (u *unpacker) finishLate() error {
	for _, d := range u.late {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		if err := u.finishOne(d); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) finishOne(d *directory) error {
	if d != u.top {
		var err error
		if d.destDir, err = u.open(d.path); err != nil {
			return fmt.Errorf("%s: %w", shown(d.path), err)
		}
		defer d.close()
		if now, err := d.info(); err != nil || !now.same(d.left) {
			return fmt.Errorf("%s: %w", shown(d.path), cmp.Or(err, errSwapped))
		}
	}
	for name := range d.old {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		if err := d.removeAll(name); err != nil {
			return fmt.Errorf("%s: cannot be removed: %w", shown(inPath(d.path, name)), err)
		}
		u.add(UnpackStats{Removed: 1})
	}
	return u.finish(d)
}

// open opens a directory of the tree, from the top.
func (u *unpacker) open(path string) (*destDir, error) {
	d, err := u.top.destDir.open(".")
	if path == "" {
		return d, err
	}
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			return nil, err
		}
		var next *destDir
		next, err = d.open(name)
		d.Close()
		d = next
	}
	return d, err
}

// finish puts a directory's metadata right, when nothing will change in it any
// more.
func (u *unpacker) finish(d *directory) error {
	var err error
	if d.changed {
		err = d.chmod(d.mode)
	}
	if err == nil && d.node != nil {
		err = u.restore(target{path: d.path, self: d.destDir, bare: d.fresh && !d.inherits}, d.node)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown(d.path), err)
	}
	u.add(UnpackStats{Nodes: 1})
	return nil
}
