package mcast

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store/storetest"
)

// supply hands out bytes, and zeros when there are none left.
type supply []byte

func (s *supply) next(n int) []byte {
	b := make([]byte, n)
	*s = (*s)[copy(b, *s):]
	return b
}

func (s *supply) byte() byte     { return s.next(1)[0] }
func (s *supply) uint16() uint16 { return binary.BigEndian.Uint16(s.next(2)) }

// scripted is a link on which packets come that a test makes.
type scripted struct {
	packets []Packet
	joined  map[netip.Addr]bool
	cancel  func() // when there are no more
}

func (l *scripted) Name() string                    { return "scripted" }
func (l *scripted) SetReadDeadline(time.Time) error { return nil }
func (l *scripted) Overflows() uint64               { return 0 }
func (l *scripted) Join(g, _ netip.Addr) error      { l.joined[g] = true; return nil }
func (l *scripted) Leave(g, _ netip.Addr) error     { delete(l.joined, g); return nil }
func (l *scripted) Read(p []Packet) (n int, err error) {
	if len(l.packets) == 0 {
		l.cancel()
		return 0, os.ErrDeadlineExceeded
	}
	n = copy(p[:min(len(p), 3)], l.packets)
	l.packets = l.packets[n:]
	return n, nil
}

// FuzzSession has a receiver take in packets of all kinds, right and wrong, of some
// senders. It must not panic, and what it keeps must be right.
func FuzzSession(f *testing.F) {
	x, m := noise(f, 1<<20, 5)
	c, err := newContent(x, levelOf(x))
	if err != nil {
		f.Fatal(err)
	}
	ch := &channel{root: x.Root(), wire: wire.OfRoot(x.Root(), nil), content: c, symbol: 1408}
	objects := map[uint32][]byte{}
	for ord := uint32(1); int(ord) < c.space.Total(); ord++ {
		if objects[ord], err = c.object(f.Context(), ord, m, 0); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte{0, 0, 1, 2, 3, 4}, true)
	f.Add([]byte("\x00\x01\x02\x03\x01\x01\x00\x02\x00\x00\x00\x00\x00\x05\x05\x05\x05\x05"), false)
	f.Fuzz(func(t *testing.T, script []byte, known bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l := &scripted{joined: map[netip.Addr]bool{}, cancel: cancel}
		s := supply(script)
		for i := 0; len(s) > 0 && i < 2000; i++ {
			l.packets = append(l.packets, ch.scripted(&s, objects)...)
		}
		o := &ReceiveOptions{Memory: 4 << 20, Wait: time.Millisecond}
		if known {
			o.Index = x
		}
		e, err := Dial(ctx, []ReceiverLink{l}, x.Root(), o)
		if err != nil {
			return
		}
		y := x
		if !known {
			if y, err = e.Index(ctx); err != nil {
				y = x
			}
		}
		if y.Root() != x.Root() {
			t.Fatal("another index")
		}
		got := &storetest.Memory{}
		e.Receive(ctx, y, func(chunker.ID) bool { return true }, got)
		e.Close()
		if len(l.joined) != 0 {
			t.Errorf("%d groups are still joined", len(l.joined))
		}
		if e.memory != 0 {
			for _, g := range e.joined {
				t.Errorf("group %d", g.ord)
			}
			t.Errorf("%d bytes of objects that are not there", e.memory)
		}
		for i := range c.space.Chunks {
			if k, err := got.Get(t.Context(), c.id(i)); err == nil {
				if _, err := k.Open(x.Digest(), c.length(i)); err != nil {
					t.Errorf("chunk %d: %v", i, err)
				}
			}
		}
	})
}

