package assemble

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"math/rand/v2"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
)

// none is the number of no entry.
const none = -1

// table finds the entries of an index by chunk ID, at 8 bytes an entry for the
// slots and 4 for the chains. An index made to collide gains nothing: the hash
// takes in all of the ID under a random key.
type table struct {
	entries []index.Entry
	slots   []uint32   // entry number + 1 of a chunk's first entry; 0 is free
	next    []uint32   // for each entry, number + 1 of the next one of the same chunk
	later   bitset.Set // entries that are not the first of their chunk
	key     [4]uint64
}

func newTable(entries []index.Entry) *table {
	t := &table{
		entries: entries,
		slots:   make([]uint32, 1<<bits.Len(uint(max(2*len(entries), 1)-1))), // half full at most
		next:    make([]uint32, len(entries)),
		later:   bitset.New(len(entries)),
	}
	for i := range t.key {
		t.key[i] = rand.Uint64() | 1
	}
	// From the back, so that chains run forward.
	for i := len(entries) - 1; i >= 0; i-- {
		s := t.slot(entries[i].ID)
		if second := t.slots[s]; second != 0 {
			t.next[i] = second
			t.later.Add(int(second) - 1)
		}
		t.slots[s] = uint32(i) + 1
	}
	return t
}

// slot returns where id is or would be.
func (t *table) slot(id chunker.ID) int {
	var h uint64
	for i, k := range t.key {
		hi, lo := bits.Mul64(binary.LittleEndian.Uint64(id[8*i:])^k, k)
		h = bits.RotateLeft64(h, 17) ^ hi ^ lo
	}
	mask := len(t.slots) - 1
	s := int(h) & mask
	for t.slots[s] != 0 && t.entries[t.slots[s]-1].ID != id {
		s = (s + 1) & mask
	}
	return s
}

// first returns the number of the first entry of chunk id, or none.
func (t *table) first(id chunker.ID) int { return int(t.slots[t.slot(id)]) - 1 }

// firsts returns the number of the first entry of each chunk, in order.
func (t *table) firsts() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range t.entries {
			if !t.later.Has(i) && !yield(i) {
				return
			}
		}
	}
}

// same returns the entries of the chunk whose first entry is first, in order.
func (t *table) same(first int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := first; i != none; i = int(t.next[i]) - 1 {
			if !yield(i) {
				return
			}
		}
	}
}
