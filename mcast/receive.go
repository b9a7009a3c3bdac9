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
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
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
	Scope  wire.Scope    // 0: site
	Source netip.Addr    // of the sender; valid means source-specific groups
	Index  *index.Index  // that the root names, if it is at hand; nil: it is not
	Wait   time.Duration // for the first announcement; 0: 3 s
	Memory int64         // bytes of objects on the way; 0: 256 MiB

	// MaxIndex is the size of the greatest index file to receive, which is held in memory
	// before anything tells whether it is right; 0: 1 GiB.
	MaxIndex int64

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
	provenAfter = time.Hour // without anything right, what comes of the unproven is of no use
	maxSenders  = 64
	maxStrikes  = 3
	maxOdd      = 64 // packets in a row that contradict those before
)

// Defaults of [ReceiveOptions].
const (
	receiveMemory = 256 << 20
	receiveIndex  = 1 << 30
)

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

	begun     time.Time
	heard     time.Time // when something last came from a sender
	useful    time.Time // when the last symbol of use came
	right     time.Time // when something was found right, or the session began
	moved     time.Time // when a sender's cursor last moved
	expected  int       // packets since the window was looked at
	got       int
	overflows uint64
	progress  Progress
	packets   []Packet
	max       func(ord uint32) int64 // see fetch
	rejoin    time.Time              // when to join the control group again
}

// Dial joins the channel of root on the links and waits for a sender. It returns
// ErrNoSender, wrapped, if none announces it. The links stay the caller's.
func Dial(ctx context.Context, links []ReceiverLink, root chunker.ID, o *ReceiveOptions) (*Session, error) {
	return dial(ctx, links, root, o, nil)
}

// dial is Dial with what is known of the content of the index; nil: nothing.
func dial(ctx context.Context, links []ReceiverLink, root chunker.ID, o *ReceiveOptions, c *content) (*Session, error) {
	s := &Session{root: root, content: c, senders: map[senderKey]*sender{}, joined: map[uint32]*group{}, left: map[uint32]time.Time{}, window: newWindow()}
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
	if s.o.MaxIndex <= 0 {
		s.o.MaxIndex = receiveIndex
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
	s.overflows = s.link.Overflows()
	s.right = time.Now()
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
	s.begun = time.Now()
	end := s.begun.Add(s.o.Wait)
	again := s.begun.Add(time.Second)
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
		if g == nil || n == nil || g.full || p.Group != g.address || !s.believed(n) || n.lacks[g.ord] {
			return
		}
		if symbol, err := n.open(h, p.Data); err == nil && len(symbol) == n.Symbol {
			s.symbol(now, g, n, h, symbol)
		}
	}
}

// Index receives the index that the channel is named after. A sender that sends
// another one costs time: then the next sender is believed.
func (s *Session) Index(ctx context.Context) (*index.Index, error) {
	defer func() { s.only = nil }()
	var errs []error
	for len(errs) < maxSenders {
		if err := s.awaitSender(ctx); err != nil {
			return nil, err
		}
		if s.only = s.best(); s.only == nil {
			break
		}
		x, err := s.indexOf(ctx, s.only)
		if err == nil {
			s.only.proven, s.right = true, time.Now()
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

// awaitSender waits until there is a sender that can be believed, but not longer than for
// the first announcement: who has sent what is wrong may have been quicker than others.
func (s *Session) awaitSender(ctx context.Context) error {
	s.only = nil
	for s.best() == nil && !s.waited(time.Now()) {
		if err := s.read(ctx, time.Now().Add(tick)); err != nil {
			return err
		}
	}
	return nil
}

// waited reports whether the time has passed in which senders have to announce themselves.
func (s *Session) waited(now time.Time) bool { return now.Sub(s.begun) > s.o.Wait }

// indexOf receives the index from one sender.
func (s *Session) indexOf(ctx context.Context, n *sender) (*index.Index, error) {
	space := n.Space
	if space.IndexBytes > s.o.MaxIndex {
		return nil, fmt.Errorf("an index of %d bytes, more than %d, is not received: get it otherwise", space.IndexBytes, s.o.MaxIndex)
	}
	pieces := make([][]byte, space.IndexPieces())
	todo := make([]uint32, len(pieces))
	for i := range todo {
		todo[i] = space.Ordinal(wire.IndexPiece, i)
	}
	var mu sync.Mutex
	none := func(uint32) int64 { return 0 }
	if _, err := s.fetch(ctx, todo, none, func(ord uint32, object []byte) (v verdict, err error) {
		_, i, _ := space.Kind(ord)
		mu.Lock()
		defer mu.Unlock()
		pieces[i] = bytes.Clone(object)
		return v, nil // all of them together will tell
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
// from several goroutines. Want is asked about each before that. It returns an error only
// if ctx ends or the sink fails; if chunks are missing, the result says why.
func (s *Session) Receive(ctx context.Context, x *index.Index, want func(id chunker.ID) bool, sink store.Putter) (Result, error) {
	if err := s.know(x); err != nil {
		return Result{Err: err}, nil
	}
	return s.receive(ctx, newNeed(s.content, want), sink)
}

// receive receives what need says.
func (s *Session) receive(ctx context.Context, need *need, sink store.Putter) (r Result, err error) {
	s.learn(need.content)
	c := need.content
	if n := s.best(); n != nil {
		need.bucketsOnly = n.Always
	}
	var mu sync.Mutex // guards r
	left, err := s.fetch(ctx, need.groups(), need.limit, func(ord uint32, object []byte) (found verdict, err error) {
		err = c.unpack(ord, object, func(n int, ch store.Chunk) error {
			if !need.missing.Has(n) {
				return nil
			}
			if ch.Data == nil && ch.Codec == nil {
				found.lacks = true
				return nil
			}
			v, err := ch.Verify(c.index.Digest(), c.length(n))
			if err != nil {
				return fmt.Errorf("%w: %w", errPolluted, err)
			}
			if err := sink.Put(ctx, v); err != nil {
				return err
			}
			found.right = true
			need.missing.Remove(n)
			mu.Lock()
			defer mu.Unlock()
			r.Chunks++
			r.Bytes += int64(c.length(n))
			return nil
		})
		return found, err
	})
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	case errors.Is(err, ErrSilent), errors.Is(err, ErrStalled):
		r.Err = fmt.Errorf("%w; %d groups are missing", err, len(left))
	case err != nil:
		return r, err
	case need.missing.Count() > 0:
		r.Err = fmt.Errorf("the sender lacks %d chunks", need.missing.Count())
	}
	if url := s.Announced().URL; r.Err != nil && url != "" {
		r.Err = fmt.Errorf("%w; it says that they can be got from %q", r.Err, url)
	}
	return r, nil
}
