package mcast

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
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
	store  atomic.Pointer[store.Getter] // of the latest offer
	symbol int                          // bytes
	packet int                          // bytes on the wire
	unique int64                        // bytes of the distinct chunks, plain
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
// go on undisturbed, with chunks from the store that is offered now.
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
			c.store.Store(&of.Store)
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
	c := &channel{number: s.numbers, root: root, wire: wire.OfRoot(root, s.o.Key), content: content, symbol: wire.SymbolFor(s.o.MTU)}
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

// find returns the object of a group; of source-specific ones several may share it.
func (s *Sender) find(group netip.Addr) iter.Seq[objectKey] {
	return func(yield func(objectKey) bool) {
		s.mu.Lock()
		some := s.byTag[tagOf(group)]
		s.mu.Unlock()
		for _, c := range some {
			ord, mine := c.wire.Ordinal(group)
			if mine && int64(ord) < int64(c.space.Total()) && group == c.wire.Group(s.o.Scope, s.o.SSM, ord) && !yield(objectKey{c, ord}) {
				return
			}
		}
	}
}

// wanted reports whether anything is sent to a group if somebody listens to it.
func (s *Sender) wanted(group netip.Addr) bool {
	for range s.find(group) {
		return true
	}
	return s.named(group) != nil
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
