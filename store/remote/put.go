package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// errOnlyPush says why chunks cannot be put one by one.
var errOnlyPush = fmt.Errorf("%w: the other side takes chunks only together with their index, by push", errors.ErrUnsupported)

// putter keeps the connection over which chunks are put one by one, which castor alone
// can do: CHUNK comes unasked and is answered by STORED; OFFER is answered for each id
// by STORED, if the store has it, else by REQUEST; SYNC is answered by SYNC when all
// that came before it is durable.
type putter struct {
	s    *Store
	turn chan struct{} // holds an item while somebody connects

	mu      sync.Mutex
	now     *putting                // guarded by mu: nil if there is no connection
	dialing context.CancelCauseFunc // guarded by mu: while a connection is being made
	refused bool                    // guarded by mu: the other side takes none
	closed  bool                    // guarded by mu

	// Chunks that were put over a connection that broke before they were durable, and
	// not again since: for those no Sync succeeds.
	lost   map[chunker.ID]struct{} // guarded by mu
	broken error                   // guarded by mu: why, the last time
}

// maxFresh bounds the chunks that are remembered as not durable yet: a SYNC is sent then.
const maxFresh = 1 << 16

// putting is one connection.
type putting struct {
	u *putter
	p *peer

	writing sync.Mutex // held while a frame is written, and before u.mu

	puts, offers map[chunker.ID][]chan bool // guarded by u.mu: for whether the store has it
	syncs        []barrier                  // guarded by u.mu: sent and not answered, in order
	fresh        map[chunker.ID]struct{}    // guarded by u.mu: put since the last SYNC was sent
	busy         int                        // guarded by u.mu: answers that are due
	since        time.Time                  // guarded by u.mu: since when busy is not 0
	ended        chan struct{}              // closed when err is set
	err          error
}

// barrier is a SYNC that has been sent.
type barrier struct {
	covers map[chunker.ID]struct{} // chunks that were put since the one before
	done   chan struct{}           // closed when it is answered
}

// Put stores a chunk if castor is on the other side, and returns errors.ErrUnsupported
// if casync is: see [Push]. It is not tried again when the connection breaks.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	data, zipped, buf, err := encode(&c)
	if err != nil {
		return s.error("put", c.ID, err)
	}
	if buf == nil { // writing may go on when this call has ended
		buf = bufpool.Get(len(data))
		data = buf[:copy(buf, data)]
	}
	_, err = s.put.ask(ctx, message{c.ID, appendChunkHead(nil, c.ID, zipped, len(data)), data, buf})
	return s.wrap(ctx, "put", c.ID, err)
}

// Has reports whether the store has a chunk. If casync is on the other side it gets the
// chunk to find out.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	has, err := s.put.ask(ctx, message{id: id, head: appendOffer(nil, []chunker.ID{id})})
	if !errors.Is(err, errors.ErrUnsupported) {
		return has, s.wrap(ctx, "has", id, err)
	}
	c, err := s.Get(ctx, id)
	if store.Missing(err) {
		return false, nil
	}
	c.Release()
	return err == nil, err
}

// Sync returns after every chunk that was put is durable, as the other side
// understands that. It fails as long as one was put over a connection that broke too
// early, and not again since.
func (s *Store) Sync(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.put.sync(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("sync %v: %w", s, err)
	}
	return nil
}

func (s *Store) wrap(ctx context.Context, op string, id chunker.ID, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return s.error(op, id, err)
}

// message is a frame about a chunk: the chunk itself if there is data, else an offer.
type message struct {
	id         chunker.ID
	head, data []byte
	buf        []byte // from bufpool: backs data
}

