package mcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/udp"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
)

// ReceiverLink is a network interface as a receiver sees it. It need not be safe for
// concurrent use.
type ReceiverLink interface {
	Name() string
	// Join and Leave take an invalid source for any.
	Join(group, source netip.Addr) error
	Leave(group, source netip.Addr) error
	// Read waits for packets and returns how many it has put into p, whose data is
	// valid until the next call. A deadline that passes is an error that wraps
	// os.ErrDeadlineExceeded.
	Read(p []Packet) (int, error)
	SetReadDeadline(t time.Time) error
	// Overflows counts the packets that came and found no room.
	Overflows() uint64
}

// Packet is a packet that was received.
type Packet = udp.Packet

// ReceiveOptions are the settings of a [Session]. The zero value and nil mean the
// defaults.
type ReceiveOptions struct {
	Key    *wire.Key
	Scope  wire.Scope     // 0: site
	Source netip.Addr     // of the sender; valid means source-specific groups
	Index  *index.Index   // that the root names, if it is at hand; nil: it is not
	Wait   time.Duration  // for the first announcement; 0: 3 s
	Memory int64          // bytes of objects on the way; 0: 256 MiB
	Log    *slog.Logger   // may be nil
	Status func(Progress) // called now and then from the goroutine that receives
	Drop   func() bool    // for tests: whether to lose the next packet
}

// Progress says how far a session is.
type Progress struct {
	Joined   int    // groups
	Window   int    // that may be joined
	Packets  int64  // received
	Lost     int64  // estimated from the sequence numbers
	Bytes    int64  // received, headers included
	Rate     uint64 // of the sender, in bit/s
	Lap      uint32 // of the sender
	Hosts    uint32 // that listen, as the sender says
	Overflow uint64 // packets that this host lost
}

// Errors that say why a session ended before everything was there. What was received
// until then is kept.
var (
	ErrNoSender = errors.New("no announcement heard")
	ErrSilent   = errors.New("the sender has fallen silent")
	ErrStalled  = errors.New("nothing comes any more though the sender is there")
)

// Times of a receiver; docs/multicast.md explains them.
const (
	tick        = 10 * time.Millisecond
	firstWait   = 3 * time.Second // for an announcement
	rejoinAfter = 2 * time.Second // a group without packets: the report may be lost
	silentAfter = 4 * time.Second // no packet of the sender
	byeAfter    = 2 * time.Second // the same when it has said so
	stalledMin  = 6 * time.Second // nothing of use, and the sender's cursor stands
	stalledMax  = 60 * time.Second
	maxSenders  = 64
	maxStrikes  = 3
	maxOdd      = 64 // packets in a row that contradict those before
)

const receiveMemory = 256 << 20

// Session is a receiver on the channel of one root. It is not safe for concurrent
// use.
type Session struct {
	o       ReceiveOptions
	root    chunker.ID
	channel wire.Channel
	link    ReceiverLink
	control netip.Addr

	senders map[senderKey]*sender
	content *content // of the index; nil: it is not known yet
	only    *sender  // whose symbols are believed; nil: all are
	joined  map[uint32]*group
	left    map[uint32]time.Time // when groups were left, see holdOff
	window  window
	memory  int64 // bytes of objects on the way

	useful    time.Time // when the last symbol of use came
	moved     time.Time // when a sender's cursor last moved
	expected  int       // packets since the window was looked at
	got       int
	overflows uint64
	progress  Progress
	packets   []Packet
	max       func(ord uint32) int64 // see fetch
	rejoin    time.Time              // when to join the control group again
}

// group is a group that is joined.
type group struct {
	ord     uint32
	address netip.Addr
	joined  time.Time
	heard   time.Time
	away    time.Time // when to join again what was left for a moment; zero: it is joined

	patience time.Duration // without a packet, before that
	from     map[*sender]*partial
	full     bool
}

// partial is an object on its way from one sender.
type partial struct {
	layout fec.Layout
	data   []byte
	blocks []*fec.Block
	left   int // blocks that are not full
	odd    int // packets in a row that say another length
	seq    uint16
}

