//go:build unix

package share

import "syscall"

// nonblock keeps a named pipe that has taken the place of a file from making open
// wait.
const nonblock = syscall.O_NONBLOCK
