package remote

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// lane keeps one connection for pulling chunks, anew when it breaks. A goroutine of
// its own runs it.
//
// casync answers an id once per connection and no more. So a lane remembers what it
// asked for, and takes a new connection when something is wanted again, or when there
// is too much to remember. castor answers each time: it is known by its answer to the
// first request, in which there is also probeID.
type lane struct {
	s    *Store
	wake chan struct{} // holds an item if something of the following changed

	// guarded by Store.mu:
	queue   []*call              // to be asked for, in order
	order   []*call              // asked for, in order; answered ones may be in it
	sent    map[chunker.ID]*call // asked for and not answered
	since   time.Time            // when sent was last empty
	retired bool                 // the connection is asked for no more
	probed  bool                 // it is known whether the other side answers an id again
	repeats bool                 // it does
	stopped bool
	dialing context.CancelCauseFunc // while a connection is being made
	now     *peer                   // while there is one
}

// Bounds of a connection.
const (
	maxAsked  = 1 << 16 // ids that it remembers
	maxBlamed = 3       // connections that break without an answer before the chunk that is next is to blame
)

// add puts a call into the queue, load tells how much there is. The caller holds
// Store.mu.
func (l *lane) add(c *call) {
	l.queue = append(l.queue, c)
	l.notify()
}

func (l *lane) load() int { return len(l.queue) + len(l.sent) }

func (l *lane) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) stop() {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.stopped = true
	if l.dialing != nil {
		l.dialing(fs.ErrClosed)
	}
	if p := l.now; p != nil {
		l.s.wg.Go(func() { p.conn.Close() }) // for who writes, which ask may be in
	}
	l.notify()
}

func (l *lane) run() {
	s := l.s
	fails := 0 // connections in succession that gave no answer
	for l.work() {
		p, err := l.dial()
		answered := 0
		if err == nil {
			s.worked.Store(true)
			answered, err = l.serve(p)
		}
		if answered > 0 {
			fails = 0
		}
		if err == nil {
			continue // retired, or to be stopped
		}
		fails++
		switch left := l.requeue(err, p != nil && answered == 0); {
		case !left:
			fails = 0
		case !s.worked.Load() || fails > s.o.Retries:
			if fails > 1 {
				err = fmt.Errorf("%w (%d connections gave no answer)", err, fails)
			}
			l.fail(err)
			fails = 0
		default:
			l.sleep(s.o.pause(fails))
		}
	}
	l.fail(fs.ErrClosed)
}

// dial makes a connection, unless the lane is to stop meanwhile.
func (l *lane) dial() (*peer, error) {
	s := l.s
	ctx, cancel := context.WithCancelCause(s.ctx)
	s.mu.Lock()
	l.dialing = cancel
	if l.stopped {
		cancel(fs.ErrClosed)
	}
	s.mu.Unlock()
	p, err := dial(ctx, s.loc.Host, &s.o, "pull", what{store: s.loc.arg()}, pullChunks)
	s.mu.Lock()
	l.dialing = nil
	s.mu.Unlock()
	if err != nil {
		cancel(err)
		return nil, err
	}
	return p, nil
}

// work waits for something to do. It returns false when the lane is to stop.
func (l *lane) work() bool {
	for {
		l.s.mu.Lock()
		queued, stopped := len(l.queue) > 0, l.stopped
		l.s.mu.Unlock()
		if stopped || queued {
			return !stopped
		}
		<-l.wake
	}
}

// sleep waits for d, less if the lane is to stop.
func (l *lane) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		l.s.mu.Lock()
		stopped := l.stopped
		l.s.mu.Unlock()
		if stopped {
			return
		}
		select {
		case <-t.C:
			l.notify() // it may have been for the queue
			return
		case <-l.wake:
		}
	}
}

// requeue puts what has not been answered back in front of the queue, and reports
// whether anything is left to do. The first of it is what a connection may have broken of
// that gave no answer. One that gave some says nothing, as answers may come in any order.
func (l *lane) requeue(err error, unanswered bool) bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var again []*call
	for _, c := range l.order {
		if l.sent[c.id] == c {
			again = append(again, c)
		}
	}
	if unanswered && len(again) > 0 {
		c := again[0]
		if c.blamed++; c.blamed >= maxBlamed {
			l.s.finish(c, store.Chunk{}, l.s.error("get", c.id, err))
			again = again[1:]
		}
	}
	l.order = nil
	clear(l.sent)
	l.queue = slices.DeleteFunc(append(again, l.queue...), l.dropped)
	return len(l.queue) > 0
}

// dropped ends a call that nobody waits for, and reports that. The caller holds
// Store.mu.
func (l *lane) dropped(c *call) bool {
	if c.askers == 0 {
		l.s.finish(c, store.Chunk{}, nil)
		return true
	}
	return false
}