// Dial joins the channel of root on the links and waits for a sender. It returns
// ErrNoSender, wrapped, if none announces it. The links stay the caller's.
func Dial(ctx context.Context, links []ReceiverLink, root chunker.ID, o *ReceiveOptions) (*Session, error) {
	s := &Session{root: root, senders: map[senderKey]*sender{}, joined: map[uint32]*group{}, left: map[uint32]time.Time{}, window: newWindow()}
	if o != nil {
		s.o = *o
	}
	if s.o.Scope == 0 {
		s.o.Scope = wire.SiteScope
	}
	if s.o.Wait <= 0 {
		s.o.Wait = firstWait
	}
	if s.o.Memory <= 0 {
		s.o.Memory = receiveMemory
	}
	s.channel = wire.OfRoot(root, s.o.Key)
	s.control = s.address(0)
	s.packets = make([]Packet, 256)
	if s.o.Index != nil {
		if err := s.know(s.o.Index); err != nil {
			return nil, err
		}
	}
	if err := s.find(ctx, links); err != nil {
		return nil, err
	}
	s.useful, s.moved = time.Now(), time.Now()
	s.overflows = s.link.Overflows()
	return s, nil
}

func (s *Session) address(ord uint32) netip.Addr {
	return s.channel.Group(s.o.Scope, s.o.Source.IsValid(), ord)
}

// find waits for the first announcement on any link and leaves the others.
func (s *Session) find(ctx context.Context, links []ReceiverLink) error {
	var joined []ReceiverLink
	var errs []error
	for _, l := range links {
		if err := l.Join(s.control, s.o.Source); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", l.Name(), err))
			continue
		}
		joined = append(joined, l)
	}
	end := time.Now().Add(s.o.Wait)
	again := time.Now().Add(time.Second)
	for time.Now().Before(end) && len(joined) > 0 && s.link == nil {
		for _, l := range joined {
			s.link = l
			if err := s.read(ctx, time.Now().Add(tick)); err != nil {
				s.link = nil
				s.leaveAll(joined, nil)
				return err
			}
			if len(s.senders) > 0 {
				break
			}
			s.link = nil
		}
		if now := time.Now(); now.After(again) { // a report may be lost
			again = now.Add(time.Second)
			for _, l := range joined {
				l.Leave(s.control, s.o.Source)
				l.Join(s.control, s.o.Source)
			}
		}
	}
	s.leaveAll(joined, s.link)
	if s.link == nil {
		return fmt.Errorf("%w: %w", ErrNoSender, errors.Join(append(errs, fmt.Errorf("joined %v on %d interfaces for %v", s.control, len(joined), s.o.Wait))...))
	}
	return nil
}

func (s *Session) leaveAll(links []ReceiverLink, except ReceiverLink) {
	for _, l := range links {
		if l != except {
			l.Leave(s.control, s.o.Source)
		}
	}
}

// Close leaves the channel.
func (s *Session) Close() {
	for _, g := range s.joined {
		s.link.Leave(g.address, s.o.Source)
	}
	clear(s.joined)
	s.link.Leave(s.control, s.o.Source)
}

// Announced returns what a sender announces, and nothing if none can be believed.
func (s *Session) Announced() (a wire.Announce) {
	if n := s.best(); n != nil {
		a = n.Announce
	}
	return a
}

// read takes in the packets that come until the deadline, at most as many as fit.
func (s *Session) read(ctx context.Context, deadline time.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.link.SetReadDeadline(deadline)
	n, err := s.link.Read(s.packets)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("interface %s: %w", s.link.Name(), err)
	}
	now := time.Now()
	for _, p := range s.packets[:n] {
		if s.o.Drop != nil && s.o.Drop() {
			continue
		}
		s.packet(now, p)
	}
	return nil
}

