package wire

import (
	"encoding/binary"
	"fmt"
)

// The object of a bucket or of a single chunk is a directory, four bytes a chunk,
// and behind it the chunks in the form in which the sender stores them.

// Form is how a chunk is stored in an object.
type Form uint8

const (
	Plain  Form = iota
	Zstd        // a zstd frame
	Absent Form = 15
)

// Part is a chunk in an object.
type Part struct {
	Form   Form
	Length int // bytes as stored; 0 if absent
}

// maxPart is the greatest length of a part, in bytes.
const maxPart = 1<<28 - 1

// DirectorySize returns the size of the directory of an object of n chunks.
func DirectorySize(n int) int { return 4 * n }

// AppendDirectory appends the directory of parts to b.
func AppendDirectory(b []byte, parts []Part) ([]byte, error) {
	for _, p := range parts {
		if p.Length > maxPart {
			return b, fmt.Errorf("a stored chunk of %d bytes is too long to be sent", p.Length)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(p.Form)<<28|uint32(p.Length))
	}
	return b, nil
}

// ParseDirectory parses the directory of n chunks at the beginning of object and
// checks that the chunks fill what is behind it.
func ParseDirectory(object []byte, n int) ([]Part, error) {
	if len(object) < DirectorySize(n) {
		return nil, errPacket("an object of %d bytes for %d chunks", len(object), n)
	}
	parts := make([]Part, n)
	rest := len(object) - DirectorySize(n)
	for i := range parts {
		v := binary.BigEndian.Uint32(object[4*i:])
		p := Part{Form(v >> 28), int(v & maxPart)}
		if p.Form != Plain && p.Form != Zstd && (p.Form != Absent || p.Length != 0) {
			return nil, errPacket("a chunk in form %d with %d bytes", p.Form, p.Length)
		}
		if rest -= p.Length; rest < 0 {
			return nil, errPacket("chunks longer than their object")
		}
		parts[i] = p
	}
	if rest != 0 {
		return nil, errPacket("%d bytes behind the chunks", rest)
	}
	return parts, nil
}
