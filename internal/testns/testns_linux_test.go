package testns_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testns"
)

func TestBridge(t *testing.T) {
	testns.Run(t, func(t *testing.T) {
		b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
		one, two := b.Host("one"), b.Host("two")
		if one.Addr.String() != "fe80::1" || two.Addr.String() != "fe80::2" || one.Port != "one" {
			t.Errorf("hosts %v at %s and %v at %s", one.Addr, one.Port, two.Addr, two.Port)
		}
		if name := one.Interface().Name; name != "eth0" {
			t.Errorf("interface %s", name)
		}
		group := netip.MustParseAddr("ff15::1234")
		conn := listen(t, two, group)
		if n := two.Groups()[group]; n != 1 {
			t.Errorf("%d joins of the group, want 1", n)
		}
		before, received := one.Sent(), two.Received()
		if n := exchange(t, one, conn, 10); n != 10 {
			t.Errorf("received %d packets, want 10", n)
		}
		if c := one.Sent().Sub(before); c.Packets < 10 || c.Bytes < 10*(1000+62) {
			t.Errorf("sent %+v", c)
		}
		if c := two.Received().Sub(received); c.Packets < 10 {
			t.Errorf("the bridge sent on %+v", c)
		}
	})
}

func TestLoss(t *testing.T) {
	testns.Run(t, func(t *testing.T) {
		b := testns.NewBridge(t, testns.BridgeOptions{})
		one, two := b.Host("one"), b.Host("two")
		conn := listen(t, two, netip.MustParseAddr("ff15::1234"))
		one.SplitSegments()
		for _, tt := range []struct {
			percent  float64
			min, max int
		}{
			{100, 0, 0},
			{50, 40, 160}, // beyond 8 standard deviations
			{0, 200, 200},
		} {
			two.Loss(tt.percent)
			if n := exchange(t, one, conn, 200); n < tt.min || n > tt.max {
				t.Errorf("%v%% loss: received %d packets of 200", tt.percent, n)
			}
		}
	})
}

func TestRate(t *testing.T) {
	testns.Run(t, func(t *testing.T) {
		b := testns.NewBridge(t, testns.BridgeOptions{})
		one, two := b.Host("one"), b.Host("two")
		conn := listen(t, two, netip.MustParseAddr("ff15::1234"))
		two.Rate(1_000_000) // 64 KiB at once, then as much in the queue
		if n := exchange(t, one, conn, 200); n < 100 || n > 150 {
			t.Errorf("received %d packets of 200", n)
		}
		two.Rate(0)
		if n := exchange(t, one, conn, 200); n != 200 {
			t.Errorf("received %d packets of 200 without a limit", n)
		}
	})
}

// TestRun sees that the subtest alone runs inside, that a skip is passed on and
// that the namespace has but lo.
func TestRun(t *testing.T) {
	t.Run("inside", func(t *testing.T) {
		testns.Run(t, func(t *testing.T) {
			if id := os.Getuid(); id != 0 {
				t.Errorf("user %d, want 0", id)
			}
			testns.New(t).Do(func() {
				ifs, err := net.Interfaces()
				if err != nil || len(ifs) == 0 || ifs[0].Name != "lo" || ifs[0].Flags&net.FlagUp == 0 {
					t.Errorf("interfaces %v, error %v", ifs, err)
				}
			})
		})
	})
	skipped := true
	t.Run("skip", func(t *testing.T) {
		testns.Run(t, func(t *testing.T) { t.Skip("to be passed on") })
		skipped = false
	})
	if !skipped {
		t.Error("a skip inside was not passed on")
	}
}

// port is where packets go.
const port = 4242

// listener is a socket that is member of a group.
type listener struct {
	net.PacketConn
	group netip.Addr
}

func listen(t *testing.T, h *testns.Host, group netip.Addr) listener {
	t.Helper()
	var conn *net.UDPConn
	var err error
	ifi := h.Interface()
	h.Do(func() {
		conn, err = net.ListenMulticastUDP("udp6", ifi, &net.UDPAddr{IP: group.AsSlice(), Port: port})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	time.Sleep(50 * time.Millisecond) // for the bridge to learn it
	return listener{conn, group}
}

// exchange sends n packets of 1000 bytes to the group of l, a millisecond for
// each 20, and returns how many come.
func exchange(t *testing.T, h *testns.Host, l listener, n int) int {
	t.Helper()
	var conn net.Conn
	var err error
	h.Do(func() {
		conn, err = net.DialUDP("udp6", nil, &net.UDPAddr{IP: l.group.AsSlice(), Port: port})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	received := make(chan int)
	go func() { received <- count(l) }()
	for i := range n {
		if i%20 == 19 {
			time.Sleep(time.Millisecond)
		}
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Error(err)
			break
		}
	}
	return <-received
}

// count counts the packets that come until there is silence.
func count(l listener) int {
	b := make([]byte, 2000)
	for n := 0; ; n++ {
		l.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, _, err := l.ReadFrom(b); err != nil {
			return n
		}
	}
}
