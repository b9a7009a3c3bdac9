package mld_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testns"
	"github.com/castorsync/castor/mcast/mld"
)

func TestMain(m *testing.M) { os.Exit(testns.Main(m)) }

var (
	group  = netip.MustParseAddr("ff15::1:2345")
	ssm    = netip.MustParseAddr("ff35::8000:1")
	ours   = netip.MustParseAddr("2001:db8::1")
	theirs = netip.MustParseAddr("2001:db8::2")
	errEnd = errors.New("end of test")
)

func wanted(g netip.Addr) bool { return g == group || g == ssm }

// run runs a listener on an interface of n until the test ends, and returns its
// events.
func run(t *testing.T, n *testns.Namespace, name string, o mld.Options) (*mld.Listener, <-chan mld.Event) {
	t.Helper()
	o.Table.Source = ours
	if o.Table.Wanted == nil {
		o.Table.Wanted = wanted
	}
	ifi := n.Interface(name)
	var l *mld.Listener
	var err error
	n.Do(func() { l, err = mld.Listen(ifi, o) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	events := make(chan mld.Event, 1000)
	ended := make(chan error)
	go n.Do(func() { ended <- l.Run(ctx, func(e mld.Event) { events <- e }) })
	t.Cleanup(func() {
		cancel(errEnd)
		if err := <-ended; err != errEnd && !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		t.Logf("stats: %+v", l.Stats())
		l.Close()
	})
	return l, events
}

// expect waits for the next event, which must be want and come in time.
func expect(t *testing.T, events <-chan mld.Event, within time.Duration, want mld.Event) {
	t.Helper()
	start := time.Now()
	select {
	case got := <-events:
		if got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		t.Logf("%+v after %v", got, time.Since(start).Round(time.Millisecond))
	case <-time.After(within):
		t.Fatalf("no event in %v, want %+v", within, want)
	}
}

// silent sees that no event comes for a time.
func silent(t *testing.T, events <-chan mld.Event, d time.Duration) {
	t.Helper()
	select {
	case got := <-events:
		t.Fatalf("got %+v, want nothing", got)
	case <-time.After(d):
	}
}

// ready waits until the hosts can send and the bridge passes on what they send: a
// new link takes up to a second, in which packets get lost.
func ready(t *testing.T, b *testns.Bridge, hosts ...*testns.Host) {
	t.Helper()
	for _, h := range hosts {
		waitFor(t, func() bool {
			return strings.Contains(h.Exec("ip", "link", "show", "eth0"), "state UP") &&
				strings.Contains(b.Exec("bridge", "link", "show", "dev", h.Port), "state forwarding")
		})
	}
}

// receiver is a socket that joins groups on an interface.
type receiver struct {
	t  *testing.T
	fd int
	i  uint32
}

func newReceiver(t *testing.T, n *testns.Namespace, name string) *receiver {
	t.Helper()
	r := &receiver{t: t, i: uint32(n.Interface(name).Index)}
	var err error
	n.Do(func() { r.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// close leaves all groups.
func (r *receiver) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
	r.fd = -1
}

func (r *receiver) set(opt int, g netip.Addr) {
	r.t.Helper()
	m := &unix.IPv6Mreq{Multiaddr: g.As16(), Interface: r.i}
	if err := unix.SetsockoptIPv6Mreq(r.fd, unix.IPPROTO_IPV6, opt, m); err != nil {
		r.t.Fatal(err)
	}
}

func (r *receiver) join(g netip.Addr)  { r.t.Helper(); r.set(unix.IPV6_JOIN_GROUP, g) }
func (r *receiver) leave(g netip.Addr) { r.t.Helper(); r.set(unix.IPV6_LEAVE_GROUP, g) }

// source sets a group_source_req option.
func (r *receiver) source(opt int, g, source netip.Addr) {
	r.t.Helper()
	// struct group_source_req: interface, padding, two sockaddr_storage.
	b := make([]byte, 8+2*128)
	b[0] = byte(r.i)
	for i, a := range []netip.Addr{g, source} {
		sa := b[8+128*i:]
		sa[0] = unix.AF_INET6
		a16 := a.As16()
		copy(sa[8:], a16[:])
	}
	if err := unix.SetsockoptString(r.fd, unix.IPPROTO_IPV6, opt, string(b)); err != nil {
		r.t.Fatal(err)
	}
}

// Options of linux/in.h.
const (
	mcastJoinSource  = 46
	mcastLeaveSource = 47
)

func TestJoinAndLeave(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
	server, client := b.Host("server"), b.Host("client")
	ready(t, b, server, client)
	_, events := run(t, server.Namespace, "eth0", mld.Options{})
	r := newReceiver(t, client.Namespace, "eth0")
	r.join(netip.MustParseAddr("ff15::ffff")) // nobody wants it
	for range 2 {
		r.join(group)
		expect(t, events, time.Second, mld.Event{Group: group, Host: client.Addr, Joined: true})
		r.leave(group)
		expect(t, events, time.Second, mld.Event{Group: group, Host: client.Addr})
	}
	// The server's own host is a host like others.
	own := newReceiver(t, server.Namespace, "eth0")
	own.join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: server.Addr, Joined: true})
	own.close()
	expect(t, events, time.Second, mld.Event{Group: group, Host: server.Addr})
}

// TestManyGroups has a host join more groups at once than it may, in reports of
// many records.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	const limit, all = 400, 600
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	ready(t, b, server, client)
	l, events := run(t, server.Namespace, "eth0", mld.Options{Table: mld.TableOptions{
		MaxGroups: limit,
		Wanted:    func(g netip.Addr) bool { return g.As16()[1] == 0x15 },
	}})
	r := newReceiver(t, client.Namespace, "eth0")
	for n := range all {
		r.join(groupN(n))
	}
	for range limit {
		select {
		case e := <-events:
			if !e.Joined || e.Host != client.Addr {
				t.Fatalf("event %+v", e)
			}
		case <-time.After(time.Second):
			t.Fatal("no further event in 1 s")
		}
	}
	silent(t, events, 200*time.Millisecond)
	if s := l.Stats(); s.Members != limit || s.Refused < all-limit || s.Limited > 0 || s.Overflow > 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	ready(t, b, server, client)
	_, events := run(t, server.Namespace, "eth0", mld.Options{})
	r := newReceiver(t, client.Namespace, "eth0")
	r.source(mcastJoinSource, ssm, theirs)
	silent(t, events, 300*time.Millisecond)
	r.source(mcastJoinSource, ssm, ours)
	expect(t, events, time.Second, mld.Event{Group: ssm, Host: client.Addr, Joined: true})
	r.source(mcastLeaveSource, ssm, ours)
	expect(t, events, time.Second, mld.Event{Group: ssm, Host: client.Addr})
}

func TestVersion1(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{})
	server, client := b.Host("server"), b.Host("client")
	ready(t, b, server, client)
	client.Exec("sysctl", "-q", "-w", "net.ipv6.conf.eth0.force_mld_version=1")
	_, events := run(t, server.Namespace, "eth0", mld.Options{Packet: true})
	r := newReceiver(t, client.Namespace, "eth0")
	r.join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: client.Addr, Joined: true})
	r.leave(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: client.Addr})
}

