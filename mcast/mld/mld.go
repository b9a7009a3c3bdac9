// Package mld tells the sender of a multicast channel who listens, on one
// interface of one IPv6 link.
//
// A host that joins a group says so in MLD reports (RFC 3810, and RFC 2710 for
// version 1), which every router of the link, and this package, may hear. So the
// receivers of a channel send no requests, and its sender is silent while nobody
// listens.
//
// The package has two halves. The first is pure; times are arguments:
//
//	ParseReport, ParseQuery, …   messages
//	Table                        which host listens to which group
//	Querier                      who asks the hosts, and whether we have to
//
// The second, [Listener], runs them on a socket, which only Linux can do:
//
//	packets -> Accept -> ParseReport -> Table   -> Event
//	                  -> ParseQuery  -> Querier -> General Queries
//
// Anybody on the link can forge a report. A forged join makes the sender send to
// a group nobody wants, at most at its own rate; a forged leave is put right by
// the host's next answer to a query. [TableOptions] bounds the memory that either
// can take.
package mld

import (
	"errors"
	"net/netip"
)

// Types of ICMPv6 messages, by IANA's registry.
const (
	TypeQuery         = 130 // Multicast Listener Query, RFC 2710 and RFC 3810
	TypeReportV1      = 131 // Multicast Listener Report, RFC 2710
	TypeDoneV1        = 132 // Multicast Listener Done, RFC 2710
	TypeReport        = 143 // Version 2 Multicast Listener Report, RFC 3810
	TypeAdvertisement = 151 // Multicast Router Advertisement, RFC 4286
	TypeSolicitation  = 152 // Multicast Router Solicitation, RFC 4286
	TypeTermination   = 153 // Multicast Router Termination, RFC 4286
)

// Destinations.
var (
	allNodes    = netip.MustParseAddr("ff02::1")  // General Queries
	allRouters  = netip.MustParseAddr("ff02::2")  // version 1 Done, router solicitations
	allReports  = netip.MustParseAddr("ff02::16") // version 2 reports
	allSnoopers = netip.MustParseAddr("ff02::6a") // router advertisements
)

// errMessage is the error of a message whose lengths contradict each other, or of
// another type than asked for.
var errMessage = errors.New("malformed MLD message")

// Event is a change of what a host listens to.
type Event struct {
	Group, Host netip.Addr // without zone
	Joined      bool       // false: it left, or has not been heard for too long
}

// Accept reports whether a message may be believed to come from this link: its
// hop limit is 1 and its source is link-local, see RFC 3810, sections 5.1.14 and
// 5.2.13. Routers forward neither. The kernel's own reports on a loopback
// interface come from the unspecified address; elsewhere that means a host
// without an address yet, which RFC 3590 has routers ignore.
//
// All that this package hears passes here. Queries that switches without an
// address of their own send from the unspecified address don't, so these take no
// part in the election of the querier, as RFC 4541, section 2.1.1, wants it.
func Accept(src netip.Addr, hopLimit int, loopback bool) bool {
	if hopLimit != 1 || src.Is4In6() {
		return false
	}
	return src.Is6() && src.IsLinkLocalUnicast() || loopback && src == netip.IPv6Unspecified()
}

// addrAt returns the address that b begins with.
func addrAt(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }

// addrs returns the n addresses that b, which is long enough, begins with.
func addrs(b []byte, n int) []netip.Addr {
	if n == 0 {
		return nil
	}
	as := make([]netip.Addr, n)
	for i := range as {
		as[i] = addrAt(b[16*i:])
	}
	return as
}

// appendAddr appends the 16 bytes of a; the zero Addr is the unspecified address.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	a16 := a.As16()
	return append(b, a16[:]...)
}
