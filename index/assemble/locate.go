package assemble

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bitset"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/sparse"
)

// locator finds chunks of the index in files.
//
// First it looks at the places where the index has them: what is equal costs
// one digest, and a stretch that turns out different is given up quickly. Then
// it cuts what is left with the chunk sizes of the index, which finds what has
// moved. In the destination it looks a last time where the first look gave up and
// nothing was found, so that what is right is kept.
type locator struct {
	*Plan
	workers  int
	progress func(done, total int64)
	done     atomic.Int64
	total    int64
	exact    bool // look at everything
	sated    int  // no entry before this is the first of a chunk to fetch
}

func (l *locator) advance(n int64) {
	if done := l.done.Add(n); l.progress != nil {
		l.progress(min(done, l.total), l.total)
	}
}

// Verify calls bad for each entry of x that the size bytes of f do not hold in
// its place, from one goroutine at a time and in no order. Content behind the
// last entry is not looked at. It returns the first error of f or bad, or the
// cause of ctx.
func Verify(ctx context.Context, x *index.Index, f io.ReaderAt, size int64, bad func(entry int) error, progress func(done, total int64)) error {
	l := locator{Plan: &Plan{Index: x, zero: zeroEntries(x)}, exact: true, workers: runtime.GOMAXPROCS(0), total: x.Size(), progress: progress}
	var mu sync.Mutex
	return l.stretches(ctx, func(ctx context.Context, from, to int) error {
		return l.look(ctx, f, size, from, to, maxGroup, nil, func(i int, ok, _ bool) error {
			if !ok {
				mu.Lock()
				defer mu.Unlock()
				if err := bad(i); err != nil {
					return err
				}
			}
			l.advance(int64(x.Len(i)))
			return nil
		})
	})
}

// wanting reports whether any chunk would have to be fetched. What has a source
// keeps it, so a call goes on where the one before stopped.
func (l *locator) wanting() bool {
	for ; l.sated < len(l.Index.Entries); l.sated++ {
		if l.table.later.Has(l.sated) {
			continue
		}
		if l.needs(l.sated, Fetch) {
			return true
		}
	}
	return false
}

// match takes over what a seed's index says. If it ends in an error, so much the
// less is taken over: a seed need not hold what its index says in any case.
func (l *locator) match(seed int, r *index.Reader) {
	start := int64(0)
	_ = r.Each(func(e index.Entry) error {
		if first := l.table.first(e.ID); first != none && int64(l.Index.Len(first)) == e.End-start {
			l.setOrigin(first, seed, start)
		}
		start = e.End
		return nil
	})
	l.advance(l.seeds[seed].Size)
}

// locate looks through the size bytes of f, which is a seed or, for self, the
// destination.
func (l *locator) locate(ctx context.Context, seed int, f io.ReaderAt, size int64) error {
	found := bitset.New(len(l.Index.Entries)) // entries that f has in their place
	given := bitset.New(len(l.Index.Entries)) // entries that were not looked at
	err := l.inPlace(ctx, f, size, found, given)
	if seed == self {
		l.keep = found
	}
	l.takeFound(seed, found)
	if err != nil {
		return err
	}
	if size == l.Index.Size() && found.Count() == len(l.Index.Entries) {
		l.whole = seed
	}
	cut := int64(0)
	if l.wanting() {
		if cut, err = l.moved(ctx, seed, f, size, found); err != nil {
			return err
		}
	}
	if seed == self {
		return l.inPlaceAgain(ctx, f, size, found, given, cut)
	}
	return nil
}

// takeFound records the chunks found in their place as available elsewhere.
func (l *locator) takeFound(seed int, found bitset.Set) {
	x := l.Index
	for i := range x.Entries {
		if found.Has(i) && !l.zero.Has(i) {
			l.setOrigin(l.table.first(x.Entries[i].ID), seed, x.Start(i))
		}
	}
}

// stretch is how many bytes of content one worker looks at, in bytes.
const stretch = 4 << 20

// stretches splits the entries into runs of about stretch bytes and calls work
// for each.
func (l *locator) stretches(ctx context.Context, work func(ctx context.Context, from, to int) error) error {
	x := l.Index
	n := int((x.Size() + stretch - 1) / stretch)
	return par.Each(ctx, par.Fit(2*l.workers, x.Params.Max+maxGroupBytes, inFlight), n, func(ctx context.Context, i int) error {
		// An entry belongs to the stretch in which it begins.
		from, to := l.startingAt(int64(i)*stretch), l.startingAt(int64(i+1)*stretch)
		return work(ctx, from, to)
	})
}