// packet takes in one packet. Whatever is wrong with it, it is passed over: anybody
// can send anything.
func (s *Session) packet(now time.Time, p Packet) {
	h, _, err := wire.ParseHeader(p.Data)
	if err != nil {
		return
	}
	s.progress.Packets++
	s.progress.Bytes += int64(len(p.Data) + perPacket)
	key := senderKey{p.Source, h.Session}
	switch {
	case h.Type == wire.AnnounceType && p.Group == s.control:
		s.announced(now, key, h, p.Data)
	case h.Type == wire.ByeType && p.Group == s.control:
		if n := s.senders[key]; n != nil && wire.OpenBye(h, p.Data, s.o.Key) == nil {
			if !n.bye { // a successor may come, and has to hear of us
				s.rejoin = now.Add(200*time.Millisecond + rand.N(200*time.Millisecond))
			}
			n.bye = true
		}
	case h.Type == wire.DataType:
		g := s.joined[h.Ordinal]
		n := s.senders[key]
		if g == nil || n == nil || g.full || p.Group != g.address || n.strikes >= maxStrikes || s.only != nil && n != s.only {
			return
		}
		if symbol, err := n.open(h, p.Data); err == nil && len(symbol) == n.Symbol {
			s.symbol(now, g, n, h, symbol)
		}
	}
}

// discard forgets what has come from n for a group.
func (s *Session) discard(g *group, n *sender) {
	if p := g.from[n]; p != nil {
		s.memory -= int64(len(p.data))
		delete(g.from, n)
	}
}

// symbol takes in a symbol of a group's object.
func (s *Session) symbol(now time.Time, g *group, n *sender, h wire.Header, symbol []byte) {
	n.heard, g.heard = now, now
	p := g.from[n]
	if p != nil && p.layout.Size != int64(h.Length) {
		// Forged, unless there is nothing but that: then the object is another now.
		if p.odd++; p.odd < maxOdd {
			return
		}
		s.discard(g, n)
		p = nil
	}
	if p == nil {
		if p = s.newPartial(g, n, h); p == nil {
			return
		}
		g.from[n] = p
	}
	p.odd = 0
	// A gap in the numbers is loss; a step back is a packet that came late.
	if gap := int16(h.GroupSeq - p.seq); gap >= 0 && gap < 1000 {
		s.expected += int(gap) + 1
		s.progress.Lost += int64(gap)
	}
	s.got++
	if d := int16(h.GroupSeq - p.seq); d >= 0 || d < -1000 {
		p.seq = h.GroupSeq + 1
	}
	if int(h.Block) >= len(p.blocks) {
		return
	}
	b := p.blocks[h.Block]
	if !b.Add(h.ESI, symbol) {
		return
	}
	s.useful, n.brought = now, true
	if b.Full() {
		if p.left--; p.left == 0 {
			g.full = true
		}
	}
}

// maxObject is how long an object may be that does not fit into the memory: one chunk
// at least has to come through.
const maxObject = 192 << 20

func (s *Session) newPartial(g *group, n *sender, h wire.Header) *partial {
	l := fec.NewLayout(int64(h.Length), n.Symbol)
	most := s.o.Memory
	if !n.proven && n != s.best() {
		most /= 2 // what may be forged leaves room for what is right
	}
	if l.Blocks == 0 || s.memory+l.Padded() > most && (s.memory > 0 || l.Padded() > maxObject) || int64(h.Length) > s.limit(n, g.ord) {
		return nil
	}
	p := &partial{layout: l, data: make([]byte, l.Padded()), blocks: make([]*fec.Block, l.Blocks), left: l.Blocks, seq: h.GroupSeq}
	s.memory += l.Padded()
	for i := range p.blocks {
		p.blocks[i] = fec.NewBlock(l.Block(p.data, i), l.Symbol)
	}
	return p
}

// limit returns how long the object of a group may be.
func (s *Session) limit(n *sender, ord uint32) int64 {
	k, _, ok := n.Space.Kind(ord)
	switch {
	case !ok:
		return 0
	case k == wire.IndexPiece:
		return wire.IndexObjectSize
	}
	return s.max(ord)
}

// job is an object that has come whole.
type job struct {
	group *group
	from  *sender
	p     *partial
	err   error
}

// errPolluted says that an object is not what it should be: somebody has sent what
// does not belong to it.
var errPolluted = errors.New("an object is not what it should be")

