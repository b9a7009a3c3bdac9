package blob

import (
	"container/list"
	"context"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
)

// chunk is a chunk that is in memory or on its way there. All but the waiting is
// guarded by the lock of the Blob.
type chunk struct {
	id      chunker.ID
	size    int
	readers int           // who hold it
	ahead   bool          // it is on its way and was asked for before anybody read it
	cancel  func()        // ends the request
	idle    *list.Element // in cache.lru, if it is loaded and nobody holds it

	done chan struct{} // closed when the following are set
	data []byte        // from bufpool
	err  error
}

func (c *chunk) loaded() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait waits until c is loaded or failed.
func (c *chunk) wait(ctx context.Context) error {
	if c.loaded() {
		return c.err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cache has the chunks in memory, by ID: a chunk that is in several places is
// there once. It is guarded by the lock of the Blob.
type cache struct {
	limit      int64 // bytes above which idle chunks are dropped
	bytes      int64 // of all chunks
	aheadBytes int64 // of those on the way ahead of readers
	chunks     map[chunker.ID]*chunk
	lru        list.List // of idle *chunk, the last used first
}

func (k *cache) add(c *chunk) {
	if k.chunks == nil {
		k.chunks = map[chunker.ID]*chunk{}
	}
	k.chunks[c.id] = c
	k.bytes += int64(c.size)
	k.shrink()
}

// remove forgets c. Those who hold it keep it.
func (k *cache) remove(c *chunk) {
	if k.chunks[c.id] != c {
		return
	}
	if c.idle != nil {
		k.lru.Remove(c.idle)
		c.idle = nil
	}
	delete(k.chunks, c.id)
	k.bytes -= int64(c.size)
}

func (k *cache) hold(c *chunk) {
	c.readers++
	if c.idle != nil {
		k.lru.Remove(c.idle)
		c.idle = nil
	}
}

// idle says that nobody holds c, which may then be dropped once it is loaded.
func (k *cache) idle(c *chunk) {
	if !c.loaded() || k.chunks[c.id] != c {
		return
	}
	c.idle = k.lru.PushFront(c)
	k.shrink()
}

func (k *cache) shrink() {
	for k.bytes > k.limit && k.lru.Len() > 0 {
		c := k.lru.Back().Value.(*chunk)
		k.remove(c)
		bufpool.Put(c.data)
	}
}
