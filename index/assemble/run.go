package assemble

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/internal/bitset"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/reflink"
	"github.com/castorsync/castor/internal/sparse"
	"github.com/castorsync/castor/store"
)

// Options are the settings of [Plan.Run] and [Plan.Stream]. The zero value and
// nil mean the defaults.
type Options struct {
	Workers  int         // goroutines that copy and fetch; 0 means four for each CPU; fewer if chunks are large
	Progress func(Stats) // called after each piece of work, from one goroutine at a time

	// NoReflink copies seeds where their storage could be shared.
	NoReflink bool
}

// inFlight bounds the bytes of chunks that workers hold, at least one chunk each.
const inFlight = 64 << 20

// orDefault returns the options for an index whose chunks have up to size bytes.
func (o *Options) orDefault(size int) Options {
	var v Options
	if o != nil {
		v = *o
	}
	if v.Workers <= 0 {
		v.Workers = 4 * runtime.GOMAXPROCS(0)
	}
	v.Workers = par.Fit(v.Workers, size, inFlight)
	return v
}

// Stats says where the content came from in the end. The parts add up to the
// content when all is done.
type Stats struct {
	By      [sources]Part // indexed by Source
	Fetched Part          // chunks got from the store; Run gets each but once
	Cloned  int64         // bytes of By[Copy] that share the seed's storage
	Changed int           // chunks that a seed or the destination turned out not to have any more
}

// Done returns the bytes of content that are in place.
func (s Stats) Done() (n int64) {
	for _, p := range s.By {
		n += p.Bytes
	}
	return n
}

// Target is a file that a plan writes.
type Target struct {
	File *os.File

	// Fresh says that the file is all holes, so that zeros need not be written.
	Fresh bool

	// Fixed says that the file has a size of its own, as a block device has.
	Fixed bool
}

// Run makes dst hold the content of the index. If the plan was made with a
// destination, dst must be that file, unchanged. Chunks that neither the
// destination nor a seed has are got from src, which may be nil if there are
// none. Every byte is verified before it is written, but for storage shared with
// a seed, which is verified behind that.
//
// Run ends with an error if ctx ends, if a chunk cannot be got or if dst cannot
// be written. What dst holds then is undefined, and a plan made from it keeps
// what is right. Run does not sync dst. It must be called only once.
func (p *Plan) Run(ctx context.Context, dst Target, src store.Getter, o *Options) (Stats, error) {
	r := &runner{Plan: p, dst: dst, src: src, o: o.orDefault(p.Index.Params.Max), roundBytes: roundBytes, heldBytes: heldBytes}
	err := r.run(ctx)
	if err == nil {
		err = context.Cause(ctx)
	}
	return r.stats, err
}

type runner struct {
	*Plan
	dst   Target
	src   store.Getter
	o     Options
	block int64         // unit of shared storage; 0: none
	cold  []atomic.Bool // for each seed: storage cannot be shared

	delivered bitset.Set // first entries of chunks that have come unasked; nil: none

	noPunch               atomic.Bool
	roundBytes, heldBytes int // of moves

	mu    sync.Mutex
	stats Stats // guarded by mu
}

func (r *runner) run(ctx context.Context) error {
	size := r.Index.Size()
	if !r.dst.Fixed && (r.dst.Fresh || r.dest == nil || r.dest.Size < size) {
		if err := r.dst.File.Truncate(size); err != nil {
			return err
		}
	}
	for first := range r.table.firsts() {
		for i := range r.places(first, Keep) {
			r.account(Keep, r.Index.Len(i), 0)
		}
	}
	if err := r.moves(ctx); err != nil {
		return err
	}
	if err := r.zeros(ctx); err != nil {
		return err
	}
	if err := r.fill(ctx); err != nil {
		return err
	}
	if !r.dst.Fixed && r.dest != nil && r.dest.Size > size {
		return r.dst.File.Truncate(size)
	}
	return nil
}

// account books n bytes as done.
func (r *runner) account(s Source, n int, cloned int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.By[s].add(n)
	r.stats.Cloned += cloned
	if r.o.Progress != nil {
		r.o.Progress(r.stats)
	}
}

