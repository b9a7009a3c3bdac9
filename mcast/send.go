package mcast

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
)

// SenderLink is a network interface as a sender sees it.
type SenderLink interface {
	Name() string
	// MTU is the greatest IPv6 packet, in bytes.
	MTU() int
	// Send sends b to the group: packets of size bytes each, the last one perhaps
	// shorter. It does not keep b. What the link drops is no error.
	Send(group netip.Addr, b []byte, size int) error
	// Listen tells event, from one goroutine, who comes to listen to the groups that
	// wanted says and who leaves, until ctx ends.
	Listen(ctx context.Context, wanted func(group netip.Addr) bool, event func(mld.Event)) error
	// SetActive says whether anything is being sent, so that membership has to be
	// kept up to date.
	SetActive(bool)
}

// Offer is what a sender has to give.
type Offer struct {
	Index *index.Index
	Store store.Getter // has its chunks
}

// SendOptions are the settings of a [Sender]. The zero value and nil mean the
// defaults.
type SendOptions struct {
	Rate  float64 // bytes a second on each link, headers included; 0: 100 Mbit/s
	Loss  float64 // part of the packets that are expected to be lost, 0 to 1
	Key   *wire.Key
	Scope wire.Scope // 0: site
	SSM   bool       // source-specific groups
	MTU   int        // greatest packet in bytes; 0: that of the link, and at most 1500
	URL   string     // where chunks can be got otherwise
	Log   *slog.Logger

	// Always sends everything round and round, whether or not anybody listens: for
	// networks on which listeners cannot be seen.
	Always bool

	// Memory is about how many bytes of objects are held; 0: 20 MiB.
	Memory int64
}

// Defaults of [SendOptions].
const (
	DefaultRate   = 100e6 / 8
	defaultMTU    = 1500
	defaultMemory = 20 << 20
)

// perPacket is what a packet has on Ethernet besides the UDP payload, in bytes.
const perPacket = 14 + 40 + 8

// Sender sends indexes and their chunks to those who listen.
type Sender struct {
	o     SendOptions
	links []*sendLink

	setting sync.Mutex // held while offers are changed; taken before mu
	numbers int        // guarded by setting

	mu       sync.Mutex
	channels []*channel // guarded by mu; neither is ever changed in place
	byTag    map[[8]byte][]*channel

	names atomic.Pointer[nameTable] // nil: none
}

// channel is what a sender offers under one root.
type channel struct {
	number int // unique, in the order of coming
	root   chunker.ID
	wire   wire.Channel
	*content
	store  store.Getter
	symbol int   // bytes
	packet int   // bytes on the wire
	unique int64 // bytes of the distinct chunks, plain
	sent   atomic.Int64
}

func (c *channel) isIndex(ord uint32) bool {
	k, _, ok := c.space.Kind(ord)
	return ok && k == wire.IndexPiece
}

// NewSender returns a Sender for the links, without offers.
func NewSender(links []SenderLink, o *SendOptions) *Sender {
	s := &Sender{}
	if o != nil {
		s.o = *o
	}
	if s.o.Rate <= 0 {
		s.o.Rate = DefaultRate
	}
	if s.o.Scope == 0 {
		s.o.Scope = wire.SiteScope
	}
	if s.o.Memory <= 0 {
		s.o.Memory = defaultMemory
	}
	if s.o.MTU <= 0 {
		s.o.MTU = defaultMTU
		for _, l := range links {
			s.o.MTU = min(s.o.MTU, l.MTU())
		}
	}
	if s.o.Log == nil {
		s.o.Log = slog.New(slog.DiscardHandler)
	}
	for _, l := range links {
		s.links = append(s.links, newSendLink(s, l))
	}
	return s
}

