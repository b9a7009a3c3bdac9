// Package sparse finds and makes holes in files, where the system can.
package sparse

import (
	"bytes"
)

// Block is the size in bytes, and the alignment, of the smallest hole worth
// making: the block size of nearly every file system.
const Block = 4096

var zeros [Block]byte

// IsZero reports whether b is all zero.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}
