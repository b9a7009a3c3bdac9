package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv6"
)

// maxPayload is the most that a UDP packet can carry over IPv6, in bytes, and
// that one system call can send: 65,535 without the headers of IPv6 and UDP.
const maxPayload = 65_535 - 40 - 8

// SenderOptions are the settings of [NewSender].
type SenderOptions struct {
	Port     uint16 // that packets are sent to
	Hops     int    // the hop limit, 1 to 255: how many links packets may cross; 0 means 1
	Loopback bool   // whether members on this host receive, too

	// Source is the address that packets come from. It must be one of the
	// interface. The zero Addr leaves the choice to the kernel: see
	// [Sender.LocalAddr].
	Source netip.Addr

	// SendBuffer is the size of the socket's buffer in bytes, as far as the
	// system permits; 0 means 4 MiB.
	SendBuffer int
}

// Sender sends packets to multicast groups. Its methods may be called
// concurrently.
type Sender struct {
	ifi     *net.Interface
	port    uint16
	source  netip.Addr
	conn    *net.UDPConn
	packets *ipv6.PacketConn // on conn
	plain   atomic.Bool      // the kernel or the device has refused UDP_SEGMENT
	drops   atomic.Uint64
}

// NewSender opens a socket for sending on ifi, from a port that the system
// chooses.
func NewSender(ifi *net.Interface, o SenderOptions) (*Sender, error) {
	if o.Hops == 0 {
		o.Hops = 1
	}
	if o.SendBuffer == 0 {
		o.SendBuffer = 4 << 20
	}
	if o.Port == 0 || o.Hops < 0 || o.Hops > 255 || o.SendBuffer < 0 {
		return nil, fmt.Errorf("udp: sender: port %d, hop limit %d or buffer of %d bytes is out of range", o.Port, o.Hops, o.SendBuffer)
	}
	if o.Source.IsUnspecified() || o.Source.IsMulticast() {
		return nil, fmt.Errorf("udp: sender: %v is no source address", o.Source)
	}
	conn, err := listen(&net.ListenConfig{Control: controlSender(o)}, ifi, o.Source, 0)
	if err != nil {
		return nil, fmt.Errorf("udp: sender on %s: %w", ifi.Name, err)
	}
	s := &Sender{ifi: ifi, port: o.Port, source: o.Source.WithZone(""), conn: conn, packets: ipv6.NewPacketConn(conn)}
	err = errors.Join(s.packets.SetMulticastInterface(ifi), s.packets.SetMulticastHopLimit(o.Hops),
		s.packets.SetMulticastLoopback(o.Loopback))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("udp: sender on %s: %w", ifi.Name, err)
	}
	return s, nil
}

// listen opens a socket on a port of addr, which may be the zero Addr for all
// addresses.
func listen(c *net.ListenConfig, ifi *net.Interface, addr netip.Addr, port uint16) (*net.UDPConn, error) {
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	if addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(zone(ifi))
	}
	conn, err := c.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// zone is ifi as the zone of an address. It is the index, not the name: package
// net remembers indexes of names for a minute, and across network namespaces.
func zone(ifi *net.Interface) string { return strconv.Itoa(ifi.Index) }

// Send sends b to a group as packets of segment bytes, of which the last may be
// shorter. It blocks while the socket's buffer is full. Packets that the system
// drops for want of buffers are no error, see [Sender.Drops]; after an error
// some have been sent. A segment that does not fit into the MTU, with 48 bytes
// of headers, is an error.
//
// On Linux that is one system call for each 64 packets or 65,487 bytes (see
// udp(7), UDP_SEGMENT); where the kernel or the device refuses, this is noticed
// once and they are passed one by one from then on.
func (s *Sender) Send(group netip.Addr, b []byte, segment int) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	if segment <= 0 || min(segment, len(b)) > maxPayload {
		return fmt.Errorf("udp: packets of %d bytes", segment)
	}
	if err := s.send(netip.AddrPortFrom(group.WithZone(""), s.port), b, segment); err != nil {
		return fmt.Errorf("udp: send to %v on %s: %w", group, s.ifi.Name, explain(err, s.ifi))
	}
	return nil
}

// count makes a failure to send n packets a drop, if it was for want of buffers.
func (s *Sender) count(err error, n int) error {
	if !errors.Is(err, syscall.ENOBUFS) {
		return err
	}
	s.drops.Add(uint64(n))
	return nil
}

// Drops returns how many packets the system dropped, and said so, because its
// buffers or the interface's queue were full.
func (s *Sender) Drops() uint64 { return s.drops.Load() }

// LocalAddr returns the address, without a zone, that packets to group come
// from, for receivers to join it with. If SenderOptions.Source is not set, it is
// what the kernel would choose now, which changes with the addresses of the
// interface: link-local for groups of that scope, and else a wider one if there
// is one. It asks a new socket, so that on Linux it must be called in the
// sender's network namespace.
func (s *Sender) LocalAddr(group netip.Addr) (netip.Addr, error) {
	if err := checkGroup(group); err != nil {
		return netip.Addr{}, err
	}
	if s.source.IsValid() {
		return s.source, nil
	}
	d := net.Dialer{Control: controlProbe(s.ifi)}
	conn, err := d.Dial("udp6", netip.AddrPortFrom(group.WithZone(zone(s.ifi)), s.port).String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("udp: source for %v on %s: %w", group, s.ifi.Name, explain(err, s.ifi))
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().WithZone(""), nil
}

// Close closes the socket. A blocked Send returns net.ErrClosed.
func (s *Sender) Close() error { return s.conn.Close() }
