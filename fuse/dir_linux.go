//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"iter"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/castorsync/castor/archive"
)

// openDir is an open directory. The kernel reads it in several requests, one at a
// time.
type openDir struct {
	n    *treeNode
	src  contextReader // its context is that of the request
	at   uint64        // children that have been returned
	last *archive.Item // the one returned last

	next func() (*archive.Item, error, bool) // nil until the first read, and after a failure
	stop func()
}

var (
	_ gofs.FileReaddirenter = (*openDir)(nil)
	_ gofs.FileSeekdirer    = (*openDir)(nil)
	_ gofs.FileLookuper     = (*openDir)(nil)
	_ gofs.FileReleasedirer = (*openDir)(nil)
)

// OpendirHandle opens a directory, whose listing the kernel keeps.
func (n *treeNode) OpendirHandle(context.Context, uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	return &openDir{n: n, src: contextReader{s: n.s}}, gofuse.FOPEN_KEEP_CACHE | gofuse.FOPEN_CACHE_DIR, 0
}

// Readdirent returns the next child. After a failure the next call begins again where
// this one was.
func (d *openDir) Readdirent(ctx context.Context) (*gofuse.DirEntry, syscall.Errno) {
	r := begin(ctx)
	defer r.end()
	d.src.ctx = r
	if d.next == nil {
		if errno := d.open(); errno != 0 {
			return nil, errno
		}
	}
	it, errno := d.child()
	if it == nil || errno != 0 {
		return nil, errno
	}
	d.last = it
	d.at++
	d.n.s.listed.Add(1)
	start, _ := it.Range()
	return &gofuse.DirEntry{Name: it.Name(), Mode: it.Node.Type(), Ino: uint64(start)}, 0
}

// open begins to read the directory and goes to where the reader is.
func (d *openDir) open() syscall.Errno {
	d.n.s.reading.Store(d, nil)
	d.next, d.stop = iter.Pull2(d.n.item.In(d.n.s.tree.Through(&d.src)).Children())
	for range d.at {
		if it, errno := d.child(); it == nil || errno != 0 {
			return errno
		}
	}
	return 0
}

// child returns the next child; nil at the end.
func (d *openDir) child() (*archive.Item, syscall.Errno) {
	it, err, ok := d.next()
	switch {
	case !ok:
		return nil, 0
	case err != nil:
		d.close()
		return nil, d.n.s.errno("list", "/"+d.n.item.Path, err)
	}
	return it, 0
}

func (d *openDir) close() {
	if d.stop != nil {
		d.stop()
		d.n.s.reading.Delete(d)
	}
	d.next, d.stop, d.last = nil, nil, nil
}

// Seekdir goes to where off children have been returned.
func (d *openDir) Seekdir(_ context.Context, off uint64) syscall.Errno {
	d.close()
	d.at = off
	return 0
}

// Lookup returns the node of the child that was returned last: the kernel wants it at
// once.
func (d *openDir) Lookup(ctx context.Context, name string, out *gofuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	if d.last == nil || d.last.Name() != name {
		return d.n.Lookup(ctx, name, out)
	}
	return d.n.child(ctx, d.last, out), 0
}

// closeDirs closes the directories that the kernel had open when a mount ended by
// force. No request is on the way any more.
func (s *serving) closeDirs() {
	s.reading.Range(func(d, _ any) bool {
		d.(*openDir).close()
		return true
	})
}

func (d *openDir) Releasedir(context.Context, uint32) { d.close() }
