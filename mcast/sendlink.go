package mcast

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
)

// sendLink is a Sender on one link. Its run is the only goroutine that touches what
// is not said to be shared.
type sendLink struct {
	*Sender
	link   SenderLink
	events chan mld.Event
	woken  chan struct{}

	schedule *schedule
	loader   *loader

	salt     wire.Salt
	aead     cipher.AEAD
	seq      uint32
	packets  []byte // scratch
	scratch  []byte // for repair symbols
	controls map[*channel]*control
	due      []*channel // scratch of announce
	free     time.Time  // when the rate allows more announcements of channels
	fake     objectKey  // that Always sends
	listened nameGroups

	published time.Time

	stats linkStats
}

// control is the state of a control group.
type control struct {
	seq        uint16
	last, next time.Time // announcements
}

// linkStats are shared.
type linkStats struct {
	packets, bytes, symbols, repair, announcements, errors atomic.Int64

	audience atomic.Pointer[audienceStatus]
}

func newSendLink(s *Sender, l SenderLink) *sendLink {
	sched := newSchedule(s.o.Rate, s.o.Loss)
	return &sendLink{
		Sender: s, link: l,
		events: make(chan mld.Event, 1024), woken: make(chan struct{}, 1),
		schedule: sched, loader: newLoader(sched, s.o.Memory),
		controls: map[*channel]*control{},
	}
}

func (l *sendLink) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// newSalt starts a session.
func (l *sendLink) newSalt() {
	rand.Read(l.salt[:])
	l.aead = l.o.Key.AEAD(l.salt)
	l.seq = 0
}

func (l *sendLink) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(context.Canceled)
	l.newSalt()
	wg.Go(func() {
		err := l.link.Listen(ctx, l.wanted, func(e mld.Event) {
			select {
			case l.events <- e:
			case <-ctx.Done():
			}
		})
		if err != nil {
			cancel(err)
		}
	})
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	active := false
	for {
		if !l.drain() {
			l.forget()
		}
		now := time.Now()
		if l.o.Always {
			l.carousel(now)
		}
		wait := min(l.announce(now), l.announceNames(now))
		l.loader.load(ctx, now, &wg)
		b, w := l.schedule.next(now)
		if b.object != nil {
			l.transmit(b)
			l.publish(now)
			if ctx.Err() == nil {
				continue
			}
		} else if w >= 0 {
			wait = min(wait, w)
		}
		if a := len(l.schedule.channels)+len(l.listened.groups) > 0; a != active {
			active = a
			l.link.SetActive(a)
		}
		wait = min(wait, l.publish(now))
		timer.Reset(wait)
		select {
		case e := <-l.events:
			l.event(e)
		case r := <-l.loader.loads:
			l.loaded(r)
		case <-l.woken:
			l.forget()
		case <-timer.C:
		case <-ctx.Done():
			l.bye()
			return context.Cause(ctx)
		}
	}
}

func (l *sendLink) loaded(r loadResult) {
	if err := l.loader.take(r); err != nil {
		l.stats.errors.Add(1)
		l.o.Log.Warn("cannot load what is to be sent", "root", r.key.ch.root, "group", r.key.ord, "error", err)
	}
}

// drain takes in what has happened, without waiting. It returns false if the offers
// have changed.
func (l *sendLink) drain() bool {
	for {
		select {
		case e := <-l.events:
			l.event(e)
		case r := <-l.loader.loads:
			l.loaded(r)
		case <-l.woken:
			return false
		default:
			return true
		}
	}
}

// forget drops what is not offered any more.
func (l *sendLink) forget() {
	offered := map[*channel]bool{}
	for _, c := range l.offered() {
		offered[c] = true
	}
	gone := func(c *channel) bool { return !offered[c] }
	for k := range l.schedule.objects {
		if gone(k.ch) {
			delete(l.schedule.objects, k)
		}
	}
	for k := range l.loader.payloads {
		if gone(k.ch) {
			l.loader.drop(k)
		}
	}
	for c := range l.schedule.channels {
		if gone(c) {
			delete(l.schedule.channels, c)
		}
	}
	for c := range l.schedule.places {
		if gone(c) {
			delete(l.schedule.places, c)
		}
	}
	for c := range l.controls {
		if gone(c) {
			delete(l.controls, c)
		}
	}
	l.forgetNames(time.Now())
}

