package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// maxSegments is how many packets one system call sends: UDP_MAX_SEGMENTS of
// linux/udp.h, which is 64 until Linux 6.9 and 128 since.
const maxSegments = 64

// control is the type of net.ListenConfig.Control.
type control = func(network, address string, c syscall.RawConn) error

// onSocket makes a function that sets options of a socket a control.
func onSocket(set func(fd int) error) control {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = set(int(fd)) }); cerr != nil {
			return cerr
		}
		return os.NewSyscallError("setsockopt", err)
	}
}

func controlSender(o SenderOptions) control {
	return onSocket(func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, o.SendBuffer) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, o.SendBuffer); err != nil {
				return err
			}
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
	})
}

// controlProbe makes a socket choose its source address as a sender on ifi: a
// zone in the group's address does that only for groups of link-local scope.
func controlProbe(ifi *net.Interface) control {
	return onSocket(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index)
	})
}

func (s *Sender) send(to netip.AddrPort, b []byte, segment int) error {
	n := min(maxSegments, maxPayload/min(segment, maxPayload)) * segment
	for run := range slices.Chunk(b, n) {
		if err := s.sendRun(to, run, segment); err != nil {
			return err
		}
	}
	return nil
}

// sendRun sends up to maxSegments packets.
func (s *Sender) sendRun(to netip.AddrPort, b []byte, segment int) error {
	if s.plain.Load() || len(b) <= segment {
		return s.sendEach(to, b, segment)
	}
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, segmentMessage(segment), to)
	if !refused(err) {
		return s.count(err, (len(b)+segment-1)/segment)
	}
	// These errors are also those of segments that are too big. It was the
	// option that was refused if it works without.
	if err := s.sendEach(to, b, segment); err != nil {
		return err
	}
	s.plain.Store(true)
	return nil
}

// refused reports whether err may be due to UDP_SEGMENT: unknown to the kernel,
// too many segments for it, or not supported by the device.
func refused(err error) bool {
	for _, e := range []error{unix.EIO, unix.EINVAL, unix.EMSGSIZE, unix.ENOPROTOOPT, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// segmentMessage returns the control message that makes the kernel cut what is
// sent into packets of n bytes.
func segmentMessage(n int) []byte {
	const size = 2 // bytes, of the uint16
	b := make([]byte, unix.CmsgSpace(size))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(size))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(n))
	return b
}

// sendEach sends up to maxSegments packets one by one, with as few system calls
// as that takes.
func (s *Sender) sendEach(to netip.AddrPort, b []byte, segment int) error {
	if len(b) <= segment {
		_, err := s.conn.WriteToUDPAddrPort(b, to)
		return s.count(err, 1)
	}
	addr := net.UDPAddrFromAddrPort(to)
	ms := make([]ipv6.Message, 0, maxSegments)
	for p := range slices.Chunk(b, segment) {
		ms = append(ms, ipv6.Message{Buffers: [][]byte{p}, Addr: addr})
	}
	for len(ms) > 0 {
		n, err := s.packets.WriteBatch(ms, 0)
		if err != nil {
			n = 1 // it is the first that failed
			if err := s.count(err, n); err != nil {
				return err
			}
		}
		ms = ms[n:]
	}
	return nil
}

// explain adds to a send's error what can be done about it.
func explain(err error, ifi *net.Interface) error {
	if !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	if ifi.Flags&net.FlagLoopback != 0 {
		return fmt.Errorf("%w (multicast on %[2]s needs a route: ip -6 route add local ff00::/8 dev %[2]s table local)", err, ifi.Name)
	}
	return fmt.Errorf("%w (is there an IPv6 address on %[2]s, and a route: ip -6 route show table local dev %[2]s ff00::/8)", err, ifi.Name)
}
