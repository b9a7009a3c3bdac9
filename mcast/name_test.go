package mcast

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
)

// announcer runs a sender of names alone until the test ends.
func announcer(t *testing.T, n *memNet, o SendOptions, names ...wire.Name) *Sender {
	t.Helper()
	s := NewSender([]SenderLink{n.sender()}, &o)
	if err := s.SetNames(names); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func signer(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func version(name string, v uint64) wire.Name {
	return wire.Name{Name: name, Version: v, Time: int64(v), Root: chunker.ID{byte(v)}, Size: int64(v)}
}

func signed(n wire.Name, k ed25519.PrivateKey) wire.Name {
	n.Sign(k)
	return n
}

func (n *memNet) sent() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.packets
}

func TestResolve(t *testing.T) {
	const name = "os/stable"
	key, other := &wire.Key{1}, &wire.Key{2}
	forged := signed(version(name, 9), signer(1))
	forged.Root[5]++
	for _, tt := range []struct {
		what  string
		sent  []wire.Name // each by a sender of its own
		key   *wire.Key   // of the senders
		pub   ed25519.PublicKey
		with  *wire.Key // of the receiver
		want  uint64    // 0: not found
		heard string    // in the error
	}{
		{what: "unsigned", sent: []wire.Name{version(name, 3)}, want: 3},
		{what: "another name", sent: []wire.Name{version("os/testing", 3)}, heard: "heard nothing"},
		{what: "two senders", sent: []wire.Name{version(name, 3), version(name, 4)}, want: 4},
		{what: "three senders", sent: []wire.Name{version(name, 3), version(name, 7), version(name, 4)}, want: 7},
		{what: "signed", sent: []wire.Name{signed(version(name, 3), signer(1))}, pub: public(signer(1)), want: 3},
		{what: "signed, and no key given", sent: []wire.Name{signed(version(name, 3), signer(1))}, want: 3},
		{what: "signed by somebody else", sent: []wire.Name{signed(version(name, 3), signer(2))}, pub: public(signer(1)), heard: "heard nothing; only names signed with the key given"},
		{what: "not signed", sent: []wire.Name{version(name, 3)}, pub: public(signer(1)), heard: "heard nothing"},
		{what: "forged", sent: []wire.Name{forged}, pub: public(signer(1)), heard: "were not signed as they should be"},
		{what: "forged, and no key given", sent: []wire.Name{forged}, heard: "were not signed as they should be"},
		{what: "forged beside the right one", sent: []wire.Name{forged, signed(version(name, 3), signer(1))}, pub: public(signer(1)), want: 3},
		{what: "network key", sent: []wire.Name{version(name, 3)}, key: key, with: key, want: 3},
		{what: "network key and signed", sent: []wire.Name{signed(version(name, 3), signer(1))}, key: key, with: key, pub: public(signer(1)), want: 3},
		{what: "another network key", sent: []wire.Name{version(name, 3)}, key: key, with: other, heard: "heard nothing"},
		{what: "no network key", sent: []wire.Name{version(name, 3)}, key: key, heard: "heard nothing"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newMemNet()
				for _, n := range tt.sent {
					announcer(t, net, SendOptions{Key: tt.key}, n)
				}
				time.Sleep(time.Second)
				if n := net.sent(); n > 0 {
					t.Errorf("%d packets though nobody listens", n)
				}
				begin := time.Now()
				l := net.receiver(0)
				n, err := Resolve(t.Context(), []ReceiverLink{l}, name, tt.pub, &ReceiveOptions{Key: tt.with})
				took := time.Since(begin)
				if l.groups() > 0 {
					t.Errorf("still in %d groups", l.groups())
				}
				if tt.want == 0 {
					if !errors.Is(err, ErrNoSender) || !strings.Contains(err.Error(), tt.heard) || !strings.Contains(err.Error(), name) {
						t.Errorf("got %+v, %v, want an error with %q", n, err, tt.heard)
					}
					if took < firstWait || took > firstWait+100*time.Millisecond {
						t.Errorf("waited for %v", took)
					}
					return
				}
				if err != nil || n.Version != tt.want || n.Root != (chunker.ID{byte(tt.want)}) || n.Size != int64(tt.want) || n.Name != name {
					t.Errorf("got %+v, %v, want version %d", n, err, tt.want)
				}
				// The report, the answer, and the time for other senders to answer.
				if most := net.delay + gatherNames + 3*tick; took > most {
					t.Errorf("took %v, want at most %v", took, most)
				}
				time.Sleep(time.Second)
				before := net.sent()
				time.Sleep(time.Hour)
				if n := net.sent(); n != before {
					t.Errorf("%d packets after everybody has left", n-before)
				}
			})
		})
	}
}

