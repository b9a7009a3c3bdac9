// Package blob reads the content of an index at any place without putting it
// together first: what mounts, and archives that are looked into, need.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// Options are the settings of New. The zero value and nil mean the defaults.
type Options struct {
	// Cache is how many bytes of decoded chunks are kept; 0 means 64 MiB. What is
	// being read comes in addition.
	Cache int64
	// Ahead is how many chunks are fetched ahead of a reader that goes forward; 0
	// means 16, a negative number none. They take up to a quarter of Cache.
	Ahead int
	// Image, if non-nil, is asked before the source, and filled with what is read.
	Image *Image
}

// burst is how many chunks one read fetches at the same time.
const burst = 32

// Blob is the content of an index, got chunk by chunk. Every byte is verified.
// Readers of the same chunk share one request, and a request that fails is made
// again when the chunk is next read. A Blob is safe for concurrent use.
type Blob struct {
	x     *index.Index
	src   store.Getter
	ahead int
	image *Image

	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	cache   cache
	streams streams
	stats   Stats
}

var errClosed = errors.New("blob is closed")

// New returns the content of x, whose chunks src has. The caller closes it.
func New(x *index.Index, src store.Getter, o *Options) *Blob {
	if o == nil {
		o = &Options{}
	}
	b := &Blob{x: x, src: src, ahead: o.Ahead, image: o.Image}
	if b.ahead == 0 {
		b.ahead = 16
	}
	b.cache.limit = o.Cache
	if b.cache.limit == 0 {
		b.cache.limit = 64 << 20
	}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	return b
}

// Close ends what is on the way. Reads fail from now on.
func (b *Blob) Close() error {
	b.mu.Lock() // a reader that has found it open begins what it needs before, and nobody afterwards
	b.cancel(errClosed)
	b.mu.Unlock()
	b.work.Wait()
	return nil
}

// Index returns the index. It must not be changed.
func (b *Blob) Index() *index.Index { return b.x }

// Size returns the length of the content in bytes.
func (b *Blob) Size() int64 { return b.x.Size() }

// ReadAt implements io.ReaderAt.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) { return b.ReadAtContext(b.ctx, p, off) }

// ReadAtContext is ReadAt that fails with the cause of ctx when ctx ends first.
func (b *Blob) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	size := b.Size()
	if off >= size {
		return 0, io.EOF
	}
	eof := int64(len(p)) > size-off
	if eof {
		p = p[:size-off]
	}
	for n < len(p) && err == nil {
		var m int
		m, err = b.readSome(ctx, p[n:], off+int64(n))
		n += m
	}
	if err == nil && eof {
		err = io.EOF
	}
	return n, err
}

// readSome reads what a burst of chunks has of the bytes at off, which exist.
func (b *Blob) readSome(ctx context.Context, p []byte, off int64) (n int, err error) {
	first := b.x.Find(off)
	var chunks [burst]*chunk
	got := 0
	b.mu.Lock()
	if b.ctx.Err() != nil {
		b.mu.Unlock()
		return 0, context.Cause(b.ctx)
	}
	for ; got < burst && first+got < len(b.x.Entries) && b.x.Start(first+got) < off+int64(len(p)); got++ {
		chunks[got] = b.hold(first + got)
	}
	b.lookAhead(off, min(off+int64(len(p)), b.x.Start(first+got)))
	b.mu.Unlock()
	for i, c := range chunks[:got] {
		if err == nil {
			err = c.wait(ctx)
		}
		if err == nil {
			skip := max(0, off-b.x.Start(first+i))
			n += copy(p[n:], c.data[skip:])
			b.keep(first+i, c.data)
		}
	}
	b.mu.Lock()
	for _, c := range chunks[:got] {
		b.release(c)
	}
	b.mu.Unlock()
	return n, err
}

