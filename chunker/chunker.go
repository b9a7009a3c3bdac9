// Package chunker says what a chunk is. It cuts a byte stream where casync
// does and names each piece by a digest of its content.
//
// A cut depends only on the 48 bytes before it and on the distance from the
// cut before, so inserting or deleting bytes moves the cuts near the edit and
// no others. [Splitter] finds one cut in memory, [Reader] cuts a stream, and
// [Parallel] cuts a file on all cores; the three agree on every input.
package chunker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/internal/multisha"
)

// ID is the digest of a chunk's plain bytes. It names the chunk everywhere.
type ID [32]byte

// String returns the 64 lower-case hex digits that stores use as file name.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads 64 hex digits, such as [ID.String] writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("chunk id %.80q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("chunk id %q: %w", s, err)
	}
	return id, nil
}

// Digest is the hash function that turns a chunk into its [ID].
type Digest uint8

// The digests an index can name. The zero value is the native default.
const (
	BLAKE3    Digest = iota // BLAKE3 with 256 bits of output
	SHA512256               // SHA-512/256, the default of casync and desync
	SHA256                  // SHA-256
)

// Digests lists every [Digest], in the order in which a reader that was not
// told which one to expect should try them.
var Digests = []Digest{BLAKE3, SHA512256, SHA256}

var digestNames = [...]string{BLAKE3: "blake3", SHA512256: "sha512-256", SHA256: "sha256"}

// String returns the name that [ParseDigest] reads.
func (d Digest) String() string {
	if int(d) < len(digestNames) {
		return digestNames[d]
	}
	return fmt.Sprintf("digest(%d)", uint8(d))
}

// ParseDigest reads "blake3", "sha512-256" or "sha256".
func ParseDigest(s string) (Digest, error) {
	for d, name := range digestNames {
		if s == name {
			return Digest(d), nil
		}
	}
	return 0, fmt.Errorf("unknown digest %q: want blake3, sha512-256 or sha256", s)
}

// Sum returns the ID of a chunk with content b. It is safe for concurrent use
// and does not retain b. It panics on a Digest that is not one of [Digests].
func (d Digest) Sum(b []byte) ID {
	switch d {
	case BLAKE3:
		return blake3.Sum256(b)
	case SHA512256:
		return multisha.Sum(b)
	case SHA256:
		return sha256.Sum256(b)
	}
	panic("chunker: internal error: unknown digest " + d.String())
}

// SumAll sets ids[i] to the ID of a chunk with content chunks[i]. For SHA-512/256
// that is several times as fast as one after the other, where the machine can.
func (d Digest) SumAll(ids []ID, chunks [][]byte) {
	if d == SHA512256 {
		multisha.Sum512_256(ids, chunks)
		return
	}
	for i, b := range chunks {
		ids[i] = d.Sum(b)
	}
}

// MaxSize is the largest chunk, in bytes, that any index or store may hold. It
// is casync's limit.
const MaxSize = 128 << 20

// Params are the chunk sizes of an index, in bytes.
type Params struct {
	Min int // no chunk but the last is shorter
	Avg int // what the cutting rule aims at
	Max int // no chunk is longer
}

// DefaultParams are casync's sizes: 16 KiB, 64 KiB, 256 KiB.
var DefaultParams = Params{Min: 16 << 10, Avg: 64 << 10, Max: 256 << 10}

// ErrParams is wrapped by every error of [Params.Validate].
var ErrParams = errors.New("invalid chunk sizes")

// ParamsFor derives minimum and maximum from an average as casync does: a
// quarter and four times, within 1 and [MaxSize].
func ParamsFor(avg int) Params {
	return Params{Min: max(1, avg/4), Avg: avg, Max: min(avg*4, MaxSize)}
}

// Validate reports whether 1 ≤ Min ≤ Avg ≤ Max ≤ [MaxSize].
func (p Params) Validate() error {
	if p.Min < 1 || p.Min > p.Avg || p.Avg > p.Max || p.Max > MaxSize {
		return fmt.Errorf("%w %s: want 1 ≤ min ≤ avg ≤ max ≤ %d bytes", ErrParams, p, MaxSize)
	}
	return nil
}

// String returns MIN:AVG:MAX in bytes.
func (p Params) String() string { return fmt.Sprintf("%d:%d:%d", p.Min, p.Avg, p.Max) }

// discriminator returns the divisor d of the cutting rule "hash mod d = d-1".
// The line fitted through measured averages is casync's. It has a pole near an
// average of 9.3 MiB; at and beyond it casync ends up with d = Max on amd64,
// and so do we on every machine.
func (p Params) discriminator() uint64 {
	d := float64(p.Avg) / (-1.42888852e-7*float64(p.Avg) + 1.33237515)
	if d <= 0 || d > float64(p.Max) {
		return uint64(p.Max)
	}
	return max(uint64(d), uint64(p.Min))
}