// fetch receives the objects of the groups todo, which are in order. It passes each to
// accept, on several goroutines: an error that wraps errPolluted makes it be fetched
// again, any other ends fetch. The limit of the length of an object of chunks is max.
// What is missing in the end is returned, with an error that says why.
func (s *Session) fetch(ctx context.Context, todo []uint32, max func(ord uint32) int64, accept func(ord uint32, object []byte) error) (left []uint32, err error) {
	s.max = max
	// What has come until now waits in the socket.
	now := time.Now()
	s.useful, s.moved = now, now
	for _, n := range s.senders {
		n.heard = now
	}
	todo = slices.Clone(todo)
	workers := runtime.GOMAXPROCS(0)
	jobs := make(chan *job, maxWindow+2*workers)
	done := make(chan *job, maxWindow+2*workers)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(jobs)
	for range workers {
		wg.Go(func() {
			for j := range jobs {
				if ctx.Err() == nil {
					j.err = j.finish(accept)
				}
				done <- j
			}
		})
	}
	working := 0
	takeBack := func(j *job) error {
		working--
		s.memory -= int64(len(j.p.data))
		switch {
		case j.err == nil:
			j.from.proven = true
			s.useful = time.Now()
		case errors.Is(j.err, errPolluted):
			j.from.strikes++
			if s.o.Log != nil {
				s.o.Log.Warn("multicast: what was received is wrong and is thrown away", "error", j.err)
			}
			i, _ := slices.BinarySearch(todo, j.group.ord)
			todo = slices.Insert(todo, i, j.group.ord)
		default:
			return j.err
		}
		return nil
	}
	defer func() {
		for _, g := range s.joined {
			s.leave(g)
		}
		for ; working > 0 && err != nil; working-- {
			j := <-done
			s.memory -= int64(len(j.p.data))
		}
	}()
	next := time.Now()
	for len(todo) > 0 || working > 0 {
		for more := true; more; {
			select {
			case j := <-done:
				if err := takeBack(j); err != nil {
					return todo, err
				}
			default:
				more = false
			}
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(tick)
			if err := s.tick(now, todo); err != nil && working == 0 {
				return todo, err
			}
		}
		if err := s.read(ctx, next); err != nil {
			return todo, err
		}
		for _, g := range s.joined {
			if !g.full {
				continue
			}
			if j := s.whole(g); j != nil {
				working++
				jobs <- j
				if i, ok := slices.BinarySearch(todo, g.ord); ok {
					todo = slices.Delete(todo, i, i+1)
				}
			}
		}
	}
	return nil, nil
}

// whole takes the object of a full group out of the session, and leaves the group. It is
// nil if its sender was forgotten meanwhile: then the object has to be fetched again.
func (s *Session) whole(g *group) *job {
	defer s.leave(g)
	for n, p := range g.from {
		if p.left == 0 {
			delete(g.from, n)
			return &job{group: g, from: n, p: p}
		}
	}
	return nil
}

// finish decodes an object and has it accepted.
func (j *job) finish(accept func(ord uint32, object []byte) error) error {
	for _, b := range j.p.blocks {
		if err := b.Decode(); err != nil {
			return fmt.Errorf("%w: %w", errPolluted, err)
		}
	}
	return accept(j.group.ord, j.p.data[:j.p.layout.Size])
}

// leave leaves a group and forgets what has come of its object.
func (s *Session) leave(g *group) {
	s.link.Leave(g.address, s.o.Source)
	for n := range g.from {
		s.discard(g, n)
	}
	delete(s.joined, g.ord)
	s.left[g.ord] = time.Now()
}

// holdOff is how long a group that was left is not joined again: what is left and joined
// within one report the sender never hears of, and goes on where it was.
const holdOff = 200 * time.Millisecond

