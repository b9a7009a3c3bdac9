package httpstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// flights gets chunks for many askers at once. Those who ask for a chunk while
// others still have it share one call of the source and one copy in memory. A call
// ends early only if all who wait for it have left.
type flights struct {
	get     func(context.Context, chunker.ID) (store.Chunk, error)
	slots   chan struct{} // holds one item for each chunk in memory
	stored  *room         // for chunks as the source has them
	others  *room         // for what they are converted to
	metrics *metrics

	mu  sync.Mutex
	now map[chunker.ID]*flight // guarded by mu: those that more may join
}

// flight is a chunk on its way or in memory.
type flight struct {
	all    *flights
	id     chunker.ID
	ctx    context.Context // ends when all have left
	cancel context.CancelFunc
	done   chan struct{} // closed when chunk and err are set
	chunk  store.Chunk
	err    error
	held   int64 // of flights.stored

	askers int  // guarded by flights.mu
	spoilt bool // guarded by flights.mu: somebody may still read the buffers

	convert sync.Once
	other   []byte // the chunk in the form in which it is not held
	buf     []byte // from bufpool: backs other
	otherr  error
	extra   int64 // of flights.others
}

var (
	errBusy    = errors.New("too many chunks are being served")
	errConvert = errors.New("chunk could not be converted")
)

func newFlights(get func(context.Context, chunker.ID) (store.Chunk, error), slots int, bytes int64, m *metrics) *flights {
	return &flights{get: get, slots: make(chan struct{}, slots), stored: newRoom(bytes), others: newRoom(bytes), metrics: m, now: map[chunker.ID]*flight{}}
}

// slot waits for room for one more chunk in memory. The caller gives it back by
// receiving from fs.slots.
func (fs *flights) slot(ctx context.Context) error {
	select {
	case fs.slots <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(slotWait)
	defer t.Stop()
	select {
	case fs.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return errBusy
	}
}

// join returns the flight of a chunk that has arrived. The caller must leave it.
func (fs *flights) join(ctx context.Context, id chunker.ID) (*flight, error) {
	fs.mu.Lock()
	f, ok := fs.now[id]
	if !ok {
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{all: fs, id: id, ctx: fctx, cancel: cancel, done: make(chan struct{})}
		fs.now[id] = f
		go f.run()
	}
	f.askers++
	fs.mu.Unlock()
	if ok {
		fs.metrics.shared.Add(1)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		f.leave(false)
		return nil, context.Cause(ctx)
	}
	if f.err != nil {
		f.leave(false)
		return nil, f.err
	}
	return f, nil
}

func (f *flight) run() {
	f.err = f.fetch()
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	if f.err != nil {
		f.forget() // the next one may have more luck
	}
	close(f.done)
	if f.askers == 0 && f.err == nil {
		f.free()
	}
}

// fetch gets the chunk in its turn.
func (f *flight) fetch() error {
	if err := f.all.slot(f.ctx); err != nil {
		return err
	}
	n, err := f.all.stored.take(f.ctx)
	if err == nil {
		f.all.metrics.fetched.Add(1)
		f.chunk, err = f.all.get(f.ctx, f.id)
		if err == nil {
			f.held = int64(cap(f.chunk.Data))
		}
		f.all.stored.settle(n, f.held)
	}
	if err != nil {
		<-f.all.slots
	}
	return err
}

// leave ends the use of the flight. Spoilt says that the caller cannot tell whether
// its use of the buffers has ended.
func (f *flight) leave(spoilt bool) {
	f.all.mu.Lock()
	defer f.all.mu.Unlock()
	f.askers--
	f.spoilt = f.spoilt || spoilt
	if f.askers > 0 {
		return
	}
	f.cancel()
	f.forget()
	select {
	case <-f.done:
		if f.err == nil {
			f.free()
		}
	default: // run frees it
	}
}

// forget lets nobody else join. The caller holds f.all.mu.
func (f *flight) forget() {
	if f.all.now[f.id] == f {
		delete(f.all.now, f.id)
	}
}

// free gives back the memory.
func (f *flight) free() {
	if !f.spoilt {
		f.chunk.Release()
		bufpool.Put(f.buf)
	}
	f.all.stored.settle(f.held, 0)
	f.all.others.settle(f.extra, 0)
	<-f.all.slots
}

// converted returns what convert makes of the chunk, which is called once, when there is
// room for it.
func (f *flight) converted(convert func(store.Chunk) (data, buf []byte, err error)) ([]byte, error) {
	f.convert.Do(func() {
		n, err := f.all.others.take(f.ctx) // not of one who may leave while others wait
		if err != nil {
			f.otherr = err
			return
		}
		f.otherr = errConvert // what others see if it panics
		defer func() {
			f.extra = int64(max(cap(f.buf), cap(f.other)))
			f.all.others.settle(n, f.extra)
		}()
		f.other, f.buf, f.otherr = convert(f.chunk)
	})
	return f.other, f.otherr
}
