package build

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
)

// Known is a chunk that is known without a look at its content.
//
// Where a chunk ends depends on the bytes from its start alone: no cut is allowed
// before the window of the rule lies within the chunk, whatever the sizes. So what was
// once cut is a chunk again wherever one begins with the same bytes, unless it was
// only the end of the content that ended it.
type Known struct {
	ID   chunker.ID
	Size int // in bytes, from 1 to the greatest chunk
}

// ErrMistaken says that a chunk is not what [Options].Known said.
var ErrMistaken = errors.New("chunk is not what was known of it")

// leastStretch is for how many bytes it is worth to start the cutter.
const leastStretch = 64 << 10

// knownRun is how many known chunks a worker is given at once.
const knownRun = 256

// splitKnown submits the first size bytes of src: known chunks as they are, and what
// is between them in pieces.
func (b *builder) splitKnown(ctx context.Context, src io.ReaderAt, size int64, co *chunker.ParallelOptions) error {
	b.src = src
	for off := int64(0); off < size; {
		next, err := b.submitKnown(off, size)
		if err == nil && next == off {
			next, err = b.splitUnknown(ctx, off, size, co)
		}
		if err != nil {
			return err
		}
		off = next
	}
	return context.Cause(ctx)
}

// known returns the known chunk at off. No content has the ID of zeros, for which what
// is recent stands ready.
func (b *builder) known(off, size int64) (Known, bool) {
	k, ok := b.o.Known(off)
	return k, ok && k.ID != (chunker.ID{}) && k.Size > 0 && k.Size <= b.w.Header().Params.Max && int64(k.Size) <= size-off
}

// submitKnown submits the known chunks from off on, up to knownRun. It returns where
// they end.
func (b *builder) submitKnown(off, size int64) (int64, error) {
	j := job{at: off}
	for len(j.chunks) < knownRun && off < size {
		k, ok := b.known(off, size)
		if !ok {
			break
		}
		j.chunks = append(j.chunks, chunk{id: k.ID, size: k.Size, known: true})
		off += int64(k.Size)
	}
	if len(j.chunks) == 0 {
		return off, nil
	}
	return off, b.queue.Submit(j)
}

// splitUnknown cuts from off on until a known chunk begins. It returns where that is.
//
// The cutter reads ahead, and more the more cores there are. So that this is not in
// vain where little has changed, it is given little at first, some chunks, and then
// always twice as much.
func (b *builder) splitUnknown(ctx context.Context, off, size int64, co *chunker.ParallelOptions) (int64, error) {
	for stretch := max(2*int64(b.w.Header().Params.Avg), leastStretch); off < size; stretch *= 2 {
		if stretch > size-off {
			stretch = size - off
		}
		next, met, err := b.splitStretch(ctx, off, off+stretch, size, co)
		if met || err != nil {
			return next, err
		}
		off = next
	}
	return off, nil
}

// errMet ends the cutting where a known chunk begins.
var errMet = errors.New("a known chunk begins here")

// splitStretch cuts the bytes from off to end, and returns where it stopped and
// whether a known chunk begins there. A chunk that reaches the end is left to the
// next stretch: it may go on.
func (b *builder) splitStretch(ctx context.Context, off, end, size int64, co *chunker.ParallelOptions) (int64, bool, error) {
	o := *co
	if co.Hole != nil {
		o.Hole = func(at, n int64) bool { return co.Hole(off+at, n) }
	}
	stop := off
	err := chunker.Parallel(ctx, io.NewSectionReader(b.src, off, end-off), end-off, b.w.Header().Params, &o, func(batch *chunker.Batch) error {
		kept, met := 0, false
		for _, p := range batch.Pieces {
			next := stop + int64(len(p.Data))
			if next == end && end < size {
				break
			}
			stop = next
			kept++
			if next < size {
				if _, met = b.known(next, size); met {
					break
				}
			}
		}
		if batch.Pieces = batch.Pieces[:kept]; kept == 0 {
			batch.Release()
			return nil
		}
		if err := b.submit(batch); err != nil {
			return err
		}
		if met {
			return errMet
		}
		return nil
	})
	switch {
	case err == errMet:
		return stop, true, nil
	case err != nil && off > 0:
		err = fmt.Errorf("from offset %d on: %w", off, err)
	}
	return stop, false, err
}

// workKnown reads and stores those of the known chunks that the store does not have.
func (b *builder) workKnown(ctx context.Context, j *job) error {
	if b.dst == nil {
		return nil
	}
	offs := make([]int64, len(j.chunks))
	for i, off := 0, j.at; i < len(offs); i++ {
		offs[i] = off
		off += int64(j.chunks[i].size)
	}
	return par.Each(ctx, b.loads, len(j.chunks), func(ctx context.Context, i int) error {
		c := &j.chunks[i]
		if !b.recent.add(c.id) {
			return nil
		}
		if has, err := b.dst.Has(ctx, c.id); has || err != nil {
			return err
		}
		return b.load(ctx, c, offs[i])
	})
}

// load reads and stores a known chunk.
func (b *builder) load(ctx context.Context, c *chunk, off int64) error {
	data := bufpool.Get(c.size)
	defer bufpool.Put(data)
	if n, err := b.src.ReadAt(data, off); n < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at offset %d: %w", off+int64(n), err)
	}
	if b.digest.Sum(data) != c.id {
		return fmt.Errorf("%w: %d bytes at offset %d", ErrMistaken, c.size, off)
	}
	c.known = false
	added, err := store.Add(ctx, b.dst, store.Chunk{ID: c.id, Data: data})
	c.new, c.stored = added.New, added.Stored
	return err
}
