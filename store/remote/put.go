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
// by STORED, if the store has it, else by REQUEST; GOODBYE of the client is answered by
// GOODBYE when everything is durable.
type putter struct {
	s    *Store
	turn chan struct{} // holds an item while somebody connects

	mu      sync.Mutex
	now     *putting                // guarded by mu: nil if there is no connection
	dialing context.CancelCauseFunc // guarded by mu: while a connection is being made
	refused bool                    // guarded by mu: the other side takes none
	closed  bool                    // guarded by mu
}

// putting is one connection.
type putting struct {
	s *Store
	p *peer

	write sync.Mutex // held while a frame is written

	mu      sync.Mutex
	waiting map[chunker.ID][]chan bool // guarded by mu: for whether the store has it
	busy    int                        // guarded by mu: calls that wait
	since   time.Time                  // guarded by mu: since when busy is not 0
	bye     bool                       // guarded by mu: GOODBYE has been sent
	ended   chan struct{}              // closed when err is set
	err     error                      // nil after GOODBYE
}

// Put stores a chunk if castor is on the other side, and returns errors.ErrUnsupported
// if casync is: see [Push]. It is not tried again when the connection breaks.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	data, zipped, buf, err := encode(&c)
	if err != nil {
		return s.error("put", c.ID, err)
	}
	defer bufpool.Put(buf)
	_, err = s.put.ask(ctx, c.ID, func(b []byte) ([]byte, []byte) {
		return appendChunkHead(b, c.ID, zipped, len(data)), data
	})
	return s.wrap(ctx, "put", c.ID, err)
}

// Has reports whether the store has a chunk. If casync is on the other side it gets the
// chunk to find out.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	has, err := s.put.ask(ctx, id, func(b []byte) ([]byte, []byte) {
		return appendOffer(b, []chunker.ID{id}), nil
	})
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
// understands that.
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

// ask sends what frame appends to a buffer, and the bytes it returns besides, and waits
// for the answer about id.
func (u *putter) ask(ctx context.Context, id chunker.ID, frame func([]byte) (head, data []byte)) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	c, err := u.connection(ctx)
	if err != nil {
		return false, err
	}
	answer := make(chan bool, 1)
	if !c.expect(id, answer) {
		return false, errors.New("the connection is being closed")
	}
	head, data := frame(make([]byte, 0, chunkHead+idSize))
	// A peer that takes nothing is found out by its answers that do not come.
	if err := c.send(head, data); err != nil {
		<-c.ended
		return false, c.failed()
	}
	select {
	case has := <-answer:
		return has, nil
	case <-c.ended:
		select {
		case has := <-answer:
			return has, nil
		default:
			return false, c.failed()
		}
	case <-ctx.Done():
		return false, context.Cause(ctx)
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
	c := &putting{s: u.s, p: p, waiting: map[chunker.ID][]chan bool{}, ended: make(chan struct{})}
	u.now = c
	u.s.wg.Go(c.run)
	u.s.wg.Go(func() { p.watch(u.s.o.Stall, c.ended, c.busySince) })
	return c, nil
}

// over reports whether the connection takes no more.
func (c *putting) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.ended:
		return true
	default:
		return c.bye
	}
}

// sync says goodbye and waits for the answer. The next call makes a new connection.
func (u *putter) sync(ctx context.Context) error {
	u.mu.Lock()
	c := u.now
	u.mu.Unlock()
	if c == nil {
		return nil // nothing was put, or all of it before an earlier goodbye
	}
	c.mu.Lock()
	first := !c.bye
	c.bye = true
	c.waitFor(1)
	c.mu.Unlock()
	if first {
		c.send(appendEmpty(nil, kindGoodbye), nil) // a failure shows in what comes back
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return c.err
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

// expect has answer told about id. It returns false after GOODBYE.
func (c *putting) expect(id chunker.ID, answer chan bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bye {
		return false
	}
	c.waiting[id] = append(c.waiting[id], answer)
	c.waitFor(1)
	return true
}

// waitFor counts n more answers that are due. The caller holds c.mu.
func (c *putting) waitFor(n int) {
	if c.busy == 0 {
		c.since = time.Now()
	}
	c.busy += n
}

func (c *putting) busySince() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == 0 {
		return 0
	}
	return c.since.UnixNano()
}

func (c *putting) send(head, data []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.p.conn.Write(head)
	if err == nil && len(data) > 0 {
		_, err = c.p.conn.Write(data)
	}
	return err
}

func (c *putting) failed() error {
	if c.err == nil {
		return errors.New("the other side said goodbye")
	}
	return c.err
}

// run hands out answers until the connection ends.
func (c *putting) run() {
	bye := false
	for c.err == nil && !bye {
		f, err := c.p.dec.next()
		if err != nil {
			c.err = c.p.explain(err)
			break
		}
		switch f.kind {
		case kindStored:
			c.err = c.told(f.id, true)
		case kindRequest:
			for _, id := range f.ids {
				if c.err == nil {
					c.err = c.told(id, false)
				}
			}
		case kindGoodbye:
			bye = true
		case kindAbort:
			c.err = c.p.explain(f.abort)
		default:
			c.err = c.p.explain(protocolError("%v where answers to offers are due", f.kind))
		}
	}
	close(c.ended)
	if bye {
		c.p.close()
	} else {
		c.p.kill()
	}
}

// told passes on an answer, to the first who waits for one about id.
func (c *putting) told(id chunker.ID, has bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[id]
	if len(w) == 0 {
		return protocolError("an answer about %v, which was not offered", id)
	}
	w[0] <- has
	if len(w) == 1 {
		delete(c.waiting, id)
	} else {
		c.waiting[id] = w[1:]
	}
	c.busy--
	c.since = time.Now()
	return nil
}
