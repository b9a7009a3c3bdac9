package mcast

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testns"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// These tests run senders and receivers over real sockets, each on a host of its own at
// a bridge. See memnet_test.go for those over a network in memory.

// inNet runs test in namespaces of its own, beside one other test.
func inNet(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	testns.Run(t, test)
}

// heavy leaves a test out of short runs, which are those with the race detector.
func heavy(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes many seconds")
	}
}

const mbit = 1e6 / 8 // bytes a second

// hostLink is a Link in the namespace of a host.
type hostLink struct {
	*Link
	host *testns.Host
	cut  atomic.Bool // what is sent goes nowhere
}

func (l *hostLink) Listen(ctx context.Context, wanted func(netip.Addr) bool, event func(mld.Event)) (err error) {
	l.host.Do(func() { err = l.Link.Listen(ctx, wanted, event) })
	return err
}

func (l *hostLink) Send(group netip.Addr, b []byte, size int) error {
	if l.cut.Load() {
		return nil
	}
	return l.Link.Send(group, b, size)
}

// caster is a sender that runs on a host.
type caster struct {
	*Sender
	link   *hostLink
	cancel context.CancelFunc
	ended  chan struct{}
}

// castOn starts a sender, which runs until the end of the test.
func castOn(t *testing.T, h *testns.Host, lo LinkOptions, so SendOptions, offers ...Offer) *caster {
	t.Helper()
	ifi := h.Interface()
	c := &caster{link: &hostLink{host: h}, ended: make(chan struct{})}
	var err error
	h.Do(func() { c.link.Link, err = OpenLink(*ifi, lo) })
	if err != nil {
		t.Fatal(err)
	}
	c.Sender = NewSender([]SenderLink{c.link}, &so)
	if err := c.SetOffers(offers); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() {
		defer close(c.ended)
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("sender: %v", err)
		}
		c.link.Close()
	}()
	t.Cleanup(c.stop)
	return c
}

// stop ends the sender, which says so.
func (c *caster) stop() {
	c.cancel()
	<-c.ended
}

// kill ends the sender, which has no time to say so.
func (c *caster) kill() {
	c.link.cut.Store(true)
	c.stop()
}

// hostTap is a Tap of a host, which takes down what is joined.
type hostTap struct {
	*Tap
	mu     sync.Mutex
	joined map[netip.Addr]bool // now
	ever   map[netip.Addr]int  // how often
	most   int                 // at once
}

func (p *hostTap) Join(group, source netip.Addr) error {
	err := p.Tap.Join(group, source)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.joined[group] = true
		p.ever[group]++
		p.most = max(p.most, len(p.joined))
	}
	return err
}

func (p *hostTap) Leave(group, source netip.Addr) error {
	p.mu.Lock()
	delete(p.joined, group)
	p.mu.Unlock()
	return p.Tap.Leave(group, source)
}

// taker is a receiver on a host.
type taker struct {
	t     *testing.T
	name  string
	host  *testns.Host
	tap   *hostTap
	x     *index.Index
	store *storetest.Memory
	o     ReceiveOptions

	cancel   context.CancelFunc
	count    atomic.Int64 // chunks put
	done     chan struct{}
	err      error // these when done
	result   Result
	progress Progress
	took     time.Duration
}

// takeOn starts a receiver of x, with an empty store.
func takeOn(t *testing.T, h *testns.Host, x *index.Index, o ReceiveOptions) *taker {
	t.Helper()
	return takeInto(t, h, x, &storetest.Memory{}, o)
}

// takeInto starts a receiver of what a store lacks of x. It is given no index.
func takeInto(t *testing.T, h *testns.Host, x *index.Index, m *storetest.Memory, o ReceiveOptions) *taker {
	t.Helper()
	k := newTaker(t, h, x, m, o)
	k.start()
	return k
}

func newTaker(t *testing.T, h *testns.Host, x *index.Index, m *storetest.Memory, o ReceiveOptions) *taker {
	t.Helper()
	k := &taker{t: t, name: h.Port, host: h, x: x, store: m, o: o, done: make(chan struct{})}
	k.tap = tapOn(t, h)
	return k
}

