package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/reflink"
	"github.com/castorsync/castor/internal/sparse"
)

// file makes a regular file: it keeps the one that is there if its content is
// right, and otherwise writes a new one and puts it in its place. A name of a group
// of hard links, other than the first, becomes one of the first file if the content
// is the same.
func (u *unpacker) file(j *job, done *UnpackStats) error {
	old, err := u.old(j)
	if err != nil {
		return err
	}
	if old.file != nil {
		defer old.file.Close()
	}
	same := old.file != nil && old.file.size == j.node.Size && (old.keep || old.first)
	var out *output
	defer func() {
		if out != nil {
			out.abort()
		}
	}()
	err = u.each(j, func(b []byte, off int64) (err error) {
		if out == nil && same && equalAt(old.file, b, off) {
			return nil
		}
		if out == nil {
			if out, err = u.create(j, old.file); err == nil && same {
				err = out.copyFrom(old.file, off)
			}
			if err != nil {
				return err
			}
		}
		return out.write(b, off)
	})
	if err != nil {
		return err
	}
	if out == nil && same && old.file.written() {
		if j.blocks != nil {
			return ErrChanged // what it should be has passed by
		}
		if out, err = u.create(j, nil); err == nil {
			err = out.write(j.data, 0)
		}
		if err != nil {
			return err
		}
	}
	if out == nil && same && old.first {
		if done.Linked, err = u.link(j, old); err != nil || done.Linked > 0 {
			return err
		}
	} else if out == nil && same {
		done.Kept, done.KeptSize = 1, j.node.Size
		return u.restore(target{path: j.path, file: old.file}, j.node)
	}
	if out == nil { // it is empty, or could not be linked
		if out, err = u.create(j, old.file); err == nil && same {
			err = out.copyFrom(old.file, j.node.Size)
		}
		if err != nil {
			return err
		}
	}
	done.Shared = out.cloned - out.lost
	return out.commit(u, j, old)
}

// untouched reports whether a file of the archive is there as it is known to be, with
// no other name and all its metadata, and nothing has happened to it since.
func (u *unpacker) untouched(d *directory, name string, e archive.Entry) bool {
	if u.o.Old == nil || d.fresh || e.Node.Size == 0 || !e.Node.IsRegular() {
		return false
	}
	at, ok := u.o.From(e.Offset, 1)
	if !ok {
		return false
	}
	// The same records have the same node before the same content.
	old, n := u.o.Old.file(at)
	if old == nil || old.name != name || old.dir != d.path {
		return false
	}
	if now, ok := u.o.From(e.Offset, n); !ok || now != at {
		return false
	}
	fi, err := d.lstat(name)
	return err == nil && fi.links() == 1 && fi.untouched(old.status)
}

// previous is what is there before a file is written.
type previous struct {
	file  *destFile // whose content may be that of the new one; nil if there is none
	info  destInfo  // of file
	keep  bool      // file has the right name and no others, so that it may stay
	first bool      // file is the first of the group of hard links
	dir   bool      // a directory is in the way, which may be removed
}

// old opens what the file of j may have its content from.
func (u *unpacker) old(j *job) (old previous, err error) {
	if !j.dir.fresh {
		if old, err = u.inPlace(j); err != nil {
			return old, err
		}
	}
	if j.group == nil || j.first {
		return old, nil
	}
	select {
	case <-j.group.done:
	case <-u.ctx.Done():
		return old, context.Cause(u.ctx)
	}
	if j.group.ok {
		u.oldFirst(j, &old)
	}
	return old, nil
}

// inPlace opens the file of j's name that is there, if any.
func (u *unpacker) inPlace(j *job) (old previous, err error) {
	fi, err := j.dir.lstat(j.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return old, nil
	case err != nil:
		return old, err
	case fi.kind() == archive.TypeDir:
		old.dir = true
		return old, u.mayClear()
	case fi.kind() != archive.TypeRegular || fi.size() != j.node.Size && j.node.Size <= smallFile:
		return old, nil
	}
	f, err := j.dir.openFile(j.name, fi)
	if err != nil {
		return old, nil // it is replaced
	}
	// What has other names is not this run's to change; it may have them from one, but
	// then its owner and permissions are right.
	return previous{file: f, info: fi, keep: fi.links() == 1 || j.group != nil && u.sameOwner(&fi, j.node)}, nil
}