// tick joins what comes next, and looks whether anything comes at all.
func (s *Session) tick(now time.Time, todo []uint32) error {
	overflows := s.link.Overflows()
	if s.window.update(now, s.expected, s.got, overflows > s.overflows) {
		s.expected, s.got = 0, 0
		s.progress.Overflow += overflows - s.overflows
		s.overflows = overflows
	}
	s.progress.Joined, s.progress.Window = len(s.joined), s.window.size
	if s.o.Status != nil {
		s.o.Status(s.progress)
	}
	if err := s.alive(now); err != nil {
		return err
	}
	for ord, at := range s.left {
		if now.Sub(at) >= holdOff {
			delete(s.left, ord)
		}
	}
	counted := 0
	patience := s.patience()
	for _, g := range s.joined {
		// A report may be lost, or the sender takes us for somebody who was here before
		// and needs little more.
		switch {
		case !g.away.IsZero() && now.After(g.away):
			s.link.Join(g.address, s.o.Source)
			g.joined, g.away, g.patience = now, time.Time{}, patience
		case g.away.IsZero() && now.Sub(latest(g.joined, g.heard)) > g.patience:
			s.link.Leave(g.address, s.o.Source)
			if g.nearly() { // it waits for little: only the report is repeated
				s.link.Join(g.address, s.o.Source)
				g.joined, g.patience = now, patience
			} else {
				g.away = now.Add(holdOff)
			}
		}
		if !g.nearly() {
			counted++
		}
	}
	s.shrink(counted)
	// After the sender's cursor, going round.
	start, _ := slices.BinarySearch(todo, s.cursor()+1)
	for i := range todo {
		if counted >= s.window.size || len(s.joined) >= 2*s.window.size || len(s.joined) >= maxWindow || s.memory >= s.o.Memory {
			break
		}
		ord := todo[(start+i)%len(todo)]
		if s.joined[ord] != nil {
			continue
		}
		if _, justLeft := s.left[ord]; justLeft {
			continue
		}
		g := &group{ord: ord, address: s.address(ord), joined: now, patience: patience, from: map[*sender]*partial{}}
		if err := s.link.Join(g.address, s.o.Source); err != nil {
			if len(s.joined) == 0 {
				return fmt.Errorf("interface %s: %w", s.link.Name(), err)
			}
			break // what is joined will do for now
		}
		s.joined[ord] = g
		counted++
	}
	return nil
}

// patience returns how long a group that is joined now may have to wait until the sender
// has sent the rest of what is joined, and some more.
func (s *Session) patience() time.Duration {
	waiting := int64(0)
	for ord := range s.joined {
		waiting += max(s.max(ord), 1)
	}
	d := rejoinAfter
	if n := s.best(); n != nil && n.Rate > 0 {
		d += time.Duration(min(8*float64(waiting)/float64(n.Rate), 30) * float64(time.Second))
	}
	return d
}

