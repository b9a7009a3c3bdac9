package chunker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"slices"
	"sort"
	"sync"
)

// Piece is one chunk that has been cut and not yet named.
type Piece struct {
	Offset int64  // of the first byte in the stream
	Data   []byte // must not be changed
	Zero   bool   // Data lies in a hole and is known to be zero without a look
}

// Batch is a run of consecutive pieces that share buffers.
type Batch struct {
	Pieces []Piece

	seg   *segment
	joint []byte // holds the first piece if it began before seg
	from  *splitting
}

// Release gives the batch's buffers back. Neither the batch nor the data of its
// pieces may be used afterwards. A batch that is never released stalls the
// splitting, because the number of buffers is bounded.
func (b *Batch) Release() {
	b.from.release(b)
}

// IDs names the pieces, with one pass over those that are not holes.
func (b *Batch) IDs(d Digest) []ID {
	ids := make([]ID, len(b.Pieces))
	named := make([]ID, 0, len(b.Pieces))
	data := make([][]byte, 0, len(b.Pieces))
	for _, p := range b.Pieces {
		if !b.from.longestHole(p) {
			data = append(data, p.Data)
		}
	}
	named = named[:len(data)]
	d.SumAll(named, data)
	for i, p := range b.Pieces {
		if b.from.longestHole(p) {
			ids[i] = b.from.zeroID(d)
		} else {
			ids[i], named = named[0], named[1:]
		}
	}
	return ids
}

// longestHole reports whether p is one of the pieces that long holes consist of.
func (s *splitting) longestHole(p Piece) bool { return p.Zero && len(p.Data) == s.limit }

// zeroID returns the ID of those pieces.
func (s *splitting) zeroID(d Digest) ID {
	s.zeroMu.Lock()
	defer s.zeroMu.Unlock()
	id, ok := s.zeroIDs[d]
	if !ok {
		id = d.Sum(s.zeros()[:s.limit])
		s.zeroIDs[d] = id
	}
	return id
}

// ParallelOptions are the settings of [Parallel] and [ParallelReader]. The zero
// value and nil mean the defaults.
type ParallelOptions struct {
	// Workers is the number of goroutines that read and scan; 0 means one for
	// each CPU. Up to twice as many batches plus two are in flight, of 1 MiB
	// each plus at most one chunk of the greatest size.
	Workers int

	// Hole reports whether the n bytes at off are known to be zero, so that
	// they need not be read. It is asked once for each MiB, from several
	// goroutines. Used by Parallel only; nil means there are no holes.
	Hole func(off, n int64) bool
}

// Parallel cuts the first size bytes of src on several cores and passes the
// pieces to each, in order and from the calling goroutine. The cuts are those
// of [Splitter] on every input.
//
// Whether a cut is allowed at some position depends on the 48 bytes before it
// alone. So the workers first look for all such positions, each in a segment of
// its own, and the walk that picks the cuts among them has next to nothing left
// to do. No guess is involved that data could prove wrong.
//
// Parallel returns the first error of src or each; io.ErrUnexpectedEOF if src
// holds fewer than size bytes; or the cause of ctx. It returns only after all
// its goroutines have ended, but batches that each retained stay valid. It
// panics if p is not valid.
func Parallel(ctx context.Context, src io.ReaderAt, size int64, p Params, o *ParallelOptions, each func(*Batch) error) error {
	if o == nil {
		o = &ParallelOptions{}
	}
	s := newSplitting(p, o.Workers)
	feed := func(ctx context.Context) error {
		for off := int64(0); off < size; off += segmentSize {
			seg, err := s.next(ctx)
			if err != nil {
				return err
			}
			seg.off, seg.n = off, int(min(segmentSize, size-off))
			if err := s.queue(ctx, seg); err != nil {
				return err
			}
		}
		return nil
	}
	load := func(seg *segment) error {
		seg.zero = !s.zeroHit && o.Hole != nil && o.Hole(seg.off, int64(seg.n))
		before := int(min(seg.off, window))
		b := seg.buf[window-before : window+seg.n]
		if seg.zero {
			b = b[:before]
		}
		if n, err := src.ReadAt(b, seg.off-int64(before)); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read at offset %d: %w", seg.off-int64(before)+int64(n), err)
		}
		return nil
	}
	return s.run(ctx, feed, load, each)
}