// startingAt returns the first entry that starts at off or later.
func (l *locator) startingAt(off int64) int {
	i := l.Index.Find(off)
	if i < len(l.Index.Entries) && l.Index.Start(i) < off {
		i++
	}
	return i
}

// inPlace finds the entries that f has in their place. After two misses in a row
// it gives up the rest of a stretch.
func (l *locator) inPlace(ctx context.Context, f io.ReaderAt, size int64, found, given bitset.Set) error {
	return l.stretches(ctx, func(ctx context.Context, from, to int) error {
		misses := 0
		want := func(i int) bool {
			if misses >= 2 {
				given.Add(i)
			}
			return misses < 2
		}
		return l.look(ctx, f, size, from, to, 2, want, func(i int, ok, looked bool) error {
			switch {
			case ok:
				found.Add(i)
				l.advance(int64(l.Index.Len(i)))
				misses = 0
			case looked:
				misses++
			}
			return nil
		})
	})
}

// inPlaceAgain looks at the entries that inPlace gave up. What has been cut, up
// to cut, and is elsewhere in the destination is not looked at again: moving it
// costs no more, and where everything has moved, looking would read it all twice.
func (l *locator) inPlaceAgain(ctx context.Context, f io.ReaderAt, size int64, found, given bitset.Set, cut int64) error {
	return l.stretches(ctx, func(ctx context.Context, from, to int) error {
		want := func(i int) bool {
			return given.Has(i) && !found.Has(i) && (l.Index.Entries[i].End > cut || l.Source(i) != Move)
		}
		return l.look(ctx, f, size, from, to, maxGroup, want, func(i int, ok, _ bool) error {
			if ok {
				found.Add(i)
			}
			return nil
		})
	})
}

// A group is what look reads before it computes digests: several chunks, since
// digests of several at once cost less, and few bytes.
const (
	maxGroup      = 8
	maxGroupBytes = 1 << 20
)

