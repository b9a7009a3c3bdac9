package udp

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// controlReceiver lets receivers share a port.
func controlReceiver(ReceiverOptions) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return setsockopt(c, windows.SOL_SOCKET, windows.SO_REUSEADDR)
	}
}

// setsockopt sets an option to 1.
func setsockopt(c syscall.RawConn, level, opt int) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = windows.SetsockoptInt(windows.Handle(fd), level, opt, 1)
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

// requestMeta asks for the control message that parse wants.
func (r *Receiver) requestMeta() error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	return setsockopt(raw, windows.IPPROTO_IPV6, windows.IPV6_PKTINFO)
}

// parse parses the control message IPV6_PKTINFO, which must be the first, as no
// other is asked for. It is a WSACMSGHDR and an IN6_PKTINFO.
func parse(oob []byte) (m meta, err error) {
	const header = int(unsafe.Sizeof(windows.WSACMSGHDR{}))
	if len(oob) < header+int(unsafe.Sizeof(windows.IN6_PKTINFO{})) {
		return m, errors.New("control message is too short")
	}
	m.group = netip.AddrFrom16([16]byte(oob[header:]))
	m.ifIndex = int(binary.NativeEndian.Uint32(oob[header+16:]))
	return m, nil
}

func isTruncated(_ int, err error) bool { return errors.Is(err, windows.WSAEMSGSIZE) }