// TestResolveLoss loses most packets: a listener is told again and again.
func TestResolveLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		announcer(t, net, SendOptions{}, version("a", 1))
		lost := 0
		o := &ReceiveOptions{Drop: func() bool { lost++; return lost <= 4 }}
		if n, err := Resolve(t.Context(), []ReceiverLink{net.receiver(0)}, "a", nil, o); err != nil || n.Version != 1 || lost != 5 {
			t.Errorf("got %+v, %v after %d packets", n, err, lost)
		}
	})
}

// TestResolveLate has the sender come when the receiver has already reported: it must
// report again.
func TestResolveLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		s := announcer(t, net, SendOptions{})
		time.AfterFunc(500*time.Millisecond, func() { s.SetNames([]wire.Name{version("a", 1)}) })
		begin := time.Now()
		if n, err := Resolve(t.Context(), []ReceiverLink{net.receiver(0)}, "a", nil, nil); err != nil || n.Version != 1 || time.Since(begin) > 1300*time.Millisecond {
			t.Errorf("got %+v, %v after %v", n, err, time.Since(begin))
		}
	})
}

func TestResolveErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemNet().receiver(0)
		for _, name := range []string{"", "/a", "\xff", strings.Repeat("x", 256), chunker.ID{1}.String()} {
			if _, err := Resolve(t.Context(), []ReceiverLink{l}, name, nil, nil); err == nil || errors.Is(err, ErrNoSender) {
				t.Errorf("%q: error %v", name, err)
			}
		}
		if _, err := Resolve(t.Context(), nil, "a", nil, nil); !errors.Is(err, ErrNoSender) || !strings.Contains(err.Error(), "could not join") {
			t.Errorf("no links: error %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		time.AfterFunc(time.Second, func() { cancel(cause) })
		if _, err := Await(ctx, []ReceiverLink{l}, "a", nil, 0, nil); err != cause || l.groups() > 0 {
			t.Errorf("got %v, want the cause; in %d groups", err, l.groups())
		}
	})
}

// TestAwait waits for greater versions.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		announcer(t, net, SendOptions{}, version("a", 4)) // a sender that is behind for ever
		s := announcer(t, net, SendOptions{}, version("a", 5), version("b", 50))
		l := net.receiver(0)
		await := func(after uint64) (wire.Name, time.Duration) {
			begin := time.Now()
			n, err := Await(t.Context(), []ReceiverLink{l}, "a", nil, after, nil)
			if err != nil {
				t.Error(err)
			}
			return n, time.Since(begin)
		}
		if n, _ := await(0); n.Version != 5 {
			t.Errorf("got version %d, want 5", n.Version)
		}
		time.AfterFunc(time.Minute, func() { s.SetNames([]wire.Name{version("a", 3)}) })
		time.AfterFunc(time.Hour, func() { s.SetNames([]wire.Name{version("b", 51), version("a", 6)}) })
		n, took := await(5)
		if n.Version != 6 || took > time.Hour+gatherNames+time.Second {
			t.Errorf("got version %d after %v, want 6", n.Version, took)
		}
	})
}

// TestAwaitSenderComes waits without a sender: it must not report too often, and
// still find one soon after it comes.
func TestAwaitSenderComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		s := announcer(t, net, SendOptions{})
		time.AfterFunc(time.Hour, func() { s.SetNames([]wire.Name{version("a", 1)}) })
		begin := time.Now()
		n, err := Await(t.Context(), []ReceiverLink{net.receiver(0)}, "a", nil, 0, nil)
		if took := time.Since(begin) - time.Hour; err != nil || n.Version != 1 || took > rejoinMost+time.Second {
			t.Errorf("got %+v, %v, %v after it came", n, err, took)
		}
		if net.joins > int(time.Hour/rejoinMost)+20 {
			t.Errorf("%d joins in an hour", net.joins)
		}
	})
}

// TestAnnounceRate has many hosts come and stay.
func TestAnnounceRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		announcer(t, net, SendOptions{}, version("a", 1))
		g := wire.OfName("a", nil, nil).Group(wire.SiteScope, false, 0)
		for range 100 {
			net.receiver(0).Join(g, netip.Addr{})
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		if n := net.sent(); n < 20 || n > 30 {
			t.Errorf("%d packets in 10 seconds, want some 26", n)
		}
	})
}