func tapOn(t *testing.T, h *testns.Host) *hostTap {
	t.Helper()
	p, err := openTap(h, h.Interface())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func openTap(h *testns.Host, ifi *net.Interface) (p *hostTap, err error) {
	p = &hostTap{joined: map[netip.Addr]bool{}, ever: map[netip.Addr]int{}}
	h.Do(func() { p.Tap, err = OpenTap(*ifi, 0) })
	return p, err
}

func (k *taker) start() {
	ctx, cancel := context.WithCancel(k.t.Context())
	k.cancel = cancel
	begin := time.Now()
	go func() {
		defer close(k.done)
		defer cancel()
		k.err = k.receive(ctx)
		k.took = time.Since(begin)
	}()
	k.t.Cleanup(func() { cancel(); <-k.done })
}

func (k *taker) receive(ctx context.Context) error {
	s, err := Dial(ctx, []ReceiverLink{k.tap}, k.x.Root(), &k.o)
	if err != nil {
		return err
	}
	defer s.Close()
	x, err := s.Index(ctx)
	if err != nil {
		return err
	}
	k.result, err = s.Receive(ctx, x, k.lacks, k)
	k.progress = s.progress
	return err
}

func (k *taker) lacks(id chunker.ID) bool {
	has, _ := k.store.Has(context.Background(), id)
	return !has
}

// Put implements store.Putter.
func (k *taker) Put(ctx context.Context, c store.Chunk) error {
	defer k.count.Add(1)
	return k.store.Put(ctx, c)
}

// patience is how long a receiver may take on a machine that has much else to do.
const patience = 40 * time.Second

func (k *taker) wait() {
	k.t.Helper()
	select {
	case <-k.done:
	case <-time.After(patience):
		k.t.Fatalf("%s: not done after %v: %d chunks", k.name, patience, k.count.Load())
	}
}

// until waits until the receiver has n chunks.
func (k *taker) until(n int) {
	k.t.Helper()
	for end := time.Now().Add(patience); k.count.Load() < int64(n); time.Sleep(time.Millisecond) {
		select {
		case <-k.done:
			k.t.Fatalf("%s: ended with %d chunks: %+v, %v", k.name, k.count.Load(), k.result, k.err)
		default:
		}
		if time.Now().After(end) {
			k.t.Fatalf("%s: %d chunks after %v, want %d", k.name, k.count.Load(), patience, n)
		}
	}
}

// right waits for the receiver and sees that it has everything, and nothing joined.
func (k *taker) right() {
	k.t.Helper()
	k.wait()
	if k.err != nil || k.result.Err != nil {
		k.t.Fatalf("%s: %+v, %v", k.name, k.result, k.err)
	}
	k.whole()
	if n := len(k.tap.joined); n != 0 {
		k.t.Errorf("%s: still in %d groups", k.name, n)
	}
	for g := range k.host.Groups() {
		if g.As16()[1]&15 == byte(wire.SiteScope) {
			k.t.Errorf("%s: the kernel still has it in %v", k.name, g)
		}
	}
	k.t.Logf("%s: %d chunks, %.2f MiB in %v; received %.2f MiB, lost %d packets, at most %d groups", k.name, k.result.Chunks,
		float64(k.result.Bytes)/(1<<20), k.took.Round(time.Millisecond), float64(k.progress.Bytes)/(1<<20), k.progress.Lost, k.tap.most)
}

// whole sees that the store has every chunk right.
func (k *taker) whole() {
	k.t.Helper()
	if err := checkChunks(k.x, k.store, false); err != nil {
		k.t.Fatalf("%s: %v", k.name, err)
	}
}

// checkChunks returns an error unless m has every chunk of x right; some may be missing.
func checkChunks(x *index.Index, m *storetest.Memory, some bool) error {
	for i, e := range x.Entries {
		c, err := m.Get(context.Background(), e.ID)
		if some && store.Missing(err) {
			continue
		}
		if err == nil {
			_, err = c.Verify(x.Digest(), x.Len(i))
		}
		if err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	return nil
}

// fails waits for the receiver and sees that it got nothing, for the reason given.
func (k *taker) fails(want error) {
	k.t.Helper()
	k.wait()
	err := errors.Join(k.err, k.result.Err)
	if !errors.Is(err, want) {
		k.t.Errorf("%s: got %v, want %v", k.name, err, want)
	}
	k.t.Logf("%s: %v after %v", k.name, err, k.took.Round(time.Millisecond))
}

// bridgeThatPrunes returns a bridge that knows at once who is a member of what. A querier
// would wait 10 s for the answers to its first query.
func bridgeThatPrunes(t *testing.T) *testns.Bridge {
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true})
	b.Exec("ip", "link", "set", "br0", "type", "bridge", "mcast_query_response_interval", "10") // 0.1 s
	b.Exec("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "1")
	return b
}

// hostsOn connects n hosts with numbers behind their names.
func hostsOn(b *testns.Bridge, name string, n int) []*testns.Host {
	all := make([]*testns.Host, n)
	for i := range all {
		all[i] = b.Host(fmt.Sprint(name, i+1))
	}
	return all
}

// serverOn connects a host that says nothing of itself: the kernel of a host looks for
// routers.
func serverOn(b *testns.Bridge, name string) *testns.Host {
	h := b.Host(name)
	h.Exec("sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_ra=0", "net.ipv6.conf.eth0.router_solicitations=0")
	return h
}

// sentAtMost reports what a sender has sent for each byte of x.
func sentAtMost(t *testing.T, c *caster, x *index.Index, most float64) {
	t.Helper()
	ratio := float64(c.Status().Bytes) / float64(x.Size())
	t.Logf("sent %.3f× the content", ratio)
	if ratio > most {
		t.Errorf("sent %.3f× the content, want at most %.2f×", ratio, most)
	}
}

// TestNetSnooping sends to four receivers, one of them late, through a bridge that
// forwards to members only, if it knows them: for that it needs a querier.
func TestNetSnooping(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 16<<20, 1)
		for _, tt := range []struct {
			name     string
			bridge   func(t *testing.T) *testns.Bridge
			prunes   bool  // the bridge knows who is a member
			mldSends int64 // packets of the sender's host afterwards: the kernel's answers to queries
		}{
			{"querier", bridgeThatPrunes, true, 8},
			{"no querier", func(t *testing.T) *testns.Bridge { return testns.NewBridge(t, testns.BridgeOptions{Snooping: true}) }, false, 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				b := tt.bridge(t)
				h := serverOn(b, "server")
				rs := hostsOn(b, "receiver", 4)
				bystander := b.Host("bystander")
				c := castOn(t, h, LinkOptions{NoQuerier: true}, SendOptions{Rate: 100 * mbit}, Offer{x, m})
				time.Sleep(1500 * time.Millisecond) // the kernel's reports come twice
				idle, before := h.Sent(), bystander.Received()
				var ks []*taker
				for _, r := range rs[:3] {
					ks = append(ks, takeOn(t, r, x, ReceiveOptions{}))
				}
				ks[0].until(len(x.Entries) / 4)
				ks = append(ks, takeOn(t, rs[3], x, ReceiveOptions{}))
				for _, k := range ks {
					k.right()
				}
				// The late one needs what it has missed once more, and of the objects that
				// it came in the middle of some more than was missed.
				sentAtMost(t, c, x, 1.95)
				if n := bystander.Received().Sub(before).Bytes; tt.prunes && n > 100_000 {
					t.Errorf("%d bytes came to a host that is no member", n)
				}
				if n := h.Sent().Sub(idle).Bytes; n < x.Size() {
					t.Errorf("the host has sent %d bytes only", n)
				}
				// Silence, after the reports of the leaves have come twice.
				time.Sleep(time.Second)
				before = h.Sent()
				time.Sleep(2500 * time.Millisecond)
				if n := h.Sent().Sub(before).Packets; n > tt.mldSends {
					t.Errorf("%d packets though nobody listens, want at most %d", n, tt.mldSends)
				}
				if s := c.Status(); s.Listeners != 0 || s.Objects != 0 || s.Errors != 0 {
					t.Errorf("status %+v", s)
				}
			})
		}
	})
}

