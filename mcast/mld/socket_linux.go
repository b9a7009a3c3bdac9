package mld

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is for some thousand reports, which come at once when a thousand
// receivers begin together, or answer a query.
const receiveBuffer = 8 << 20

// socket is a socket that Go's poller waits for.
type socket struct {
	f    *os.File
	conn syscall.RawConn
}

// newSocket opens a socket with a large buffer that counts what doesn't fit.
func newSocket(domain, typ, proto int) (*socket, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{f: os.NewFile(uintptr(fd), "MLD socket")}
	if s.conn, err = s.f.SyscallConn(); err != nil {
		s.f.Close()
		return nil, err
	}
	// More than the system allows everybody takes CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	}
	if err != nil {
		s.f.Close()
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return s, nil
}

// setup calls f with the file descriptor.
func (s *socket) setup(f func(fd int) error) error {
	var err error
	if cerr := s.conn.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// recvmsg waits for a packet.
func (s *socket) recvmsg(buf, oob []byte) (n, oobn int, from unix.Sockaddr, err error) {
	rerr := s.conn.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, from, err = unix.Recvmsg(int(fd), buf, oob, 0)
			switch err {
			case unix.EINTR, unix.ENETDOWN: // the interface may come up again
			case unix.EAGAIN:
				return false
			default:
				return true
			}
		}
	})
	if rerr != nil {
		return 0, 0, nil, os.ErrClosed
	}
	return n, oobn, from, os.NewSyscallError("recvmsg", err)
}

func (s *socket) interrupt()   { s.f.SetReadDeadline(time.Unix(1, 0)) }
func (s *socket) Close() error { return s.f.Close() }

// controls calls f for every control message in oob.
func controls(oob []byte, f func(level, typ int32, data []byte)) error {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return os.NewSyscallError("control message", err)
		}
		f(h.Level, h.Type, data)
		oob = rest
	}
	return nil
}

// rawSocket receives and sends ICMPv6 messages. The kernel checks and computes
// their checksums.
type rawSocket struct {
	*socket
	ifi *net.Interface
	oob [128]byte // of receive
}

// routerAlert is a hop-by-hop extension header with the router alert option for
// MLD (RFC 2711), then 2 bytes of padding.
const routerAlert = "\x00\x00\x05\x02\x00\x00\x01\x00"

// listenRaw hears MLD. All reports go to ff02::16, Done and solicitations to
// ff02::2, queries to ff02::1, in which every host is.
func listenRaw(ifi *net.Interface) (*rawSocket, error) {
	s, err := newSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, err
	}
	if err := s.setup(func(fd int) error { return setupRaw(fd, ifi) }); err != nil {
		s.Close()
		return nil, err
	}
	return &rawSocket{socket: s, ifi: ifi}, nil
}

func setupRaw(fd int, ifi *net.Interface) error {
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, typeFilter()); err != nil {
		return os.NewSyscallError("setsockopt ICMPV6_FILTER", err)
	}
	if err := attach(fd, linkFilter[:]); err != nil {
		return err
	}
	if err := unix.BindToDevice(fd, ifi.Name); err != nil {
		return os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
	}
	for _, opt := range []struct{ name, value int }{
		{unix.IPV6_RECVHOPLIMIT, 1},
		{unix.IPV6_MULTICAST_HOPS, 1},
		{unix.IPV6_MULTICAST_IF, ifi.Index},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, opt.name, opt.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, routerAlert); err != nil {
		return os.NewSyscallError("setsockopt IPV6_HOPOPTS", err)
	}
	for _, group := range []netip.Addr{allReports, allRouters} {
		m := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifi.Index)}
		if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, m); err != nil {
			return fmt.Errorf("join %s: %w", group, err)
		}
	}
	return nil
}

// typeFilter lets the messages of this package pass.
func typeFilter() *unix.ICMPv6Filter {
	f := &unix.ICMPv6Filter{}
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	for _, typ := range []int{
		TypeQuery, TypeReportV1, TypeDoneV1, TypeReport,
		TypeAdvertisement, TypeSolicitation, TypeTermination,
	} {
		f.Data[typ>>5] &^= 1 << (typ & 31)
	}
	return f
}

// networkHeader is the offset by which a filter finds the IPv6 header, whatever
// the socket: SKF_NET_OFF in linux/filter.h.
const networkHeader = 0xfff00000