// TestExpiry has a host vanish without a leave, while we are the querier.
func TestExpiry(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true})
	server, client, staying := b.Host("server"), b.Host("client"), b.Host("staying")
	ready(t, b, server, client, staying)
	l, events := run(t, server.Namespace, "eth0", mld.Options{
		Querier: mld.QuerierOptions{Listen: time.Millisecond, Interval: 500 * time.Millisecond},
	})
	l.SetActive(true)
	newReceiver(t, staying.Namespace, "eth0").join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: staying.Addr, Joined: true})
	newReceiver(t, client.Namespace, "eth0").join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: client.Addr, Joined: true})
	own := newReceiver(t, server.Namespace, "eth0")
	own.join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: server.Addr, Joined: true})
	silent(t, events, 2500*time.Millisecond) // all answer queries, over a lifetime of 1.17 s
	b.Exec("ip", "link", "set", client.Port, "down")
	expect(t, events, 4*time.Second, mld.Event{Group: group, Host: client.Addr})
	silent(t, events, 500*time.Millisecond)
}

// TestQuerier becomes the querier of a bridge, sees that the bridge knows, and
// steps back for a querier with a lower address.
func TestQuerier(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true})
	lower, server, client := b.Host("lower"), b.Host("server"), b.Host("client")
	ready(t, b, lower, server, client)
	newReceiver(t, client.Namespace, "eth0").join(group) // before anybody listens
	o := mld.Options{Querier: mld.QuerierOptions{Listen: 200 * time.Millisecond, Interval: time.Second}}
	time.Sleep(1200 * time.Millisecond) // the second, unsolicited report of the join
	l, events := run(t, server.Namespace, "eth0", o)
	l.SetActive(true)
	expect(t, events, 2*time.Second, mld.Event{Group: group, Host: client.Addr, Joined: true})
	if s := l.Stats(); !s.Querying || s.Querier != server.Addr {
		t.Errorf("stats after the own query: %+v", s)
	}
	if !routerPort(b, server.Port) {
		t.Error("the bridge does not take us for a router")
	}
	o.Querier.Listen = 1500 * time.Millisecond
	second, _ := run(t, lower.Namespace, "eth0", o)
	second.SetActive(true)
	time.Sleep(2 * time.Second)
	if s := second.Stats(); s.Querying || s.Querier != server.Addr {
		t.Errorf("the second took the role from the first: %+v", s)
	}
	// A querier that was there first doesn't know of manners.
	q := mld.Query{Version: 2, MaxResponse: time.Second, QRV: 2, Interval: 60 * time.Second}
	send(t, lower, "ff02::1", q.Append(nil))
	waitFor(t, func() bool { s := l.Stats(); return !s.Querying && s.Querier == lower.Addr })
	if s := l.Stats(); s.Interval != 60*time.Second || s.Lifetime != 121*time.Second {
		t.Errorf("learned %v and %v", s.Interval, s.Lifetime)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(6 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not so after 6 s")
		}
	}
}