// sampleGroups collects the groups of a host that the kernel knows, until stop is called.
func sampleGroups(h *testns.Host) (stop func() map[netip.Addr]bool) {
	seen := map[netip.Addr]bool{}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for g := range h.Groups() {
				if g.As16()[1]&15 == byte(wire.SiteScope) {
					seen[g] = true
				}
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() map[netip.Addr]bool { close(done); <-ended; return seen }
}

// TestNetCaches sees that a receiver joins the groups of what it lacks, and no others.
func TestNetCaches(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 24<<20, 2)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 100 * mbit}, Offer{x, m})
		content, err := newContent(x, c.offered()[0].space.Level)
		if err != nil {
			t.Fatal(err)
		}
		channel := wire.OfRoot(x.Root(), nil)
		for i, percent := range []int{0, 50, 99, 100} {
			h := b.Host(fmt.Sprint("receiver", percent))
			for _, known := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %% cached, index known %v", percent, known), func(t *testing.T) {
					cache := partOf(t, content, m, percent, uint64(i))
					missing := missingBytes(content, cache)
					k := newTaker(t, h, x, cache, ReceiveOptions{})
					lacks := map[int]bool{}
					for n := range content.space.Chunks {
						if has, _ := cache.Has(t.Context(), content.id(n)); !has {
							lacks[n] = true
						}
					}
					before := c.Status().Bytes
					stop := sampleGroups(h)
					if known {
						k.takeKnown()
					} else {
						k.start()
					}
					k.right()
					seen := stop()
					for g := range seen {
						if k.tap.ever[g] == 0 {
							t.Errorf("the kernel saw a group that was not joined: %v", g)
						}
					}
					wanted := checkJoined(t, content, channel, k.tap, lacks, !known)
					if known && percent == 100 && len(k.tap.ever) != 0 {
						t.Errorf("joined %d groups and lacked nothing", len(k.tap.ever))
					}
					if k.tap.most > maxWindow+1 {
						t.Errorf("%d groups at once", k.tap.most)
					}
					settled(t, c)
					// Where half of a bucket is missing it is sent whole. Besides there are
					// headers, announcements and, if it is asked for, the index.
					got, most := c.Status().Bytes-before, 1.15*float64(wanted)+60_000
					t.Logf("%d of %d chunks lacking, %d groups joined, %d of them seen in /proc; sent %.2f MiB for %.2f MiB, %.2f MiB with the rest of buckets",
						len(lacks), content.space.Chunks, len(k.tap.ever), len(seen), float64(got)/(1<<20), float64(missing)/(1<<20), float64(wanted)/(1<<20))
					if float64(got) > most {
						t.Errorf("sent %d bytes, want at most %.0f", got, most)
					}
				})
			}
		}
	})
}

// takeKnown receives as a store does for a plan: the index is at hand.
func (k *taker) takeKnown() {
	begin := time.Now()
	defer close(k.done)
	s := &Source{Loc: "mcast://", Root: k.x.Root(), Links: []ReceiverLink{k.tap}, Index: k.x, Alone: true, Options: k.o}
	defer s.Close()
	k.err = store.Deliver(k.t.Context(), s, k.lacks, k)
	k.result, k.took = s.result, time.Since(begin)
	if s.session != nil {
		k.progress = s.session.progress
	}
	if s.failed != nil {
		k.err = s.failed
	}
}