// oldFirst puts the first file of j's group in the place of what is there.
func (u *unpacker) oldFirst(j *job, old *previous) {
	d, err := u.open(j.group.dir)
	if err != nil {
		return
	}
	defer d.Close()
	fi, err := d.lstat(j.group.name)
	if err != nil || fi.kind() != archive.TypeRegular {
		return
	}
	f, err := d.openFile(j.group.name, fi)
	if err != nil {
		return
	}
	if old.file != nil {
		old.file.Close()
	}
	*old = previous{file: f, info: fi, first: true, dir: old.dir}
}

// mayClear returns an error unless directories that are in the way may be removed.
func (u *unpacker) mayClear() error {
	if !u.o.Delete {
		return errors.New("a directory of this name is in the way, and nothing is to be deleted")
	}
	return nil
}

// place gives what has the name temp in j's directory the name of j, after it has
// removed a directory in the way.
func (u *unpacker) place(j *job, temp string, inTheWay bool) error {
	if inTheWay {
		if err := j.dir.removeAll(j.name); err != nil {
			return fmt.Errorf("the directory in the way cannot be removed: %w", err)
		}
	}
	return j.dir.rename(temp, j.name)
}

// equalAt reports whether f has b at off.
func equalAt(f *destFile, b []byte, off int64) bool {
	p := bufpool.Get(len(b))
	defer bufpool.Put(p)
	_, err := f.ReadAt(p, off)
	return err == nil && bytes.Equal(p, b)
}

// output is a file on its way, under a temporary name.
type output struct {
	dir    *directory
	temp   string
	f      *destFile
	end    int64     // where what was written or shared ends
	cloned int64     // bytes at the beginning that were shared with another file
	lost   int64     // bytes of those that were written after all
	from   *destFile // that other file, if it is what was there
}

// create begins to write the file of j. Old may have much of its content; its storage,
// or that of a file of the same path in a basis, is shared as far as the system can.
func (u *unpacker) create(j *job, old *destFile) (*output, error) {
	out := &output{dir: j.dir, temp: tempName()}
	f, err := j.dir.create(out.temp, u.firstPerm(j.node))
	if err != nil {
		return nil, err
	}
	out.f = f
	if err := u.prepare(out.target(j), j.node); err != nil {
		out.abort()
		return nil, err
	}
	if j.node.Size > smallFile && !u.o.NoReflink {
		u.clone(out, j, old)
	}
	return out, nil
}

// firstPerm returns the permissions that a file is made with: those that it is going
// to have, so that they need not be changed, if its group has none that others lack
// and nothing takes that the owner may write; else only the owner's.
func (u *unpacker) firstPerm(n *archive.Node) uint32 {
	if perm := n.Perm() & 0o777; u.mask.Any(archive.Permissions|archive.ACLs) && perm>>3&^perm&7 == 0 && len(n.XAttrs) == 0 {
		return perm
	}
	return 0o600
}

// target is the output as its metadata is restored.
func (o *output) target(j *job) target {
	return target{path: j.path, file: o.f, bare: !o.dir.inherits, unsealed: true}
}

// clone lets out share the storage of what is likely to have much of its content.
func (u *unpacker) clone(out *output, j *job, old *destFile) {
	if old == nil && len(u.basis) == 0 {
		return
	}
	to, err := out.f.asFile()
	if err != nil {
		return
	}
	defer to.Close()
	block, err := reflink.BlockSize(to)
	if err != nil || block == 0 {
		return
	}
	try := func(f *os.File) bool {
		fi, err := f.Stat()
		if err != nil {
			return false
		}
		n := min(fi.Size(), j.node.Size) / block * block
		if n <= 0 || reflink.Clone(to, 0, f, 0, n) != nil {
			to.Truncate(0)
			return false
		}
		out.cloned, out.end = n, n
		return true
	}
	if old != nil {
		if f, err := old.asFile(); err == nil {
			defer f.Close()
			if try(f) {
				out.from = old
				return
			}
		}
	}
	for _, root := range u.basis {
		name := filepath.FromSlash(j.path)
		if fi, err := root.Lstat(name); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		f, err := root.OpenFile(name, os.O_RDONLY|openFlags, 0)
		if err != nil {
			continue
		}
		ok := try(f)
		f.Close()
		if ok {
			return
		}
	}
}

