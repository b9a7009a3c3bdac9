//go:build !linux

package reflink

import (
	"errors"
	"os"
)

// Clone returns errors.ErrUnsupported.
func Clone(*os.File, int64, *os.File, int64, int64) error { return errors.ErrUnsupported }

// BlockSize returns errors.ErrUnsupported.
func BlockSize(*os.File) (int64, error) { return 0, errors.ErrUnsupported }