func (l *sendLink) event(e mld.Event) {
	now := time.Now()
	l.nameEvent(now, e)
	for k := range l.find(e.Group) {
		l.objectEvent(now, k, e)
	}
}

// objectEvent takes in who comes to the group of an object, or the control group, and who
// leaves.
func (l *sendLink) objectEvent(now time.Time, k objectKey, e mld.Event) {
	switch {
	case k.ord == 0 && e.Joined:
		if l.schedule.listens(now, k.ch, e.Host) {
			c := l.control(k.ch)
			c.next = c.last.Add(announceLeast) // who comes wants to know at once
		}
	case k.ord == 0:
		l.schedule.leaves(k.ch, e.Host)
	case e.Joined:
		if o := l.schedule.join(now, k, e.Host); o != nil {
			switch p := l.loader.payloads[k]; {
			case p == nil:
			case p.lacks: // maybe no longer
				l.loader.drop(k)
			default:
				l.schedule.load(o, p.layout.Blocks, p.layout.Longest())
			}
		}
	default:
		l.schedule.part(now, k, e.Host)
	}
}

func (l *sendLink) control(c *channel) *control {
	if l.controls[c] == nil {
		l.controls[c] = &control{}
	}
	return l.controls[c]
}

// transmit sends a burst.
func (l *sendLink) transmit(b burst) {
	o := b.object
	p := l.loader.use(o.key)
	ch := o.key.ch
	if n := fec.MaxSource * ch.symbol; len(l.scratch) < n {
		l.scratch = make([]byte, n)
	}
	if l.seq > math.MaxUint32-2*maxBurst {
		l.newSalt()
		l.announceNow(ch)
	}
	l.packets = l.packets[:0]
	for i := range b.count {
		round, block := (b.first+i)/o.blocks, (b.first+i)%o.blocks
		k := p.layout.Source(block)
		esi := round % (2 * k)
		symbol := l.loader.symbol(p, block, esi, l.scratch[:fec.MaxSource*ch.symbol])
		if esi >= k {
			l.stats.repair.Add(1)
		}
		h := wire.Header{Session: l.salt.Session(), Seq: l.seq, GroupSeq: o.seq, Ordinal: o.key.ord, Length: uint32(p.layout.Size), Block: uint16(block), ESI: uint8(esi)}
		l.packets = wire.AppendData(l.packets, h, symbol, l.aead)
		l.seq++
		o.seq++
	}
	l.stats.symbols.Add(int64(b.count))
	ch.sent.Add(int64(b.count * ch.packet))
	l.send(ch.wire.Group(l.o.Scope, l.o.SSM, o.key.ord), ch.packet-perPacket, b.count)
}

// send sends l.packets, count packets of size bytes.
func (l *sendLink) send(group netip.Addr, size, count int) {
	l.stats.packets.Add(int64(count))
	l.stats.bytes.Add(int64(len(l.packets) + perPacket*count))
	if err := l.link.Send(group, l.packets, size); err != nil {
		if l.stats.errors.Add(1)%1000 == 1 {
			l.o.Log.Warn("cannot send", "interface", l.link.Name(), "error", err)
		}
	}
}

// How often a channel is announced while something is sent, and otherwise while
// somebody listens; whoever comes is answered at once, but not more often than
// announceLeast.
const (
	announceBusy  = 50 * time.Millisecond
	announceIdle  = 500 * time.Millisecond
	announceLeast = 20 * time.Millisecond
	announceShare = 0.1 // of the rate that announcements may take at most
	announceBurst = 50 * time.Millisecond
)

// announce sends the announcements that are due, as far as the rate allows, and returns
// when the next one is.
func (l *sendLink) announce(now time.Time) (wait time.Duration) {
	wait = time.Hour
	l.due = l.due[:0]
	for ch := range l.schedule.channels {
		if d := l.control(ch).next.Sub(now); d > 0 {
			wait = min(wait, d)
		} else {
			l.due = append(l.due, ch)
		}
	}
	slices.SortFunc(l.due, func(a, b *channel) int { return l.controls[a].next.Compare(l.controls[b].next) })
	for _, ch := range l.due {
		if d := l.free.Add(-announceBurst).Sub(now); d > 0 { // a flood of joins
			return min(wait, d)
		}
		l.announceNow(ch)
		l.free = later(l.free, now, float64(len(l.packets)+perPacket)/(announceShare*l.o.Rate))
		every := announceIdle
		if l.schedule.busy(ch) {
			every = announceBusy
		}
		c := l.control(ch)
		c.last, c.next = now, now.Add(every)
		wait = min(wait, every)
	}
	return wait
}

