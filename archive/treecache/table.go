package treecache

import (
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index/build"
)

// record is what is remembered of a chunk.
type record struct {
	start   uint64 // what it is looked up by
	size    uint32 // in bytes
	settled bool   // start and print are known; only such records are kept
	id      chunker.ID
	print   [32]byte // fingerprint of what it is made of
}

// table finds records. As a rule they come in the order in which they were made, so
// that the next one is right; a map is made only once that fails. It is for one
// goroutine.
type table struct {
	records []record
	next    int              // the record that was found last, whose successor is tried
	byStart map[uint64]int32 // the last of those with a start; nil until it is needed
}

// find returns the chunk at off, if there is a record of it.
func (t *table) find(p *printer, off int64) (build.Known, bool) {
	start, ok := p.start(off)
	if !ok {
		return build.Known{}, false
	}
	for i := t.next; i < min(t.next+2, len(t.records)); i++ {
		if t.is(i, p, start, off) {
			return t.found(i)
		}
	}
	if t.byStart == nil {
		t.byStart = make(map[uint64]int32, len(t.records))
		for i := range t.records {
			if t.records[i].settled {
				t.byStart[t.records[i].start] = int32(i)
			}
		}
	}
	if i, ok := t.byStart[start]; ok && t.is(int(i), p, start, off) {
		return t.found(int(i))
	}
	return build.Known{}, false
}

// is reports whether record i is of the chunk at off.
func (t *table) is(i int, p *printer, start uint64, off int64) bool {
	r := &t.records[i]
	if !r.settled || r.start != start {
		return false
	}
	print, ok := p.print(off, int(r.size))
	return ok && print == r.print
}

func (t *table) found(i int) (build.Known, bool) {
	t.next = i
	r := &t.records[i]
	return build.Known{ID: r.id, Size: int(r.size)}, true
}
