package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/castorsync/castor/chunker"
	"github.com/zeebo/blake3"
)

// The Merkle tree over the entries of an index, as docs/formats.md defines it.
//
//	leaf = derive_key(leafContext, the entry's 40 bytes in the file)
//	node = derive_key(nodeContext, left ‖ right)
//	root = derive_key(rootContext, features ‖ min ‖ avg ‖ max ‖ count ‖ size ‖ tree)
//
// tree is the node over all entries, 32 zero bytes if there are none. The left
// subtree of a node over n entries has the largest power of two below n, as in
// RFC 6962. So the node over an aligned run of 2^k entries is the same in every
// index that begins with them.
const (
	leafContext = "castor 2026-11-20 index v1 merkle leaf"
	nodeContext = "castor 2026-11-20 index v1 merkle node"
	rootContext = "castor 2026-11-20 index v1 merkle root"
)

// Hash is a node of the Merkle tree.
type Hash = chunker.ID

// hasher computes nodes. Its zero value is ready; it is not safe for concurrent
// use.
type hasher struct {
	leafHash, nodeHash *blake3.Hasher
}

func (h *hasher) leaf(e *[entrySize]byte) Hash {
	if h.leafHash == nil {
		h.leafHash = blake3.NewDeriveKey(leafContext)
	}
	return derive(h.leafHash, e[:])
}

func (h *hasher) node(left, right Hash) Hash {
	if h.nodeHash == nil {
		h.nodeHash = blake3.NewDeriveKey(nodeContext)
	}
	var b [64]byte
	copy(b[:], left[:])
	copy(b[32:], right[:])
	return derive(h.nodeHash, b[:])
}

func derive(h *blake3.Hasher, b []byte) (sum Hash) {
	h.Reset()
	h.Write(b)
	h.Sum(sum[:0])
	return sum
}

func rootOf(h Header, count int, size int64, tree Hash) chunker.ID {
	b := make([]byte, 0, 80)
	for _, v := range []uint64{
		uint64(h.Features), uint64(h.Params.Min), uint64(h.Params.Avg), uint64(h.Params.Max), uint64(count), uint64(size),
	} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return derive(blake3.NewDeriveKey(rootContext), append(b, tree[:]...))
}

// RootHasher computes the Merkle root of entries that arrive in order, in
// memory that grows with the logarithm of their number. The zero value is ready.
type RootHasher struct {
	hasher
	count int
	stack []Hash // complete subtrees, largest first: one for each bit set in count
}

func (r *RootHasher) add(e *[entrySize]byte) {
	top := r.leaf(e)
	for n := r.count; n&1 == 1; n >>= 1 {
		top = r.node(r.stack[len(r.stack)-1], top)
		r.stack = r.stack[:len(r.stack)-1]
	}
	r.stack = append(r.stack, top)
	r.count++
}

// tree returns the node over all entries so far.
func (r *RootHasher) tree() (top Hash) {
	if len(r.stack) == 0 {
		return Hash{}
	}
	top = r.stack[len(r.stack)-1]
	for i := len(r.stack) - 2; i >= 0; i-- {
		top = r.node(r.stack[i], top)
	}
	return top
}

// Add appends an entry.
func (r *RootHasher) Add(e Entry) {
	var b [entrySize]byte
	e.encode(&b)
	r.add(&b)
}

// Root returns the root of an index with header h and the entries added so far,
// which hold size bytes.
func (r *RootHasher) Root(h Header, size int64) chunker.ID {
	return rootOf(h, r.count, size, r.tree())
}

// Root returns the Merkle root: the name of the index. It commits to every byte
// of the index file.
func (x *Index) Root() chunker.ID {
	var r RootHasher
	for _, e := range x.Entries {
		r.Add(e)
	}
	return r.Root(x.Header, x.Size())
}

// Proof shows that a run of entries belongs to the index with a given root. A
// run is aligned: entries First to First + 2^Level, or to the end of the index.
// It can be checked without the rest of the index.
type Proof struct {
	Header Header
	Count  int    // entries in the whole index
	Size   int64  // bytes of content of the whole index
	First  int    // the run's first entry, a multiple of 2^Level
	Level  int    // binary logarithm of the run's length
	Path   []Hash // the siblings, from the run up
}

// ErrProof is returned by [Proof.Verify] for a run that is not in the index.
var ErrProof = errors.New("index entries do not match the Merkle root")

