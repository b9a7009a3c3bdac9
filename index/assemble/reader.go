package assemble

import (
	"cmp"
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
)

// Reader reads content in order. Chunks are copied and fetched ahead of it, within
// about twice as many as there are workers; those of a seed that holds bytes in memory
// ([Seed].Held) are left alone, in the midst of others of that seed, until something of
// them is asked for that it does not hold. It is not safe for concurrent use.
type Reader struct {
	p      *Plan
	x      *index.Index
	src    store.Getter
	opt    Options
	from   int64 // where it begins and ends in the content
	to     int64
	ctx    context.Context
	cancel context.CancelCauseFunc
	pieces chan *piece
	end    error // why there are no more pieces, nil at the end; set before pieces is closed
	wg     sync.WaitGroup

	now    *piece // what is being read, nil before the first and behind the last byte of one
	err    error  // sticky
	stats  Stats
	misses int          // chunks in a row that were left alone and had to be read
	eager  atomic.Int64 // chunks of entries before this are not left alone
}

// piece is a chunk on its way.
type piece struct {
	entry    int
	from, to int // what is left to be read of it
	source   Source
	changed  bool
	read     bool // data is there
	data     []byte
	release  func()
}

// After maxMisses the next chunks, so many for each worker, are read ahead.
const (
	maxMisses    = 4
	eagerStretch = 16
)

