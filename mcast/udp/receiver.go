package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
)

// ReceiverOptions are the settings of [NewReceiver].
type ReceiverOptions struct {
	Port uint16 // that packets are sent to; any number of receivers of a host may share it

	// RecvBuffer is the size of the socket's buffer in bytes, as far as the
	// system permits, see [Receiver.BufferSize]; 0 means 8 MiB.
	RecvBuffer int
}

// Packet is a packet received.
type Packet struct {
	Data   []byte     // valid until the next Read
	Group  netip.Addr // that it was sent to
	Source netip.Addr // that it comes from, without a zone
}

// Receiver receives packets of multicast groups. At most one goroutine may be in
// Read; other methods may be called at any time.
type Receiver struct {
	ifi       *net.Interface
	conn      *net.UDPConn
	packets   *ipv6.PacketConn // on conn
	buffer    int
	overflows atomic.Uint64
	truncated atomic.Uint64

	// For Read alone.
	batch batch
	all   []Packet // of the last batch
	rest  []Packet // of all, not yet returned by Read
}

// NewReceiver opens a socket for receiving on ifi. It is member of no group.
func NewReceiver(ifi *net.Interface, o ReceiverOptions) (*Receiver, error) {
	if o.RecvBuffer == 0 {
		o.RecvBuffer = 8 << 20
	}
	if o.Port == 0 || o.RecvBuffer < 0 {
		return nil, fmt.Errorf("udp: receiver: port %d or buffer of %d bytes is out of range", o.Port, o.RecvBuffer)
	}
	conn, err := listen(&net.ListenConfig{Control: controlReceiver(o)}, ifi, netip.Addr{}, o.Port)
	if err != nil {
		return nil, fmt.Errorf("udp: receiver on %s: %w", ifi.Name, err)
	}
	r := &Receiver{ifi: ifi, conn: conn, packets: ipv6.NewPacketConn(conn)}
	if err := r.init(o); err != nil {
		conn.Close()
		return nil, fmt.Errorf("udp: receiver on %s: %w", ifi.Name, err)
	}
	return r, nil
}

// BufferSize returns the size of the socket's buffer in bytes: RecvBuffer or
// less. On Linux the limit for processes without CAP_NET_ADMIN is the sysctl
// net.core.rmem_max. Every packet takes more of it than its length; a run of
// packets that the sender's or this kernel has put together takes less.
func (r *Receiver) BufferSize() int { return r.buffer }

// Overflows returns how often the kernel has dropped a packet because the
// socket's buffer was full, as far as packets read since tell. A run of packets
// that the sender's or this kernel has put together is dropped whole and may
// count as one. Only Linux counts them.
func (r *Receiver) Overflows() uint64 { return r.overflows.Load() }

// Truncated returns how many packets, or runs that the kernel has put together,
// were dropped because they were longer than the buffers of Read, which take
// every UDP packet but jumbograms.
func (r *Receiver) Truncated() uint64 { return r.truncated.Load() }

// Join makes the receiver member of a group: for packets of every source if
// source is the zero Addr (ASM), else for those of source, and of the sources
// joined for that group before (SSM). A membership in both ways, or twice in the
// same, is an error; so is more than the kernel allows a socket, which on Linux
// is about 2,300 groups.
func (r *Receiver) Join(group, source netip.Addr) error {
	err := r.member(group, source, r.packets.JoinGroup, r.packets.JoinSourceSpecificGroup)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS):
		err = fmt.Errorf("%w (too many groups or sources for one socket: sysctl net.core.optmem_max, net.ipv6.mld_max_msf)", err)
	}
	return fmt.Errorf("udp: join %s: %w", describe(group, source, r.ifi), err)
}

// Leave ends a membership, by the same arguments as Join. Packets that have
// arrived before may still be read.
func (r *Receiver) Leave(group, source netip.Addr) error {
	if err := r.member(group, source, r.packets.LeaveGroup, r.packets.LeaveSourceSpecificGroup); err != nil {
		return fmt.Errorf("udp: leave %s: %w", describe(group, source, r.ifi), err)
	}
	return nil
}

func (r *Receiver) member(group, source netip.Addr,
	asm func(*net.Interface, net.Addr) error, ssm func(*net.Interface, net.Addr, net.Addr) error) error {
	if err := checkGroup(group); err != nil {
		return err
	}
	to := &net.UDPAddr{IP: group.AsSlice()}
	if !source.IsValid() {
		return asm(r.ifi, to)
	}
	if !source.Is6() || source.Is4In6() || source.IsMulticast() {
		return fmt.Errorf("%v is no IPv6 unicast address", source)
	}
	return ssm(r.ifi, to, &net.UDPAddr{IP: source.AsSlice()})
}

func describe(group, source netip.Addr, ifi *net.Interface) string {
	if !source.IsValid() {
		return fmt.Sprintf("%v on %s", group, ifi.Name)
	}
	return fmt.Sprintf("%v from %v on %s", group, source, ifi.Name)
}

// Read waits for packets and returns how many of p it has filled in: at least
// one, unless there is an error. It takes what has already arrived, as far as p
// has room for it, so that p should have some hundred elements. Packets that are
// not for a group, or come in by another interface, are left out. The error is
// os.ErrDeadlineExceeded after a deadline and net.ErrClosed after Close.
func (r *Receiver) Read(p []Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		r.all = r.all[:0]
		if err := r.readBatch(); err != nil {
			return 0, fmt.Errorf("udp: read on %s: %w", r.ifi.Name, err)
		}
		r.rest = r.all
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// add adds the packets in b, segment bytes each, to r.all.
func (r *Receiver) add(b []byte, m meta, source netip.Addr) {
	if !m.group.IsMulticast() || m.ifIndex != r.ifi.Index {
		return
	}
	p := Packet{Group: m.group, Source: source.WithZone("")}
	for m.segment > 0 && len(b) > m.segment {
		p.Data, b = b[:m.segment:m.segment], b[m.segment:]
		r.all = append(r.all, p)
	}
	p.Data = b
	r.all = append(r.all, p)
}

// meta is what a control message tells.
type meta struct {
	group   netip.Addr
	ifIndex int
	segment int // length in bytes of all packets but the last; 0 if there is one
}

// SetReadDeadline sets when Read gives up; the zero time means never.
func (r *Receiver) SetReadDeadline(t time.Time) error { return r.conn.SetReadDeadline(t) }

// Close closes the socket, which ends all memberships. A blocked Read returns
// net.ErrClosed.
func (r *Receiver) Close() error { return r.conn.Close() }
