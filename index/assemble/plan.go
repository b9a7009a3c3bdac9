// Package assemble puts a blob back together: the way of extract.
//
//	index + destination + seeds → Plan → Run: moves, copies, fetches → destination
//
// A [Plan] says of every entry of the index where its bytes will come from, and
// so what is missing, before a byte moves. Running it writes each chunk at all
// its places in whatever order chunks come in, and verifies every byte that it
// writes.
package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
)

// Source says where the bytes of an entry come from.
type Source uint8

// The sources, from the dearest to the cheapest.
const (
	Fetch Source = iota // from a store
	Copy                // from a seed
	Move                // from elsewhere in the destination
	Zero                // it is all zero
	Keep                // it is right in the destination already
	sources
)

var sourceNames = [sources]string{"fetch", "copy", "move", "zero", "keep"}

func (s Source) String() string { return sourceNames[s] }

// Plan says where each chunk of an index comes from. It is made by [NewPlan] and
// not safe for concurrent use.
type Plan struct {
	Index *index.Index

	table *table
	keep  bitset.Set // entries that are right in the destination; nil if none
	zero  bitset.Set // entries that are all zero
	seeds []Seed
	from  []origin // for first entries: the seed that has the chunk; nil if none
	dest  *Dest
	whole int // the seed that is the content as it stands, or none
}

// origin is a place in a seed.
type origin struct {
	off  int64
	seed int32 // number + 1; 0 is none, self the destination
}

// self is the number of the destination among the seeds.
const self = -2

// Seed is content that may hold chunks of the index: an older version, say. It
// is read and never trusted: a seed that changes costs a fetch for each chunk
// that it no longer has.
type Seed struct {
	// File has the content, and is safe for concurrent use. If it is an *os.File, a
	// regular file or a block device, its holes are not read and its storage is
	// shared where the system can.
	File io.ReaderAt
	Size int64 // of its content, in bytes

	// Index is the file's index, which says where its chunks are. It is read from
	// its start, while planning, and not kept. If it is nil, or is not of the same
	// digest and chunk sizes as the index to assemble, the file is chunked.
	Index io.ReadSeeker

	// Held, if it is not nil, returns bytes of the content at an offset that can be had
	// without reading it, as many as there are up to some that must be read. They stay
	// what they were when the seed was looked through. A [Reader] reads as little as it
	// can of such a seed.
	Held func(off int64) []byte
}

// index opens the seed's index if it can serve for x.
func (s *Seed) index(x *index.Index) (*index.Reader, error) {
	if s.Index == nil {
		return nil, errors.ErrUnsupported
	}
	if _, err := s.Index.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r, err := index.NewReader(s.Index)
	if err == nil && (r.Header().Features.Digest() != x.Digest() || r.Header().Params != x.Params) {
		err = errors.ErrUnsupported
	}
	return r, err
}

// Dest is the file that is to become the blob.
type Dest struct {
	File *os.File
	Size int64 // of what it holds, in bytes; 0 for a new file
}

// PlanOptions are the settings of [NewPlan]. The zero value and nil mean the
// defaults.
type PlanOptions struct {
	Workers  int                     // 0 means one for each CPU
	Dest     *Dest                   // looked through for what is right or can be moved; may be nil
	Seeds    []Seed                  // in order of preference
	Progress func(done, total int64) // of the bytes looked through

	// The first seed is the file that is to be replaced: if it is the content as
	// it stands, all of it is kept.
	old bool
}

