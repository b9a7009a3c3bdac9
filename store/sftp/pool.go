package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
)

var errClosed = fmt.Errorf("store is closed: %w", fs.ErrClosed)

// dialFunc connects to a server's SFTP subsystem, for a further connection without
// asking the user anything. The connection ends with ctx.
type dialFunc func(ctx context.Context, further bool) (io.ReadWriteCloser, error)

// maxCalls is how many calls use a connection at once, if the pool may not have more
// connections. spread is from how many on another one is made.
const (
	maxCalls = 32
	spread   = 4
)

// pool is the connections to a server. They are made when they are needed, one after
// the other, and anew when they break.
type pool struct {
	loc    string
	o      *Options
	dial   dialFunc
	ctx    context.Context // ends when the pool is closed
	cancel context.CancelCauseFunc
	slots  chan struct{} // holds a token for each call
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   []*conn  // guarded by mu
	limit   int      // guarded by mu: of len(conns)
	dialing *dialing // guarded by mu: nil if no connection is being made
	reached bool     // guarded by mu: there has been a connection
	closed  bool     // guarded by mu
}

// dialing is a connection being made.
type dialing struct {
	done chan struct{} // closed at the end
	err  error         // to be read then
}

func newPool(ctx context.Context, loc string, o *Options, limit int, dial dialFunc) *pool {
	p := &pool{loc: loc, o: o, dial: dial, limit: limit, slots: make(chan struct{}, limit*maxCalls)}
	p.ctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return p
}

// close ends the connections and waits for the calls.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		c.fail(errClosed)
	}
	p.mu.Unlock()
	p.cancel(errClosed)
	p.wg.Wait()
}

// call is one use of a connection.
type call struct {
	*conn
	last []func()
}

// later has f called after the result of the call has been returned.
func (c *call) later(f func()) { c.last = append(c.last, f) }

// ask returns the result of f, which it calls with a connection, and again if that
// breaks. It returns when ctx ends, with its cause: f may run on then, so that it must
// own what it uses.
func ask[T any](ctx context.Context, p *pool, f func(*call) (T, error)) (T, error) {
	type answer struct {
		t   T
		err error
	}
	var none T
	for try := 0; ; try++ {
		c, err := p.take(ctx)
		if err != nil {
			return none, err
		}
		done := make(chan answer, 1)
		go func() {
			defer p.release(c)
			call := &call{conn: c}
			t, err := f(call)
			done <- answer{t, err}
			for _, f := range call.last {
				f()
			}
		}()
		select {
		case a := <-done:
			if !lost(a.err) {
				return a.t, tidy(a.err)
			}
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
		if err := p.again(ctx, c, try); err != nil {
			return none, err
		}
	}
}

// do is ask without a result.
func (p *pool) do(ctx context.Context, f func(*call) error) error {
	_, err := ask(ctx, p, func(c *call) (struct{}, error) { return struct{}{}, f(c) })
	return err
}

// again waits until a call whose connection broke may be made again, or returns the
// reason if it may not. Tries are counted from 0.
func (p *pool) again(ctx context.Context, c *conn, try int) error {
	select {
	case <-c.dead:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch err := c.err; {
	case errors.Is(err, errClosed), errors.Is(err, errNames), errors.Is(err, errNonsense):
		return err // it would come again
	case try == p.o.Retries && try > 0:
		return fmt.Errorf("%w (tried %d times)", err, try+1)
	case try == p.o.Retries:
		return err
	}
	return p.pause(ctx, try)
}

// tidy keeps messages of the server, which [sftp.StatusError] quotes, short, and says
// in our words what the server cannot do.
func tidy(err error) error {
	const enough = 200
	s, ok := errors.AsType[*sftp.StatusError](err)
	if !ok {
		return err
	}
	if text := s.Error(); len(text) > enough {
		err = errors.New(strings.ToValidUTF8(text[:enough], "") + "…")
	}
	if s.FxCode() == sftp.ErrSSHFxOpUnsupported {
		err = fmt.Errorf("%w: %w", err, errors.ErrUnsupported)
	}
	return err
}

// maxBackoff is the longest pause.
const maxBackoff = 10 * time.Second

// pause waits after the given try, counted from 0.
func (p *pool) pause(ctx context.Context, try int) error {
	d := min(p.o.Backoff<<min(try, 16), maxBackoff)
	t := time.NewTimer(d - rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take returns the connection with the fewest calls.
func (p *pool) take(ctx context.Context) (*conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		c, d := p.choose()
		if c != nil {
			return c, nil
		}
		select {
		case <-d.done:
		case <-ctx.Done():
			<-p.slots
			return nil, context.Cause(ctx)
		}
		if d.err != nil {
			<-p.slots
			return nil, d.err
		}
	}
}

// choose returns a connection, or if there is none, the attempt to make one.
func (p *pool) choose() (*conn, *dialing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		d := &dialing{done: make(chan struct{}), err: errClosed}
		close(d.done)
		return nil, d
	}
	p.conns = slices.DeleteFunc(p.conns, func(c *conn) bool { return !c.alive() })
	var best *conn
	for _, c := range p.conns {
		if best == nil || c.load.Load() < best.load.Load() {
			best = c
		}
	}
	if p.dialing == nil && (best == nil || best.load.Load() >= spread && len(p.conns) < p.limit) {
		p.grow()
	}
	if best == nil {
		return nil, p.dialing
	}
	if best.load.Add(1) == 1 {
		best.moved.Store(time.Now().UnixNano())
	}
	p.wg.Add(1) // while it is known that nobody waits yet
	return best, nil
}

func (p *pool) release(c *conn) {
	c.load.Add(-1)
	<-p.slots
	p.wg.Done()
}

// grow begins to make a connection. The caller holds p.mu.
func (p *pool) grow() {
	d := &dialing{done: make(chan struct{})}
	further := len(p.conns) > 0
	tries := 1
	if p.reached && !further {
		tries += p.o.Retries // it worked before: it may again
	}
	p.dialing = d
	p.wg.Go(func() {
		c, err := p.connect(tries, further)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(d.done)
		p.dialing = nil
		switch {
		case err == nil && p.closed:
			c.fail(errClosed)
			fallthrough
		case err == nil:
			p.reached = true
			p.conns = append(p.conns, c)
			p.wg.Go(func() { p.watch(c) })
		case further: // who waits tries again, if there is no connection by now
			p.limit = max(len(p.conns), 1)
			p.o.Log.Warn("sftp: no further connection", "server", p.loc, "connections", p.limit, "error", err)
		default:
			d.err = err
		}
	})
}

// connect makes a connection, trying that some times.
func (p *pool) connect(tries int, further bool) (*conn, error) {
	for try := 0; ; try++ {
		c, err := p.connectOnce(further)
		if err == nil || p.ctx.Err() != nil || try+1 == tries {
			return c, err
		}
		p.o.Log.Warn("sftp: cannot connect", "server", p.loc, "error", err)
		if err := p.pause(p.ctx, try); err != nil {
			return nil, err
		}
	}
}

func (p *pool) connectOnce(further bool) (*conn, error) {
	link, err := p.dial(p.ctx, further)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(p.ctx, p.o.Connect, fmt.Errorf("no connection within %v", p.o.Connect))
	defer cancel()
	return newConn(ctx, link)
}

// watch waits for the end of a connection.
func (p *pool) watch(c *conn) {
	c.watch(p.o.Stall)
	if p.ctx.Err() == nil {
		p.o.Log.Warn("sftp: connection broke", "server", p.loc, "error", c.err)
	}
}
