package mcast

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testns"
)

// castOnAll starts a sender on all interfaces of a host.
func castOnAll(t *testing.T, hs []*testns.Host, so SendOptions, offers ...Offer) *Sender {
	t.Helper()
	var links []*hostLink
	var all []SenderLink
	for _, h := range hs {
		ifi := h.Interface()
		l := &hostLink{host: h}
		var err error
		h.Do(func() { l.Link, err = OpenLink(*ifi, LinkOptions{}) })
		if err != nil {
			t.Fatal(err)
		}
		links, all = append(links, l), append(all, l)
	}
	s := NewSender(all, &so)
	if err := s.SetOffers(offers); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("sender: %v", err)
		}
		for _, l := range links {
			l.Close()
		}
	})
	return s
}

// TestNetManyLinks has one sender on two links at once. On each there are receivers, of
// which some want one index and some another one: each link has its own rate and
// schedule, and carries what is wanted there and nothing else.
func TestNetManyLinks(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		const rate = 60 * mbit
		x, m := noise(t, 12<<20, 23)
		y, n := noise(t, 2<<20, 24)
		one, two := bridgeThatPrunes(t), bridgeThatPrunes(t)
		first := serverOn(one, "server")
		second := two.Connect(first, "server")
		second.Exec("sysctl", "-q", "-w", "net.ipv6.conf.eth1.accept_ra=0", "net.ipv6.conf.eth1.router_solicitations=0")
		s := castOnAll(t, []*testns.Host{first, second}, SendOptions{Rate: rate}, Offer{x, m}, Offer{y, n})
		before := []testns.Counters{first.Sent(), second.Sent()}
		big := []*taker{takeOn(t, one.Host("one"), x, ReceiveOptions{}), takeOn(t, one.Host("two"), x, ReceiveOptions{}), takeOn(t, two.Host("three"), x, ReceiveOptions{})}
		small := takeOn(t, two.Host("four"), y, ReceiveOptions{})
		small.right()
		for _, k := range big {
			k.right()
			// Half of the rate would take twice as long. The second link has a part of the
			// other index to carry, too.
			if ideal := float64(x.Size()+y.Size()) / rate; k.took.Seconds() > 1.5*ideal+0.5 {
				t.Errorf("%s took %v, where alone on its link it would be %.1f s", k.name, k.took, ideal)
			}
		}
		for i, tt := range []struct {
			host *testns.Host
			want int64
		}{{first, x.Size()}, {second, x.Size() + y.Size()}} {
			got := float64(tt.host.Sent().Sub(before[i]).Bytes) / float64(tt.want)
			t.Logf("link %d: %.3f× what is wanted there", i, got)
			if got < 1 || got > 1.25 {
				t.Errorf("link %d: sent %.3f× what is wanted there", i, got)
			}
		}
		if st := s.Status(); st.Errors != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestNetLinkDown has the interface of a receiver, or of the sender, go down in the
// middle and come back.
func TestNetLinkDown(t *testing.T) {
	heavy(t)
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 12<<20, 25)
		for _, whose := range []string{"receiver", "sender"} {
			for _, tt := range []struct {
				name     string
				down, up func(b *testns.Bridge, h *testns.Host)
			}{
				{"interface", func(_ *testns.Bridge, h *testns.Host) { h.Down() }, func(_ *testns.Bridge, h *testns.Host) { h.Up() }},
				{"cable", func(b *testns.Bridge, h *testns.Host) { b.Exec("ip", "link", "set", h.Port, "down") },
					func(b *testns.Bridge, h *testns.Host) { b.Exec("ip", "link", "set", h.Port, "up") }},
			} {
				t.Run(fmt.Sprint(whose, "/", tt.name), func(t *testing.T) {
					t.Parallel()
					b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
					h := serverOn(b, "server")
					c := castOn(t, h, LinkOptions{}, SendOptions{Rate: 40 * mbit}, Offer{x, m})
					ks := []*taker{takeOn(t, b.Host("one"), x, ReceiveOptions{}), takeOn(t, b.Host("two"), x, ReceiveOptions{})}
					k := ks[0]
					k.until(len(x.Entries) / 3)
					victim := h
					if whose == "receiver" {
						victim = k.host
					}
					tt.down(b, victim)
					time.Sleep(1500 * time.Millisecond)
					at, had := time.Now(), k.count.Load()
					tt.up(b, victim)
					for end := at.Add(patience); k.count.Load() == had && time.Now().Before(end); {
						time.Sleep(time.Millisecond)
					}
					t.Logf("goes on %v after the interface is back", time.Since(at).Round(time.Millisecond))
					for _, k := range ks {
						k.right()
					}
					sentAtMost(t, c, x, 2.6)
				})
			}
		}
	})
}