func (l *sendLink) announceNow(ch *channel) {
	if l.seq > math.MaxUint32-maxBurst {
		l.newSalt()
	}
	c, p := l.control(ch), l.schedule.place(ch)
	n := wire.Announce{
		Salt: l.salt, Root: ch.root, Space: ch.space, Symbol: ch.symbol,
		Rate: uint64(8 * l.schedule.rate), Share: uint64(8 * l.schedule.rate / float64(l.schedule.room)),
		Cursor: p.cursor, Lap: p.lap, Listeners: uint32(l.schedule.hosts(ch)), Always: l.o.Always, URL: l.o.URL,
	}
	var err error
	l.packets, err = wire.AppendAnnounce(l.packets[:0], wire.Header{Seq: l.seq, GroupSeq: c.seq}, n, l.o.Key)
	if err != nil {
		l.o.Log.Warn("cannot announce", "root", ch.root, "error", err)
		return
	}
	l.seq++
	c.seq++
	l.sendAnnouncement(ch.wire.Group(l.o.Scope, l.o.SSM, 0))
}

// sendAnnouncement sends l.packets, one announcement, which counts against the rate.
func (l *sendLink) sendAnnouncement(group netip.Addr) {
	l.stats.announcements.Add(1)
	l.schedule.spend(time.Now(), len(l.packets)+perPacket)
	l.send(group, len(l.packets), 1)
}

// byes is how often a sender says that it stops.
const byes = 3

func (l *sendLink) bye() {
	for range byes {
		for ch := range l.schedule.channels {
			if l.seq == math.MaxUint32 {
				return // no number is used twice
			}
			c := l.control(ch)
			l.packets = wire.AppendBye(l.packets[:0], wire.Header{Seq: l.seq, GroupSeq: c.seq}, l.salt, l.o.Key)
			l.seq++
			c.seq++
			l.send(ch.wire.Group(l.o.Scope, l.o.SSM, 0), len(l.packets), 1)
		}
	}
}

// carousel pretends that somebody listens to everything, one object after the other.
func (l *sendLink) carousel(now time.Time) {
	nobody := netip.IPv6Unspecified()
	for _, ch := range l.offered() {
		l.schedule.listens(now, ch, nobody)
	}
	if l.fake.ch != nil {
		o := l.schedule.objects[l.fake]
		if o != nil && (!o.loaded || o.pending() && o.extras == 0) {
			return
		}
		l.schedule.part(now, l.fake, nobody)
	}
	if l.fake = l.after(l.fake); l.fake.ch != nil {
		l.event(mld.Event{Group: l.fake.ch.wire.Group(l.o.Scope, l.o.SSM, l.fake.ord), Host: nobody, Joined: true})
	}
}

// after returns the object behind k, going round: pieces of the index and buckets.
func (l *sendLink) after(k objectKey) objectKey {
	offered := l.offered()
	if len(offered) == 0 {
		return objectKey{}
	}
	i := max(slices.Index(offered, k.ch), 0)
	if offered[i] == k.ch && int(k.ord) < k.ch.space.IndexPieces()+k.ch.space.Buckets() {
		return objectKey{k.ch, k.ord + 1}
	}
	if offered[i] == k.ch {
		i = (i + 1) % len(offered)
	}
	return objectKey{offered[i], 1}
}

// audienceStatus is who listens to a link.
type audienceStatus struct {
	objects  int
	loss     float64
	channels map[*channel]int // hosts
}

// publishEvery is how often the status of a link is brought up to date.
const publishEvery = 250 * time.Millisecond

// publish brings the status up to date, unless that was done a moment ago; then it
// returns in which time it can be done again.
func (l *sendLink) publish(now time.Time) (wait time.Duration) {
	if d := l.published.Add(publishEvery).Sub(now); d > 0 {
		return d
	}
	l.published = now
	a := &audienceStatus{loss: l.schedule.loss.need, channels: map[*channel]int{}}
	for _, o := range l.schedule.objects {
		if len(o.hosts) > 0 {
			a.objects++
		}
	}
	for ch := range l.schedule.channels {
		a.channels[ch] = l.schedule.hosts(ch)
	}
	l.stats.audience.Store(a)
	return time.Hour
}