// partOf returns a store with a random part of the chunks, in percent.
func partOf(t *testing.T, c *content, from store.Getter, percent int, seed uint64) *storetest.Memory {
	t.Helper()
	m := &storetest.Memory{}
	r := mathrand.New(mathrand.NewPCG(seed, 1))
	for _, n := range r.Perm(c.space.Chunks)[:c.space.Chunks*percent/100] {
		ch, err := from.Get(t.Context(), c.id(n))
		if err == nil {
			err = m.Put(t.Context(), ch)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func missingBytes(c *content, m *storetest.Memory) (n int64) {
	for i := range c.space.Chunks {
		if has, _ := m.Has(context.Background(), c.id(i)); !has {
			n += int64(c.length(i))
		}
	}
	return n
}

// checkJoined sees that what was joined brings every lacking chunk once, by buckets of
// which at least half of the bytes are lacking and else one by one; and besides only the
// control group and the pieces of the index. It returns the bytes of all that.
func checkJoined(t *testing.T, c *content, channel wire.Channel, p *hostTap, lacks map[int]bool, withIndex bool) (bytes int64) {
	t.Helper()
	covered := map[int]int{}
	for g := range p.ever {
		ord, ok := channel.Ordinal(g)
		if !ok {
			t.Errorf("joined %v, which is not of the channel", g)
			continue
		}
		kind, _, ok := c.space.Kind(ord)
		if !ok || kind == wire.IndexPiece && !withIndex {
			t.Errorf("joined group %d, %v", ord, kind)
		}
		bytes += c.bytes(ord)
		lacking := int64(0)
		from, to := c.space.ChunkRange(ord)
		for n := from; n < to; n++ {
			covered[n]++
			if lacks[n] {
				lacking += int64(c.length(n))
			}
		}
		if to > from && 2*lacking < c.bytes(ord) {
			t.Errorf("joined %v %d, of which %d bytes of %d lack", kind, ord, lacking, c.bytes(ord))
		}
	}
	for n := range lacks {
		if covered[n] != 1 {
			t.Errorf("chunk %d is in %d groups that were joined, want 1", n, covered[n])
		}
	}
	return bytes
}

// settled waits until nobody listens to the sender.
func settled(t *testing.T, c *caster) {
	t.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if s := c.Status(); s.Listeners == 0 && s.Objects == 0 {
			return
		} else if time.Now().After(end) {
			t.Errorf("after 2 s there are still listeners: %+v", s)
			return
		}
	}
}

// TestNetPause has a receiver do something else between the index and the chunks, as
// one does that looks at its seeds.
func TestNetPause(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 3)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
		k := newTaker(t, b.Host("receiver"), x, &storetest.Memory{}, ReceiveOptions{})
		s := &Source{Loc: "mcast://", Root: x.Root(), Links: []ReceiverLink{k.tap}, Alone: true}
		defer s.Close()
		got, err := s.ReceiveIndex(t.Context())
		if err != nil || got.Root() != x.Root() {
			t.Fatalf("index %v, %v", got, err)
		}
		time.Sleep(max(silentAfter, stalledMin) + 500*time.Millisecond)
		if err := s.Deliver(t.Context(), k.lacks, k.store); err != nil || s.failed != nil {
			t.Fatalf("%v, %v", err, s.failed)
		}
		k.whole()
	})
}

// TestNetSenderRestart kills the sender in the middle and has another one go on.
func TestNetSenderRestart(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 8<<20, 4)
		for _, tt := range []struct {
			name string
			rate float64 // of the second
		}{
			{"same rate", 60 * mbit},
			{"other rate", 700 * mbit},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
				h := serverOn(b, "server")
				c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
				var ks []*taker
				for _, r := range hostsOn(b, "receiver", 2) {
					ks = append(ks, takeOn(t, r, x, ReceiveOptions{}))
				}
				ks[0].until(len(x.Entries) / 3)
				c.kill()
				time.Sleep(500 * time.Millisecond)
				castOn(t, h, LinkOptions{}, SendOptions{Rate: tt.rate}, Offer{x, m})
				for _, k := range ks {
					k.right()
				}
			})
		}
	})
}

// TestNetSenderGone ends the sender in the middle for good.
func TestNetSenderGone(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 8<<20, 5)
		for _, tt := range []struct {
			name     string
			stop     func(*caster)
			min, max time.Duration
		}{
			{"killed", (*caster).kill, silentAfter - 200*time.Millisecond, silentAfter + 2*time.Second},
			{"stopped", (*caster).stop, byeAfter - 200*time.Millisecond, byeAfter + time.Second},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
				c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 40 * mbit}, Offer{x, m})
				k := takeOn(t, b.Host("receiver"), x, ReceiveOptions{})
				k.until(len(x.Entries) / 3)
				tt.stop(c)
				at := time.Now()
				k.fails(ErrSilent)
				if took := time.Since(at); took < tt.min || took > tt.max {
					t.Errorf("noticed after %v, want %v to %v", took, tt.min, tt.max)
				}
				if k.result.Chunks < len(x.Entries)/3 || k.result.Chunks != k.store.Len() {
					t.Errorf("result %+v, %d chunks stored", k.result, k.store.Len())
				}
			})
		}
	})
}

// TestNetVanished has a host vanish without a word while it waits for more than the
// sender may hold in memory; others are not to suffer.
func TestNetVanished(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 16<<20, 18)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 60 * mbit, Memory: 4 << 20}, Offer{x, m})
		first := takeOn(t, b.Host("first"), x, ReceiveOptions{})
		first.until(len(x.Entries) / 8)
		b.Exec("ip", "link", "set", first.host.Port, "down")
		first.fails(ErrSilent)
		t.Logf("believed to listen: %d hosts, to %d objects", c.Status().Listeners, c.Status().Objects)
		second := takeOn(t, b.Host("second"), x, ReceiveOptions{})
		second.right()
		if ideal := float64(x.Size()) / (60 * mbit); second.took.Seconds() > 2*ideal+2 {
			t.Errorf("took %v, where alone it would be %.1f s", second.took, ideal)
		}
	})
}

// TestNetReceiverRestart kills a receiver in the middle and runs it again.
func TestNetReceiverRestart(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 16<<20, 6)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 80 * mbit}, Offer{x, m})
		h := b.Host("receiver")
		first := takeOn(t, h, x, ReceiveOptions{})
		first.until(len(x.Entries) / 2)
		first.cancel()
		first.wait()
		if !errors.Is(first.err, context.Canceled) {
			t.Errorf("first: %v", first.err)
		}
		first.tap.Close()
		had := first.store.Len()
		second := takeInto(t, h, x, first.store, ReceiveOptions{})
		second.right()
		if all := len(x.Entries); second.result.Chunks != all-had || had < all/2 {
			t.Errorf("%d chunks, then %d, of %d", had, second.result.Chunks, all)
		}
		sentAtMost(t, c, x, 1.35)
	})
}

