package tree

import (
	"context"
	"io"
	"sync"

	"github.com/castorsync/castor/internal/bufpool"
)

const (
	prefetchBlock = 512 << 10
	prefetchDepth = 4 // blocks on the way
)

// prefetcher reads a file ahead of its reader, on a goroutine of its own.
type prefetcher struct {
	progress func(n int) // called with each block that begins to be read from
	blocks   chan block
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	now      block // not empty: what Read is at
	rest     []byte
}

type block struct {
	b   []byte // from bufpool
	err error  // what follows b
}

func newPrefetcher(ctx context.Context, r io.ReaderAt, size int64) *prefetcher {
	ctx, cancel := context.WithCancel(ctx)
	p := &prefetcher{blocks: make(chan block, prefetchDepth-2), cancel: cancel}
	p.wg.Go(func() {
		defer close(p.blocks)
		for off := int64(0); off < size; {
			b := bufpool.Get(int(min(prefetchBlock, size-off)))
			n, err := r.ReadAt(b, off)
			if n == len(b) {
				err = nil
			} else if err == io.EOF {
				err = &changedError{}
			}
			select {
			case p.blocks <- block{b[:n], err}:
			case <-ctx.Done():
				bufpool.Put(b)
				return
			}
			if err != nil {
				return
			}
			off += int64(n)
		}
	})
	return p
}

// Read returns the end of the file's size as io.EOF, and the end of the context
// likewise: whoever waits for more learns of that elsewhere.
func (p *prefetcher) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.now.err != nil {
			return 0, p.now.err
		}
		p.drop()
		next, ok := <-p.blocks
		if !ok {
			return 0, io.EOF
		}
		p.now, p.rest = next, next.b
		p.progress(len(next.b))
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *prefetcher) drop() {
	if p.now.b != nil {
		bufpool.Put(p.now.b)
		p.now.b = nil
	}
}

// close ends the goroutine.
func (p *prefetcher) close() {
	p.cancel()
	for b := range p.blocks {
		bufpool.Put(b.b)
	}
	p.wg.Wait()
	p.drop()
}
