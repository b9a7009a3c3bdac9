package mld

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// ErrPermission is in the error of [Listen] if this process may not hear MLD.
var ErrPermission = errors.New("hearing MLD needs the capability CAP_NET_RAW: give it to the program " +
	"(setcap cap_net_raw+ep PROGRAM) or to its service (AmbientCapabilities=CAP_NET_RAW in the systemd unit), " +
	"or send without listening to anybody (--always)")

// Options are the settings of [Listen] and [ListenLocal].
type Options struct {
	Table   TableOptions
	Querier QuerierOptions

	// Packet also hears the reports of version 1, which hosts send to the group
	// itself, by receiving the multicast packets of the whole interface. A
	// switch that snoops doesn't forward these reports to us, though.
	Packet bool
}

// Stats is what a [Listener] has seen so far.
type Stats struct {
	TableStats

	Rejected  uint64 // messages not from this link, see [Accept]
	Malformed uint64
	Overflow  uint64 // messages the kernel dropped, as its buffer was full
	Queries   uint64 // heard from others
	Sent      uint64 // queries and advertisements
	Failed    uint64 // of these, not sent: the interface is down, or has no address yet

	Querier  netip.Addr    // of the link; invalid if there is none
	Querying bool          // the querier is us; never while there is nothing to query for
	Interval time.Duration // between General Queries
	Lifetime time.Duration // of a membership
}

// Listener follows who listens on one interface. SetActive, Stats and Close may be
// called at any time, and by any goroutine.
type Listener struct {
	link    link
	sources []source
	local   func() ([]netip.Addr, error) // of a local Listener, which has neither: all groups

	wake   chan struct{} // something may be due
	closed chan struct{}
	close  func()

	mu      sync.Mutex // guards the following
	table   *Table
	querier *Querier
	active  bool
	self    netip.Addr // our link-local address, if there is one
	stats   Stats      // but for the part that table and querier know
	events  []Event    // not delivered yet
}

// source is a socket that messages come from.
type source interface {
	// receive waits for a message and puts it into buf, which is long enough. Its
	// dropped counts from the beginning. It fails after Close or interrupt.
	receive(buf []byte) (message, error)
	interrupt()
	Close() error
}

// link is the socket that messages go to.
type link interface {
	// self returns our link-local address, invalid while there is none. It
	// fails if the interface is no more.
	self() (netip.Addr, error)
	// send sends p from self.
	send(self netip.Addr, p Packet) error
}

// message is what a source has received.
type message struct {
	src      netip.Addr // without zone
	hopLimit int
	dropped  uint32 // how many the kernel had no room for before; 0 also if it doesn't say
	data     []byte
}

// checkEvery is how often to see whether the interface still has its address.
const checkEvery = 5 * time.Second

