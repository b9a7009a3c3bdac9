package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch holds the buffers of one system call. It is not one of x/net's
// ReadBatch: under the race detector that takes time for every byte of its
// buffers, received or not, and it allocates memory for every message.
type batch struct {
	raw      syscall.RawConn
	messages []message
	buffers  []buffers // of messages
	drops    uint32    // the last value of the kernel's counter
}

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	n      uint32 // length in bytes of what was received
}

// buffers are those of a message.
type buffers struct {
	source  unix.RawSockaddrInet6
	vector  unix.Iovec
	data    []byte
	control []byte
}

const (
	batchSize   = 16      // messages per system call, each up to 64 packets or more
	messageSize = 1 << 16 // bytes, more than any UDP packet or run of them
)

func controlReceiver(o ReceiverOptions) control {
	return onSocket(func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, o.RecvBuffer) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, o.RecvBuffer); err != nil {
				return err
			}
		}
		// Since Linux 5.0. Without it, packets come one by one.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
		for _, opt := range []struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
			{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1},
			{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			// Otherwise packets of groups come that other sockets have joined.
			{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0},
		} {
			if err := unix.SetsockoptInt(fd, opt.level, opt.name, opt.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Receiver) init(ReceiverOptions) error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	r.batch.raw = raw
	r.batch.allocate(messageSize)
	var size int
	cerr := raw.Control(func(fd uintptr) {
		size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	if cerr != nil {
		return cerr
	}
	// The kernel doubles the size for its own needs: socket(7).
	r.buffer = size / 2
	return os.NewSyscallError("getsockopt", err)
}

// allocate makes buffers for messages of that size in bytes.
func (b *batch) allocate(size int) {
	// Room for IPV6_PKTINFO, UDP_GRO's int and SO_RXQ_OVFL's uint32.
	control := unix.CmsgSpace(unix.SizeofInet6Pktinfo) + 2*unix.CmsgSpace(4)
	b.messages, b.buffers = make([]message, batchSize), make([]buffers, batchSize)
	for i := range b.messages {
		buf, h := &b.buffers[i], &b.messages[i].header
		buf.data, buf.control = make([]byte, size), make([]byte, control)
		buf.vector.Base = &buf.data[0]
		buf.vector.SetLen(size)
		h.Name = (*byte)(unsafe.Pointer(&buf.source))
		h.Iov = &buf.vector
		h.SetIovlen(1)
		h.Control = &buf.control[0]
	}
}

// receive waits for messages and returns how many there are.
func (b *batch) receive() (int, error) {
	for i := range b.messages {
		h := &b.messages[i].header // of which the kernel changes these
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(len(b.buffers[i].control))
	}
	var n uintptr
	var errno syscall.Errno
	err := b.raw.Read(func(fd uintptr) bool {
		for {
			n, _, errno = unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.messages[0])), uintptr(len(b.messages)), 0, 0, 0)
			if errno != unix.EINTR {
				return errno != unix.EAGAIN
			}
		}
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("recvmmsg", errno)
	}
	return int(n), err
}

func (r *Receiver) readBatch() error {
	n, err := r.batch.receive()
	if err != nil {
		return err
	}
	for i, message := range r.batch.messages[:n] {
		b := &r.batch.buffers[i]
		m, err := r.parse(b.control[:message.header.Controllen])
		if err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		if message.header.Flags&unix.MSG_TRUNC != 0 {
			r.truncated.Add(1)
			continue
		}
		r.add(b.data[:message.n], m, netip.AddrFrom16(b.source.Addr))
	}
	return nil
}

// parse parses a message's control messages.
func (r *Receiver) parse(oob []byte) (m meta, err error) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return m, err
		}
		switch oob = rest; {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.group = netip.AddrFrom16([16]byte(data))
			m.ifIndex = int(binary.NativeEndian.Uint32(data[16:]))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			m.segment = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			// A counter since the socket was opened, which wraps around.
			drops := binary.NativeEndian.Uint32(data)
			r.overflows.Add(uint64(drops - r.batch.drops))
			r.batch.drops = drops
		}
	}
	return m, nil
}