// send sends an ICMPv6 message with hop limit 1, without router alert.
func send(t *testing.T, h *testns.Host, to string, b []byte) {
	t.Helper()
	h.Do(func() {
		c, err := net.DialIP("ip6:ipv6-icmp", nil, &net.IPAddr{IP: net.ParseIP(to), Zone: "eth0"})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
	})
}

// TestAdvertise makes us a router port while the bridge is the querier.
func TestAdvertise(t *testing.T) {
	t.Parallel()
	b := testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})
	server := b.Host("server")
	ready(t, b, server)
	l, _ := run(t, server.Namespace, "eth0", mld.Options{Querier: mld.QuerierOptions{Off: true, Advertise: true}})
	waitFor(t, func() bool { return l.Stats().Sent > 0 })
	if s := l.Stats(); s.Failed > 0 {
		t.Errorf("stats %+v", s)
	}
	waitFor(t, func() bool { return routerPort(b, server.Port) })
}

func routerPort(b *testns.Bridge, port string) bool {
	return b.Command("sh", "-c", "bridge -d mdb show | grep -q 'router ports.*"+port+"'").Run() == nil
}

func TestLocal(t *testing.T) {
	t.Parallel()
	n := testns.New(t)
	_, events := run(t, n, "lo", mld.Options{})
	any := netip.IPv6Unspecified()
	r := newReceiver(t, n, "lo")
	r.join(group)
	expect(t, events, time.Second, mld.Event{Group: group, Host: any, Joined: true})
	r.source(mcastJoinSource, ssm, theirs)
	silent(t, events, 500*time.Millisecond)
	r.source(mcastJoinSource, ssm, ours)
	expect(t, events, time.Second, mld.Event{Group: ssm, Host: any, Joined: true})
	r.source(mcastLeaveSource, ssm, ours)
	expect(t, events, time.Second, mld.Event{Group: ssm, Host: any})
	r.close()
	expect(t, events, time.Second, mld.Event{Group: group, Host: any})
}

// TestPermission has Listen called by a thread without capabilities.
func TestPermission(t *testing.T) {
	t.Parallel()
	n := testns.New(t)
	n.Exec("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ifi := n.Interface("d0")
	for _, packet := range []bool{false, true} {
		errs := make(chan error)
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			var data [2]unix.CapUserData
			if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
				errs <- err
				return
			}
			_, err := mld.Listen(ifi, mld.Options{Packet: packet})
			errs <- err
		}()
		if err := <-errs; !errors.Is(err, mld.ErrPermission) || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Listen: %v", err)
		}
	}
	// Looking at this machine needs none.
	l, err := mld.ListenLocal(ifi, mld.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestGone(t *testing.T) {
	t.Parallel()
	n := testns.New(t)
	n.Exec("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	n.Exec("ip", "link", "set", "d0", "up")
	ifi := n.Interface("d0")
	n.Do(func() {
		l, err := mld.Listen(ifi, mld.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if out, err := exec.Command("ip", "link", "del", "d0").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := l.Run(t.Context(), func(mld.Event) {}); err == nil {
			t.Error("Run on a removed interface: no error")
		}
		if _, err := mld.Listen(ifi, mld.Options{}); err == nil {
			t.Error("Listen on a removed interface: no error")
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	n := testns.New(t)
	n.Exec("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	n.Exec("ip", "link", "set", "d0", "up")
	for _, name := range []string{"d0", "lo"} {
		ifi := n.Interface(name)
		n.Do(func() {
			l, err := mld.Listen(ifi, mld.Options{})
			if err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(100*time.Millisecond, func() { l.Close() })
			if err := l.Run(t.Context(), func(mld.Event) {}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: Run after Close: %v", name, err)
			}
		})
	}
}
