//go:build unix

package treecache

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// trust returns an error if others can have written the file. What a cache says of a
// chunk that the store has is believed.
func trust(fi fs.FileInfo) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != uint32(os.Geteuid()) {
		return errors.New("it belongs to another user")
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return errors.New("others may write to it")
	}
	return nil
}