// zeros makes the zero entries zero, a run of them at a time.
func (r *runner) zeros(ctx context.Context) error {
	x := r.Index
	for i := 0; i < len(x.Entries); i++ {
		if !r.zero.Has(i) || r.keep != nil && r.keep.Has(i) {
			continue
		}
		from := x.Start(i)
		for ; i < len(x.Entries) && r.zero.Has(i) && (r.keep == nil || !r.keep.Has(i)); i++ {
			r.account(Zero, x.Len(i), 0)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !r.dst.Fresh {
			if err := r.makeZero(from, x.Start(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeZero punches a hole, or writes zeros where that is not possible.
func (r *runner) makeZero(from, to int64) error {
	if to <= from {
		return nil
	}
	whole := span{from, to}
	if r.dst.Fixed { // devices punch whole blocks only
		whole = whole.within(sparse.Block)
	}
	if whole.len() <= 0 || r.noPunch.Load() {
		return r.writeZeros(from, to)
	}
	if err := sparse.Punch(r.dst.File, whole.from, whole.len()); err != nil {
		r.noPunch.Store(true)
		return r.writeZeros(from, to)
	}
	if err := r.writeZeros(from, whole.from); err != nil {
		return err
	}
	return r.writeZeros(whole.to, to)
}

func (r *runner) writeZeros(from, to int64) error {
	zeros := make([]byte, max(0, min(to-from, 1<<20)))
	for from < to {
		n, err := r.dst.File.WriteAt(zeros[:min(to-from, int64(len(zeros)))], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// write writes a verified chunk, and leaves or makes holes for the whole blocks
// of zeros in it.
func (r *runner) write(b []byte, off int64) error {
	if r.dst.Fixed {
		_, err := r.dst.File.WriteAt(b, off)
		return err
	}
	for len(b) > 0 {
		data, hole := nextHole(b, off)
		if data > 0 {
			if _, err := r.dst.File.WriteAt(b[:data], off); err != nil {
				return err
			}
		}
		if hole > 0 && !r.dst.Fresh {
			if err := r.makeZero(off+int64(data), off+int64(data+hole)); err != nil {
				return err
			}
		}
		off += int64(data + hole)
		b = b[data+hole:]
	}
	return nil
}

// nextHole returns how many bytes of b, which lies at off, come before the first
// run of zero blocks, and how long that is.
func nextHole(b []byte, off int64) (data, hole int) {
	at := int(-off & (sparse.Block - 1)) // of the first whole block
	for ; at+sparse.Block <= len(b); at += sparse.Block {
		if sparse.IsZero(b[at : at+sparse.Block]) {
			break
		}
	}
	if at+sparse.Block > len(b) {
		return len(b), 0
	}
	end := at + sparse.Block
	for end+sparse.Block <= len(b) && sparse.IsZero(b[end:end+sparse.Block]) {
		end += sparse.Block
	}
	return at, end - at
}

// span of entries that one worker takes at once.
type task struct {
	from, to int // entries, first ones of their chunks
	source   Source
}

// runBytes bounds the entries of a seed that are copied as one, in bytes.
const runBytes = 16 << 20

// fill copies from seeds and fetches from the store.
func (r *runner) fill(ctx context.Context) error {
	r.cold = make([]atomic.Bool, len(r.seeds))
	if !r.o.NoReflink && !r.dst.Fixed && len(r.seeds) > 0 {
		r.block, _ = reflink.BlockSize(r.dst.File) // 0 if it cannot be told
	}
	if err := r.deliver(ctx); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	tasks := make(chan task)
	g.Go(func() error {
		defer close(tasks)
		return r.plan(gctx, tasks)
	})
	for range r.o.Workers {
		g.Go(func() error {
			for t := range tasks {
				if err := r.do(gctx, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// plan sends the tasks: a chunk to fetch, or a run of chunks that follow each
// other in the seed as they do in the content.
func (r *runner) plan(ctx context.Context, tasks chan<- task) error {
	x := r.Index
	send := func(t task) error {
		select {
		case tasks <- t:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for i := 0; i < len(x.Entries); i++ {
		if r.table.later.Has(i) {
			continue
		}
		source := Copy
		if !r.needs(i, Copy) {
			if source = Fetch; !r.needs(i, Fetch) || r.delivered != nil && r.delivered.Has(i) {
				continue
			}
		}
		t := task{from: i, to: i + 1, source: source}
		for source == Copy && t.to < len(x.Entries) && r.follows(t.to) && x.Start(t.to)-x.Start(t.from) < runBytes {
			t.to++
		}
		i = t.to - 1
		if err := send(t); err != nil {
			return err
		}
	}
	return nil
}

// follows reports whether entry i continues, in a seed, the entry before it.
func (r *runner) follows(i int) bool {
	return !r.table.later.Has(i) && r.continues(i)
}

func (r *runner) do(ctx context.Context, t task) error {
	var shared span
	if t.source == Copy {
		var err error
		if shared, err = r.share(t); err != nil {
			return err
		}
	}
	for i := t.from; i < t.to; i++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if t.source == Copy {
			err = r.copy(ctx, i, shared)
		} else {
			err = r.fetch(ctx, i, Fetch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// share lets the destination share the storage of a run of seed chunks, as far
// as whole blocks go, and returns the range of the destination that does.
func (r *runner) share(t task) (span, error) {
	o := r.from[t.from]
	seed, ok := r.seeds[o.seed-1].File.(*os.File)
	if !ok || r.block == 0 || r.cold[o.seed-1].Load() || r.source(t.from, t.from) != Copy {
		return span{}, nil
	}
	start := r.Index.Start(t.from)
	if (start-o.off)%r.block != 0 {
		return span{}, nil
	}
	s := span{start, r.Index.Start(t.to)}.within(r.block)
	if s.len() <= 0 {
		return span{}, nil
	}
	if err := reflink.Clone(r.dst.File, s.from, seed, s.from-start+o.off, s.len()); err != nil {
		r.cold[o.seed-1].Store(true)
		return span{}, r.unshare(s) // it may have come some way
	}
	return s, nil
}

// unshare takes back what was shared with a seed, as far as it matters: in a
// fresh file zeros are not written.
func (r *runner) unshare(s span) error {
	if !r.dst.Fresh {
		return nil
	}
	return r.makeZero(s.from, s.to)
}

// copy brings the chunk with first entry i from its seed to all its places. As
// far as its first place shares storage with the seed, it is verified there and
// not written.
func (r *runner) copy(ctx context.Context, i int, shared span) error {
	x := r.Index
	start := x.Start(i)
	b := bufpool.Get(x.Len(i))
	defer bufpool.Put(b)
	in := span{max(start, shared.from), min(x.Entries[i].End, shared.to)}
	if in.len() <= 0 {
		in = span{start, start}
	}
	head, tail := int(in.from-start), int(in.to-start) // of b, around what is shared
	if err := r.read(b, head, tail, i); err != nil || x.Digest().Sum(b) != x.Entries[i].ID {
		r.change()
		if err := r.unshare(in); err != nil {
			return err
		}
		return r.fetch(ctx, i, Copy)
	}
	for j := range r.places(i, Copy) {
		if j != i {
			head, tail = 0, 0
		}
		if err := r.write(b[:head], x.Start(j)); err != nil {
			return err
		}
		if err := r.write(b[tail:], x.Start(j)+int64(tail)); err != nil {
			return err
		}
		r.account(Copy, len(b), int64(tail-head))
	}
	return nil
}

// read reads into b the chunk with first entry i: b[head:tail] from its place in
// the destination, the rest from its seed.
func (r *runner) read(b []byte, head, tail, i int) error {
	o := r.from[i]
	seed := r.seeds[o.seed-1].File
	if _, err := seed.ReadAt(b[:head], o.off); err != nil {
		return err
	}
	if _, err := r.dst.File.ReadAt(b[head:tail], r.Index.Start(i)+int64(head)); err != nil {
		return err
	}
	_, err := seed.ReadAt(b[tail:], o.off+int64(tail))
	return err
}

func (r *runner) change() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Changed++
}

// fetch gets the chunk with first entry i from the store and writes it to all
// the places that were planned to come from s.
func (r *runner) fetch(ctx context.Context, i int, s Source) error {
	wanted := i
	for wanted = range r.places(i, s) {
		break
	}
	c, b, err := r.get(ctx, r.src, wanted)
	if err != nil {
		return err
	}
	defer c.Release()
	return r.writeAll(i, s, b)
}

// writeAll writes the fetched chunk b with first entry i to all the places that were
// planned to come from s.
func (r *runner) writeAll(i int, s Source, b []byte) error {
	r.mu.Lock()
	r.stats.Fetched.add(len(b))
	r.mu.Unlock()
	for j := range r.places(i, s) {
		if err := r.write(b, r.Index.Start(j)); err != nil {
			return err
		}
		r.account(Fetch, len(b), 0)
	}
	return nil
}