// scripted makes packets as s says.
func (c *channel) scripted(s *supply, objects map[uint32][]byte) []Packet {
	kind := s.byte()
	who := s.byte() % 4
	source := hostNumber(int(who))
	salt := wire.Salt{who, kind >> 6}
	group := func(ord uint32) netip.Addr { return c.wire.Group(wire.SiteScope, false, ord) }
	ord := uint32(s.byte()) % uint32(c.space.Total()+1)
	h := wire.Header{Session: salt.Session(), GroupSeq: s.uint16(), Ordinal: ord}
	switch kind % 8 {
	case 0, 1:
		n := wire.Announce{Salt: salt, Root: c.root, Space: c.space, Symbol: c.symbol, Cursor: uint32(s.uint16())}
		if kind%8 == 1 {
			n.Symbol, n.Always = int(s.byte())*64, true
			n.Space.IndexBytes = int64(s.uint16())
		}
		p, err := wire.AppendAnnounce(nil, h, n, nil)
		if err != nil {
			return nil
		}
		return []Packet{{Data: p, Group: group(0), Source: source}}
	case 2:
		return []Packet{{Data: wire.AppendBye(nil, h, salt, nil), Group: group(0), Source: source}}
	case 3: // anything
		return []Packet{{Data: s.next(int(s.byte())), Group: group(ord), Source: source}}
	case 4: // a symbol of anything
		h.Length, h.Block, h.ESI = uint32(s.uint16())<<(s.byte()%17), s.uint16()%20, s.byte()
		return []Packet{{Data: wire.AppendData(nil, h, make([]byte, int(s.byte())*64), nil), Group: group(ord), Source: source}}
	}
	// An object, right or with something changed.
	b := append([]byte(nil), objects[ord]...)
	if len(b) == 0 {
		return nil
	}
	if kind%8 == 7 {
		b[int(s.uint16())%len(b)] ^= s.byte()
	}
	p := &payload{layout: fec.NewLayout(int64(len(b)), c.symbol)}
	p.data = append(b, make([]byte, int(p.layout.Padded())-len(b))...)
	var all []Packet
	for block := range p.layout.Blocks {
		for esi := range p.layout.Source(block) {
			symbol, _ := p.symbol(block, esi, nil)
			h.Length, h.Block, h.ESI = uint32(len(b)), uint16(block), uint8(esi)
			h.GroupSeq++
			all = append(all, Packet{Data: wire.AppendData(nil, h, symbol, nil), Group: group(ord), Source: source})
		}
	}
	return all
}

// FuzzEvents has a sender hear of anything. It must not panic, send anything to a group
// without listeners, or more than the rate.
func FuzzEvents(f *testing.F) {
	x, m := noise(f, 1<<20, 5)
	f.Add([]byte{1, 0, 0, 0, 3, 1, 1, 2, 3, 200, 3, 200, 0, 3, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		out := &counting{listeners: map[netip.Addr]map[netip.Addr]bool{}}
		sender := NewSender([]SenderLink{out}, &SendOptions{Memory: 1 << 20})
		if err := sender.SetOffers([]Offer{{x, m}}); err != nil {
			t.Fatal(err)
		}
		if err := sender.SetNames([]wire.Name{{Name: "a", Version: 1}}); err != nil {
			t.Fatal(err)
		}
		l, ch := sender.links[0], sender.offered()[0]
		l.newSalt()
		now := time.Unix(1e9, 0)
		s := supply(script)
		for i := 0; len(s) > 0 && i < 1000; i++ {
			kind, ord := s.byte(), uint32(s.byte())
			g := ch.wire.Group(wire.SiteScope, false, ord)
			if ord == 255 {
				g = wire.OfName("a", nil, nil).Group(wire.SiteScope, false, 0)
			}
			e := mld.Event{Group: g, Host: hostNumber(int(kind >> 4)), Joined: kind&1 == 1}
			out.event(e)
			l.nameEvent(now, e)
			for k := range l.find(g) {
				l.objectEvent(now, k, e)
			}
			if kind&2 != 0 {
				now = now.Add(time.Duration(s.byte()) * 10 * time.Millisecond)
			}
			if kind&4 != 0 {
				l.forget()
			}
			for range kind & 15 {
				l.announce(now)
				l.announceNames(now)
				for k, o := range l.schedule.objects {
					if o.loaded || len(o.hosts) == 0 {
						continue
					}
					p, err := ch.payload(t.Context(), k.ord)
					if err := l.loader.take(loadResult{k, p, err}); err != nil {
						t.Fatal(err)
					}
				}
				l.loader.evict(now)
				b, wait := l.schedule.next(now)
				if b.object != nil {
					l.transmit(b)
				} else if wait > 0 {
					now = now.Add(min(wait, time.Second))
				}
			}
		}
		if out.err != nil {
			t.Error(out.err)
		}
	})
}

// counting is a link that knows who listens.
type counting struct {
	capture
	listeners map[netip.Addr]map[netip.Addr]bool
	err       error
}

func (c *counting) event(e mld.Event) {
	if c.listeners[e.Group] == nil {
		c.listeners[e.Group] = map[netip.Addr]bool{}
	}
	if e.Joined {
		c.listeners[e.Group][e.Host] = true
	} else {
		delete(c.listeners[e.Group], e.Host)
	}
}

func (c *counting) Send(group netip.Addr, b []byte, size int) error {
	if len(c.listeners[group]) == 0 {
		c.err = fmt.Errorf("%d bytes to %v, to which nobody listens", len(b), group)
	}
	return nil
}