// ParallelReader is [Parallel] for a stream: one goroutine reads it and the
// workers scan. A stream may be of any length, and ends at io.EOF.
func ParallelReader(ctx context.Context, r io.Reader, p Params, o *ParallelOptions, each func(*Batch) error) error {
	if o == nil {
		o = &ParallelOptions{}
	}
	s := newSplitting(p, o.Workers)
	feed := func(ctx context.Context) error {
		var off int64
		var before [window]byte
		for {
			seg, err := s.next(ctx)
			if err != nil {
				return err
			}
			copy(seg.buf, before[:])
			seg.off, seg.zero = off, false
			seg.n, err = readFull(r, seg.buf[window:])
			if err != nil && err != io.EOF {
				return fmt.Errorf("read at offset %d: %w", off+int64(seg.n), err)
			}
			copy(before[:], seg.buf[seg.n:])
			off += int64(seg.n)
			if seg.n > 0 {
				if err := s.queue(ctx, seg); err != nil {
					return err
				}
			}
			if err != nil {
				return nil
			}
		}
	}
	return s.run(ctx, feed, func(*segment) error { return nil }, each)
}

// readFull fills b, or returns an error of r as it is. Unlike [io.ReadFull] it
// does not let a stream that broke off with io.ErrUnexpectedEOF, as downloads
// do, pass for one that has ended.
func readFull(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = readSome(r, b[n:])
		n += m
	}
	return n, err
}

// segmentSize is how much a worker scans at a time, in bytes. Large enough that
// handing it over costs nothing and that few chunks lie across a border, and
// small enough that many cores fit in the memory that make may use.
const segmentSize = 1 << 20

// segment is a stretch of the stream with the window before it.
type segment struct {
	buf  []byte // the window before the segment, then its n bytes
	off  int64  // of buf[window] in the stream
	n    int
	zero bool    // the n bytes are a hole and were not read
	hits []int32 // positions in 1..n, ascending, behind which a cut is allowed
	done chan error
}

// splitting is one run of Parallel or ParallelReader.
type splitting struct {
	Splitter
	workers int
	zeroHit bool          // a window of zeros allows a cut
	zeros   func() []byte // Params.Max of them, never to be written
	free    chan *segment // all segments that are not in use
	toScan  chan *segment
	order   chan *segment
	joints  sync.Pool // of *[]byte

	zeroMu  sync.Mutex
	zeroIDs map[Digest]ID // guarded by zeroMu
}

func newSplitting(p Params, workers int) *splitting {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	n := 2*workers + 2
	s := &splitting{
		Splitter: NewSplitter(p),
		workers:  workers,
		zeros:    sync.OnceValue(func() []byte { return make([]byte, max(p.Max, segmentSize)) }),
		free:     make(chan *segment, n),
		toScan:   make(chan *segment, n),
		order:    make(chan *segment, n),
		zeroIDs:  map[Digest]ID{},
	}
	s.zeroHit = s.every || s.test.hit(sum(make([]byte, window)))
	for range n {
		s.free <- nil // allocated when first needed
	}
	return s
}

func (s *splitting) next(ctx context.Context) (*segment, error) {
	select {
	case seg := <-s.free:
		if seg == nil {
			seg = &segment{buf: make([]byte, window+segmentSize), done: make(chan error, 1)}
		}
		return seg, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// queue hands a segment to the scanners and to the walk. Both channels have
// room for every segment there is, so it never waits.
func (s *splitting) queue(ctx context.Context, seg *segment) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.toScan <- seg
	s.order <- seg
	return nil
}

func (s *splitting) run(ctx context.Context, feed func(context.Context) error, load func(*segment) error, each func(*Batch) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(context.Canceled)
	fed := make(chan error, 1)
	wg.Go(func() {
		fed <- feed(ctx)
		close(s.toScan)
		close(s.order)
	})
	for range s.workers {
		wg.Go(func() {
			for seg := range s.toScan {
				if ctx.Err() != nil {
					seg.done <- context.Cause(ctx)
					continue
				}
				err := load(seg)
				if err == nil {
					s.findHits(seg)
				}
				seg.done <- err
			}
		})
	}
	w := walk{splitting: s, each: each}
	for seg := range s.order {
		err := <-seg.done
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = w.take(seg)
		}
		if err != nil {
			cancel(err)
			return err
		}
	}
	if err := <-fed; err != nil {
		return err
	}
	if ctx.Err() == nil {
		if err := w.finish(); err != nil {
			return err
		}
	}
	return context.Cause(ctx) // cancelled at the last step is cancelled
}

