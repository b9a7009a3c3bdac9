package udp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv6"

	"github.com/castorsync/castor/internal/testns"
	"github.com/castorsync/castor/mcast/udp"
)

func TestMain(m *testing.M) { os.Exit(testns.Main(m)) }

const port = 4242

var (
	groupA = netip.MustParseAddr("ff15::a")
	groupB = netip.MustParseAddr("ff15::b")
	narrow = netip.MustParseAddr("ff12::c")
	none   netip.Addr
)

// modes are the ways of sending.
var modes = []struct {
	name  string
	setup func(s *udp.Sender)
}{
	{"segments", func(*udp.Sender) {}},
	{"one by one", udp.NoSegments},
}

// TestSend sends runs of all kinds to two hosts of three.
func TestSend(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true})
	server := b.Host("server")
	one := newReceiver(t, b.Host("one"), udp.ReceiverOptions{})
	two := newReceiver(t, b.Host("two"), udp.ReceiverOptions{})
	other := newReceiver(t, b.Host("other"), udp.ReceiverOptions{})
	join(t, one, groupA, none)
	join(t, two, groupA, none)
	join(t, other, groupB, none)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			s := newSender(t, server, udp.SenderOptions{})
			mode.setup(s)
			for _, tt := range []struct{ length, segment, want int }{
				{0, 100, 0},
				{1, 1 << 30, 1},
				{1200, 1200, 1},
				{1201, 1200, 2},
				{64 * 1000, 1000, 64},
				{150*1000 + 1, 1000, 151}, // 64 + 64 + 23
				{60 * 1400, 1400, 60},     // 46 + 14
				{300, 1, 300},
			} {
				b := random(tt.length)
				if err := s.Send(groupA, b, tt.segment); err != nil {
					t.Fatalf("%d bytes as packets of %d: %v", tt.length, tt.segment, err)
				}
				for _, r := range []*udp.Receiver{one, two} {
					got := read(t, r, tt.want)
					if len(got) != tt.want {
						t.Fatalf("%d bytes as packets of %d: %d packets, want %d", tt.length, tt.segment, len(got), tt.want)
					}
					check(t, got, b, tt.segment, groupA, server.Addr)
				}
			}
			if got := read(t, other, 0); len(got) != 0 {
				t.Errorf("not a member, and received %d packets", len(got))
			}
			if got := udp.UsesSegments(s); got != (mode.name == "segments") {
				t.Errorf("UDP_SEGMENT in use: %v", got)
			}
		})
	}
}

// TestRefused has the kernel refuse UDP_SEGMENT.
func TestRefused(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server := b.Host("server")
	r := newReceiver(t, b.Host("one"), udp.ReceiverOptions{})
	join(t, r, groupA, none)
	s := newSender(t, server, udp.SenderOptions{})
	if err := errors.Join(s.NoChecksum(), r.NoChecksum()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b := random(10 * 1000)
		if err := s.Send(groupA, b, 1000); err != nil {
			t.Fatal(err)
		}
		check(t, read(t, r, 10), b, 1000, groupA, server.Addr)
		if udp.UsesSegments(s) {
			t.Error("UDP_SEGMENT is still in use")
		}
	}
}

// TestTooBig sends packets that do not fit into the MTU.
func TestTooBig(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server := b.Host("server")
	r := newReceiver(t, b.Host("one"), udp.ReceiverOptions{})
	join(t, r, groupA, none)
	const fits = 1500 - 48
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			s := newSender(t, server, udp.SenderOptions{})
			mode.setup(s)
			for _, length := range []int{fits + 1, 2 * (fits + 1)} {
				if err := s.Send(groupA, random(length), fits+1); !errors.Is(err, syscall.EMSGSIZE) {
					t.Errorf("%d bytes as packets of %d: error %v", length, fits+1, err)
				}
			}
			b := random(2 * fits)
			if err := s.Send(groupA, b, fits); err != nil {
				t.Fatal(err)
			}
			check(t, read(t, r, 2), b, fits, groupA, server.Addr)
			if got := udp.UsesSegments(s); got != (mode.name == "segments") {
				t.Errorf("UDP_SEGMENT in use: %v", got)
			}
		})
	}
}

