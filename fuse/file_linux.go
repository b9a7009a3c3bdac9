//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"os"
	"syscall"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// fileRoot is the root directory of a File.
type fileRoot struct {
	gofs.Inode
	s *serving
}

var (
	_ gofs.NodeOnAdder     = (*fileRoot)(nil)
	_ gofs.NodeGetattrer   = (*fileRoot)(nil)
	_ gofs.NodeGetxattrer  = (*fileRoot)(nil)
	_ gofs.NodeStatfser    = (*fileRoot)(nil)
	_ gofs.NodeGetattrer   = (*file)(nil)
	_ gofs.NodeOpener      = (*file)(nil)
	_ gofs.NodeReader      = (*file)(nil)
	_ gofs.NodeFlusher     = (*file)(nil)
	_ gofs.NodeGetxattrer  = (*file)(nil)
	_ gofs.NodeListxattrer = (*file)(nil)
)

func (r *fileRoot) OnAdd(ctx context.Context) {
	f := r.NewPersistentInode(ctx, &file{s: r.s}, gofs.StableAttr{Mode: syscall.S_IFREG, Ino: rootIno + 1})
	r.AddChild(r.s.name, f, false)
}

func (r *fileRoot) Getattr(_ context.Context, _ gofs.FileHandle, out *gofuse.AttrOut) syscall.Errno {
	r.s.attr(&out.Attr, syscall.S_IFDIR|0o555, 0)
	return 0
}

func (r *fileRoot) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if name == StatsAttr {
		return xattr(r.s.statsAttr(), dest)
	}
	return 0, syscall.ENODATA
}

func (r *fileRoot) Statfs(_ context.Context, out *gofuse.StatfsOut) syscall.Errno {
	r.s.statfs(out)
	return 0
}

// attr fills in the attributes of what no archive knows. It belongs to whoever mounts.
func (s *serving) attr(out *gofuse.Attr, mode uint32, size int64) {
	t := s.time
	if t.IsZero() {
		t = s.mounted
	}
	out.Mode, out.Size, out.Blocks, out.Nlink = mode, uint64(size), uint64(size+511)/512, 1
	out.Uid, out.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	out.SetTimes(&t, &t, &t)
}

// file is the file of a File.
type file struct {
	gofs.Inode
	s *serving
}

func (f *file) Getattr(_ context.Context, _ gofs.FileHandle, out *gofuse.AttrOut) syscall.Errno {
	f.s.attr(&out.Attr, syscall.S_IFREG|0o444, f.s.size)
	return 0
}

// Open says that there is nothing to be done for it, so that the kernel never asks
// again and keeps the content; or which file has the content.
func (f *file) Open(context.Context, uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	if f.s.whole != nil {
		return passed{f.s.whole}, gofuse.FOPEN_KEEP_CACHE, 0
	}
	return nil, 0, syscall.ENOSYS
}

// passed is an open file that the kernel reads by itself. It takes no file that is open
// in both ways at once, and so all that are open in a mount are passed, or none.
type passed struct{ whole *os.File }

var _ gofs.FilePassthroughFder = passed{}

func (p passed) PassthroughFd() (int, bool) { return int(p.whole.Fd()), true }

// Flush says that there is nothing to be done when the file is closed.
func (f *file) Flush(context.Context, gofs.FileHandle) syscall.Errno { return syscall.ENOSYS }

func (f *file) Read(ctx context.Context, _ gofs.FileHandle, p []byte, off int64) (gofuse.ReadResult, syscall.Errno) {
	return f.s.read(ctx, p, off)
}

func (f *file) Getxattr(context.Context, string, []byte) (uint32, syscall.Errno) {
	return 0, syscall.ENODATA
}

func (f *file) Listxattr(context.Context, []byte) (uint32, syscall.Errno) { return 0, 0 }