// findHits records every position of seg at which the rule allows a cut.
func (s *splitting) findHits(seg *segment) {
	seg.hits = seg.hits[:0]
	if s.fixed() || s.every {
		return
	}
	b := seg.buf[:window+seg.n]
	if seg.zero {
		b = b[:min(len(b), 2*window)] // behind that the window is all zero
		clear(b[window:])
	}
	if seg.off == 0 {
		b = b[window:]
		if len(b) < window {
			return
		}
	}
	shift := window // from a position in b to one in the segment
	if seg.off == 0 {
		shift = 0
	}
	p, h := window, sum(b)
	if seg.off == 0 && s.test.hit(h) {
		seg.hits = append(seg.hits, int32(p))
	}
	for hits := uint16(1); hits != 0; {
		p, hits = s.scan(b, p, &h)
		for m := hits; m != 0; m &= m - 1 {
			seg.hits = append(seg.hits, int32(p-15+bits.TrailingZeros16(m)-shift))
		}
	}
}

func (s *splitting) release(b *Batch) {
	if b.joint != nil {
		j := b.joint
		s.joints.Put(&j)
		b.joint = nil
	}
	if b.seg != nil {
		s.free <- b.seg
		b.seg = nil
	}
	b.Pieces = nil
}

// walk picks the cuts among the hits, in order.
type walk struct {
	*splitting
	each  func(*Batch) error
	start int64  // of the current chunk in the stream
	joint []byte // the bytes of the current chunk in earlier segments
	holes int64  // length of the current chunk so far, while it is all hole
}

func (w *walk) take(seg *segment) error {
	b := &Batch{from: w.splitting, seg: seg}
	data := seg.buf[window : window+seg.n]
	if seg.zero {
		data = w.zeros()[:seg.n]
	}
	end := seg.off + int64(seg.n)
	at := seg.off // first byte not yet given to a chunk
	for hits := seg.hits; ; {
		cut := w.start + int64(w.limit)
		if !w.fixed() {
			first := w.start + int64(w.first)
			if w.every {
				cut = min(cut, first)
			} else {
				// The next hit is near the front as a rule: the list is in order
				// and the walk drops what it has passed.
				i := sort.Search(len(hits), func(i int) bool { return seg.off+int64(hits[i]) >= first })
				if hits = hits[i:]; len(hits) > 0 {
					cut = min(cut, seg.off+int64(hits[0]))
				}
			}
		}
		if cut > end {
			break
		}
		b.Pieces = append(b.Pieces, w.join(b, data[at-seg.off:cut-seg.off], seg.zero))
		at, w.start = cut, cut
	}
	w.carry(data[at-seg.off:], seg.zero)
	if len(b.Pieces) == 0 {
		b.Release()
		return nil
	}
	return w.each(b)
}

// join returns the piece that ends with tail.
func (w *walk) join(b *Batch, tail []byte, zero bool) Piece {
	p := Piece{Offset: w.start, Data: tail, Zero: zero}
	switch {
	case w.holes > 0 && zero:
		p.Data = w.zeros()[:w.holes+int64(len(tail))]
	case w.holes > 0 || w.joint != nil:
		w.carry(tail, false)
		p.Data, b.joint = w.joint, w.joint
		p.Zero = false
	}
	w.joint, w.holes = nil, 0
	return p
}

// carry keeps the bytes of a chunk that goes on in the next segment.
func (w *walk) carry(part []byte, zero bool) {
	if len(part) == 0 {
		return
	}
	if zero && w.joint == nil {
		w.holes += int64(len(part))
		return
	}
	if w.joint == nil {
		if j, ok := w.joints.Get().(*[]byte); ok {
			w.joint = (*j)[:0]
		}
		w.grow(int(w.holes) + len(part))
		if w.holes > 0 {
			w.joint = append(w.joint, w.zeros()[:w.holes]...)
			w.holes = 0
		}
	}
	w.grow(len(part))
	w.joint = append(w.joint, part...)
}

// grow makes room for n more bytes of the current chunk, and for no more than the
// greatest chunk has.
func (w *walk) grow(n int) {
	if need := len(w.joint) + n; need > cap(w.joint) {
		w.joint = slices.Grow(w.joint, min(max(need, 2*cap(w.joint)), w.limit)-len(w.joint))
	}
}

// finish passes on what is left when the stream has ended.
func (w *walk) finish() error {
	if w.joint == nil && w.holes == 0 {
		return nil
	}
	b := &Batch{from: w.splitting}
	b.Pieces = []Piece{w.join(b, nil, w.holes > 0)}
	return w.each(b)
}
