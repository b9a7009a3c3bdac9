package reflink

import (
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes n bytes at dstOff of dst share the storage of those at srcOff of
// src. The offsets and n must be multiples of the block size, see [BlockSize].
// It fails where the file system cannot share, or src and dst are not on the
// same one.
func Clone(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) error {
	return unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{
		Src_fd:      int64(src.Fd()),
		Src_offset:  uint64(srcOff),
		Src_length:  uint64(n),
		Dest_offset: uint64(dstOff),
	})
}

// BlockSize returns the unit of sharing on f's file system in bytes.
func BlockSize(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	return max(int64(st.Bsize), 4096), nil
}