// TestNameFlood forges joins of many names all the time: what is sent stays a part of
// the rate.
func TestNameFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		var names []wire.Name
		var groups []netip.Addr
		for i := range 5000 {
			n := version(fmt.Sprint(i), 1)
			names = append(names, n)
			groups = append(groups, wire.OfName(n.Name, nil, nil).Group(wire.SiteScope, false, 0))
		}
		const rate = 1e6 // bytes a second
		announcer(t, net, SendOptions{Rate: rate}, names...)
		s := net.senders[0]
		host := netip.MustParseAddr("fe80::bad")
		for range 20 {
			for _, g := range groups {
				s.events <- mld.Event{Group: g, Host: host, Joined: true}
			}
			time.Sleep(50 * time.Millisecond)
			for _, g := range groups {
				s.events <- mld.Event{Group: g, Host: host}
			}
			synctest.Wait()
		}
		net.mu.Lock()
		defer net.mu.Unlock()
		if most := int64(1.2 * nameShare * rate); net.bytes > most || net.bytes < most/4 {
			t.Errorf("%d bytes in a second, want at most %d", net.bytes, most)
		}
	})
}

// TestNamesAlways announces to nobody, round and round.
func TestNamesAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		s := announcer(t, net, SendOptions{Always: true}, version("a", 1), version("b", 1))
		net.senders[0].deaf = true
		time.Sleep(10 * time.Second)
		if n := net.sent(); n < 38 || n > 44 {
			t.Errorf("%d packets in 10 seconds, want some 40", n)
		}
		l := net.receiver(0)
		if err := s.SetNames([]wire.Name{version("b", 2), version("c", 1)}); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]uint64{"b": 2, "c": 1} {
			if n, err := Resolve(t.Context(), []ReceiverLink{l}, name, nil, nil); err != nil || n.Version != want {
				t.Errorf("%s: got version %d, %v, want %d", name, n.Version, err, want)
			}
		}
		if _, err := Resolve(t.Context(), []ReceiverLink{l}, "a", nil, nil); !errors.Is(err, ErrNoSender) {
			t.Errorf("a is not announced any more: %v", err)
		}
	})
}

// TestNameThenIndex resolves a name and receives its index on the same links.
func TestNameThenIndex(t *testing.T) {
	x, m := noise(t, 1<<20, 1)
	synctest.Test(t, func(t *testing.T) {
		net := newMemNet()
		s := announcer(t, net, SendOptions{}, wire.Name{Name: "a", Version: 1, Root: x.Root(), Size: x.Size()})
		if err := s.SetOffers([]Offer{{x, m}}); err != nil {
			t.Fatal(err)
		}
		l := net.receiver(0)
		n, err := Resolve(t.Context(), []ReceiverLink{l}, "a", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Dial(t.Context(), []ReceiverLink{l}, n.Root, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if y, err := c.Index(t.Context()); err != nil || y.Size() != n.Size {
			t.Errorf("got %v", err)
		}
	})
}

func TestSetNamesErrors(t *testing.T) {
	s := NewSender(nil, &SendOptions{MTU: 1500})
	for _, names := range [][]wire.Name{
		{version("a", 1), version("a", 2)},
		{version("", 1)},
		{version(chunker.ID{}.String(), 1)},
	} {
		if err := s.SetNames(names); err == nil {
			t.Errorf("%+v: no error", names)
		}
	}
}

func TestNextVersion(t *testing.T) {
	at := time.Unix(1000, 5)
	if v := NextVersion(0, at); v != 1000_000_000_005 {
		t.Errorf("the first version is %d", v)
	}
	if v := NextVersion(1000_000_000_004, at); v != 1000_000_000_005 {
		t.Errorf("the next version is %d", v)
	}
	synctest.Test(t, func(t *testing.T) {
		now := uint64(time.Now().UnixNano())
		for _, tt := range []struct{ last, want uint64 }{
			{1000_000_000_005, now}, {now - 1, now}, {now, now + 1}, {now + 1000, now + 1001},
		} {
			if v := NextVersion(tt.last, at); v != tt.want {
				t.Errorf("after %d: %d, want %d", tt.last, v, tt.want)
			}
		}
		for _, at := range []time.Time{time.Unix(-5, 0), time.Now().Add(1)} {
			if v := NextVersion(0, at); v != now {
				t.Errorf("%v: got %d, want %d", at, v, now)
			}
		}
	})
}