// SetOffers makes offers what is sent from now on. Those whose root was offered before
// go on undisturbed.
func (s *Sender) SetOffers(offers []Offer) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	byRoot, byIndex := map[chunker.ID]*channel{}, map[*index.Index]*channel{}
	for _, c := range s.offered() {
		byRoot[c.root], byIndex[c.index] = c, c
	}
	var all []*channel
	taken := map[*channel]bool{}
	for _, of := range offers {
		c := byIndex[of.Index] // saves computing its root
		if c == nil {
			root := of.Index.Root()
			if c = byRoot[root]; c == nil {
				var err error
				if c, err = s.newChannel(of, root); err != nil {
					return fmt.Errorf("index %v: %w", root, err)
				}
				byRoot[root] = c
			}
			byIndex[of.Index] = c
		}
		if !taken[c] {
			taken[c] = true
			all = append(all, c)
		}
	}
	tags := map[[8]byte][]*channel{}
	for _, c := range all {
		t := tagOf(c.wire.Group(s.o.Scope, s.o.SSM, 0))
		tags[t] = append(tags[t], c)
	}
	s.mu.Lock()
	s.channels, s.byTag = all, tags
	s.mu.Unlock()
	for _, l := range s.links {
		l.wake()
	}
	return nil
}

// newChannel prepares an offer; s.setting is held.
func (s *Sender) newChannel(of Offer, root chunker.ID) (*channel, error) {
	content, err := newContent(of.Index, levelOf(of.Index))
	if err != nil {
		return nil, err
	}
	c := &channel{number: s.numbers, root: root, wire: wire.OfRoot(root, s.o.Key), content: content, store: of.Store, symbol: wire.SymbolFor(s.o.MTU)}
	s.numbers++
	c.packet = perPacket + wire.DataSize(c.symbol, s.o.Key.AEAD(wire.Salt{}))
	for n := range c.space.Chunks {
		c.unique += int64(c.length(n))
	}
	return c, nil
}

// offered returns the channels that are offered now.
func (s *Sender) offered() []*channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.channels
}

// tagOf returns what the groups of a channel have in common; all source-specific ones
// have the same.
func tagOf(group netip.Addr) [8]byte {
	a := group.As16()
	return [8]byte(a[2:])
}

// find returns the object of a group.
func (s *Sender) find(group netip.Addr) (k objectKey, ok bool) {
	s.mu.Lock()
	some := s.byTag[tagOf(group)]
	s.mu.Unlock()
	for _, c := range some {
		ord, mine := c.wire.Ordinal(group)
		if mine && int64(ord) < int64(c.space.Total()) && group == c.wire.Group(s.o.Scope, s.o.SSM, ord) {
			return objectKey{c, ord}, true
		}
	}
	return k, false
}