// TestNetLoss loses packets, at each receiver others.
func TestNetLoss(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 16<<20, 7)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		h := serverOn(b, "server")
		h.SplitSegments()
		rs := hostsOn(b, "receiver", 4)
		for _, tt := range []struct{ percent, most float64 }{{1, 1.4}, {5, 1.6}, {20, 3.2}} {
			t.Run(fmt.Sprint(tt.percent), func(t *testing.T) {
				c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 100 * mbit}, Offer{x, m})
				for _, r := range rs {
					r.Loss(tt.percent) // which takes a moment
				}
				var ks []*taker
				for _, r := range rs {
					ks = append(ks, takeOn(t, r, x, ReceiveOptions{}))
				}
				for _, k := range ks {
					k.right()
				}
				sentAtMost(t, c, x, tt.most)
			})
		}
	})
}

// TestNetSlowReceiver has a receiver at a third of the rate beside fast ones, which do
// not wait for it.
func TestNetSlowReceiver(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 8<<20, 8)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		h := serverOn(b, "server")
		h.SplitSegments()
		c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
		slow := b.Host("slow")
		slow.Rate(20e6)
		ks := []*taker{takeOn(t, slow, x, ReceiveOptions{})}
		for _, r := range hostsOn(b, "fast", 3) {
			ks = append(ks, takeOn(t, r, x, ReceiveOptions{}))
		}
		for _, k := range ks {
			k.right()
		}
		ideal := float64(x.Size()) / (60 * mbit)
		for _, k := range ks[1:] {
			if s := k.took.Seconds(); s > 4*ideal+1 {
				t.Errorf("%s took %.1f s, where alone it would be %.1f s", k.name, s, ideal)
			}
		}
		sentAtMost(t, c, x, 6)
	})
}

// TestNetTwoSenders has two senders of one index, at different rates and so with
// different buckets, of which one is killed in the middle.
func TestNetTwoSenders(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 8<<20, 9)
		for _, rates := range [][2]float64{{40 * mbit, 40 * mbit}, {40 * mbit, 700 * mbit}} {
			for killed := range 2 {
				t.Run(fmt.Sprintf("%v and %v Mbit, %d killed", rates[0]/mbit, rates[1]/mbit, killed+1), func(t *testing.T) {
					b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
					var cs []*caster
					for i, rate := range rates {
						cs = append(cs, castOn(t, serverOn(b, fmt.Sprint("server", i)), LinkOptions{}, SendOptions{Rate: rate}, Offer{x, m}))
					}
					var ks []*taker
					for _, r := range hostsOn(b, "receiver", 2) {
						ks = append(ks, takeOn(t, r, x, ReceiveOptions{}))
					}
					ks[0].until(len(x.Entries) / 4)
					cs[killed].kill()
					for _, k := range ks {
						k.right()
					}
				})
			}
		}
	})
}

// TestNetTwoIndexes sends two indexes, one of which one host wants, the other another
// one, and both a third.
func TestNetTwoIndexes(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 10)
		y, n := noise(t, 4<<20, 11)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 80 * mbit}, Offer{x, m}, Offer{y, n})
		both := b.Host("both")
		ks := []*taker{
			takeOn(t, b.Host("first"), x, ReceiveOptions{}), takeOn(t, b.Host("second"), y, ReceiveOptions{}),
			takeOn(t, both, x, ReceiveOptions{}), takeOn(t, both, y, ReceiveOptions{}),
		}
		for _, k := range ks {
			k.wait()
		}
		for _, k := range ks {
			k.right()
		}
		settled(t, c)
		for _, ch := range c.Status().Channels {
			if r := float64(ch.Bytes) / float64(ch.Unique); ch.Unique == 0 || r < 1 || r > 1.6 {
				t.Errorf("channel %+v: %.2f×", ch, r)
			}
		}
		// One of them is offered no more, and a third one is.
		z, o := noise(t, 4<<20, 12)
		if err := c.SetOffers([]Offer{{y, n}, {z, o}}); err != nil {
			t.Fatal(err)
		}
		gone := takeOn(t, both, x, ReceiveOptions{Wait: time.Second})
		late := takeOn(t, b.Host("third"), z, ReceiveOptions{})
		late.right()
		gone.fails(ErrNoSender)
	})
}

// TestNetFair has receivers of a small index come while the sender is busy with a large
// one for long: they are not to wait for its end.
func TestNetFair(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 24<<20, 19)
		y, n := noise(t, 1<<20, 20)
		for _, order := range [][]Offer{{{x, m}, {y, n}}, {{y, n}, {x, m}}} {
			t.Run(fmt.Sprintf("the small one is number %d", slices.IndexFunc(order, func(o Offer) bool { return o.Index == y })), func(t *testing.T) {
				t.Parallel()
				b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
				castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 25 * mbit}, order...)
				large := takeOn(t, b.Host("large"), x, ReceiveOptions{})
				large.until(len(x.Entries) / 16)
				small := takeOn(t, b.Host("small"), y, ReceiveOptions{})
				small.right()
				select {
				case <-large.done:
					t.Errorf("the small one came last, after %v", small.took)
				default:
				}
				if ideal := float64(y.Size()) / (25 * mbit); small.took.Seconds() > 8*ideal+1 {
					t.Errorf("took %v, where alone it would be %.1f s", small.took, ideal)
				}
			})
		}
	})
}

