// Package build turns bytes into chunks in a store and an index: the way of
// make.
//
//	source → chunker.Parallel → workers: digest, store → index.Writer
//
// Every byte is read once and hashed once. Batches of chunks run through the
// workers side by side and reach the index in order.
package build

import (
	"context"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
)

// Options are the settings of [File] and [Stream]. The zero value and nil mean
// the defaults.
type Options struct {
	Workers  int                           // 0 means one for each CPU
	Puts     int                           // about how many chunks the store is given at once; 0 means one for each worker, more suits a store behind a network
	Hole     func(off, n int64) bool       // see [chunker.ParallelOptions]; File only
	Progress func(s Stats)                 // called now and then from one goroutine
	Each     func(e index.Entry, new bool) // called for each chunk in order, if non-nil

	// Known tells the chunk that begins at off, if it is known; File only. What it
	// says of the same off does not change. It is called from one goroutine. Such a
	// chunk is not read if the store has it, or if there is no store. One that is
	// read and is not what Known said is [ErrMistaken].
	Known func(off int64) (k Known, ok bool)
}

// Stats says what was done.
type Stats struct {
	Chunks      int           // in the index
	Bytes       int64         // of content
	NewChunks   int           // that the store did not have
	NewBytes    int64         // plain bytes of those
	StoredBytes int64         // bytes that they take in the store
	ZeroBytes   int64         // of content that was a hole and not read
	KnownBytes  int64         // of content that was known and not read
	Time        time.Duration // from the first byte to the durable store
}

// Ratio returns how many bytes of content one byte of new plain data stands for;
// 0 if nothing was new.
func (s Stats) Ratio() float64 {
	if s.NewBytes == 0 {
		return 0
	}
	return float64(s.Bytes) / float64(s.NewBytes)
}

// File chunks the first size bytes of src into dst, and appends the entries to
// w. It returns after dst has everything for good, see [store.Sync], but does
// not close w. A nil dst stores nothing. The error is the first of src, dst or
// w, or the cause of ctx: then w must be thrown away.
func File(ctx context.Context, w *index.Writer, dst store.Store, src io.ReaderAt, size int64, o *Options) (Stats, error) {
	return run(ctx, w, dst, o, func(ctx context.Context, b *builder, co *chunker.ParallelOptions) error {
		if b.o.Known != nil {
			return b.splitKnown(ctx, src, size, co)
		}
		return chunker.Parallel(ctx, src, size, w.Header().Params, co, b.submit)
	})
}

// Stream is [File] for a source of unknown length.
func Stream(ctx context.Context, w *index.Writer, dst store.Store, src io.Reader, o *Options) (Stats, error) {
	return run(ctx, w, dst, o, func(ctx context.Context, b *builder, co *chunker.ParallelOptions) error {
		return chunker.ParallelReader(ctx, src, w.Header().Params, co, b.submit)
	})
}

// inFlight bounds the bytes of chunks on the way, plain and compressed, at least
// one chunk.
const inFlight = 128 << 20

type builder struct {
	w      *index.Writer
	dst    store.Store
	digest chunker.Digest
	queue  *par.Ordered[job]
	puts   int         // chunks of a batch that are put at once
	src    io.ReaderAt // of known chunks
	loads  int         // known chunks of a job that are looked after at once
	recent recent
	o      Options
	stats  Stats
}

// job is a batch of chunks on its way.
type job struct {
	batch  *chunker.Batch // nil: the chunks are known
	at     int64          // where the first of known chunks begins
	chunks []chunk
}

type chunk struct {
	id     chunker.ID
	size   int
	zero   bool
	known  bool // and not read
	new    bool
	stored int64
}

func run(ctx context.Context, w *index.Writer, dst store.Store, o *Options, split func(context.Context, *builder, *chunker.ParallelOptions) error) (Stats, error) {
	start := time.Now()
	b := &builder{w: w, dst: dst, digest: w.Header().Features.Digest()}
	if o != nil {
		b.o = *o
	}
	if b.o.Workers <= 0 {
		b.o.Workers = runtime.GOMAXPROCS(0)
	}
	depth := par.Fit(2*b.o.Workers, 2*w.Header().Params.Max, inFlight) // plain and compressed
	workers := min(b.o.Workers, depth)
	if b.o.Puts > b.o.Workers {
		workers = depth // they wait for the store
	}
	b.puts = max(1, b.o.Puts/workers)
	b.loads = par.Fit(b.puts, 2*w.Header().Params.Max*workers, inFlight)
	b.queue = par.NewOrdered(ctx, workers, depth, b.work, b.emit)
	splitErr := split(ctx, b, &chunker.ParallelOptions{Workers: b.o.Workers, Hole: b.o.Hole})
	if err := b.queue.Wait(); err != nil {
		return b.stats, err
	}
	if splitErr != nil {
		return b.stats, splitErr
	}
	if dst != nil {
		if err := store.Sync(ctx, dst); err != nil {
			return b.stats, err
		}
	}
	b.stats.Time = time.Since(start)
	return b.stats, context.Cause(ctx)
}

func (b *builder) submit(batch *chunker.Batch) error {
	return b.queue.Submit(job{batch: batch})
}

// work names the chunks of a batch and stores those that are new.
func (b *builder) work(ctx context.Context, j *job) error {
	if j.batch == nil {
		return b.workKnown(ctx, j)
	}
	defer j.batch.Release()
	ids := j.batch.IDs(b.digest)
	j.chunks = make([]chunk, len(j.batch.Pieces))
	return par.Each(ctx, min(b.puts, len(ids)), len(ids), func(ctx context.Context, i int) error {
		p, c := &j.batch.Pieces[i], &j.chunks[i]
		c.id, c.size, c.zero = ids[i], len(p.Data), p.Zero
		if b.dst == nil || !b.recent.add(c.id) {
			return nil
		}
		added, err := store.Add(ctx, b.dst, store.Chunk{ID: c.id, Data: p.Data})
		c.new, c.stored = added.New, added.Stored
		return err
	})
}

// emit appends a batch to the index.
func (b *builder) emit(j *job) error {
	for _, c := range j.chunks {
		if err := b.w.Append(c.id, c.size); err != nil {
			return err
		}
		b.stats.Chunks++
		b.stats.Bytes += int64(c.size)
		if c.zero {
			b.stats.ZeroBytes += int64(c.size)
		}
		if c.known {
			b.stats.KnownBytes += int64(c.size)
		}
		if c.new {
			b.stats.NewChunks++
			b.stats.NewBytes += int64(c.size)
			b.stats.StoredBytes += c.stored
		}
		if b.o.Each != nil {
			b.o.Each(index.Entry{ID: c.id, End: b.stats.Bytes}, c.new)
		}
	}
	if b.o.Progress != nil {
		b.o.Progress(b.stats)
	}
	return nil
}

// recent remembers chunks that are stored or on their way there, in constant
// memory: a later chunk takes the place of an earlier one with the same end of
// its ID. It saves asking the store again for what repeats, such as zeros. A
// chunk that does not arrive ends the run, so nobody relies on it in vain.
type recent struct {
	mu  sync.Mutex
	ids [1 << 12]chunker.ID // guarded by mu
}

func (r *recent) slot(id chunker.ID) *chunker.ID {
	return &r.ids[(int(id[30])<<8|int(id[31]))%len(r.ids)]
}

// add remembers id and reports whether it was not remembered yet.
func (r *recent) add(id chunker.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slot(id)
	if *s == id {
		return false
	}
	*s = id
	return true
}