func newListener(o Options) *Listener {
	l := &Listener{wake: make(chan struct{}, 1), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	l.table = NewTable(o.Table, func(e Event) { l.events = append(l.events, e) })
	l.querier = NewQuerier(time.Now(), o.Querier)
	return l
}

// Run follows the link until ctx ends, and returns its cause; or until Close, then
// it returns an error that wraps [os.ErrClosed]; or until the interface is gone.
// It calls event for every change, always from the goroutine that called Run. While
// event doesn't return, messages wait in the kernel. Run can be called once.
func (l *Listener) Run(ctx context.Context, event func(Event)) error {
	if l.local != nil {
		return l.followLocal(ctx, event)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	messages := make(chan message, 64)
	var readers sync.WaitGroup
	for _, s := range l.sources {
		readers.Go(func() { cancel(read(ctx, s, messages)) })
	}
	err := l.follow(ctx, messages, event)
	cancel(err)
	for _, s := range l.sources {
		s.interrupt()
	}
	readers.Wait()
	return err
}

// read passes on what s receives until that fails.
func read(ctx context.Context, s source, to chan<- message) error {
	buf := make([]byte, 1<<16)
	var dropped uint32 // in all
	for {
		m, err := s.receive(buf)
		if err != nil {
			return err
		}
		m.data = bytes.Clone(m.data)
		if m.dropped > 0 {
			m.dropped, dropped = m.dropped-dropped, m.dropped
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow is the loop of Run.
func (l *Listener) follow(ctx context.Context, messages <-chan message, event func(Event)) error {
	if err := l.check(); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	defer l.terminate()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-messages:
			if !l.handle(time.Now(), m) {
				l.deliver(event)
				continue // it can't have made anything due earlier
			}
		case <-check.C:
			if err := l.check(); err != nil {
				return err
			}
		case <-timer.C:
		case <-l.wake:
		}
		next := l.tick(time.Now())
		l.deliver(event)
		timer.Reset(next)
	}
}

// check sees to l.self.
func (l *Listener) check() error {
	self, err := l.link.self()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.self = self
	return nil
}

// handle takes one message, and reports whether tick should be called because of
// it.
func (l *Listener) handle(now time.Time, m message) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Overflow += uint64(m.dropped)
	if !Accept(m.src, m.hopLimit, false) {
		l.stats.Rejected++
		return false
	}
	if len(m.data) == 0 {
		l.stats.Malformed++
		return false
	}
	var err error
	switch m.data[0] {
	case TypeReportV1, TypeDoneV1, TypeReport:
		var rs []Record
		if rs, err = ParseReport(m.data); err == nil {
			empty := l.table.NextExpiry().IsZero()
			l.table.Handle(now, m.src, rs)
			return empty && !l.table.NextExpiry().IsZero()
		}
	case TypeQuery:
		var q Query
		if q, err = ParseQuery(m.data); err == nil {
			if m.src == l.self {
				return false
			}
			l.stats.Queries++
			l.querier.Heard(now, m.src, l.self, q)
			return true
		}
	case TypeSolicitation:
		if err = ParseSolicitation(m.data); err == nil {
			l.querier.Solicited(now)
			return true
		}
	}
	if err != nil {
		l.stats.Malformed++
	}
	return false
}

// tick does what is due, and returns how long there is nothing to do.
func (l *Listener) tick(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	send, next := l.querier.Poll(now, l.active, l.table.Stats().Hosts)
	for _, p := range send {
		l.send(p)
	}
	// After Poll, which may have found that the querier is another one.
	l.table.SetLifetime(now, l.querier.Lifetime())
	l.table.Expire(now)
	if next = earlier(next, l.table.NextExpiry()); next.IsZero() {
		return checkEvery
	}
	return max(next.Sub(now), 0)
}

// send sends p. What fails is as lost as on the wire: all is sent again some time.
func (l *Listener) send(p Packet) {
	l.stats.Sent++
	if !l.self.IsValid() || l.link.send(l.self, p) != nil {
		l.stats.Failed++
	}
}

// terminate takes advertisements back.
func (l *Listener) terminate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.querier.advertised.IsZero() {
		l.send(Packet{allSnoopers, appendTermination(nil)})
	}
}

// deliver calls event for all that has happened, without l.mu, which event may
// need.
func (l *Listener) deliver(event func(Event)) {
	l.mu.Lock()
	es := l.events
	l.events = nil
	l.mu.Unlock()
	for _, e := range es {
		event(e)
	}
}

// SetActive says whether the caller serves anybody now. While it does, hosts are
// asked regularly whether they still listen; see [Querier].
func (l *Listener) SetActive(active bool) {
	l.mu.Lock()
	l.active = active
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Stats returns what has been seen so far.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	if l.local != nil {
		return s
	}
	s.TableStats = l.table.Stats()
	s.Querier, s.Querying = l.querier.Other(), l.querier.Querying()
	if s.Querying {
		s.Querier = l.self
	}
	s.Interval, s.Lifetime = l.querier.Interval(), l.querier.Lifetime()
	return s
}

// Close ends Run, and frees the sockets. Run need not have been called.
func (l *Listener) Close() error {
	l.close()
	var errs []error
	for _, s := range l.sources {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