// copyFrom makes the first n bytes of out those of f, which had the same content.
func (o *output) copyFrom(f *destFile, n int64) error {
	from := int64(0)
	if o.from == f {
		from = min(o.cloned, n)
	}
	b := bufpool.Get(smallFile)
	defer bufpool.Put(b)
	for from < n {
		p := b[:min(n-from, smallFile)]
		if _, err := f.ReadAt(p, from); err != nil {
			return err
		}
		if err := o.write(p, from); err != nil {
			return err
		}
		from += int64(len(p))
	}
	if n > 0 && f.written() {
		return ErrChanged
	}
	return nil
}

// write writes b at off: what is shared already is left as it is where it is equal,
// and zeros become holes.
func (o *output) write(b []byte, off int64) error {
	if off < o.cloned {
		return o.writeShared(b, off)
	}
	for len(b) > 0 {
		// Runs of whole blocks that are zero, or not.
		zero := isZeroBlock(b, off)
		n := blockLen(b, off)
		for n < len(b) && isZeroBlock(b[n:], off+int64(n)) == zero {
			n += blockLen(b[n:], off+int64(n))
		}
		if !zero {
			if err := o.writeAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// writeShared writes the blocks of b at off that differ from what is there.
func (o *output) writeShared(b []byte, off int64) error {
	was := bufpool.Get(len(b))
	defer bufpool.Put(was)
	n, err := o.f.ReadAt(was, off)
	if err != nil && err != io.EOF {
		return err
	}
	clear(was[n:])
	for len(b) > 0 {
		same := bytes.Equal(b[:blockLen(b, off)], was[:blockLen(b, off)])
		n := blockLen(b, off)
		for n < len(b) {
			m := blockLen(b[n:], off+int64(n))
			if bytes.Equal(b[n:n+m], was[n:n+m]) != same {
				break
			}
			n += m
		}
		if !same {
			if err := o.writeAt(b[:n], off); err != nil {
				return err
			}
			o.unshared(off, n)
		}
		b, was, off = b[n:], was[n:], off+int64(n)
	}
	return nil
}

func (o *output) writeAt(b []byte, off int64) error {
	_, err := o.f.WriteAt(b, off)
	o.end = max(o.end, off+int64(len(b)))
	return err
}

// unshared notes that n bytes at off are shared no more.
func (o *output) unshared(off int64, n int) {
	o.lost += min(off+int64(n), o.cloned) - min(off, o.cloned)
}

// blockLen returns how many bytes of b at off lie in their first block.
func blockLen(b []byte, off int64) int {
	return min(len(b), int(sparse.Block-off%sparse.Block))
}

// isZeroBlock reports whether b at off begins with a whole block of zeros.
func isZeroBlock(b []byte, off int64) bool {
	return off%sparse.Block == 0 && len(b) >= sparse.Block && sparse.IsZero(b[:sparse.Block])
}

// commit gives the file its size, its metadata and its name.
func (o *output) commit(u *unpacker, j *job, old previous) error {
	if o.end < j.node.Size { // it ends with a hole
		if err := o.f.truncate(j.node.Size); err != nil {
			return err
		}
	}
	t := o.target(j)
	if err := u.restore(t, j.node); err != nil {
		return err
	}
	if err := u.place(j, o.temp, old.dir); err != nil {
		return err
	}
	o.temp = ""
	if err := u.seal(t, j.node); err != nil {
		return err
	}
	f := o.f
	o.f = nil
	return f.Close()
}

// abort closes the output, and removes it unless it has its name.
func (o *output) abort() {
	if o.f != nil {
		o.f.Close()
	}
	if o.temp != "" {
		o.dir.remove(o.temp)
	}
}

// link makes j another name of the first file of its group, and returns how many
// names it has linked: none if that cannot be done here.
func (u *unpacker) link(j *job, old previous) (int, error) {
	if now, err := j.dir.lstat(j.name); err == nil && now.same(old.info) {
		return 1, nil
	}
	d, err := u.open(j.group.dir)
	if err != nil {
		return 0, u.problem(j.path, "hard link", err)
	}
	defer d.Close()
	temp := tempName()
	if err := j.dir.link(d, j.group.name, temp); err != nil {
		return 0, u.problem(j.path, "hard link", err)
	}
	now, err := j.dir.lstat(temp)
	if err == nil && !now.same(old.info) {
		err = errSwapped
	}
	if err == nil {
		err = u.place(j, temp, old.dir)
	}
	if err != nil {
		j.dir.remove(temp)
		return 0, fmt.Errorf("hard link: %w", err)
	}
	return 1, nil
}
