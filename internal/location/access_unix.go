//go:build unix

package location

import (
	"golang.org/x/sys/unix"
)

// access reports whether files can be made in a directory.
func access(name string) Answer {
	if unix.Access(name, unix.W_OK|unix.X_OK) != nil {
		return No
	}
	return Yes
}
