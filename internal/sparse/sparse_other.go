//go:build !linux

package sparse

import (
	"errors"
	"os"
)

// Hole reports whether a range is known to be a hole. It never is here.
func Hole(*os.File, int64, int64) bool { return false }

// Punch returns errors.ErrUnsupported.
func Punch(*os.File, int64, int64) error { return errors.ErrUnsupported }

// StartWriteback does nothing.
func StartWriteback(*os.File, int64, int64) {}