// Run sends until ctx ends or a link fails, and returns the cause.
func (s *Sender) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, l := range s.links {
		wg.Go(func() {
			if err := l.run(ctx); err != nil {
				cancel(fmt.Errorf("interface %s: %w", l.link.Name(), err))
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// sendLink is a Sender on one link. Its run is the only goroutine that touches what
// is not said to be shared.
type sendLink struct {
	*Sender
	link   SenderLink
	events chan mld.Event
	loads  chan loadResult
	woken  chan struct{}

	schedule *schedule
	payloads map[objectKey]*payload
	bytes    int64               // of payloads
	loading  map[objectKey]int64 // objects that are being loaded, and how large they are about
	used     uint64              // counts uses of payloads

	salt     wire.Salt
	aead     cipher.AEAD
	seq      uint32
	packets  []byte // scratch
	scratch  []byte // for repair symbols
	controls map[*channel]*control
	fake     objectKey // that Always sends
	listened nameGroups

	published time.Time

	stats linkStats
}

// control is the state of a control group.
type control struct {
	seq  uint16
	next time.Time // of the next announcement
}

// linkStats are shared.
type linkStats struct {
	packets, bytes, symbols, repair, announcements, errors atomic.Int64

	audience atomic.Pointer[audienceStatus]
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

func newSendLink(s *Sender, l SenderLink) *sendLink {
	return &sendLink{
		Sender: s, link: l,
		events: make(chan mld.Event, 1024), loads: make(chan loadResult, loaders), woken: make(chan struct{}, 1),
		schedule: newSchedule(s.o.Rate, s.o.Loss), payloads: map[objectKey]*payload{}, loading: map[objectKey]int64{},
		controls: map[*channel]*control{},
	}
}

func (l *sendLink) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// loaders is how many objects are loaded at once.
const loaders = 3

// payload is an object ready to be sent.
type payload struct {
	layout fec.Layout
	data   []byte   // padded
	repair []repair // by block
	used   uint64
}

// repair is a run of the repair symbols of a block, those that are sent next: all of
// them would be as large as the block, and few are needed.
type repair struct {
	first   int
	symbols []byte
}

// repairRun is how many repair symbols are kept at a time.
const repairRun = 16

func (p *payload) size() int64 {
	n := int64(cap(p.data))
	for _, r := range p.repair {
		n += int64(cap(r.symbols))
	}
	return n
}

// symbol returns a symbol of a block, and by how much the payload has grown for it.
// Scratch has room for all repair symbols of a block.
func (p *payload) symbol(block, esi int, scratch []byte) (symbol []byte, grown int64) {
	k := p.layout.Source(block)
	size := p.layout.Symbol
	if esi < k {
		return p.layout.Block(p.data, block)[esi*size:][:size], 0
	}
	n := esi - k
	r := &p.repair[block]
	if at := (n - r.first) * size; n >= r.first && at < len(r.symbols) {
		return r.symbols[at:][:size], 0
	}
	fec.Repair(scratch[:k*size], p.layout.Block(p.data, block), size)
	if r.symbols == nil {
		r.symbols = bufpool.Get(min(repairRun, k) * size)
		grown = int64(cap(r.symbols))
	}
	r.first = min(n, k-len(r.symbols)/size)
	copy(r.symbols, scratch[r.first*size:k*size])
	return r.symbols[(n-r.first)*size:][:size], grown
}

type loadResult struct {
	key objectKey
	p   *payload
	err error
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
	wanted := func(g netip.Addr) bool { _, ok := l.find(g); return ok || l.named(g) != nil }
	wg.Go(func() {
		err := l.link.Listen(ctx, wanted, func(e mld.Event) {
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
		l.load(ctx, now, &wg)
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
		case r := <-l.loads:
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

// drain takes in what has happened, without waiting. It returns false if the offers
// have changed.
func (l *sendLink) drain() bool {
	for {
		select {
		case e := <-l.events:
			l.event(e)
		case r := <-l.loads:
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
	for k := range l.payloads {
		if gone(k.ch) {
			l.drop(k)
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
	k, ok := l.find(e.Group)
	if !ok {
		return
	}
	switch {
	case k.ord == 0 && e.Joined:
		if l.schedule.listens(now, k.ch, e.Host) {
			l.control(k.ch).next = time.Time{} // who comes wants to know at once
		}
	case k.ord == 0:
		l.schedule.leaves(k.ch, e.Host)
	case e.Joined:
		if o := l.schedule.join(now, k, e.Host); o != nil {
			if p := l.payloads[k]; p != nil {
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

// load begins to load the objects that are needed next, as far as memory goes.
func (l *sendLink) load(ctx context.Context, now time.Time, wg *sync.WaitGroup) {
	held := l.bytes
	for _, n := range l.loading {
		held += n
	}
	for len(l.loading) < loaders && held < l.o.Memory {
		o := l.schedule.upcoming(now, l.loadedOrLoading)
		if o == nil {
			return
		}
		k := o.key
		l.loading[k] = k.ch.bytes(k.ord)
		held += l.loading[k]
		wg.Go(func() {
			p, err := k.ch.payload(ctx, k.ord)
			select {
			case l.loads <- loadResult{k, p, err}:
			case <-ctx.Done():
			}
		})
	}
	if held >= l.o.Memory {
		l.evict(now)
	}
}

// payload makes the object of a group ready to be sent.
func (c *channel) payload(ctx context.Context, ord uint32) (*payload, error) {
	b, err := c.object(ctx, ord, c.store, c.symbol)
	if err != nil {
		return nil, err
	}
	p := &payload{layout: fec.NewLayout(int64(len(b)), c.symbol)}
	if p.layout.Blocks > math.MaxUint16 || int64(len(b)) > math.MaxUint32 {
		return nil, fmt.Errorf("an object of %d bytes is too large to be sent", len(b))
	}
	p.data = b[:p.layout.Padded()]
	clear(p.data[len(b):])
	p.repair = make([]repair, p.layout.Blocks)
	return p, nil
}

// retryLoad is how long an object that could not be loaded is left alone.
const retryLoad = time.Second

func (l *sendLink) loaded(r loadResult) {
	delete(l.loading, r.key)
	if r.err != nil {
		l.stats.errors.Add(1)
		l.o.Log.Warn("cannot load what is to be sent", "root", r.key.ch.root, "group", r.key.ord, "error", r.err)
		if o := l.schedule.objects[r.key]; o != nil {
			o.retry = time.Now().Add(retryLoad)
		}
		return
	}
	if l.payloads[r.key] != nil { // it was dropped with its offer and has come again
		l.drop(r.key)
	}
	l.payloads[r.key] = r.p
	l.bytes += r.p.size()
	l.used++
	r.p.used = l.used
	if o := l.schedule.objects[r.key]; o != nil {
		l.schedule.load(o, r.p.layout.Blocks, r.p.layout.Longest())
	}
}

func (l *sendLink) drop(k objectKey) {
	p := l.payloads[k]
	l.bytes -= p.size()
	delete(l.payloads, k)
	bufpool.Put(p.data)
	for _, r := range p.repair {
		bufpool.Put(r.symbols)
	}
	if o := l.schedule.objects[k]; o != nil {
		o.loaded = false
	}
}

// evict drops the payload that has not been used for the longest time and has nothing
// to send now, those without listeners first; if any object waits to be loaded.
func (l *sendLink) evict(now time.Time) {
	next := l.schedule.upcoming(now, l.loadedOrLoading)
	if next == nil {
		return
	}
	var victim objectKey
	var old *payload
	idle := false
	for k, p := range l.payloads {
		o := l.schedule.objects[k]
		// What is due is needed as soon as the link is free; but what is for the dead
		// makes room for what is for the living.
		needed := o != nil && len(o.hosts) > 0 && (o.pending() || !l.schedule.due(o).After(now))
		if needed && l.schedule.rank(o) <= l.schedule.rank(next) {
			continue
		}
		i := o == nil || len(o.hosts) == 0
		if old == nil || i && !idle || i == idle && p.used < old.used {
			victim, old, idle = k, p, i
		}
	}
	if old != nil {
		l.drop(victim)
	}
}

func (l *sendLink) loadedOrLoading(o *object) bool {
	_, loading := l.loading[o.key]
	return loading || l.payloads[o.key] != nil
}

// transmit sends a burst.
func (l *sendLink) transmit(b burst) {
	o := b.object
	p := l.payloads[o.key]
	ch := o.key.ch
	l.used++
	p.used = l.used
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
		symbol, grown := p.symbol(block, esi, l.scratch[:fec.MaxSource*ch.symbol])
		l.bytes += grown
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
// somebody listens.
const (
	announceBusy = 50 * time.Millisecond
	announceIdle = 500 * time.Millisecond
)

// announce sends the announcements that are due and returns when the next one is.
func (l *sendLink) announce(now time.Time) (wait time.Duration) {
	wait = time.Hour
	for ch := range l.schedule.channels {
		c := l.control(ch)
		if d := c.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		l.announceNow(ch)
		every := announceIdle
		if l.schedule.busy(ch) {
			every = announceBusy
		}
		c.next = now.Add(every)
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
		Rate: uint64(8 * l.schedule.rate), Share: uint64(8 * l.schedule.rate / manyObjects),
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
	l.stats.announcements.Add(1)
	l.send(ch.wire.Group(l.o.Scope, l.o.SSM, 0), len(l.packets), 1)
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
