//go:build !unix

package config

// notDirectory reports whether err says that a part of the path is a file; where the
// system does not tell that apart, it says that there is no such file.
func notDirectory(error) bool { return false }
