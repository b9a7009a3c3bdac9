package testns

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
)

// Names of interfaces.
const (
	bridgeName = "br0"  // of the bridge, in its own namespace
	hostName   = "eth0" // of every host, in the host's; further ones are eth1 and so on
)

// BridgeOptions are the settings of [NewBridge].
type BridgeOptions struct {
	Snooping   bool // forward multicast only to ports behind which there are members
	Querier    bool // send MLD queries, if there is no querier with a lower address
	MLDVersion int  // of the queries: 1 or 2; 0 means 2
}

// Bridge is an Ethernet switch.
type Bridge struct {
	*Namespace            // where its ports are
	Addr       netip.Addr // of br0, fe80::100: higher than those of up to 255 hosts
	hosts      int
}

// NewBridge makes a bridge without ports in a namespace of its own, where it is
// called br0.
func NewBridge(t testing.TB, o BridgeOptions) *Bridge {
	t.Helper()
	if o.MLDVersion == 0 {
		o.MLDVersion = 2
	}
	b := &Bridge{Namespace: New(t), Addr: address(256)}
	b.Exec("ip", "link", "add", bridgeName, "type", "bridge", "stp_state", "0",
		"mcast_snooping", digit(o.Snooping), "mcast_querier", digit(o.Querier),
		"mcast_mld_version", fmt.Sprint(o.MLDVersion))
	up(b.Namespace, bridgeName, b.Addr)
	return b
}

func digit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// address returns the link-local address number n.
func address(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(n >> 8), 15: byte(n)})
}

// up brings up an interface with addr as its only address, at once usable.
func up(n *Namespace, name string, addr netip.Addr) {
	n.t.Helper()
	n.Exec("ip", "link", "set", name, "addrgenmode", "none")
	n.Exec("ip", "link", "set", name, "up")
	n.Exec("ip", "addr", "add", addr.String()+"/64", "dev", name, "nodad")
}

// Host is a computer at a port of a bridge. One with several interfaces is a Host for
// each of them, see [Bridge.Connect].
type Host struct {
	*Namespace            // where its interface is
	Port       string     // name of its port, in the bridge's namespace
	Addr       netip.Addr // link-local, of the interface: fe80::1 for the bridge's first host, then fe80::2 and so on

	bridge *Bridge
	name   string // of the interface
	others int    // interfaces connected by Connect
}

// Host connects a new host to the bridge, with the interface eth0, and waits until
// it can send and receive. Name, of at
// most 15 bytes, becomes that of the bridge's port. It must not be called
// concurrently.
func (b *Bridge) Host(name string) *Host {
	b.t.Helper()
	return b.plug(&Host{Namespace: New(b.t), Port: name, name: hostName})
}

// Connect connects a host of another bridge to this one, too, by a further interface:
// eth1, then eth2 and so on. It is as [Bridge.Host] for the rest.
func (b *Bridge) Connect(h *Host, name string) *Host {
	b.t.Helper()
	h.others++
	return b.plug(&Host{Namespace: h.Namespace, Port: name, name: fmt.Sprint("eth", h.others)})
}

// plug makes the interface of h.
func (b *Bridge) plug(h *Host) *Host {
	b.t.Helper()
	b.hosts++
	h.Addr, h.bridge = address(b.hosts), b
	b.Exec("ip", "link", "add", "name", h.Port, "type", "veth",
		"peer", "name", h.name, "netns", h.path())
	b.Exec("ip", "link", "set", "dev", h.Port, "addrgenmode", "none", "master", bridgeName, "up")
	h.Up()
	await(b.Addr.String(), b.Namespace, "ip", "-6", "addr", "show", "dev", bridgeName, "-tentative")
	return h
}

// Down takes the interface down, and with it its addresses, until [Host.Up].
func (h *Host) Down() {
	h.t.Helper()
	h.Exec("ip", "link", "set", h.name, "down")
}

