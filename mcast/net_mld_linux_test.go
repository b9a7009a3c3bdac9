package mcast

import (
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testns"
)

// These tests are about hosts and switches that tell the sender of listeners in their
// own ways.

// oldHost connects a host that knows only version 1 of MLD.
func oldHost(b *testns.Bridge, name string) *testns.Host {
	h := b.Host(name)
	h.Exec("sysctl", "-q", "-w", "net.ipv6.conf.eth0.force_mld_version=1")
	return h
}

// TestNetVersion1 sends to hosts that know only version 1 of MLD: the sender hears them
// if it listens for that. Their reports name no source, though programs may ask for one:
// they count in source-specific groups, too.
func TestNetVersion1(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 21)
		for _, tt := range []struct {
			name   string
			bridge func(t *testing.T) *testns.Bridge
		}{
			{"hub", func(t *testing.T) *testns.Bridge { return testns.NewBridge(t, testns.BridgeOptions{}) }},
			// It passes reports on to routers only.
			{"switch", bridgeThatPrunes},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				b := tt.bridge(t)
				h := serverOn(b, "server")
				b.Exec("ip", "link", "set", h.Port, "type", "bridge_slave", "mcast_router", "2")
				old, other, young := oldHost(b, "old"), oldHost(b, "other"), b.Host("young")
				c := castOn(t, h, LinkOptions{MLDv1: true}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
				alone := takeOn(t, old, x, ReceiveOptions{})
				alone.right()
				settled(t, c)
				sentAtMost(t, c, x, 1.2)
				// Together. One that has heard another one's report says nothing when it leaves,
				// and is believed to listen for a while.
				for _, k := range []*taker{takeOn(t, old, x, ReceiveOptions{}), takeOn(t, other, x, ReceiveOptions{}), takeOn(t, young, x, ReceiveOptions{})} {
					k.right()
				}
				sentAtMost(t, c, x, 1.2+1.6)
				s := castOn(t, h, LinkOptions{MLDv1: true, Source: h.Addr}, SendOptions{Rate: 60 * mbit, SSM: true}, Offer{x, m})
				takeOn(t, old, x, ReceiveOptions{Source: h.Addr}).right()
				sentAtMost(t, s, x, 1.2)
			})
		}
		// A sender that does not listen for version 1 serves the others.
		t.Run("not heard", func(t *testing.T) {
			t.Parallel()
			b := testns.NewBridge(t, testns.BridgeOptions{})
			c := castOn(t, serverOn(b, "server"), LinkOptions{}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
			takeOn(t, oldHost(b, "old"), x, ReceiveOptions{Wait: 1500 * time.Millisecond}).fails(ErrNoSender)
			takeOn(t, b.Host("young"), x, ReceiveOptions{}).right()
			sentAtMost(t, c, x, 1.2)
		})
	})
}

// TestNetRouterPort has a switch that is the querier, and passes reports on to the ports
// of routers only, as a Linux bridge does with those of version 1: a sender that
// advertises itself as a router has such a port.
func TestNetRouterPort(t *testing.T) {
	inNet(t, func(t *testing.T) {
		x, m := noise(t, 4<<20, 22)
		for _, tt := range []struct {
			name      string
			advertise bool
		}{{"silent", false}, {"advertised", true}} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				b := bridgeThatPrunes(t)
				h := serverOn(b, "server")
				c := castOn(t, h, LinkOptions{MLDv1: true, NoQuerier: true, Advertise: tt.advertise}, SendOptions{Rate: 60 * mbit}, Offer{x, m})
				old := oldHost(b, "old")
				if !tt.advertise {
					time.Sleep(300 * time.Millisecond) // the bridge floods until it has heard answers to its first query
					takeOn(t, old, x, ReceiveOptions{Wait: 1500 * time.Millisecond}).fails(ErrNoSender)
					if routerPort(b, h.Port) {
						t.Error("the bridge takes the sender for a router")
					}
					return
				}
				for end := time.Now().Add(5 * time.Second); !routerPort(b, h.Port); time.Sleep(5 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("the bridge does not take the sender for a router")
					}
				}
				bystander := b.Host("bystander")
				before := bystander.Received()
				takeOn(t, old, x, ReceiveOptions{}).right()
				sentAtMost(t, c, x, 1.2)
				if n := bystander.Received().Sub(before).Bytes; n > 100_000 {
					t.Errorf("%d bytes came to a host that is no member", n)
				}
			})
		}
	})
}

// routerPort reports whether a bridge takes a port for one that leads to a router.
func routerPort(b *testns.Bridge, port string) bool {
	return b.Command("sh", "-c", "bridge -d mdb show | grep -q 'router ports.*"+port+"'").Run() == nil
}
