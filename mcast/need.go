package mcast

import (
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bitset"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store/cacnk"
)

// need is which chunks a receiver lacks.
type need struct {
	*content
	missing     bitset.Set
	bucketsOnly bool // single chunks are not sent
}

func newNeed(c *content, want func(id chunker.ID) bool) *need {
	n := &need{content: c, missing: bitset.New(c.space.Chunks)}
	for i := range c.space.Chunks {
		if want(c.id(i)) {
			n.missing.Add(i)
		}
	}
	return n
}

// groups returns the groups to join: a bucket where at least half of its bytes are
// missing, else the missing chunks one by one.
func (n *need) groups() []uint32 {
	var buckets, singles []uint32
	for b := range n.space.Buckets() {
		ord := n.space.Ordinal(wire.Bucket, b)
		from, to := n.space.ChunkRange(ord)
		missing, all := int64(0), int64(0)
		for i := from; i < to; i++ {
			all += int64(n.length(i))
			if n.missing.Has(i) {
				missing += int64(n.length(i))
			}
		}
		if missing > 0 && (2*missing >= all || n.bucketsOnly) {
			buckets = append(buckets, ord)
			continue
		}
		for i := from; i < to && missing > 0; i++ {
			if n.missing.Has(i) {
				singles = append(singles, n.space.Ordinal(wire.SingleChunk, i))
			}
		}
	}
	return append(buckets, singles...)
}

// limit returns how long the object of a group of chunks may be: a chunk that does
// not compress is stored with a few bytes more.
func (n *need) limit(ord uint32) int64 {
	from, to := n.space.ChunkRange(ord)
	max := int64(wire.DirectorySize(to - from))
	for i := from; i < to; i++ {
		max += int64(cacnk.MaxEncoded(n.length(i)))
	}
	return max
}
