// Package blockdev opens block devices with care.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Is reports whether a file of mode m is a block device.
func Is(m fs.FileMode) bool { return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0 }

// Exclusive is the flag for os.OpenFile that makes opening a block device fail
// while something else uses it: a mounted file system, say. On systems that
// lack the notion it is 0.
const Exclusive = exclusive

// Explain makes the error of such a failure say what to do.
func Explain(err error) error {
	if errors.Is(err, syscall.EBUSY) {
		pe, _ := errors.AsType[*os.PathError](err)
		if pe != nil {
			return fmt.Errorf("%s is in use (mounted?): unmount it, or use --force: %w", pe.Path, pe.Err)
		}
	}
	return err
}