// ask sends a message and waits for the answer.
func (u *putter) ask(ctx context.Context, m message) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	c, err := u.connection(ctx)
	if err != nil {
		return false, err
	}
	answer := make(chan bool, 1)
	u.mu.Lock()
	waiting := c.offers
	if m.data != nil {
		waiting = c.puts
	}
	waiting[m.id] = append(waiting[m.id], answer)
	c.due()
	full := len(c.fresh) >= maxFresh
	u.mu.Unlock()
	// A peer that takes nothing is found out by its answers that do not come.
	err = c.write(ctx, func() error {
		defer bufpool.Put(m.buf)
		err := c.send(m.head, m.data)
		if err == nil && full {
			_, err = c.sync()
		}
		return err
	})
	if err != nil {
		return false, err
	}
	select {
	case has := <-answer:
		return has, nil
	case <-c.ended:
		select {
		case has := <-answer:
			return has, nil
		default:
			return false, c.err
		}
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// write calls f, which writes, and waits for it until ctx ends: f goes on then, for what
// has been begun must be written to its end. If that fails, reading tells why.
func (c *putting) write(ctx context.Context, f func() error) error {
	written := make(chan error, 1)
	c.u.mu.Lock()
	if c.u.closed {
		c.u.mu.Unlock()
		return fs.ErrClosed
	}
	c.u.s.wg.Go(func() { written <- f() }) // with c.u.mu: Close waits for it
	c.u.mu.Unlock()
	select {
	case err := <-written:
		if err == nil {
			return nil
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-c.ended:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connection returns the connection, and makes it if there is none.
func (u *putter) connection(ctx context.Context) (*putting, error) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-u.turn }()
	life, cancel := context.WithCancelCause(u.s.ctx)
	if c, err := u.begin(cancel); c != nil || err != nil {
		cancel(err)
		return c, err
	}
	// The connection outlives the call, which may end while it is being made.
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	p, err := dial(life, u.s.loc.Host, &u.s.o, "push", what{store: u.s.loc.arg()}, pushChunks|featureOffer)
	if !stop() && err == nil {
		p.kill()
		err = context.Cause(ctx)
	}
	return u.begun(p, err)
}

// begin returns the connection that there is, if any, or why there can be none. Else
// cancel ends the making of one.
func (u *putter) begin(cancel context.CancelCauseFunc) (*putting, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return nil, fs.ErrClosed
	case u.refused:
		return nil, errOnlyPush
	case u.now != nil && !u.now.over():
		return u.now, nil
	}
	u.now, u.dialing = nil, cancel
	return nil, nil
}

// begun takes a connection that has been made, or the error.
func (u *putter) begun(p *peer, err error) (*putting, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dialing = nil
	switch {
	case err != nil:
		return nil, err
	case p.features&featureOffer == 0:
		u.refused, err = true, errOnlyPush
	case u.closed:
		err = fs.ErrClosed
	}
	if err != nil {
		p.kill()
		return nil, err
	}
	c := &putting{u: u, p: p, puts: map[chunker.ID][]chan bool{}, offers: map[chunker.ID][]chan bool{}, fresh: map[chunker.ID]struct{}{}, ended: make(chan struct{})}
	u.now = c
	u.s.wg.Go(c.run)
	u.s.wg.Go(func() { p.watch(u.s.o.Stall, c.ended, c.busySince) })
	return c, nil
}

// over reports whether the connection has ended.
func (c *putting) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// sync waits for a SYNC to be answered.
func (u *putter) sync(ctx context.Context) error {
	u.mu.Lock()
	c, err := u.now, u.loss()
	u.mu.Unlock()
	if err != nil || c == nil || c.over() {
		return err // what was put over connections that ended is durable, or lost
	}
	sent := make(chan (<-chan struct{}), 1)
	err = c.write(ctx, func() error {
		answered, err := c.sync()
		sent <- answered
		return err
	})
	if err != nil {
		return err
	}
	answered := <-sent
	select {
	case <-answered:
		// A chunk may have been lost with the connection before, just now.
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.loss()
	case <-c.ended:
		select {
		case <-answered:
			return nil
		default:
			return c.err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loss says that chunks were lost, if so. The caller holds u.mu.
func (u *putter) loss() error {
	if len(u.lost) == 0 {
		return nil
	}
	return fmt.Errorf("the connection broke before what was put is durable, which may be lost (chunks: %d): %w", len(u.lost), u.broken)
}

func (u *putter) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	if u.dialing != nil {
		u.dialing(fs.ErrClosed)
	}
	if u.now != nil {
		u.now.p.close()
	}
}

// due counts one more answer that is. The caller holds u.mu.
func (c *putting) due() {
	if c.busy == 0 {
		c.since = time.Now()
	}
	c.busy++
}

func (c *putting) busySince() int64 {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	switch c.busy {
	case 0:
		return 0
	case len(c.syncs): // the disk of the other side may take its time
		return c.since.Add(syncTime).UnixNano()
	}
	return c.since.UnixNano()
}

// syncTime is how much longer the answer to a SYNC may take than others.
const syncTime = 10 * time.Minute

// sync sends a SYNC. What it returns is closed when that is answered.
func (c *putting) sync() (answered <-chan struct{}, err error) {
	c.writing.Lock() // SYNCs are answered in the order in which they are sent
	defer c.writing.Unlock()
	done := make(chan struct{})
	c.u.mu.Lock()
	c.syncs = append(c.syncs, barrier{c.fresh, done})
	c.fresh = map[chunker.ID]struct{}{}
	c.due()
	c.u.mu.Unlock()
	_, err = c.p.conn.Write(appendEmpty(nil, kindSync))
	return done, err
}

func (c *putting) send(head, data []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.p.conn.Write(head)
	for err == nil && len(data) > 0 {
		piece := data[:min(len(data), maxPiece)]
		data = data[len(piece):]
		_, err = c.p.conn.Write(piece)
		c.p.moved.Store(time.Now().UnixNano()) // a large chunk may take a while
	}
	return err
}

// run hands out answers until the connection ends.
func (c *putting) run() {
	for c.err == nil {
		f, err := c.p.dec.next()
		if err != nil {
			c.err = c.p.explain(err)
			break
		}
		switch f.kind {
		case kindStored:
			err = c.told(f.id, true)
		case kindRequest:
			for _, id := range f.ids {
				if err == nil {
					err = c.told(id, false)
				}
			}
		case kindSync:
			err = c.synced()
		case kindAbort:
			err = f.abort
		default:
			err = protocolError("%v where answers to offers are due", f.kind)
		}
		if err != nil {
			c.err = c.p.explain(err)
		}
	}
	c.lose()
	close(c.ended)
	c.p.kill()
}

// told passes on an answer about id. The other side works on several frames at once, so
// that answers about one id may come in any order: STORED is for a chunk, if one is on
// its way, as what it says is true then, and REQUEST can only be for an offer.
func (c *putting) told(id chunker.ID, has bool) error {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	waiting := c.offers
	if has && len(c.puts[id]) > 0 {
		waiting = c.puts
		c.fresh[id] = struct{}{}
		delete(c.u.lost, id)
	}
	w := waiting[id]
	if len(w) == 0 {
		return protocolError("an answer about %v, which was not offered", id)
	}
	w[0] <- has
	if len(w) == 1 {
		delete(waiting, id)
	} else {
		waiting[id] = w[1:]
	}
	c.answered()
	return nil
}

// synced takes the answer to a SYNC.
func (c *putting) synced() error {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	if len(c.syncs) == 0 {
		return protocolError("an answer to SYNC, which was not sent")
	}
	close(c.syncs[0].done)
	c.syncs = c.syncs[1:]
	c.answered()
	return nil
}

// answered counts an answer. The caller holds u.mu.
func (c *putting) answered() {
	c.busy--
	c.since = time.Now()
}

// lose notes what was put and is not known to be durable.
func (c *putting) lose() {
	c.u.mu.Lock()
	defer c.u.mu.Unlock()
	for _, b := range append(c.syncs, barrier{covers: c.fresh}) {
		for id := range b.covers {
			if c.u.lost == nil {
				c.u.lost = map[chunker.ID]struct{}{}
			}
			c.u.lost[id] = struct{}{}
		}
	}
	c.u.broken = c.err
}
