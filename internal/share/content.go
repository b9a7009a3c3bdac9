package share

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// content is the content of one file or of several that are equal, as a source of
// chunks.
type content struct {
	index   *index.Index
	root    chunker.ID
	order   []uint32 // the entries, by ID
	damaged chan<- struct{}

	mu     sync.Mutex
	places map[place]bool // guarded by mu; true: it gave a chunk that is wrong
}

var _ store.Getter = (*content)(nil)

func newContent(x *index.Index, root chunker.ID, damaged chan<- struct{}) *content {
	c := &content{index: x, root: root, order: make([]uint32, len(x.Entries)), damaged: damaged, places: map[place]bool{}}
	for i := range c.order {
		c.order[i] = uint32(i)
	}
	slices.SortFunc(c.order, func(a, b uint32) int { return bytes.Compare(x.Entries[a].ID[:], x.Entries[b].ID[:]) })
	return c
}

func (c *content) add(p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.places[p] = false
}

// remove reports whether no place is left.
func (c *content) remove(p place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.places, p)
	return len(c.places) == 0
}

// wrong reports whether a chunk from p was wrong. right takes that back.
func (c *content) wrong(p place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.places[p]
}

func (c *content) right(p place) { c.add(p) }

// note notes that a chunk from p was wrong and has the share look again.
func (c *content) note(p place) {
	c.mu.Lock()
	known, ok := c.places[p]
	if ok {
		c.places[p] = true
	}
	c.mu.Unlock()
	if ok && !known {
		select {
		case c.damaged <- struct{}{}:
		default:
		}
	}
}

// candidates returns the places to try, those first that gave nothing wrong.
func (c *content) candidates() (good, bad []place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, wrong := range c.places {
		if wrong {
			bad = append(bad, p)
		} else {
			good = append(good, p)
		}
	}
	return good, bad
}

// Get implements [store.Getter]. The chunk is verified: what was changed in a file is
// damaged, and what was cut off is too.
func (c *content) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	at, ok := slices.BinarySearchFunc(c.order, id, func(i uint32, id chunker.ID) int {
		return bytes.Compare(c.index.Entries[i].ID[:], id[:])
	})
	if !ok {
		return store.Chunk{}, &store.Error{Op: "get", Loc: "shared files", ID: id, Err: fs.ErrNotExist}
	}
	entry := int(c.order[at])
	var last error = &store.Error{Op: "get", Loc: "shared files", ID: id, Err: fs.ErrNotExist}
	good, bad := c.candidates()
	for _, p := range append(good, bad...) {
		if ctx.Err() != nil {
			return store.Chunk{}, context.Cause(ctx)
		}
		ch, err := c.read(p, id, entry)
		if err == nil {
			return ch, nil
		}
		c.note(p)
		last = err
	}
	return store.Chunk{}, last
}

// read reads an entry from a place.
func (c *content) read(p place, id chunker.ID, entry int) (store.Chunk, error) {
	f := io.ReaderAt(p.view)
	if p.view == nil {
		file, err := p.open()
		if err != nil {
			return store.Chunk{}, &store.Error{Op: "get", Loc: p.path(), ID: id, Err: fmt.Errorf("%w: %w", store.ErrDamaged, err)}
		}
		defer file.Close()
		f = file
	}
	n := c.index.Len(entry)
	b := bufpool.Get(n)[:n]
	if _, err := io.ReadFull(io.NewSectionReader(f, c.index.Start(entry), int64(n)), b); err != nil {
		bufpool.Put(b)
		return store.Chunk{}, &store.Error{Op: "get", Loc: p.path(), ID: id, Err: fmt.Errorf("%w: %w", store.ErrDamaged, err)}
	}
	ch := store.Chunk{ID: id, Data: b, Loc: p.path()}.Lent()
	v, err := ch.Verify(c.index.Digest(), n)
	if err != nil {
		ch.Release()
		return store.Chunk{}, err
	}
	return v, nil
}