// hold returns the chunk of entry i for a reader, and has it fetched if need be.
// The caller has the lock, and releases the chunk in the end.
func (b *Blob) hold(i int) *chunk {
	c := b.cache.chunks[b.x.Entries[i].ID]
	switch {
	case c == nil:
		b.stats.Misses++
		c = b.fetch(i)
	case c.loaded():
		b.stats.Hits++
	default:
		b.stats.Shared++
	}
	b.cache.hold(c)
	return c
}

// release ends what hold began. The caller has the lock.
func (b *Blob) release(c *chunk) {
	if c.readers--; c.readers > 0 {
		return
	}
	if !c.loaded() && !c.ahead {
		c.cancel() // nobody waits for it any more
		b.cache.remove(c)
		return
	}
	b.cache.idle(c)
}

// fetch begins to get the chunk of entry i. The caller has the lock.
func (b *Blob) fetch(i int) *chunk {
	ctx, cancel := context.WithCancel(b.ctx)
	c := &chunk{id: b.x.Entries[i].ID, size: b.x.Len(i), done: make(chan struct{}), cancel: cancel}
	b.cache.add(c)
	b.work.Go(func() {
		defer cancel()
		start := time.Now()
		data, local := b.fromImage(i)
		stored, err := 0, error(nil)
		if !local {
			data, stored, err = b.get(ctx, i)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.ahead {
			c.ahead = false
			b.cache.aheadBytes -= int64(c.size)
		}
		c.data, c.err = data, err
		close(c.done)
		if err != nil {
			if ctx.Err() == nil {
				b.stats.Failed++
			}
			b.cache.remove(c)
			return
		}
		if local {
			b.stats.Image++
		} else {
			b.stats.fetched(c.size, stored, time.Since(start))
		}
		if c.readers == 0 {
			b.cache.idle(c)
		}
	})
	return c
}

// fromImage returns the content of entry i if the image has it.
func (b *Blob) fromImage(i int) (data []byte, ok bool) {
	if b.image == nil || b.image.lacks(i) {
		return nil, false
	}
	data = bufpool.Get(b.x.Len(i))
	if !b.image.get(i, data) {
		bufpool.Put(data)
		return nil, false
	}
	return data, true
}

// keep puts the content of entry i into the image, if it is not there yet: what was
// got for one entry may be read for another.
func (b *Blob) keep(i int, data []byte) {
	if b.image != nil && b.image.lacks(i) {
		b.image.put(i, data)
	}
}

// get returns the verified content of entry i from the source and the size it was
// stored in.
func (b *Blob) get(ctx context.Context, i int) (data []byte, stored int, err error) {
	id, size := b.x.Entries[i].ID, b.x.Len(i)
	got, err := b.src.Get(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	defer func() { got.Release() }()
	plain, err := got.Open(b.x.Digest(), b.x.Params.Max)
	if err != nil {
		return nil, 0, err
	}
	if len(plain) != size {
		return nil, 0, fmt.Errorf("%w: entry %d has %d bytes, but chunk %v has %d", index.ErrFormat, i, size, id, len(plain))
	}
	data = bufpool.Get(size)
	copy(data, plain)
	b.keep(i, data)
	return data, len(got.Data), nil
}

// lookAhead has chunks fetched that the read of the bytes from off to end makes
// likely to be read next. The caller has the lock.
func (b *Blob) lookAhead(off, end int64) {
	if b.ahead < 0 {
		return
	}
	from, depth := b.streams.read(off, end)
	if depth == 0 {
		return
	}
	first := b.x.Find(from)
	for i := first; i < min(first+min(depth, b.ahead), len(b.x.Entries)); i++ {
		if b.cache.chunks[b.x.Entries[i].ID] != nil {
			continue
		}
		if b.cache.aheadBytes+int64(b.x.Len(i)) > b.cache.limit/4 {
			return
		}
		c := b.fetch(i)
		c.ahead = true
		b.cache.aheadBytes += int64(c.size)
		b.stats.Ahead++
	}
}
