package sparse

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Hole reports whether the n bytes of f at off lie in a hole, as far as the
// file system tells: false is always a safe answer. It moves f's file offset,
// which ReadAt and WriteAt do not use.
func Hole(f *os.File, off, n int64) bool {
	var next int64
	var err error
	if !control(f, func(fd int) { next, err = unix.Seek(fd, off, unix.SEEK_DATA) }) {
		return false
	}
	return err == unix.ENXIO || err == nil && next >= off+n
}

// Punch makes the n bytes of f at off zero without storing them, or returns an
// error, in most cases errors.ErrUnsupported. It works on files and on block
// devices that can discard or zero.
func Punch(f *os.File, off, n int64) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if fi, err := f.Stat(); err != nil {
		return err
	} else if fi.Mode()&fs.ModeDevice != 0 {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	var err error
	if !control(f, func(fd int) {
		for {
			if err = unix.Fallocate(fd, mode, off, n); err != unix.EINTR {
				return
			}
		}
	}) {
		return os.ErrClosed
	}
	return err
}

// StartWriteback asks the kernel to begin writing the n bytes at off to disk
// without waiting for it, so that a later sync has less to do.
func StartWriteback(f *os.File, off, n int64) {
	control(f, func(fd int) { unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE) })
}

func control(f *os.File, do func(fd int)) bool {
	c, err := f.SyscallConn()
	return err == nil && c.Control(func(fd uintptr) { do(int(fd)) }) == nil
}
