//go:build !unix

package share

// Named pipes have no place among files here.
const nonblock = 0
