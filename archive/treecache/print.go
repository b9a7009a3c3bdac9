package treecache

import (
	"encoding/binary"
	"time"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/archive/tree"
)

// startLength is how many bytes from the beginning of a chunk on tell it from others
// as a rule: it is longer than what all nodes have in common.
const startLength = 256

// printer tells fingerprints of what a View shows. It is for one goroutine.
type printer struct {
	view   *tree.View
	before time.Time // see [tree.View.AppendIdentity]
	buf    []byte
}

// start returns what a chunk that begins at off is looked up by. Different chunks may
// have the same.
func (p *printer) start(off int64) (uint64, bool) {
	b, ok := p.view.AppendIdentity(p.buf[:0], off, min(startLength, p.view.Size()-off), p.before)
	p.buf = b
	sum := blake3.Sum256(b)
	return binary.LittleEndian.Uint64(sum[:]), ok
}

// print returns the fingerprint of a chunk. A chunk that ends with the archive has
// another one than the same bytes elsewhere, where it might go on.
func (p *printer) print(off int64, size int) (sum [32]byte, ok bool) {
	last := byte(0)
	if off+int64(size) == p.view.Size() {
		last = 1
	}
	b, ok := p.view.AppendIdentity(append(p.buf[:0], last), off, int64(size), p.before)
	p.buf = b
	if !ok {
		return sum, false
	}
	return blake3.Sum256(b), true
}
