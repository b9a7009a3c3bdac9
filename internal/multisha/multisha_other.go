//go:build !amd64 || purego

package multisha

const available = false

func blocks(*[8][8]uint64, *[8]*byte, int) { panic("multisha: internal error: not available") }
