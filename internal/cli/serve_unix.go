//go:build unix

package cli

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxConnections is how many connections castor serve takes by default, if the limit
// of open files allows.
const maxConnections = 1024

// defaultConnections returns how many connections castor serve takes by default. Each
// may need two files, and some are for everything else.
func defaultConnections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxConnections
	}
	return int(max(1, min(maxConnections, (int64(min(uint64(limit.Cur), 1<<20))-64)/2)))
}

// refused reports whether nobody listens on a socket.
func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
