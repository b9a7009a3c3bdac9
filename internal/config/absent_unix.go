//go:build unix

package config

import (
	"errors"
	"syscall"
)

// notDirectory reports whether err says that a part of the path is a file.
func notDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
