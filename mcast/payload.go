package mcast

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/wire"
)

// payload is an object ready to be sent.
type payload struct {
	layout fec.Layout
	data   []byte   // padded
	repair []repair // by block
	used   uint64
	lacks  bool // some chunks are absent
}

// repair is a run of the repair symbols of a block, those that are sent next: all of
// them would be as large as the block, and few are needed.
type repair struct {
	first   int
	symbols []byte
}

// repairRun is how many repair symbols are kept at a time.
const repairRun = 16

func (p *payload) size() int64 {
	n := int64(cap(p.data))
	for _, r := range p.repair {
		n += int64(cap(r.symbols))
	}
	return n
}

// symbol returns a symbol of a block, and by how much the payload has grown for it.
// Scratch has room for all repair symbols of a block.
func (p *payload) symbol(block, esi int, scratch []byte) (symbol []byte, grown int64) {
	k := p.layout.Source(block)
	size := p.layout.Symbol
	if esi < k {
		return p.layout.Block(p.data, block)[esi*size:][:size], 0
	}
	n := esi - k
	r := &p.repair[block]
	if at := (n - r.first) * size; n >= r.first && at < len(r.symbols) {
		return r.symbols[at:][:size], 0
	}
	fec.Repair(scratch[:k*size], p.layout.Block(p.data, block), size)
	if r.symbols == nil {
		r.symbols = bufpool.Get(min(repairRun, k) * size)
		grown = int64(cap(r.symbols))
	}
	r.first = min(n, k-len(r.symbols)/size)
	copy(r.symbols, scratch[r.first*size:k*size])
	return r.symbols[(n-r.first)*size:][:size], grown
}

// lacks reports whether chunks are absent in the object of a group.
func (c *content) lacks(ord uint32, object []byte) bool {
	from, to := c.space.ChunkRange(ord)
	parts, err := wire.ParseDirectory(object, to-from)
	return err == nil && slices.ContainsFunc(parts, func(p wire.Part) bool { return p.Form == wire.Absent })
}

// payload makes the object of a group ready to be sent.
func (c *channel) payload(ctx context.Context, ord uint32) (*payload, error) {
	b, err := c.object(ctx, ord, *c.store.Load(), c.symbol)
	if err != nil {
		return nil, err
	}
	p := &payload{layout: fec.NewLayout(int64(len(b)), c.symbol), lacks: c.lacks(ord, b)}
	if p.layout.Blocks > math.MaxUint16 || int64(len(b)) > math.MaxUint32 {
		return nil, fmt.Errorf("an object of %d bytes is too large to be sent", len(b))
	}
	p.data = b[:p.layout.Padded()]
	clear(p.data[len(b):])
	p.repair = make([]repair, p.layout.Blocks)
	return p, nil
}
