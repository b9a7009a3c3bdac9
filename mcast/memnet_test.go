package mcast

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/castorsync/castor/mcast/mld"
)

// memNet is a link in memory: one sender or more, receivers that lose packets by a
// seeded random number each, reports that take a while.
type memNet struct {
	mu        sync.Mutex
	receivers []*memReceiver
	senders   []*memSender
	packets   int64
	bytes     int64
	joins     int
	reports   []mld.Event   // on their way
	delay     time.Duration // of reports
	latency   time.Duration // of packets
}

func newMemNet() *memNet {
	return &memNet{delay: 12 * time.Millisecond, latency: 200 * time.Microsecond}
}

type memSender struct {
	net    *memNet
	addr   netip.Addr
	events chan mld.Event
	deaf   bool // sees no reports
	cut    bool // what it sends goes nowhere
}

func (n *memNet) sender() *memSender {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &memSender{net: n, addr: netip.MustParseAddr(fmt.Sprintf("fe80::5:%x", len(n.senders)+1)), events: make(chan mld.Event, 1<<16)}
	n.senders = append(n.senders, s)
	return s
}

func (s *memSender) Name() string   { return "mem0" }
func (s *memSender) MTU() int       { return 1500 }
func (s *memSender) SetActive(bool) {}

func (s *memSender) Listen(ctx context.Context, wanted func(netip.Addr) bool, event func(mld.Event)) error {
	// Those who are there already answer a query.
	s.net.mu.Lock()
	for _, r := range s.net.receivers {
		for g := range r.joined {
			s.events <- mld.Event{Group: g, Host: r.addr, Joined: true}
		}
	}
	s.net.mu.Unlock()
	for {
		select {
		case e := <-s.events:
			if wanted(e.Group) && !s.deaf {
				event(e)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *memSender) Send(group netip.Addr, b []byte, size int) error {
	n := s.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.cut {
		return nil
	}
	for len(b) > 0 {
		p := append([]byte(nil), b[:min(size, len(b))]...)
		b = b[len(p):]
		n.packets++
		n.bytes += int64(len(p) + perPacket)
		for _, r := range n.receivers {
			if r.joined[group] && !r.lose() {
				r.take(Packet{Data: p, Group: group, Source: s.addr})
			}
		}
	}
	return nil
}

type memReceiver struct {
	net      *memNet
	addr     netip.Addr
	joined   map[netip.Addr]bool
	random   *rand.Rand
	loss     float64
	rate     float64 // bytes a second; 0: no limit
	free     time.Time
	queue    chan Packet
	overflow uint64
	deadline time.Time
}

func (n *memNet) receiver(loss float64) *memReceiver {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.receivers) + 1
	r := &memReceiver{
		net: n, addr: netip.MustParseAddr(fmt.Sprintf("fe80::%x", i)), joined: map[netip.Addr]bool{},
		random: rand.New(rand.NewPCG(uint64(i), 7)), loss: loss, queue: make(chan Packet, 8192),
	}
	n.receivers = append(n.receivers, r)
	return r
}

func (r *memReceiver) lose() bool {
	if r.rate > 0 { // a queue of 30 ms before a slow line
		now := time.Now()
		if r.free.Before(now) {
			r.free = now
		}
		if r.free.Sub(now) > 30*time.Millisecond {
			return true
		}
		r.free = r.free.Add(time.Duration(1500 / r.rate * float64(time.Second)))
	}
	return r.loss > 0 && r.random.Float64() < r.loss
}

func (r *memReceiver) take(p Packet) {
	select {
	case r.queue <- p:
	default:
		r.overflow++
	}
}

func (r *memReceiver) report(g netip.Addr, joined bool) {
	// Reports come in the order in which they were sent.
	r.net.reports = append(r.net.reports, mld.Event{Group: g, Host: r.addr, Joined: joined})
	time.AfterFunc(r.net.delay, func() {
		r.net.mu.Lock()
		defer r.net.mu.Unlock()
		e := r.net.reports[0]
		r.net.reports = r.net.reports[1:]
		for _, s := range r.net.senders {
			s.events <- e
		}
	})
}

func (r *memReceiver) Name() string { return "mem1" }

func (r *memReceiver) Join(g, _ netip.Addr) error {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	if !r.joined[g] {
		r.joined[g] = true
		r.net.joins++
		r.report(g, true)
	}
	return nil
}

func (r *memReceiver) Leave(g, _ netip.Addr) error {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	if r.joined[g] {
		delete(r.joined, g)
		r.report(g, false)
	}
	return nil
}

func (r *memReceiver) groups() int {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	return len(r.joined)
}

func (r *memReceiver) SetReadDeadline(t time.Time) error { r.deadline = t; return nil }

func (r *memReceiver) Overflows() uint64 {
	r.net.mu.Lock()
	defer r.net.mu.Unlock()
	return r.overflow
}

func (r *memReceiver) Read(p []Packet) (int, error) {
	timer := time.NewTimer(time.Until(r.deadline))
	defer timer.Stop()
	select {
	case p[0] = <-r.queue:
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	}
	for i := 1; i < len(p); i++ {
		select {
		case p[i] = <-r.queue:
		default:
			return i, nil
		}
	}
	return len(p), nil
}

func (n *memNet) sentBytes() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bytes
}