// shrink leaves groups of which nothing has come if there are more than the window
// allows.
func (s *Session) shrink(counted int) {
	for _, g := range s.joined {
		if counted <= s.window.size {
			return
		}
		if len(g.from) == 0 {
			s.leave(g)
			counted--
		}
	}
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// nearly reports whether more than half of a group's object is there: it waits for
// little and does not count against the window.
func (g *group) nearly() bool {
	for _, p := range g.from {
		have, want := 0, 0
		for _, b := range p.blocks {
			have += b.Count()
			want += b.Count() + b.Need()
		}
		if 2*have > want {
			return true
		}
	}
	return false
}

// alive returns an error if there is nothing more to hope for.
func (s *Session) alive(now time.Time) error {
	var last time.Time
	bye := true
	for _, n := range s.senders {
		if n.strikes < maxStrikes && (s.only == nil || n == s.only) {
			last = latest(last, n.heard)
			bye = bye && n.bye
		}
	}
	quiet := now.Sub(last)
	switch {
	case last.IsZero():
		return fmt.Errorf("%w: none of its senders can be believed", ErrStalled)
	case quiet > silentAfter, bye && quiet > byeAfter:
		return fmt.Errorf("%w: nothing heard for %v", ErrSilent, quiet.Round(time.Second))
	}
	if (quiet > time.Second || bye) && now.After(s.rejoin) { // the report may be lost
		s.rejoin = now.Add(time.Second)
		s.link.Leave(s.control, s.o.Source)
		s.link.Join(s.control, s.o.Source)
	}
	idle := now.Sub(s.useful)
	if s.only != nil && len(s.senders) > 1 && idle > probation {
		return fmt.Errorf("%w: it has sent nothing for %v", ErrStalled, idle.Round(time.Second))
	}
	if idle > stalledMax || idle > stalledMin && now.Sub(s.moved) > stalledMin {
		return fmt.Errorf("%w: nothing of use for %v", ErrStalled, idle.Round(time.Second))
	}
	return nil
}

// Index receives the index that the channel is named after. A sender that sends
// another one costs time: then the next sender is believed.
func (s *Session) Index(ctx context.Context) (*index.Index, error) {
	defer func() { s.only = nil }()
	var errs []error
	for len(errs) < maxSenders {
		s.only = nil
		if s.only = s.best(); s.only == nil {
			break
		}
		x, err := s.indexOf(ctx, s.only)
		if err == nil {
			s.only.proven = true
			return x, s.know(x)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.only.strikes = maxStrikes
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("receive the index: %w", errors.Join(errs...))
}

// indexOf receives the index from one sender.
func (s *Session) indexOf(ctx context.Context, n *sender) (*index.Index, error) {
	space := n.Space
	pieces := make([][]byte, space.IndexPieces())
	todo := make([]uint32, len(pieces))
	for i := range todo {
		todo[i] = space.Ordinal(wire.IndexPiece, i)
	}
	var mu sync.Mutex
	none := func(uint32) int64 { return 0 }
	if _, err := s.fetch(ctx, todo, none, func(ord uint32, object []byte) error {
		_, i, _ := space.Kind(ord)
		mu.Lock()
		defer mu.Unlock()
		pieces[i] = bytes.Clone(object)
		return nil
	}); err != nil {
		return nil, err
	}
	readers := make([]io.Reader, len(pieces))
	for i, p := range pieces {
		readers[i] = bytes.NewReader(p)
	}
	x, err := index.Decode(io.MultiReader(readers...))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolluted, err)
	}
	if x.Root() != s.root {
		return nil, fmt.Errorf("%w: the index that came has root %v", errPolluted, x.Root())
	}
	return x, nil
}

// Result says what a session has brought.
type Result struct {
	Chunks int   // delivered
	Bytes  int64 // of those, plain
	Err    error // why not everything came; nil if it did
}

// Receive receives those chunks of x that want says, by their place in the order of
// first occurrence, and puts each into sink, verified, in whatever order they come and
// from several goroutines. It returns an error only if ctx ends or the sink fails; if
// chunks are missing, the result says why.
func (s *Session) Receive(ctx context.Context, x *index.Index, want func(id chunker.ID) bool, sink store.Putter) (Result, error) {
	var r Result
	if err := s.know(x); err != nil {
		r.Err = err
		return r, nil
	}
	c := s.content
	need := newNeed(c, want)
	if n := s.best(); n != nil {
		need.bucketsOnly = n.Always
	}
	var mu sync.Mutex // guards r and absent
	absent := 0
	left, err := s.fetch(ctx, need.groups(), need.limit, func(ord uint32, object []byte) error {
		return c.unpack(ord, object, func(n int, ch store.Chunk) error {
			if !need.missing.Has(n) {
				return nil
			}
			if ch.Data == nil && ch.Codec == nil {
				mu.Lock()
				defer mu.Unlock()
				absent++
				return nil
			}
			v, err := ch.Verify(x.Digest(), c.length(n))
			if err != nil {
				return fmt.Errorf("%w: %w", errPolluted, err)
			}
			if err := sink.Put(ctx, v); err != nil {
				return err
			}
			need.missing.Remove(n)
			mu.Lock()
			defer mu.Unlock()
			r.Chunks++
			r.Bytes += int64(c.length(n))
			return nil
		})
	})
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case errors.Is(err, ErrSilent), errors.Is(err, ErrStalled):
		r.Err = fmt.Errorf("%w; %d groups are missing", err, len(left))
	case err != nil:
		return r, err
	case absent > 0:
		r.Err = fmt.Errorf("the sender lacks %d chunks", absent)
	}
	if url := s.Announced().URL; r.Err != nil && url != "" {
		r.Err = fmt.Errorf("%w; it says that they can be got from %q", r.Err, url)
	}
	return r, nil
}