// NewReader returns a Reader of n bytes of the content from off on; n < 0 means to the
// end. What src must have, and the errors of Read, are those of [Plan.Run], but the plan
// must have been made without a destination. The caller closes the reader.
func (p *Plan) NewReader(ctx context.Context, off, n int64, src store.Getter, o *Options) *Reader {
	r := &Reader{p: p, x: p.Index, src: src, opt: o.orDefault(p.Index.Params.Max), from: off, to: p.Index.Size(), pieces: make(chan *piece)}
	if n >= 0 && n < r.to-off {
		r.to = off + n
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.wg.Go(func() {
		r.end = r.produce()
		close(r.pieces)
	})
	return r
}

// produce passes on all pieces.
func (r *Reader) produce() error {
	work := func(ctx context.Context, c **piece) error {
		if r.leaves(*c) {
			return nil
		}
		return r.load(ctx, *c)
	}
	pass := func(c **piece) error {
		select {
		case r.pieces <- *c:
			return nil
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
	}
	q := par.NewOrdered(r.ctx, r.opt.Workers, 2*r.opt.Workers, work, pass)
	for i := r.x.Find(r.from); i < len(r.x.Entries) && r.x.Start(i) < r.to; i++ {
		start, end := r.x.Start(i), r.x.Entries[i].End
		c := &piece{entry: i, source: r.p.Source(i), from: int(max(0, r.from-start)), to: int(min(end, r.to) - start)}
		if q.Submit(c) != nil {
			break // Wait tells
		}
	}
	return q.Wait()
}

// leaves reports whether c is not to be read ahead. Beside other content there are files
// of which a part is new, so that the rest is needed, too.
func (r *Reader) leaves(c *piece) bool {
	i := c.entry
	return c.source == Copy && r.p.seeds[r.p.origin(i).seed-1].Held != nil && int64(i) >= r.eager.Load() &&
		(i == 0 || r.p.continues(i)) && (i+1 == len(r.x.Entries) || r.p.continues(i+1))
}

// load gets the bytes of c.
func (r *Reader) load(ctx context.Context, c *piece) error {
	n := r.x.Len(c.entry)
	c.read = true
	c.release = func() { bufpool.Put(c.data) }
	switch c.source {
	case Zero:
		c.data = bufpool.Get(n)
		clear(c.data)
		return nil
	case Copy:
		c.data = bufpool.Get(n)
		o := r.p.origin(c.entry)
		_, err := r.p.seeds[o.seed-1].File.ReadAt(c.data, o.off)
		if err == nil && r.x.Digest().Sum(c.data) == r.x.Entries[c.entry].ID {
			return nil
		}
		bufpool.Put(c.data)
		c.source, c.changed = Fetch, true
	}
	ch, data, err := r.p.get(ctx, r.src, c.entry)
	c.data, c.release = data, ch.Release
	return err
}

// Read implements [io.Reader].
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if err := r.next(); err != nil {
		return 0, err
	}
	from := r.held()
	if len(from) == 0 {
		var err error
		if from, err = r.bytes(); err != nil {
			return 0, err
		}
	}
	n := copy(b, from)
	r.advance(n)
	return n, nil
}

// Skip passes over n bytes, or fewer at the end, and returns how many. Those that have
// not been read ahead are not read at all.
func (r *Reader) Skip(n int64) (done int64, err error) {
	for done < n {
		if err := r.next(); err == io.EOF {
			return done, nil
		} else if err != nil {
			return done, err
		}
		if !r.now.read {
			r.misses = 0
		}
		k := int(min(n-done, int64(r.now.to-r.now.from)))
		r.advance(k)
		done += int64(k)
	}
	return done, nil
}

// WriteTo implements [io.WriterTo].
func (r *Reader) WriteTo(w io.Writer) (done int64, err error) {
	for {
		if err := r.next(); err == io.EOF {
			return done, nil
		} else if err != nil {
			return done, err
		}
		b, err := r.bytes()
		if err != nil {
			return done, err
		}
		n, err := w.Write(b)
		done += int64(n)
		if err != nil {
			r.err = err
			return done, err
		}
		r.advance(len(b))
	}
}

// next makes sure that there is a byte to be read.
func (r *Reader) next() error {
	for r.err == nil && r.now == nil {
		c, ok := <-r.pieces
		switch {
		case !ok:
			r.err = cmp.Or(r.end, context.Cause(r.ctx), io.EOF)
		case c.from < c.to:
			r.now = c
		}
	}
	return r.err
}

// held returns what the seed holds of the bytes that are next, if they have not been
// read.
func (r *Reader) held() []byte {
	c := r.now
	if c.read {
		return nil
	}
	o := r.p.origin(c.entry)
	b := r.p.seeds[o.seed-1].Held(o.off + int64(c.from))
	return b[:min(len(b), c.to-c.from)]
}

// bytes returns what is left of the piece.
func (r *Reader) bytes() ([]byte, error) {
	c := r.now
	if !c.read {
		if r.misses++; r.misses >= maxMisses {
			r.eager.Store(int64(c.entry) + eagerStretch*int64(r.opt.Workers))
		}
		if err := r.load(r.ctx, c); err != nil {
			r.err = err
			return nil, err
		}
	}
	return c.data[c.from:c.to], nil
}

// advance goes on by n bytes of the piece.
func (r *Reader) advance(n int) {
	c := r.now
	r.stats.By[c.source].Bytes += int64(n)
	if c.from += n; c.from < c.to {
		return
	}
	r.now = nil
	r.stats.By[c.source].Chunks++
	if c.source == Fetch {
		r.stats.Fetched.add(len(c.data))
	}
	if c.changed {
		r.stats.Changed++
	}
	if c.read {
		c.release()
	}
	if r.opt.Progress != nil {
		r.opt.Progress(r.stats)
	}
}

// Stats says where what has been read came from.
func (r *Reader) Stats() Stats { return r.stats }

// Close ends what goes on ahead of the reader. It returns nil.
func (r *Reader) Close() error {
	r.cancel(context.Canceled)
	for range r.pieces {
	}
	r.wg.Wait()
	return nil
}

// continues reports whether entry i and the one before are beside each other in a seed,
// too.
func (p *Plan) continues(i int) bool {
	if p.Source(i) != Copy || p.Source(i-1) != Copy {
		return false
	}
	a, b := p.origin(i-1), p.origin(i)
	return a.seed == b.seed && a.off+int64(p.Index.Len(i-1)) == b.off
}

// Within returns where in a seed the n bytes of the content at off are, if they are all
// to come from there, as they are. A seed without an index had them when the plan was
// made.
func (p *Plan) Within(seed int, off, n int64) (at int64, ok bool) {
	x := p.Index
	first := x.Find(off)
	for i := first; ; i++ {
		if i >= len(x.Entries) || p.Source(i) != Copy || i > first && !p.continues(i) {
			return 0, false
		}
		if o := p.origin(i); int(o.seed)-1 != seed {
			return 0, false
		} else if i == first {
			at = o.off + off - x.Start(i)
		}
		if x.Entries[i].End >= off+n {
			return at, true
		}
	}
}

// origin returns the place of entry i's chunk in a seed.
func (p *Plan) origin(i int) origin {
	return p.from[p.table.first(p.Index.Entries[i].ID)]
}
