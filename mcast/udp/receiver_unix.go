//go:build unix && !linux

package udp

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// controlReceiver lets receivers share a port, for which BSDs want both options.
func controlReceiver(ReceiverOptions) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				if err == nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, 1)
				}
			}
		})
		if cerr != nil {
			return cerr
		}
		return os.NewSyscallError("setsockopt", err)
	}
}

// requestMeta asks for the control messages that parse wants.
func (r *Receiver) requestMeta() error {
	return r.packets.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
}

// parse parses a packet's control messages.
func parse(oob []byte) (meta, error) {
	var m ipv6.ControlMessage
	if err := m.Parse(oob); err != nil {
		return meta{}, err
	}
	group, _ := netip.AddrFromSlice(m.Dst)
	return meta{group: group, ifIndex: m.IfIndex}, nil
}

func isTruncated(flags int, _ error) bool { return flags&unix.MSG_TRUNC != 0 }