// TestNetKey sends with a key and without, to receivers that have it, another one or
// none.
func TestNetKey(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 13)
		var key, other wire.Key
		rand.Read(key[:])
		rand.Read(other[:])
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		sealed, open := serverOn(b, "sealed"), serverOn(b, "open")
		rs := hostsOn(b, "receiver", 3)
		c := castOn(t, sealed, LinkOptions{}, SendOptions{Rate: 60 * mbit, Key: &key}, Offer{x, m})
		ks := []*taker{
			takeOn(t, rs[0], x, ReceiveOptions{Key: &key}),
			takeOn(t, rs[1], x, ReceiveOptions{Key: &other, Wait: 1500 * time.Millisecond}),
			takeOn(t, rs[2], x, ReceiveOptions{Wait: 1500 * time.Millisecond}),
		}
		ks[0].right()
		ks[1].fails(ErrNoSender)
		ks[2].fails(ErrNoSender)
		settled(t, c)
		castOn(t, open, LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
		ks = []*taker{
			takeOn(t, rs[0], x, ReceiveOptions{Key: &key}), takeOn(t, rs[2], x, ReceiveOptions{}),
			takeOn(t, rs[1], x, ReceiveOptions{Key: &other, Wait: 1500 * time.Millisecond}),
		}
		ks[0].right()
		ks[1].right()
		ks[2].fails(ErrNoSender)
	})
}

// TestNetSource sends in source-specific groups, to receivers that name the source,
// another one or none; a second sender has the same index and another address.
func TestNetSource(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 14)
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		one, two := serverOn(b, "one"), serverOn(b, "two")
		for _, tt := range []struct{ name, addr string }{{"link-local", one.Addr.String()}, {"global", "2001:db8::1"}} {
			t.Run(tt.name, func(t *testing.T) {
				source := netip.MustParseAddr(tt.addr)
				if !source.IsLinkLocalUnicast() {
					one.Exec("ip", "addr", "add", tt.addr+"/64", "dev", "eth0", "nodad")
				}
				c := castOn(t, one, LinkOptions{Source: source}, SendOptions{Rate: 60 * mbit, SSM: true}, Offer{x, m})
				d := castOn(t, two, LinkOptions{Source: two.Addr}, SendOptions{Rate: 60 * mbit, SSM: true}, Offer{x, m})
				rs := hostsOn(b, "r"+tt.name[:4], 3)
				ks := []*taker{
					takeOn(t, rs[0], x, ReceiveOptions{Source: source}),
					takeOn(t, rs[1], x, ReceiveOptions{Source: netip.MustParseAddr("fe80::77"), Wait: 1500 * time.Millisecond}),
					takeOn(t, rs[2], x, ReceiveOptions{Wait: 1500 * time.Millisecond}),
				}
				ks[0].right()
				ks[1].fails(ErrNoSender)
				ks[2].fails(ErrNoSender)
				sentAtMost(t, c, x, 1.3)
				if s := d.Status(); s.Packets != 0 {
					t.Errorf("the other sender sent, too: %+v", s)
				}
			})
		}
	})
}

// TestNetAlways sends round and round without hearing anybody.
func TestNetAlways(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 15)
		b := testns.NewBridge(t, testns.BridgeOptions{})
		h := serverOn(b, "server")
		c := castOn(t, h, LinkOptions{Listeners: HearNone}, SendOptions{Rate: 60 * mbit, Always: true}, Offer{x, m})
		for end := time.Now().Add(10 * time.Second); c.Status().Bytes < x.Size()/2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("status %+v", c.Status())
			}
		}
		for _, k := range []*taker{takeOn(t, b.Host("one"), x, ReceiveOptions{}), takeOn(t, b.Host("two"), x, ReceiveOptions{})} {
			k.right()
		}
		cache, err := newContent(x, 0)
		if err != nil {
			t.Fatal(err)
		}
		// What is needed one by one comes, too.
		takeInto(t, b.Host("three"), x, partOf(t, cache, m, 95, 1), ReceiveOptions{}).right()
	})
}

// hostile is a host that sends whatever it likes.
type hostile struct {
	t       *testing.T
	fd      int
	ifIndex int
	random  *mathrand.Rand
}

func newHostile(t *testing.T, h *testns.Host) *hostile {
	t.Helper()
	e := &hostile{t: t, ifIndex: h.Interface().Index, random: mathrand.New(mathrand.NewPCG(1, 2))}
	var err error
	h.Do(func() { e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(e.fd) })
	return e
}

// frame sends an IPv6 packet: headers is what is before the upper layer's.
func (e *hostile) frame(from, to netip.Addr, hops, next byte, payload []byte) {
	src, dst := from.As16(), to.As16()
	b := append([]byte{0x33, 0x33}, dst[12:]...)
	b = append(b, 2, 0, 0, 0, 0, 0x66, 0x86, 0xdd, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, hops)
	b = append(append(append(b, src[:]...), dst[:]...), payload...)
	unix.Sendto(e.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: e.ifIndex}) // what is dropped is dropped
}

// checksum fills in the checksum of the upper layer, which is at b[at:].
func checksum(from, to netip.Addr, next byte, b []byte, at int) {
	src, dst := from.As16(), to.As16()
	p := slices.Concat(src[:], dst[:], binary.BigEndian.AppendUint32(nil, uint32(len(b))), []byte{0, 0, 0, next}, b, make([]byte, len(b)%2))
	sum := uint32(0)
	for ; len(p) > 0; p = p[2:] {
		sum += uint32(binary.BigEndian.Uint16(p))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		sum = 0 // for UDP no checksum is no packet
	}
	binary.BigEndian.PutUint16(b[at:], ^uint16(sum))
}

// report sends a listener report.
func (e *hostile) report(from netip.Addr, rs ...mld.Record) {
	to := netip.MustParseAddr("ff02::16")
	m := mld.AppendReport(nil, rs)
	checksum(from, to, unix.IPPROTO_ICMPV6, m, 2)
	e.frame(from, to, 1, unix.IPPROTO_HOPOPTS, append([]byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}, m...))
}