// Up brings the interface up, and waits until it can send and receive.
func (h *Host) Up() {
	h.t.Helper()
	up(h.Namespace, h.name, h.Addr)
	// The kernel notices links that come up in the background, and only then has
	// the port forward and the host make its routes.
	await("forwarding", h.bridge.Namespace, "bridge", "link", "show", "dev", h.Port)
	await("ff00::/8", h.Namespace, "ip", "-6", "route", "show", "table", "local", "dev", h.name)
	await(h.Addr.String(), h.Namespace, "ip", "-6", "addr", "show", "dev", h.name, "-tentative")
}

// await waits until a command in n prints want.
func await(want string, n *Namespace, name string, args ...string) {
	n.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		out := n.Exec(name, args...)
		if strings.Contains(out, want) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("testns: %s %s: no %s in\n%s", name, strings.Join(args, " "), want, out)
		}
	}
}

// Interface returns the interface.
func (h *Host) Interface() *net.Interface {
	h.t.Helper()
	return h.Namespace.Interface(h.name)
}

// Groups returns the multicast groups that the interface is member of, see
// [Namespace.Groups].
func (h *Host) Groups() map[netip.Addr]int {
	h.t.Helper()
	return h.Namespace.Groups(h.name)
}

// Sent returns what the interface has sent, see [Namespace.Sent].
func (h *Host) Sent() Counters {
	h.t.Helper()
	return h.Namespace.Sent(h.name)
}

// Received returns what the bridge has sent to the host, before [Host.Loss] and
// after [Host.Rate].
func (h *Host) Received() Counters {
	h.t.Helper()
	return h.bridge.Sent(h.Port)
}

// Loss makes the host lose this share of the UDP packets that come in, in
// percent, at random; 0 ends that. A run of packets that was sent with
// UDP_SEGMENT is one packet here: see [Host.SplitSegments].
func (h *Host) Loss(percent float64) {
	h.t.Helper()
	switch {
	case installed("nft"):
		h.nftLoss(percent)
	case installed("ip6tables"):
		h.ip6tablesLoss(percent)
	default:
		testneed.Missing(h.t, "needs the program nft or ip6tables")
	}
}

func (h *Host) nftLoss(percent float64) {
	h.t.Helper()
	rules := "add table netdev testns\ndelete table netdev testns\n"
	if percent > 0 {
		// nft 1.0.6 wants the newlines before the closing braces.
		rules += fmt.Sprintf(`table netdev testns {
	chain loss {
		type filter hook ingress device "%s" priority 0; policy accept;
		meta protocol ip6 meta l4proto udp numgen random mod 100000 >= %.0f counter drop
	}
}
`, h.name, 100000-1000*percent)
	}
	cmd := h.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	run(h.t, cmd)
}

func (h *Host) ip6tablesLoss(percent float64) {
	h.t.Helper()
	h.Exec("ip6tables", "-F", "INPUT")
	if percent > 0 {
		h.Exec("ip6tables", "-A", "INPUT", "-p", "udp", "-m", "statistic", "--mode", "random",
			"--probability", fmt.Sprintf("%.5f", percent/100), "-j", "DROP")
	}
}

func installed(tool string) bool {
	_, err := exec.LookPath(tool)
	return err == nil
}

// Rate limits what the host can receive, in bits per second, after 64 KiB at
// once and with a queue of 64 KiB and 30 ms; 0 ends that.
func (h *Host) Rate(bits int64) {
	h.t.Helper()
	if bits == 0 {
		h.bridge.Exec("tc", "qdisc", "del", "dev", h.Port, "root")
		return
	}
	h.bridge.Exec("tc", "qdisc", "replace", "dev", h.Port, "root",
		"tbf", "rate", fmt.Sprint(bits, "bit"), "burst", "64k", "latency", "30ms")
}

// SplitSegments makes the host's kernel send the packets of a UDP_SEGMENT run
// one by one, so that they are lost and counted one by one.
func (h *Host) SplitSegments() {
	h.t.Helper()
	h.Exec("ip", "link", "set", h.name, "gso_max_segs", "1")
}
