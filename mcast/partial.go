package mcast

import (
	"time"

	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/wire"
)

// partial is an object on its way from one sender.
type partial struct {
	layout fec.Layout
	data   []byte
	blocks []*fec.Block
	left   int // blocks that are not full
	odd    int // packets in a row that say another length
	seq    uint16
}

// symbol takes in a symbol of a group's object.
func (s *Session) symbol(now time.Time, g *group, n *sender, h wire.Header, symbol []byte) {
	g.heard = now
	s.hears(now, n)
	p := g.from[n]
	if p != nil && p.layout.Size != int64(h.Length) {
		// Forged, unless there is nothing but that: then the object is another now.
		if p.odd++; p.odd < maxOdd {
			return
		}
		s.discard(g, n)
		p = nil
	}
	if p == nil {
		if p = s.newPartial(g, n, h); p == nil {
			return
		}
		g.from[n] = p
	}
	p.odd = 0
	s.count(n, p, h.GroupSeq)
	if int(h.Block) >= len(p.blocks) {
		return
	}
	b := p.blocks[h.Block]
	if !b.Add(h.ESI, symbol) {
		return
	}
	n.brought = true
	if n.proven || now.Sub(s.right) < provenAfter {
		s.useful = now
	}
	if b.Full() {
		if p.left--; p.left == 0 {
			g.full = true
		}
	}
}

// count takes in the number of a packet: a gap is loss; a step back is a packet that came
// late. Only senders to go by tell loss, as it makes the window smaller.
func (s *Session) count(n *sender, p *partial, seq uint16) {
	d := int16(seq - p.seq)
	if d >= 0 || d < -1000 {
		p.seq = seq + 1
	}
	if !n.proven && n != s.best() {
		return
	}
	s.got++
	if d >= 0 && d < 1000 {
		s.expected += int(d) + 1
		s.progress.Lost += int64(d)
	}
}

// maxObject is how long an object may be that does not fit into the memory: one chunk
// at least has to come through.
const maxObject = 192 << 20

func (s *Session) newPartial(g *group, n *sender, h wire.Header) *partial {
	l := fec.NewLayout(int64(h.Length), n.Symbol)
	most := s.o.Memory
	if !n.proven && n != s.best() {
		most /= 2 // what may be forged leaves room for what is right
	}
	if l.Blocks == 0 || s.memory+l.Padded() > most && (s.memory > 0 || l.Padded() > maxObject) || int64(h.Length) > s.limit(n, g.ord) {
		return nil
	}
	p := &partial{layout: l, data: make([]byte, l.Padded()), blocks: make([]*fec.Block, l.Blocks), left: l.Blocks, seq: h.GroupSeq}
	s.memory += l.Padded()
	for i := range p.blocks {
		p.blocks[i] = fec.NewBlock(l.Block(p.data, i), l.Symbol)
	}
	return p
}

// limit returns how long the object of a group may be.
func (s *Session) limit(n *sender, ord uint32) int64 {
	k, _, ok := n.Space.Kind(ord)
	switch {
	case !ok:
		return 0
	case k == wire.IndexPiece:
		return wire.IndexObjectSize
	}
	return s.max(ord)
}

// discard forgets what has come from n for a group.
func (s *Session) discard(g *group, n *sender) {
	if p := g.from[n]; p != nil {
		s.memory -= int64(len(p.data))
		delete(g.from, n)
	}
}