// linkFilter is [Accept] on an interface that is not a loopback, in the kernel: a
// flood of other messages doesn't get into the buffer. Accept is asked in any
// case, as the filter comes after the socket.
var linkFilter = [...]unix.SockFilter{
	load(unix.BPF_B, networkHeader+7), // hop limit
	unlessEqual(1, 4),
	load(unix.BPF_H, networkHeader+8), // source
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0xffc0},
	unlessEqual(0xfe80, 1),
	give(1 << 16),
	give(0),
}

// reportV1Filter lets version 1 reports pass, of packets that begin with the IPv6
// header.
var reportV1Filter = [...]unix.SockFilter{
	load(unix.BPF_B, 6),
	unlessEqual(nextHopByHop, 7),
	load(unix.BPF_B, 7), // hop limit
	unlessEqual(1, 5),
	load(unix.BPF_H, ipv6Head), // next header; length of this one
	unlessEqual(nextICMPv6<<8, 3),
	load(unix.BPF_B, ipv6Head+hopByHopHead),
	unlessEqual(TypeReportV1, 1),
	give(1 << 16),
	give(0),
}

// load returns the instruction that loads what is at an offset.
func load(size uint16, offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: offset}
}

// unlessEqual returns the instruction that skips n others unless k was loaded.
func unlessEqual(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k}
}

// give returns the instruction that ends the filter with so many bytes of the
// packet.
func give(bytes uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: bytes}
}

func attach(fd int, filter []unix.SockFilter) error {
	p := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, p))
}

func (s *rawSocket) receive(buf []byte) (message, error) {
	n, oobn, from, err := s.recvmsg(buf, s.oob[:])
	if err != nil {
		return message{}, err
	}
	m := message{data: buf[:n]}
	if sa, ok := from.(*unix.SockaddrInet6); ok {
		m.src = netip.AddrFrom16(sa.Addr)
	}
	err = controls(s.oob[:oobn], func(level, typ int32, data []byte) {
		switch {
		case len(data) < 4:
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_HOPLIMIT:
			m.hopLimit = int(binary.NativeEndian.Uint32(data))
		case level == unix.SOL_SOCKET && typ == unix.SO_RXQ_OVFL:
			m.dropped = binary.NativeEndian.Uint32(data)
		}
	})
	return m, err
}

func (s *rawSocket) self() (netip.Addr, error) {
	if _, err := net.InterfaceByIndex(s.ifi.Index); err != nil {
		return netip.Addr{}, fmt.Errorf("interface %s is gone: %w", s.ifi.Name, err)
	}
	as, err := s.ifi.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	var least netip.Addr // of several any will do, but always the same
	for _, a := range as {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && Accept(p.Addr(), 1, false) && (!least.IsValid() || p.Addr().Less(least)) {
			least = p.Addr()
		}
	}
	return least, nil
}

func (s *rawSocket) send(self netip.Addr, p Packet) error {
	source := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: self.As16(), Ifindex: uint32(s.ifi.Index)})
	to := &unix.SockaddrInet6{Addr: p.To.As16(), ZoneId: uint32(s.ifi.Index)}
	return s.setup(func(fd int) error { return unix.Sendmsg(fd, p.Data, source, to, 0) })
}

// packetSocket receives the version 1 reports that reach the interface.
type packetSocket struct {
	*socket
	oob [64]byte // of receive
}

func listenPacket(ifi *net.Interface) (*packetSocket, error) {
	// Protocol 0 receives nothing before bind.
	s, err := newSocket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	err = s.setup(func(fd int) error {
		if err := attach(fd, reportV1Filter[:]); err != nil {
			return err
		}
		m := &unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_ALLMULTI}
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, m); err != nil {
			return os.NewSyscallError("setsockopt PACKET_ADD_MEMBERSHIP", err)
		}
		proto := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff})
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: ifi.Index}))
	})
	if err != nil {
		s.Close()
		return nil, err
	}
	return &packetSocket{socket: s}, nil
}

func (s *packetSocket) receive(buf []byte) (message, error) {
	for {
		n, oobn, _, err := s.recvmsg(buf, s.oob[:])
		if err != nil {
			return message{}, err
		}
		m, err := parsePacket(buf[:n])
		if err != nil {
			continue
		}
		err = controls(s.oob[:oobn], func(level, typ int32, data []byte) {
			if level == unix.SOL_SOCKET && typ == unix.SO_RXQ_OVFL && len(data) >= 4 {
				m.dropped = binary.NativeEndian.Uint32(data)
			}
		})
		return m, err
	}
}