// TestDrops fills the interface's queue.
func TestDrops(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server := b.Host("server")
	server.Exec("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "100kbit", "burst", "64k", "limit", "64k")
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			s := newSender(t, server, udp.SenderOptions{})
			mode.setup(s)
			if err := s.ReportDrops(); err != nil {
				t.Fatal(err)
			}
			const n = 500
			for range n / 20 {
				if err := s.Send(groupA, random(20*1000), 1000); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Drops(); got < n/2 || got > n {
				t.Errorf("%d drops of %d packets", got, n)
			}
		})
	}
}

// TestMembership has two receivers on one host, which must not see each other's
// groups.
func TestMembership(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	s := newSender(t, server, udp.SenderOptions{})
	one := newReceiver(t, client, udp.ReceiverOptions{})
	two := newReceiver(t, client, udp.ReceiverOptions{})
	join(t, one, groupA, none)
	join(t, two, groupA, none)
	join(t, two, groupB, none)
	send := func() {
		t.Helper()
		for _, group := range []netip.Addr{groupA, groupB} {
			if err := s.Send(group, []byte{0}, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	send()
	wantGroups(t, one, groupA)
	wantGroups(t, two, groupA, groupB)
	if err := one.Leave(groupA, none); err != nil {
		t.Fatal(err)
	}
	if n := client.Groups()[groupA]; n != 1 {
		t.Errorf("the host has %d memberships of the group, want 1", n)
	}
	send()
	wantGroups(t, one)
	wantGroups(t, two, groupA, groupB)
	if err := two.Join(groupA, none); err == nil {
		t.Error("second Join: no error")
	}
	if err := one.Leave(groupA, none); err == nil {
		t.Error("second Leave: no error")
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	if groups := client.Groups(); groups[groupA] != 0 || groups[groupB] != 0 {
		t.Errorf("members after Close: %v", groups)
	}
}

// TestSource has receivers that want one source of two.
func TestSource(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	hosts := []*testns.Host{b.Host("server1"), b.Host("server2")}
	client := b.Host("client")
	group := netip.MustParseAddr("ff35::8000:1")
	var servers []*udp.Sender
	for _, h := range hosts {
		servers = append(servers, newSender(t, h, udp.SenderOptions{}))
	}
	r := newReceiver(t, client, udp.ReceiverOptions{})
	want := func(sources ...netip.Addr) {
		t.Helper()
		for _, s := range servers {
			if err := s.Send(group, []byte{0}, 1); err != nil {
				t.Fatal(err)
			}
		}
		var got []netip.Addr
		for _, p := range read(t, r, len(sources)) {
			got = append(got, p.Source)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, sources) {
			t.Errorf("packets from %v, want %v", got, sources)
		}
	}
	var source netip.Addr
	var err error
	hosts[0].Do(func() { source, err = servers[0].LocalAddr(group) })
	if err != nil || source != hosts[0].Addr {
		t.Fatalf("LocalAddr = %v, %v, want %v", source, err, hosts[0].Addr)
	}
	join(t, r, group, source)
	want(hosts[0].Addr)
	join(t, r, group, hosts[1].Addr)
	want(hosts[0].Addr, hosts[1].Addr)
	if err := r.Leave(group, hosts[0].Addr); err != nil {
		t.Fatal(err)
	}
	want(hosts[1].Addr)
	if err := r.Leave(group, hosts[1].Addr); err != nil {
		t.Fatal(err)
	}
	want()
	if err := r.Join(group, groupA); err == nil {
		t.Error("Join with a group for source: no error")
	}
}

// TestAddress looks at what packets carry outside.
func TestAddress(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	wide, second := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for _, addr := range []netip.Addr{second, wide} {
		server.Exec("ip", "addr", "add", addr.String()+"/64", "dev", "eth0", "nodad")
	}
	// Not a Receiver: that does not tell the hop limit.
	var conn net.PacketConn
	var err error
	client.Do(func() { conn, err = net.ListenPacket("udp6", "[::]:4242") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := ipv6.NewPacketConn(conn)
	ifi := client.Interface()
	err = errors.Join(p.SetControlMessage(ipv6.FlagHopLimit, true),
		p.JoinGroup(ifi, &net.UDPAddr{IP: groupA.AsSlice()}), p.JoinGroup(ifi, &net.UDPAddr{IP: narrow.AsSlice()}))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		group, source netip.Addr
		hops          int
		want          netip.Addr // the zero Addr for one of wide and second
		wantHops      int
	}{
		{groupA, none, 0, none, 1},
		{narrow, none, 7, server.Addr, 7},
		{groupA, server.Addr, 255, server.Addr, 255},
		{groupA, wide, 2, wide, 2},
		{narrow, second, 1, second, 1},
	} {
		s := newSender(t, server, udp.SenderOptions{Hops: tt.hops, Source: tt.source})
		var local netip.Addr
		server.Do(func() { local, err = s.LocalAddr(tt.group) })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(tt.group, []byte("hello"), 5); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, m, from, err := p.ReadFrom(make([]byte, 10))
		if err != nil {
			t.Fatalf("to %v from %v: %v", tt.group, tt.source, err)
		}
		got := from.(*net.UDPAddr).AddrPort().Addr().WithZone("")
		if got != local {
			t.Errorf("to %v: packet from %v, LocalAddr is %v", tt.group, got, local)
		}
		if got != tt.want && (tt.want.IsValid() || got != wide && got != second) || m.HopLimit != tt.wantHops {
			t.Errorf("to %v from %v: packet from %v with hop limit %d, want %v and %d",
				tt.group, tt.source, got, m.HopLimit, tt.want, tt.wantHops)
		}
	}
}

func TestLoopback(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	r := newReceiver(t, h, udp.ReceiverOptions{})
	join(t, r, groupA, none)
	for loopback, want := range map[bool][]netip.Addr{false: nil, true: {groupA}} {
		s := newSender(t, h, udp.SenderOptions{Loopback: loopback})
		if err := s.Send(groupA, []byte{0}, 1); err != nil {
			t.Fatal(err)
		}
		wantGroups(t, r, want...)
	}
}

// TestLo uses the interface lo, without and with a route.
func TestLo(t *testing.T) {
	n := testns.New(t)
	lo := n.Interface("lo")
	var s *udp.Sender
	var r *udp.Receiver
	var err, err2, err3 error
	n.Do(func() {
		s, err = udp.NewSender(lo, udp.SenderOptions{Port: port, Loopback: true})
		r, err2 = udp.NewReceiver(lo, udp.ReceiverOptions{Port: port})
	})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer r.Close()
	join(t, r, groupA, none)
	err = s.Send(groupA, []byte{0}, 1)
	n.Do(func() { _, err2 = s.LocalAddr(groupA) })
	for _, err := range []error{err, err2} {
		if !errors.Is(err, syscall.ENETUNREACH) || !strings.Contains(err.Error(), "ip -6 route add local ff00::/8 dev lo table local") {
			t.Errorf("without a route: error %v", err)
		}
	}
	n.Exec("ip", "-6", "route", "add", "local", "ff00::/8", "dev", "lo", "table", "local")
	b := random(100 * 1000)
	if err := s.Send(groupA, b, 1000); err != nil {
		t.Fatal(err)
	}
	var source netip.Addr
	n.Do(func() { source, err3 = s.LocalAddr(groupA) })
	if err3 != nil {
		t.Fatal(err3)
	}
	check(t, read(t, r, 100), b, 1000, groupA, source)
}

// TestNoAddress sends from a host without an address.
func TestNoAddress(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	s := newSender(t, h, udp.SenderOptions{})
	h.Exec("ip", "addr", "flush", "dev", "eth0")
	err := s.Send(groupA, []byte{0}, 1)
	if !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "is there an IPv6 address on eth0") {
		t.Errorf("without an address: error %v", err)
	}
}

// TestInterfaces has two interfaces in one host, both members of a group.
func TestInterfaces(t *testing.T) {
	n := testns.New(t)
	for i, name := range []string{"v0", "v1", "v2"} {
		n.Exec("ip", "link", "add", "name", name, "type", "veth", "peer", "name", "peer"+name)
		for _, name := range []string{name, "peer" + name} {
			n.Exec("ip", "link", "set", name, "addrgenmode", "none")
		}
		if i < 2 {
			n.Exec("ip", "link", "set", "peer"+name, "up") // without an address
			n.Exec("ip", "link", "set", name, "up")
		}
		n.Exec("ip", "addr", "add", fmt.Sprintf("fe80::%d/64", i+1), "dev", name, "nodad")
	}
	var names []string
	var err error
	n.Do(func() {
		var usable []net.Interface
		usable, err = udp.Usable()
		for _, ifi := range usable {
			names = append(names, ifi.Name)
		}
	})
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"v0", "v1"}) {
		t.Errorf("Usable: %v, error %v", names, err)
	}
	var rs []*udp.Receiver
	for _, name := range []string{"v0", "v1"} {
		var r *udp.Receiver
		ifi := n.Interface(name)
		n.Do(func() { r, err = udp.NewReceiver(ifi, udp.ReceiverOptions{Port: port}) })
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		join(t, r, groupA, none)
		rs = append(rs, r)
	}
	var s *udp.Sender
	ifi := n.Interface("v1")
	n.Do(func() { s, err = udp.NewSender(ifi, udp.SenderOptions{Port: port, Loopback: true}) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, to := range []netip.Addr{groupA, netip.MustParseAddr("ff02::1")} {
		if err := s.Send(to, []byte{0}, 1); err != nil {
			t.Fatal(err)
		}
	}
	wantGroups(t, rs[0])
	wantGroups(t, rs[1], groupA)
}

// TestUnicast sends to the receiver's own address, which is no group.
func TestUnicast(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	r := newReceiver(t, client, udp.ReceiverOptions{})
	var conn *net.UDPConn
	var err error
	server.Do(func() {
		conn, err = net.DialUDP("udp6", nil, &net.UDPAddr{IP: client.Addr.AsSlice(), Port: port, Zone: "eth0"})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	wantGroups(t, r)
}

// TestOverflow sends more than the receiver's buffer holds.
func TestOverflow(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server := b.Host("server")
	r := newReceiver(t, b.Host("client"), udp.ReceiverOptions{RecvBuffer: 8192})
	if size := r.BufferSize(); size != 8192 {
		t.Errorf("buffer of %d bytes", size)
	}
	join(t, r, groupA, none)
	s := newSender(t, server, udp.SenderOptions{})
	udp.NoSegments(s) // so that each counts
	const n = 600
	for range n / 20 {
		if err := s.Send(groupA, random(20*500), 500); err != nil {
			t.Fatal(err)
		}
	}
	got := len(read(t, r, 0))
	// The next packet that arrives tells how many were lost before.
	if err := s.Send(groupA, []byte{0}, 1); err != nil {
		t.Fatal(err)
	}
	got += len(read(t, r, 1))
	if lost := r.Overflows(); lost == 0 || uint64(got)+lost != n+1 {
		t.Errorf("received %d and lost %d of %d packets", got, lost, n+1)
	}
}

func TestBufferSize(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	limit, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Skip(err) // not shown to network namespaces by older kernels
	}
	var want int
	if _, err := fmt.Sscan(string(limit), &want); err != nil {
		t.Fatal(err)
	}
	if got := newReceiver(t, h, udp.ReceiverOptions{}).BufferSize(); got != min(want, 8<<20) {
		t.Errorf("buffer of %d bytes; rmem_max is %d", got, want)
	}
}

func TestTruncated(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	r := newReceiver(t, b.Host("client"), udp.ReceiverOptions{})
	udp.SetMessageSize(r, 100)
	join(t, r, groupA, none)
	s := newSender(t, b.Host("server"), udp.SenderOptions{})
	for _, length := range []int{100, 101, 99} {
		if err := s.Send(groupA, random(length), length); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(read(t, r, 2)); n != 2 || r.Truncated() != 1 {
		t.Errorf("received %d packets, %d truncated", n, r.Truncated())
	}
}

// TestClose closes while Read waits.
func TestClose(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	r := newReceiver(t, h, udp.ReceiverOptions{})
	p := make([]udp.Packet, 1)
	r.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := r.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: error %v", err)
	}
	r.SetReadDeadline(time.Time{})
	ended := make(chan error)
	go func() {
		_, err := r.Read(p)
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond) // for Read to be waiting, most of the time
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close during Read: error %v", err)
	}
	if _, err := r.Read(p); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: error %v", err)
	}
	if err := r.Join(groupA, none); err == nil {
		t.Error("Join after Close: no error")
	}
	s := newSender(t, h, udp.SenderOptions{})
	s.Close()
	for _, n := range []int{1, 2} {
		if err := s.Send(groupA, make([]byte, n), 1); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send of %d packets after Close: error %v", n, err)
		}
	}
}

// TestTooMany joins groups until the kernel has enough.
func TestTooMany(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	r := newReceiver(t, h, udp.ReceiverOptions{})
	addr := groupA.As16()
	for i := range 5000 {
		binary.BigEndian.PutUint16(addr[12:], uint16(i))
		err := r.Join(netip.AddrFrom16(addr), none)
		if err == nil {
			continue
		}
		if i < 100 || !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), "optmem_max") {
			t.Errorf("join number %d: %v", i+1, err)
		}
		return
	}
	t.Log("no limit below 5000")
}

