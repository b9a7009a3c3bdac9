//go:build !unix

package cli

// defaultConnections returns how many connections castor serve takes by default.
func defaultConnections() int { return 1024 }

// refused reports whether nobody listens on a socket, which cannot be told here.
func refused(error) bool { return false }
