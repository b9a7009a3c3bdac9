package archive

import (
	"math/bits"

	"github.com/castorsync/castor/internal/caformat"
)

// nameHash returns the hash of a name in a directory's table.
func nameHash(name string) uint64 { return sipHash(caformat.NameKey0, caformat.NameKey1, name) }

// sipHash returns SipHash-2-4 of s under the key k0, k1; see Aumasson and
// Bernstein, "SipHash: a fast short-input PRF", 2012.
func sipHash(k0, k1 uint64, s string) uint64 {
	h := sipState{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	last := uint64(len(s)) << 56
	for ; len(s) >= 8; s = s[8:] {
		h.word(uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56)
	}
	for i := range len(s) {
		last |= uint64(s[i]) << (8 * i)
	}
	h.word(last)
	h.c ^= 0xff
	for range 4 {
		h.round()
	}
	return h.a ^ h.b ^ h.c ^ h.d
}

type sipState struct{ a, b, c, d uint64 }

func (h *sipState) word(m uint64) {
	h.d ^= m
	h.round()
	h.round()
	h.a ^= m
}

func (h *sipState) round() {
	h.a += h.b
	h.c += h.d
	h.b = bits.RotateLeft64(h.b, 13) ^ h.a
	h.d = bits.RotateLeft64(h.d, 16) ^ h.c
	h.a = bits.RotateLeft64(h.a, 32)
	h.c += h.b
	h.a += h.d
	h.b = bits.RotateLeft64(h.b, 17) ^ h.c
	h.d = bits.RotateLeft64(h.d, 21) ^ h.a
	h.c = bits.RotateLeft64(h.c, 32)
}