// udp sends a packet to the port of channels.
func (e *hostile) udp(from, to netip.Addr, data []byte) {
	b := binary.BigEndian.AppendUint16(nil, 4444)
	b = binary.BigEndian.AppendUint16(b, DefaultPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	checksum(from, to, unix.IPPROTO_UDP, b, 6)
	e.frame(from, to, 16, unix.IPPROTO_UDP, b)
}

// somebody returns one of n link-local addresses.
func (e *hostile) somebody(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 10: 0xba, 0xd0, 13: 1, 14: byte(e.random.IntN(n) >> 8), 15: byte(e.random.IntN(n))})
}

// noise returns up to n random bytes.
func (e *hostile) noise(n int) []byte {
	b := make([]byte, e.random.IntN(n))
	for i := range b {
		b[i] = byte(e.random.Uint32())
	}
	return b
}

// floodWith calls f about a thousand times a second until stop is called.
func floodWith(f func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for range 5 {
				f()
			}
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

// heapInUse returns the bytes in use after a collection.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools keep goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// heapSystem returns the bytes that the heap has taken from the system: it never shrinks.
func heapSystem() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys)
}

// TestNetHostile has receivers beside a host that does what it can to disturb.
func TestNetHostile(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 8<<20, 16)
		channel := wire.OfRoot(x.Root(), nil)
		address := func(ord uint32) netip.Addr { return channel.Group(wire.SiteScope, false, ord) }
		var space wire.Space // below
		var victims []netip.Addr
		// The salt, and so the session, that the host itself uses.
		salt := wire.Salt{1, 2, 3, 4, 5}
		wrong := func(e *hostile) wire.Header {
			return wire.Header{Session: salt.Session(), Seq: e.random.Uint32(), GroupSeq: uint16(e.random.Uint32()),
				Ordinal: uint32(e.random.IntN(space.Total())), Length: uint32(e.random.IntN(2 << 20)), ESI: uint8(e.random.IntN(40))}
		}
		for _, tt := range []struct {
			name  string
			known bool // receivers have the index
			f     func(e *hostile)
			most  float64 // bytes sent for each of content; 0: whatever the time allows
			yield bool    // receivers may give up, soon
			slow  bool
		}{
			{"noise", false, func(e *hostile) {
				switch from := e.somebody(256); e.random.IntN(4) {
				case 0: // joins of nothing
					var rs []mld.Record
					for range 60 {
						a := address(e.random.Uint32() >> 1).As16()
						a[2+e.random.IntN(14)]++
						rs = append(rs, mld.Record{Type: mld.ToExclude, Group: netip.AddrFrom16(a)})
					}
					e.report(from, rs...)
				case 1: // reports that are none
					to := netip.MustParseAddr("ff02::16")
					b := append(mld.AppendReport(nil, []mld.Record{{Type: mld.ToExclude, Group: address(1)}}), e.noise(100)...)
					b[e.random.IntN(len(b))]++
					checksum(from, to, unix.IPPROTO_ICMPV6, b, 2)
					e.frame(from, to, byte(e.random.IntN(3)), unix.IPPROTO_HOPOPTS, append([]byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0}, b...))
				case 2: // packets that are none
					b := e.noise(1400)
					if len(b) > 0 && e.random.IntN(2) == 0 {
						b[0] = wire.Version<<4 | byte(e.random.IntN(4))
					}
					e.udp(from, address(uint32(e.random.IntN(space.Total()))), b)
				case 3:
					e.udp(victims[0], address(0), wire.AppendBye(nil, wrong(e), salt, nil))
				}
			}, 2, false, false},
			{"joins of everything", false, func(e *hostile) {
				var rs []mld.Record
				for range 60 {
					rs = append(rs, mld.Record{Type: mld.ToExclude, Group: address(uint32(e.random.IntN(space.Total())))})
				}
				e.report(e.somebody(256), rs...)
			}, 0, false, true},
			{"joins and leaves", false, func(e *hostile) {
				g, h := address(uint32(e.random.IntN(space.Total()))), e.somebody(16)
				e.report(h, mld.Record{Type: mld.ToExclude, Group: g}, mld.Record{Type: mld.ToExclude, Group: address(0)})
				e.report(h, mld.Record{Type: mld.ToInclude, Group: g}, mld.Record{Type: mld.ToInclude, Group: address(0)})
			}, 0, false, false},
			{"leaves of others", false, func(e *hostile) {
				if e.random.IntN(20) > 0 { // 50 a second: else nobody listens any more
					return
				}
				var rs []mld.Record
				for range 8 {
					rs = append(rs, mld.Record{Type: mld.ToInclude, Group: address(uint32(e.random.IntN(space.Total())))})
				}
				e.report(victims[e.random.IntN(len(victims))], rs...)
			}, 3, false, false},
			{"another sender", true, func(e *hostile) {
				from := netip.MustParseAddr("fe80::bad")
				h := wrong(e)
				if e.random.IntN(10) == 0 {
					a := wire.Announce{Salt: salt, Root: x.Root(), Space: space, Symbol: 1408, Rate: 1e9}
					p, err := wire.AppendAnnounce(nil, h, a, nil)
					if err != nil {
						panic(err)
					}
					e.udp(from, address(0), p)
					return
				}
				h.Length = 1408 // full at once
				h.Block, h.ESI = 0, uint8(e.random.IntN(2))
				e.udp(from, address(h.Ordinal), wire.AppendData(nil, h, make([]byte, 1408), nil))
			}, 2.5, false, false},
			{"another sender with another index", false, func(e *hostile) {
				s := space
				s.Chunks, s.Level = 1<<20, 3
				s.IndexBytes = index.EncodedSize(s.Chunks)
				a := wire.Announce{Salt: salt, Root: x.Root(), Space: s, Symbol: 64, Rate: 1e9}
				p, err := wire.AppendAnnounce(nil, wrong(e), a, nil)
				if err != nil {
					panic(err)
				}
				e.udp(netip.MustParseAddr("fe80::bad"), address(0), p)
			}, 0, true, true},
			{"many other senders", true, func(e *hostile) {
				a := wire.Announce{Salt: salt, Root: x.Root(), Space: space, Symbol: 1408, Rate: 1e9}
				p, err := wire.AppendAnnounce(nil, wrong(e), a, nil)
				if err != nil {
					panic(err)
				}
				e.udp(e.somebody(256), address(0), p)
			}, 3, true, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				if tt.slow {
					heavy(t)
				}
				b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
				h := serverOn(b, "server")
				rs := hostsOn(b, "receiver", 2)
				victims = []netip.Addr{h.Addr, rs[0].Addr, rs[1].Addr}
				e := newHostile(t, b.Host("hostile"))
				c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
				space = c.offered()[0].space
				before, routines := heapInUse(), runtime.NumGoroutine()
				system := heapSystem()
				stop := floodWith(func() { tt.f(e) })
				defer stop()
				time.Sleep(200 * time.Millisecond)
				begin := time.Now()
				var ks []*taker
				for _, r := range rs {
					k := newTaker(t, r, x, &storetest.Memory{}, ReceiveOptions{})
					ks = append(ks, k)
					if tt.known {
						go k.takeKnown()
					} else {
						k.start()
					}
				}
				for _, k := range ks {
					if k.wait(); tt.yield && errors.Is(k.err, ErrStalled) && k.took < 2*stalledMin {
						t.Logf("%s gave up after %v: %v", k.name, k.took, k.err)
						continue
					}
					k.right()
				}
				took := time.Since(begin)
				stop()
				s := c.Status()
				if s.Objects > maxObjects || s.Objects > space.Total() {
					t.Errorf("%d objects", s.Objects)
				}
				if tt.most > 0 {
					sentAtMost(t, c, x, tt.most)
				}
				if most := 60*mbit*(took+time.Second).Seconds() + 1<<20; float64(s.Bytes) > most {
					t.Errorf("sent %d bytes in %v: above the rate", s.Bytes, took)
				}
				for _, k := range ks {
					k.store = nil // not of the sender
				}
				st, _ := c.link.MLD()
				grown := heapInUse() - before
				t.Logf("%v; heap %+.1f MiB, %d goroutines more; objects %d, MLD %+v", took.Round(time.Millisecond),
					float64(grown)/(1<<20), runtime.NumGoroutine()-routines, s.Objects, st)
				if grown > 2*defaultMemory+(32<<20) {
					t.Errorf("%d bytes more in the heap", grown)
				}
				// What was garbage in between: with that much the process would have been large.
				if n := heapSystem() - system; n > 256<<20 {
					t.Errorf("the heap took %d bytes more from the system", n)
				}
				if n := runtime.NumGoroutine() - routines; n > 20 {
					t.Errorf("%d goroutines more", n)
				}
			})
		}
	})
}

