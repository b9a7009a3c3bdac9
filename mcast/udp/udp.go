// Package udp sends and receives bursts of UDP packets to and from IPv6
// multicast groups on one network interface. It knows nothing of what is in
// them.
//
// On Linux a [Sender] hands the kernel up to 64 packets in one system call, and
// a [Receiver] takes them the same way; elsewhere it is a packet at a time.
package udp

import (
	"fmt"
	"net"
	"net/netip"
)

// Usable returns the interfaces that multicast can be tried on: those that are
// up, capable of it, not loopback, and have a link-local IPv6 address, which MLD
// needs.
func Usable() ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var usable []net.Interface
	for _, ifi := range all {
		if ifi.Flags&(net.FlagUp|net.FlagMulticast|net.FlagLoopback) != net.FlagUp|net.FlagMulticast {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // the interface has gone since
		}
		if hasLinkLocal(addrs) {
			usable = append(usable, ifi)
		}
	}
	return usable, nil
}

func hasLinkLocal(addrs []net.Addr) bool {
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

// checkGroup returns an error unless addr is an IPv6 multicast address.
func checkGroup(addr netip.Addr) error {
	if !addr.Is6() || addr.Is4In6() || !addr.IsMulticast() {
		return fmt.Errorf("udp: %v is no IPv6 multicast address", addr)
	}
	return nil
}
