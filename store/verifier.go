package store

import (
	"fmt"
	"sync/atomic"

	"github.com/castorsync/castor/chunker"
)

// Verifier checks chunks. Where nobody says which digest names them, as a server has
// chunks of many indexes, it tries several. It is safe for concurrent use.
type Verifier struct {
	Digests []chunker.Digest // that may name chunks; nil means [chunker.Digests]
	Limit   int              // greatest chunk size in bytes

	last atomic.Uint32 // index into Digests of what fitted last
}

// VerifyWith returns a Verifier of chunks of up to limit bytes that d names.
func VerifyWith(d chunker.Digest, limit int) *Verifier {
	return &Verifier{Digests: []chunker.Digest{d}, Limit: limit}
}

// Check returns an error that wraps [ErrDamaged] if b is longer than the limit or
// none of the digests gives it the name id.
func (v *Verifier) Check(id chunker.ID, b []byte) error {
	if len(b) > v.Limit {
		return fmt.Errorf("%w: more than %d bytes", ErrDamaged, v.Limit)
	}
	digests := v.Digests
	if digests == nil {
		digests = chunker.Digests
	}
	first := int(v.last.Load())
	for i := range digests {
		n := (first + i) % len(digests)
		if digests[n].Sum(b) == id {
			v.last.Store(uint32(n))
			return nil
		}
	}
	if len(digests) == 1 {
		return fmt.Errorf("%w: content has %s %v", ErrDamaged, digests[0], digests[0].Sum(b))
	}
	return fmt.Errorf("%w: content is not what %v names", ErrDamaged, id)
}

// Verify is [Chunk.Verify] with each of the digests.
func (v *Verifier) Verify(c Chunk) (Chunk, error) { return c.verify(v.Limit, v.Check) }