// look tells seen of each entry from from to to that want says, nil meaning all,
// whether f holds it in its place, and whether it took a look at data to find
// out. Entries are taken in groups, of first entries to begin with and after one
// that f does not hold: want is asked for a whole group before seen is told of it.
func (l *locator) look(ctx context.Context, f io.ReaderAt, size int64, from, to, first int, want func(i int) bool, seen func(i int, ok, looked bool) error) error {
	limit := first
	for i := from; i < to; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var g group
		for bytes := 0; i < to && g.n < limit && bytes < maxGroupBytes; i++ {
			if want == nil || want(i) {
				g.entry[g.n] = i
				g.n++
				bytes += l.Index.Len(i)
			}
		}
		err := l.has(f, size, &g)
		limit = maxGroup
		for j := 0; j < g.n && err == nil; j++ {
			err = seen(g.entry[j], g.ok[j], g.looked[j])
			if !g.ok[j] {
				limit = first
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// group is a number of entries and what is found out about them.
type group struct {
	n          int
	entry      [maxGroup]int
	ok, looked [maxGroup]bool
}

// has finds out about the entries of g.
func (l *locator) has(f io.ReaderAt, size int64, g *group) error {
	var (
		data [maxGroup][]byte
		ids  [maxGroup]chunker.ID
		of   [maxGroup]int // data[k] is that of g.entry[of[k]]
		n    int
	)
	defer func() {
		for _, b := range data[:n] {
			bufpool.Put(b)
		}
	}()
	for j, i := range g.entry[:g.n] {
		start, length := l.Index.Start(i), l.Index.Len(i)
		if start+int64(length) > size {
			continue
		}
		zero := l.zero.Has(i)
		// In a hole there are zeros, and zero chunks are known but for odd ones that
		// are shorter than the greatest size: those are looked at if it matters.
		if (zero || !l.exact) && hole(f, start, int64(length)) {
			g.ok[j] = zero
			continue
		}
		b := bufpool.Get(length)
		if _, err := f.ReadAt(b, start); err != nil {
			bufpool.Put(b)
			if errors.Is(err, io.EOF) {
				continue // it has become shorter
			}
			return err
		}
		g.looked[j] = true
		if zero {
			g.ok[j] = sparse.IsZero(b)
			bufpool.Put(b)
			continue
		}
		data[n], of[n] = b, j
		n++
	}
	l.Index.Digest().SumAll(ids[:n], data[:n])
	for k, id := range ids[:n] {
		g.ok[of[k]] = id == l.Index.Entries[g.entry[of[k]]].ID
	}
	return nil
}

// hole reports whether n bytes of f at off are known to be a hole.
func hole(f io.ReaderAt, off, n int64) bool {
	file, ok := f.(*os.File)
	return ok && sparse.Hole(file, off, n)
}

// join is the distance in bytes below which two ranges are chunked as one.
const join = 4 << 20

var errEnough = errors.New("nothing is missing any more")

// moved cuts what f has between the entries that are in their place, and returns
// how far it had to go. In the destination it adds to found what is in its place
// after all.
func (l *locator) moved(ctx context.Context, seed int, f io.ReaderAt, size int64, found bitset.Set) (cut int64, err error) {
	x := l.Index
	chunk := func(from, to int64) error {
		r := io.NewSectionReader(f, from, to-from)
		inHole := func(off, n int64) bool { return hole(f, from+off, n) }
		return l.chunk(ctx, r, to-from, inHole, func(id chunker.ID, off int64, n int) {
			off += from
			if first := l.table.first(id); first != none && x.Len(first) == n {
				l.setOrigin(first, seed, off)
				if i := x.Find(off); seed == self && i < len(x.Entries) && x.Start(i) == off && x.Entries[i].ID == id {
					found.Add(i)
				}
			}
			cut = off + int64(n)
			l.advance(int64(n))
		})
	}
	for _, g := range l.gaps(size, found) {
		if err := chunk(g.from, g.to); err == errEnough {
			return cut, nil
		} else if err != nil {
			return cut, err
		}
	}
	return cut, nil
}

// span is a range of bytes.
type span struct{ from, to int64 }

func (s span) len() int64 { return s.to - s.from }

// within returns the whole blocks in s; its length is not positive if there are
// none.
func (s span) within(block int64) span {
	return span{(s.from + block - 1) / block * block, s.to / block * block}
}

// gaps returns what lies between the found entries of a file of size bytes.
func (l *locator) gaps(size int64, found bitset.Set) (gaps []span) {
	add := func(from, to int64) {
		if n := len(gaps); n > 0 && from-gaps[n-1].to < join {
			gaps[n-1].to = to
		} else if to > from {
			gaps = append(gaps, span{from, to})
		}
	}
	at := int64(0)
	for i, e := range l.Index.Entries {
		if found.Has(i) {
			if start := l.Index.Start(i); start > at {
				add(at, start)
			}
			at = e.End
		}
	}
	if size > at {
		add(at, size)
	}
	return gaps
}

// chunk cuts r and names the pieces on all cores, and passes them to each in
// order.
func (l *locator) chunk(ctx context.Context, r io.ReaderAt, size int64, hole func(off, n int64) bool, each func(id chunker.ID, off int64, n int)) error {
	type job struct {
		batch  *chunker.Batch
		ids    []chunker.ID
		places []span
	}
	x := l.Index
	work := func(_ context.Context, j *job) error {
		j.ids = j.batch.IDs(x.Digest())
		for _, p := range j.batch.Pieces {
			j.places = append(j.places, span{p.Offset, p.Offset + int64(len(p.Data))})
		}
		j.batch.Release()
		return nil
	}
	batches := 0
	emit := func(j *job) error {
		for i, s := range j.places {
			each(j.ids[i], s.from, int(s.len()))
		}
		if batches++; batches%64 == 0 && !l.wanting() {
			return errEnough
		}
		return nil
	}
	workers := par.Fit(l.workers, x.Params.Max, inFlight)
	q := par.NewOrdered(ctx, workers, 2*workers, work, emit)
	err := chunker.Parallel(ctx, r, size, x.Params, &chunker.ParallelOptions{Workers: l.workers, Hole: hole},
		func(b *chunker.Batch) error { return q.Submit(job{batch: b}) })
	if werr := q.Wait(); werr != nil {
		return werr
	}
	return err
}