// TestNetForgedSymbols has a host send symbols in the name of the sender. Without a key
// nothing tells them from right ones: that costs the channel, but never a wrong byte.
// With a key it costs nothing.
func TestNetForgedSymbols(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 17)
		for _, tt := range []struct {
			name string
			key  *wire.Key
		}{{"open", nil}, {"key", &wire.Key{1, 2, 3}}} {
			t.Run(tt.name, func(t *testing.T) {
				b := testns.NewBridge(t, testns.BridgeOptions{})
				h := serverOn(b, "server")
				spy := b.Host("spy")
				e := newHostile(t, spy)
				c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 40 * mbit, Key: tt.key}, Offer{x, m})
				ch := c.offered()[0]
				session := spyOn(t, spy, ch.wire.Group(wire.SiteScope, false, 0))
				stop := floodWith(func() {
					ord := ch.space.Ordinal(wire.Bucket, e.random.IntN(ch.space.Buckets()))
					length := uint32(ch.bytes(ord)) + uint32(wire.DirectorySize(1<<ch.space.Level))
					if e.random.IntN(10) == 0 {
						length -= uint32(e.random.IntN(1000))
					}
					n := wire.Header{Session: session, Seq: e.random.Uint32(), GroupSeq: uint16(e.random.Uint32()), Ordinal: ord,
						Length: length, Block: uint16(e.random.IntN(8)), ESI: uint8(e.random.Uint32())}
					e.udp(h.Addr, ch.wire.Group(wire.SiteScope, false, ord), wire.AppendData(nil, n, make([]byte, ch.symbol), nil))
				})
				defer stop()
				k := takeOn(t, b.Host("receiver"), x, ReceiveOptions{Key: tt.key})
				k.wait()
				stop()
				t.Logf("%d chunks after %v: %v", k.result.Chunks, k.took.Round(time.Millisecond), errors.Join(k.err, k.result.Err))
				if tt.key != nil {
					k.right()
					return
				}
				if k.err != nil && !errors.Is(k.err, ErrStalled) {
					t.Errorf("error %v", k.err)
				}
				if err := checkChunks(x, k.store, true); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// spyOn returns the session of the sender that announces a channel.
func spyOn(t *testing.T, h *testns.Host, control netip.Addr) wire.Session {
	t.Helper()
	p := tapOn(t, h)
	if err := p.Join(control, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	p.SetReadDeadline(time.Now().Add(5 * time.Second))
	packets := make([]Packet, 1)
	if _, err := p.Read(packets); err != nil {
		t.Fatal(err)
	}
	n, _, err := wire.ParseHeader(packets[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	return n.Session
}
