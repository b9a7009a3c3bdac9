package httpstore

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// Gate bounds how many connections servers have open, over all their listeners.
// When there are as many as may be, one that waits for its client's next request is
// closed for each that comes: the one that has waited longest. If none waits, the new
// one does.
type Gate struct {
	slots chan struct{} // holds one item for each connection

	mu      sync.Mutex
	idle    map[net.Conn]time.Time // guarded by mu: since when
	waiting int                    // guarded by mu: new connections
}

// NewGate returns a gate for up to max connections.
func NewGate(max int) *Gate {
	return &Gate{slots: make(chan struct{}, max), idle: map[net.Conn]time.Time{}}
}

// Open returns how many connections are open.
func (g *Gate) Open() int { return len(g.slots) }

// Listener returns a listener for the connections of l. Its server must have the gate,
// see [ServerOptions].
func (g *Gate) Listener(l net.Listener) net.Listener {
	return &gated{Listener: l, gate: g, done: make(chan struct{})}
}

// enter waits for a slot, until done is closed.
func (g *Gate) enter(done <-chan struct{}) bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
	}
	g.makeRoom(1)
	defer g.makeRoom(-1)
	select {
	case g.slots <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

// makeRoom changes the number of those who wait. For one more, an idle connection is
// closed, if there is one.
func (g *Gate) makeRoom(n int) {
	g.mu.Lock()
	g.waiting += n
	var longest net.Conn
	if n > 0 {
		for c, since := range g.idle {
			if longest == nil || since.Before(g.idle[longest]) {
				longest = c
			}
		}
		delete(g.idle, longest)
	}
	g.mu.Unlock()
	if longest != nil {
		longest.Close()
	}
}

// state is told what becomes of connections.
func (g *Gate) state(c net.Conn, s http.ConnState) {
	g.mu.Lock()
	crowded := g.waiting > 0
	if s == http.StateIdle && !crowded {
		g.idle[c] = time.Now()
	} else {
		delete(g.idle, c)
	}
	g.mu.Unlock()
	if s == http.StateIdle && crowded {
		c.Close()
	}
}

// gated is a listener behind a gate.
type gated struct {
	net.Listener
	gate  *Gate
	once  sync.Once
	done  chan struct{} // closed when the listener is
	cause error
}

func (l *gated) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.gate.enter(l.done) {
		c.Close()
		return nil, net.ErrClosed
	}
	return &conn{Conn: c, leave: sync.OnceFunc(func() { <-l.gate.slots })}, nil
}

func (l *gated) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.cause = l.Listener.Close()
	})
	return l.cause
}