// TestStream receives 20,000 packets in order, while groups come and go and the
// garbage collector is at work.
func TestStream(t *testing.T) {
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server := b.Host("server")
	r := newReceiver(t, b.Host("client"), udp.ReceiverOptions{})
	join(t, r, groupA, none)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) { stream(t, server, r, mode.setup) })
	}
}

func stream(t *testing.T, server *testns.Host, r *udp.Receiver, setup func(*udp.Sender)) {
	const (
		n       = 20_000
		burst   = 16
		segment = 1200
	)
	// Packet number i is i in 8 bytes and then what is in table from i mod 256 on.
	table := random(segment + 256)
	body := func(i uint64) []byte { return table[i%256:][:segment-8] }
	s := newSender(t, server, udp.SenderOptions{})
	setup(s)
	sent := make(chan error)
	go func() {
		sent <- func() error {
			var b []byte
			for i := range n / burst {
				b = b[:0]
				for j := range burst {
					number := uint64(i*burst + j)
					b = append(binary.BigEndian.AppendUint64(b, number), body(number)...)
				}
				err := s.Send(groupA, b, segment)
				switch i % 200 {
				case 0:
					runtime.GC()
				case 50:
					err = errors.Join(err, r.Join(groupB, none))
				case 150:
					err = errors.Join(err, r.Leave(groupB, none))
				}
				if err != nil {
					return err
				}
				time.Sleep(time.Millisecond) // 150 Mbit/s
			}
			return nil
		}()
	}()
	lost, received := r.Overflows(), 0
	p := make([]udp.Packet, 100)
	for next := uint64(0); next < n; {
		r.SetReadDeadline(time.Now().Add(3 * time.Second))
		k, err := r.Read(p)
		if err != nil {
			t.Errorf("after %d of %d packets: %v", received, n, err)
			break
		}
		for _, p := range p[:k] {
			if len(p.Data) != segment || p.Group != groupA || p.Source != server.Addr {
				t.Fatalf("packet of %d bytes to %v from %v", len(p.Data), p.Group, p.Source)
			}
			number := binary.BigEndian.Uint64(p.Data)
			if number < next || !bytes.Equal(p.Data[8:], body(number)) {
				t.Fatalf("packet number %d after %d, or with other content", number, next)
			}
			next = number + 1
		}
		received += k
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if received != n || s.Drops() != 0 {
		t.Errorf("received %d of %d packets, %d overflows of a buffer of %d bytes, %d drops",
			received, n, r.Overflows()-lost, r.BufferSize(), s.Drops())
	}
}

// TestArguments passes what cannot be.
func TestArguments(t *testing.T) {
	h := testns.NewBridge(t, testns.BridgeOptions{}).Host("host")
	ifi := h.Interface()
	for _, o := range []udp.SenderOptions{{}, {Port: 1, Hops: 256}, {Port: 1, Hops: -1}, {Port: 1, SendBuffer: -1},
		{Port: 1, Source: netip.MustParseAddr("2001:db8::77")}, {Port: 1, Source: netip.IPv6Unspecified()},
		{Port: 1, Source: groupA}, {Port: 1, Source: netip.MustParseAddr("127.0.0.1")}} {
		h.Do(func() {
			if s, err := udp.NewSender(ifi, o); err == nil {
				s.Close()
				t.Errorf("NewSender with %+v: no error", o)
			}
		})
	}
	for _, o := range []udp.ReceiverOptions{{}, {Port: 1, RecvBuffer: -1}} {
		if r, err := udp.NewReceiver(ifi, o); err == nil {
			r.Close()
			t.Errorf("NewReceiver with %+v: no error", o)
		}
	}
	s := newSender(t, h, udp.SenderOptions{})
	r := newReceiver(t, h, udp.ReceiverOptions{})
	for _, addr := range []string{"fe80::1", "224.0.0.1", "::ffff:224.0.0.1", "::"} {
		group := netip.MustParseAddr(addr)
		_, err := s.LocalAddr(group)
		for name, err := range map[string]error{"Send": s.Send(group, []byte{0}, 1), "LocalAddr": err,
			"Join": r.Join(group, none), "Leave": r.Leave(group, none)} {
			if err == nil {
				t.Errorf("%s of %s: no error", name, addr)
			}
		}
	}
	for _, segment := range []int{-1, 0, 65_488} {
		if err := s.Send(groupA, make([]byte, 70_000), segment); err == nil {
			t.Errorf("Send with packets of %d bytes: no error", segment)
		}
	}
}

func newSender(t *testing.T, h *testns.Host, o udp.SenderOptions) *udp.Sender {
	t.Helper()
	o.Port = port
	var s *udp.Sender
	var err error
	ifi := h.Interface()
	h.Do(func() { s, err = udp.NewSender(ifi, o) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newReceiver(t *testing.T, h *testns.Host, o udp.ReceiverOptions) *udp.Receiver {
	t.Helper()
	o.Port = port
	var r *udp.Receiver
	var err error
	ifi := h.Interface()
	h.Do(func() { r, err = udp.NewReceiver(ifi, o) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// join joins, and gives a snooping bridge time to notice.
func join(t *testing.T, r *udp.Receiver, group, source netip.Addr) {
	t.Helper()
	if err := r.Join(group, source); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
}

// read reads packets until it has n, and then for a moment if there are more.
// Their data are copied.
func read(t *testing.T, r *udp.Receiver, n int) []udp.Packet {
	t.Helper()
	var all []udp.Packet
	p := make([]udp.Packet, 7)
	for {
		r.SetReadDeadline(time.Now().Add(quiet(len(all) < n)))
		k, err := r.Read(p)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range p[:k] {
			p.Data = bytes.Clone(p.Data)
			all = append(all, p)
		}
	}
}

// quiet is how long to wait for a packet that is expected or not.
func quiet(expected bool) time.Duration {
	if expected {
		return 5 * time.Second
	}
	return 50 * time.Millisecond
}

// check checks that packets are b in segments.
func check(t *testing.T, got []udp.Packet, b []byte, segment int, group, source netip.Addr) {
	t.Helper()
	want := slices.Collect(slices.Chunk(b, segment))
	if len(got) != len(want) {
		t.Fatalf("received %d packets, want %d", len(got), len(want))
	}
	for i, p := range got {
		if !bytes.Equal(p.Data, want[i]) {
			t.Fatalf("packet %d of %d: wrong content, %d bytes, want %d", i, len(got), len(p.Data), len(want[i]))
		}
		if p.Group != group || p.Source != source {
			t.Fatalf("packet to %v from %v, want %v and %v", p.Group, p.Source, group, source)
		}
	}
}

// wantGroups checks the groups of the packets that have arrived.
func wantGroups(t *testing.T, r *udp.Receiver, want ...netip.Addr) {
	t.Helper()
	var got []netip.Addr
	for _, p := range read(t, r, len(want)) {
		got = append(got, p.Group)
	}
	if !slices.Equal(got, want) {
		t.Errorf("packets to %v, want %v", got, want)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
