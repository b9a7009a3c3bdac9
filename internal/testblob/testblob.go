// Package testblob makes the blobs from which casync made the vectors in
// testdata/casync. They hold what a chunker can trip over: sizes around the
// window and the minimum, noise, text, zeros, and an edit in the middle. They
// are made anew each time, so that the vectors need no megabytes beside them.
package testblob

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// The blobs in the order of [Names]. Those of random bytes differ by their tag.
var blobs = []struct {
	name string
	make func() []byte
}{
	{"empty", func() []byte { return nil }},
	{"one", func() []byte { return []byte("x") }},
	{"b47", func() []byte { return random("47", 47) }},
	{"b48", func() []byte { return random("48", 48) }},
	{"b16383", func() []byte { return random("a", 16383) }},
	{"b16384", func() []byte { return random("b", 16384) }},
	{"b16385", func() []byte { return random("c", 16385) }},
	{"rnd1m", func() []byte { return random("rnd", 1<<20) }},
	{"text1m", func() []byte { return text(1 << 20) }},
	{"zero1m", func() []byte { return make([]byte, 1<<20) }},
	{"mixed", func() []byte {
		r := random("rnd", 400_000)
		return slices.Concat(r[:300_000], make([]byte, 400_000), text(300_000), r[100_000:])
	}},
	{"mixed-edited", func() []byte { // an insertion into the noise, a deletion from the text
		r := random("rnd", 400_000)
		return slices.Concat(r[:150_000], []byte("INSERTED"), r[150_000:300_000],
			make([]byte, 400_000), text(300_000)[1000:], r[100_000:])
	}},
}

// Names returns the names of all blobs, the small ones first.
func Names() []string {
	var names []string
	for _, b := range blobs {
		names = append(names, b.name)
	}
	return names
}

// Blob returns the content of the blob with that name, which the caller may
// change. It panics if there is none.
func Blob(name string) []byte {
	for _, b := range blobs {
		if b.name == name {
			return b.make()
		}
	}
	panic(fmt.Sprintf("testblob: no blob %q", name))
}

// random returns the first n bytes of SHA-256("casync-vector" ‖ tag ‖ i) for
// i = 0, 1, 2, … of 64 bits, little-endian.
func random(tag string, n int) []byte {
	seed := []byte("casync-vector" + tag)
	b := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(b) < n; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint64(slices.Clip(seed), i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// text returns n bytes of numbered lines, the last one cut short.
func text(n int) []byte {
	b := make([]byte, 0, n+80)
	for i := uint32(0); len(b) < n; i++ {
		b = fmt.Appendf(b, "line %d of the deterministic text blob, value=%d\n", i, i*2654435761)
	}
	return b[:n]
}
