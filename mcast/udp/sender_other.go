//go:build !linux

package udp

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
)

func controlSender(o SenderOptions) func(network, address string, c syscall.RawConn) error {
	return nil
}

// controlProbe leaves the choice of the interface to the zone in the group's
// address.
func controlProbe(*net.Interface) func(network, address string, c syscall.RawConn) error {
	return nil
}

func (s *Sender) send(to netip.AddrPort, b []byte, segment int) error {
	for p := range slices.Chunk(b, segment) {
		_, err := s.conn.WriteToUDPAddrPort(p, to)
		if err := s.count(err, 1); err != nil {
			return err
		}
	}
	return nil
}

func explain(err error, _ *net.Interface) error { return err }