// fail ends all calls with err.
func (l *lane) fail(err error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, c := range l.queue {
		l.s.finish(c, store.Chunk{}, l.s.error("get", c.id, err))
	}
	for _, c := range l.sent {
		l.s.finish(c, store.Chunk{}, l.s.error("get", c.id, err))
	}
	l.queue, l.order = nil, nil
	clear(l.sent)
}

// serve uses a connection until it breaks, which is an error, or is used up. It returns
// the number of answers, that to the probe apart.
func (l *lane) serve(p *peer) (answered int, err error) {
	ended := make(chan struct{})
	writer := make(chan struct{})
	l.s.mu.Lock()
	l.retired, l.probed, l.repeats = false, false, false
	l.now = p
	l.s.mu.Unlock()
	go func() {
		defer close(writer)
		l.ask(p, ended)
	}()
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		p.watch(l.s.o.Stall, ended, l.busySince)
	}()
	for err == nil {
		var f frame
		if f, err = p.dec.next(); err == nil {
			if err = l.answer(f); err == nil && f.id != probeID {
				answered++
			}
		}
	}
	l.s.mu.Lock()
	usedUp := l.stopped || l.retired && len(l.sent) == 0
	l.now = nil
	l.s.mu.Unlock()
	close(ended)
	if usedUp {
		err = nil
		p.close()
	} else {
		err = p.explain(err)
		p.kill()
	}
	<-writer
	<-watcher
	return answered, err
}

// busySince returns since when an answer is due.
func (l *lane) busySince() int64 {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if len(l.sent) == 0 {
		return 0
	}
	return l.since.UnixNano()
}

// ask sends requests until the connection has ended or is used up.
func (l *lane) ask(p *peer, ended <-chan struct{}) {
	asked := map[chunker.ID]struct{}{}
	buf := appendRequest(nil, 0, []chunker.ID{probeID})
	if _, err := p.conn.Write(buf); err != nil {
		return
	}
	for {
		batch, over := l.batch(asked)
		if len(batch) > 0 {
			buf = appendRequest(buf[:0], 0, batch)
			if _, err := p.conn.Write(buf); err != nil {
				return // reading ends, too, and tells more
			}
			continue
		}
		if over {
			p.conn.Close() // which ends reading
			return
		}
		select {
		case <-l.wake:
		case <-ended:
			l.notify()
			return
		}
	}
}

// batch moves calls from the queue to those that are asked for. It reports whether
// the connection is used up and everything is answered.
func (l *lane) batch(asked map[chunker.ID]struct{}) (ids []chunker.ID, over bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	n := 0
	for _, c := range l.queue {
		if l.retired || l.stopped || len(ids) == maxBatch {
			break
		}
		if l.dropped(c) {
			n++
			continue
		}
		if !l.repeats {
			if _, ok := asked[c.id]; ok || len(asked) == maxAsked {
				if l.probed {
					l.retired = true
				}
				break // the answer to the probe wakes us
			}
			asked[c.id] = struct{}{}
		}
		if len(l.sent) == 0 {
			l.since = time.Now()
		}
		l.sent[c.id] = c
		l.order = append(l.order, c)
		ids = append(ids, c.id)
		n++
	}
	clear(l.queue[:n])
	l.queue = l.queue[n:]
	if len(l.order) > 2*len(l.sent)+1024 {
		l.order = slices.DeleteFunc(l.order, func(c *call) bool { return l.sent[c.id] != c })
	}
	return ids, l.stopped || l.retired && len(l.sent) == 0
}

// answer passes on a frame of the other side.
func (l *lane) answer(f frame) error {
	var chunk store.Chunk
	var err error
	switch f.kind {
	case kindChunk:
		chunk, err = l.s.arrived(f)
	case kindMissing:
		err = l.s.error("get", f.id, fs.ErrNotExist)
	case kindAbort:
		return f.abort
	default:
		return protocolError("%v where chunks are due", f.kind)
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if f.id == probeID && !l.probed {
		l.probed, l.repeats = true, f.kind == kindChunk
		bufpool.Put(chunk.Data)
		l.notify()
		return nil
	}
	c := l.sent[f.id]
	if c == nil {
		bufpool.Put(chunk.Data)
		return protocolError("%v for %v, which was not asked for", f.kind, f.id)
	}
	delete(l.sent, f.id)
	if f.kind == kindMissing && !l.repeats {
		l.s.remember(f.id)
	}
	l.s.finish(c, chunk, err)
	if len(l.sent) == 0 && l.retired {
		l.notify()
	}
	return nil
}