// NewPlan looks at the destination and the seeds and plans how to assemble x.
// Seeds are read only as long as something is missing. It returns an error if
// the destination cannot be read or x contradicts itself, or the cause of ctx; a
// seed that cannot be read is passed over.
func NewPlan(ctx context.Context, x *index.Index, o *PlanOptions) (*Plan, error) {
	if o == nil {
		o = &PlanOptions{}
	}
	if uint64(len(x.Entries)) > 1<<31 {
		return nil, fmt.Errorf("index has %d chunks: more than can be assembled", len(x.Entries))
	}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &Plan{Index: x, table: newTable(x.Entries), seeds: o.Seeds, dest: o.Dest, whole: none}
	if err := p.checkLengths(); err != nil {
		return nil, err
	}
	p.zero = zeroEntries(p.Index)
	l := locator{Plan: p, workers: workers, progress: o.Progress}
	for _, s := range o.Seeds {
		l.total += s.Size
	}
	if o.Dest != nil {
		l.total += o.Dest.Size
	}
	if o.Dest != nil && o.Dest.Size > 0 {
		p.keep = bitset.New(len(x.Entries))
		if err := l.locate(ctx, self, o.Dest.File, o.Dest.Size); err != nil {
			return nil, err
		}
	}
	for i, s := range o.Seeds {
		if !l.wanting() && !(i == 0 && o.old) {
			break
		}
		// Errors are of no interest: what can be found in the seed has been, and the
		// rest is fetched.
		if seedIndex, err := s.index(x); err == nil {
			l.match(i, seedIndex)
		} else {
			_ = l.locate(ctx, i, s.File, s.Size)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if o.old && p.whole == 0 {
		p.keepAll()
	}
	return p, nil
}

func (p *Plan) keepAll() {
	p.keep = bitset.New(len(p.Index.Entries))
	for i := range p.Index.Entries {
		p.keep.Add(i)
	}
}

// checkLengths returns an error if entries of one chunk differ in length. A file
// can say so, no content can, and a chunk is written at all its places by the
// length of the first.
func (p *Plan) checkLengths() error {
	x := p.Index
	for i, next := range p.table.next {
		if next != 0 && x.Len(i) != x.Len(int(next)-1) {
			return fmt.Errorf("%w: chunk %v has %d bytes at entry %d and %d at entry %d",
				index.ErrFormat, x.Entries[i].ID, x.Len(i), i, x.Len(int(next)-1), next-1)
		}
	}
	return nil
}

// zeroEntries returns the entries that are all zero. Only chunks of the greatest
// size and the last one can be told by their ID alone at no cost; a run of zeros
// consists of those.
func zeroEntries(x *index.Index) bitset.Set {
	n := len(x.Entries)
	zero := bitset.New(n)
	if n == 0 {
		return zero
	}
	longest := x.Digest().Sum(make([]byte, x.Params.Max))
	for i, e := range x.Entries {
		if e.ID == longest && x.Len(i) == x.Params.Max {
			zero.Add(i)
		}
	}
	if x.Entries[n-1].ID == x.Digest().Sum(make([]byte, x.Len(n-1))) {
		zero.Add(n - 1)
	}
	return zero
}

// Whole returns the seed that is the content as it stands, if there is one.
func (p *Plan) Whole() (seed int, ok bool) { return p.whole, p.whole >= 0 }

// Source returns where entry i comes from.
func (p *Plan) Source(i int) Source {
	return p.source(i, p.table.first(p.Index.Entries[i].ID))
}

// source is Source for an entry whose chunk has its first entry at first. All
// entries of a chunk share one source other than Keep and Zero.
func (p *Plan) source(i, first int) Source {
	switch {
	case p.keep != nil && p.keep.Has(i):
		return Keep
	case p.zero.Has(i):
		return Zero
	case p.from == nil || p.from[first].seed == 0:
		return Fetch
	case p.from[first].seed == self:
		return Move
	}
	return Copy
}

// setOrigin records that a seed, or self, has the chunk whose first entry is i.
func (p *Plan) setOrigin(i, seed int, off int64) {
	if p.from == nil {
		p.from = make([]origin, len(p.Index.Entries))
	}
	if seed != self {
		seed++
	}
	if p.from[i].seed == 0 {
		p.from[i] = origin{off: off, seed: int32(seed)}
	}
}

// places returns the entries of the chunk with first entry first that come from
// s, in order.
func (p *Plan) places(first int, s Source) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range p.table.same(first) {
			if p.source(i, first) == s && !yield(i) {
				return
			}
		}
	}
}

// needs reports whether the chunk with first entry first has places to be filled
// from s.
func (p *Plan) needs(first int, s Source) bool {
	for range p.places(first, s) {
		return true
	}
	return false
}

// units returns the first entry of each chunk that has places to be filled from
// s, in order.
func (p *Plan) units(s Source) iter.Seq[int] {
	return func(yield func(int) bool) {
		for first := range p.table.firsts() {
			if p.needs(first, s) && !yield(first) {
				return
			}
		}
	}
}

// Missing returns each distinct chunk that must be fetched once, in the order of
// the index.
func (p *Plan) Missing() iter.Seq[chunker.ID] {
	return func(yield func(chunker.ID) bool) {
		for i := range p.units(Fetch) {
			if !yield(p.Index.Entries[i].ID) {
				return
			}
		}
	}
}

// Part is a share of the content.
type Part struct {
	Chunks int   `json:"chunks"` // entries of the index
	Bytes  int64 `json:"bytes"`  // of content
}

func (p *Part) add(n int) {
	p.Chunks++
	p.Bytes += int64(n)
}

// Totals says how much of the content comes from where.
type Totals struct {
	By      [sources]Part // indexed by Source
	Missing Part          // distinct chunks to fetch
	Unique  Part          // distinct chunks of the index
}

// Totals adds up the plan.
func (p *Plan) Totals() Totals {
	var t Totals
	x := p.Index
	for first := range p.table.firsts() {
		n := x.Len(first)
		t.Unique.add(n)
		fetch := false
		for i := range p.table.same(first) {
			s := p.source(i, first)
			t.By[s].add(n)
			fetch = fetch || s == Fetch
		}
		if fetch {
			t.Missing.add(n)
		}
	}
	return t
}
