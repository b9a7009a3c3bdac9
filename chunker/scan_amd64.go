//go:build !purego

package chunker

import "golang.org/x/sys/cpu"

var haveScan16 = cpu.X86.HasAVX512F

// scan16 rolls the hash *h of the window before b over up to blocks blocks of 16
// bytes at b and stops behind the first one in which t allows a cut. It returns
// how many bytes it went over, and a bit for each of the last sixteen positions
// at which a cut is allowed, the first position in bit 0; *h is the hash there.
// The 48 bytes before b are read. blocks is at least 1.
//
//go:noescape
func scan16(b *byte, blocks int, h *uint32, t *test) (done int, hits uint16)
