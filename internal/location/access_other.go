//go:build !unix

package location

// access reports whether files can be made in a directory. Where permissions are lists,
// only trying tells.
func access(string) Answer { return Unknown }