// Tree holds enough of an index's Merkle tree to prove runs fast: the nodes over
// 64 entries and above, one byte for each entry. It is safe for concurrent use
// as long as the index does not change.
type Tree struct {
	x      *Index
	levels [][]Hash // levels[i] are the nodes over 2^(treeBase+i) entries
}

const treeBase = 6

// NewTree computes the Merkle tree of x, which it retains.
func NewTree(x *Index) *Tree {
	t := &Tree{x: x}
	var h hasher
	var row []Hash
	for at := 0; at < len(x.Entries); at += 1 << treeBase {
		row = append(row, h.over(x.Entries[at:min(at+1<<treeBase, len(x.Entries))]))
	}
	for len(row) > 0 {
		t.levels = append(t.levels, row)
		if len(row) == 1 {
			break
		}
		row = h.above(row)
	}
	return t
}

// above returns the nodes one level up: pairs joined, an odd last one as it is.
func (h *hasher) above(row []Hash) []Hash {
	up := make([]Hash, 0, (len(row)+1)/2)
	for i := 0; i+1 < len(row); i += 2 {
		up = append(up, h.node(row[i], row[i+1]))
	}
	if len(row)%2 == 1 {
		up = append(up, row[len(row)-1])
	}
	return up
}

// over returns the node over entries.
func (h *hasher) over(entries []Entry) Hash {
	r := RootHasher{hasher: *h}
	for _, e := range entries {
		r.Add(e)
	}
	*h = r.hasher
	return r.tree()
}

// Root returns the root of the index, see [Index.Root].
func (t *Tree) Root() chunker.ID {
	var top Hash
	if n := len(t.levels); n > 0 {
		top = t.levels[n-1][0]
	}
	return rootOf(t.x.Header, len(t.x.Entries), t.x.Size(), top)
}

// at returns the node number i of a level, the leaves being level 0.
func (t *Tree) at(h *hasher, level, i int) Hash {
	if level >= treeBase {
		return t.levels[level-treeBase][i]
	}
	first := i << level
	return h.over(t.x.Entries[first:min(first+1<<level, len(t.x.Entries))])
}

// Prove returns the proof for the run of 2^level entries that starts at first,
// which must be a multiple of 2^level and an entry of the index.
func (t *Tree) Prove(first, level int) (Proof, error) {
	p := Proof{Header: t.x.Header, Count: len(t.x.Entries), Size: t.x.Size(), First: first, Level: level}
	if err := p.validate(); err != nil {
		return Proof{}, err
	}
	var h hasher
	for l, i, row := p.walk(); row > 1; l, i, row = l+1, i/2, (row+1)/2 {
		if sibling := i ^ 1; sibling < row {
			p.Path = append(p.Path, t.at(&h, l, sibling))
		}
	}
	return p, nil
}

// walk returns where the way up begins: the level, the node's number in its row
// and the length of the row.
func (p Proof) walk() (level, i, row int) {
	return p.Level, p.First >> p.Level, (p.Count-1)>>p.Level + 1
}

func (p Proof) validate() error {
	if p.Count < 1 || p.Level < 0 || p.Level > bits.Len(uint(p.Count-1)) || p.First < 0 || p.First >= p.Count || p.First&(1<<p.Level-1) != 0 {
		return fmt.Errorf("no aligned run of 2^%d entries at %d of %d", p.Level, p.First, p.Count)
	}
	return nil
}

// Verify reports whether entries are the proof's run in the index that root
// names; [ErrProof] if not. The offset at which the run starts is the end of the
// entry before it, which is not part of the run.
func (p Proof) Verify(root chunker.ID, entries []Entry) error {
	if err := p.validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if want := min(1<<p.Level, p.Count-p.First); len(entries) != want {
		return fmt.Errorf("%w: %d entries, want %d", ErrProof, len(entries), want)
	}
	var h hasher
	top := h.over(entries)
	path := p.Path
	for _, i, row := p.walk(); row > 1; i, row = i/2, (row+1)/2 {
		sibling := i ^ 1
		if sibling >= row {
			continue
		}
		if len(path) == 0 {
			return fmt.Errorf("%w: path too short", ErrProof)
		}
		if sibling < i {
			top = h.node(path[0], top)
		} else {
			top = h.node(top, path[0])
		}
		path = path[1:]
	}
	if len(path) != 0 {
		return fmt.Errorf("%w: path too long", ErrProof)
	}
	if rootOf(p.Header, p.Count, p.Size, top) != root {
		return ErrProof
	}
	return nil
}
