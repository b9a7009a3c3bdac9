//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

// treeNode is a node of an archive. It is made when the kernel first asks for it, and
// goes when the kernel forgets it.
type treeNode struct {
	gofs.Inode
	s    *serving
	item *archive.Item

	forgotten bool // guarded by the lock of s.nodes
}

var (
	_ gofs.NodeLookuper       = (*treeNode)(nil)
	_ gofs.NodeGetattrer      = (*treeNode)(nil)
	_ gofs.NodeOpendirHandler = (*treeNode)(nil)
	_ gofs.NodeReadlinker     = (*treeNode)(nil)
	_ gofs.NodeOpener         = (*treeNode)(nil)
	_ gofs.NodeReader         = (*treeNode)(nil)
	_ gofs.NodeFlusher        = (*treeNode)(nil)
	_ gofs.NodeGetxattrer     = (*treeNode)(nil)
	_ gofs.NodeListxattrer    = (*treeNode)(nil)
	_ gofs.NodeStatfser       = (*treeNode)(nil)
)

// during returns the node as it is read while the request lasts.
func (n *treeNode) during(ctx context.Context) *archive.Item {
	return n.item.In(n.s.tree.Through(&contextReader{ctx: ctx, s: n.s}))
}

// contextReader reads the content within a context.
type contextReader struct {
	ctx context.Context
	s   *serving
}

func (c *contextReader) ReadAt(p []byte, off int64) (int, error) {
	return readAt(c.ctx, c.s.content, p, off)
}

// child returns the node of a child, and fills in what the kernel is told of it.
func (n *treeNode) child(ctx context.Context, it *archive.Item, out *gofuse.EntryOut) *gofs.Inode {
	n.s.nodeAttr(&out.Attr, it.Node)
	if known := n.GetChild(it.Name()); known != nil {
		return known
	}
	c := &treeNode{s: n.s, item: it.In(n.s.tree)}
	if !it.Node.IsDir() {
		n.s.nodes.add(c)
	}
	start, _ := it.Range()
	return n.NewInode(ctx, c, gofs.StableAttr{Mode: it.Node.Type(), Ino: uint64(start)})
}

func (n *treeNode) Lookup(ctx context.Context, name string, out *gofuse.EntryOut) (*gofs.Inode, syscall.Errno) {
	r := begin(ctx)
	defer r.end()
	n.s.lookups.Add(1)
	it, err := n.during(r).Lookup(name)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok && pe.Err == fs.ErrNotExist { // not that of a chunk that is missing
			return nil, syscall.ENOENT
		}
		if errors.Is(err, fs.ErrInvalid) { // no archive has such a name
			return nil, syscall.ENOENT
		}
		return nil, n.s.errno("lookup", n.item.Path+"/"+name, err)
	}
	return n.child(ctx, it, out), 0
}

func (n *treeNode) Getattr(_ context.Context, _ gofs.FileHandle, out *gofuse.AttrOut) syscall.Errno {
	n.s.nodeAttr(&out.Attr, n.item.Node)
	return 0
}

// nodeAttr fills in the attributes of a node. Where the archive has no owners, everything
// belongs to whoever mounts it.
func (s *serving) nodeAttr(out *gofuse.Attr, n *archive.Node) {
	out.Mode, out.Nlink = n.Mode, 1
	out.Uid, out.Gid = n.UID, n.GID
	if !s.tree.Features().Any(archive.UID16 | archive.UID32) {
		out.Uid, out.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	switch {
	case n.IsRegular():
		out.Size = uint64(n.Size)
		out.Blocks = (out.Size + 511) / 512
	case n.IsSymlink():
		out.Size = uint64(len(n.Target))
	case n.IsDevice():
		out.Rdev = uint32(unix.Mkdev(n.Major, n.Minor))
	}
	t := n.Time()
	out.Mtime, out.Mtimensec = uint64(t.Unix()), uint32(t.Nanosecond())
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec
}

func (n *treeNode) Readlink(context.Context) ([]byte, syscall.Errno) {
	return []byte(n.item.Node.Target), 0
}

// Open says that there is nothing to be done for it, so that the kernel never asks
// again and keeps the content.
func (n *treeNode) Open(context.Context, uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, syscall.ENOSYS
}

// Flush says that there is nothing to be done when a file is closed.
func (n *treeNode) Flush(context.Context, gofs.FileHandle) syscall.Errno { return syscall.ENOSYS }

func (n *treeNode) Read(ctx context.Context, _ gofs.FileHandle, p []byte, off int64) (gofuse.ReadResult, syscall.Errno) {
	_, start, size := n.item.Content().Outer()
	if off >= size {
		return gofuse.ReadResultData(nil), 0
	}
	return n.s.read(ctx, p[:min(int64(len(p)), size-off)], start+off)
}

func (n *treeNode) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if name == StatsAttr && n.IsRoot() {
		return xattr(n.s.statsAttr(), dest)
	}
	for _, a := range xattrs(n.item.Node) {
		if a.name == name {
			return xattr(a.value(), dest)
		}
	}
	return 0, syscall.ENODATA
}

func (n *treeNode) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var list []byte
	for _, a := range xattrs(n.item.Node) {
		list = append(append(list, a.name...), 0)
	}
	return xattr(list, dest)
}

func (n *treeNode) Statfs(_ context.Context, out *gofuse.StatfsOut) syscall.Errno {
	n.s.statfs(out)
	return 0
}
