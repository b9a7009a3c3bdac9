package mld

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"time"
)

// Query is a Multicast Listener Query, RFC 3810, section 5.1.
type Query struct {
	Version     int           // 1 or 2
	Group       netip.Addr    // unspecified or invalid: a General Query, about all groups
	MaxResponse time.Duration // hosts answer after a random time below; in ms

	// Of version 2 only.
	Suppress bool          // other routers are not to lower their timers
	QRV      int           // robustness: how often what may get lost is sent; 0: more than 7
	Interval time.Duration // between General Queries; in s
	Sources  []netip.Addr  // the query is about these sources of Group only
}

// General reports whether q asks about all groups.
func (q *Query) General() bool { return !q.Group.IsValid() || q.Group.IsUnspecified() }

const querySize = 28 // version 2 query without sources

// ParseQuery returns the query b, an ICMPv6 message whose checksum is right. b is
// not kept.
func ParseQuery(b []byte) (Query, error) {
	if len(b) < v1Size || b[0] != TypeQuery {
		return Query{}, errMessage
	}
	code := binary.BigEndian.Uint16(b[4:])
	q := Query{Version: 1, Group: addrAt(b[8:]), MaxResponse: time.Duration(code) * time.Millisecond}
	if len(b) == v1Size {
		return q, nil
	}
	if len(b) < querySize { // neither version, RFC 3810, section 8.1
		return Query{}, errMessage
	}
	n := int(binary.BigEndian.Uint16(b[26:]))
	if n*16 > len(b)-querySize {
		return Query{}, errMessage
	}
	q.Version = 2
	q.MaxResponse = time.Duration(float(uint(code), 12)) * time.Millisecond
	q.Suppress = b[24]&8 != 0
	q.QRV = int(b[24] & 7)
	q.Interval = time.Duration(float(uint(b[25]), 4)) * time.Second
	q.Sources = addrs(b[querySize:], n)
	return q, nil
}

// Append appends q as a message, with a checksum of 0, which the kernel fills in.
// Durations that the message cannot express are rounded down.
func (q *Query) Append(b []byte) []byte {
	ms := uint(max(q.MaxResponse, 0) / time.Millisecond)
	code := min(ms, 1<<16-1)
	if q.Version != 1 {
		code = floatCode(ms, 12)
	}
	b = append(b, TypeQuery, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = appendAddr(append(b, 0, 0), q.Group)
	if q.Version == 1 {
		return b
	}
	flags := byte(0)
	if q.Suppress {
		flags = 8
	}
	if 0 < q.QRV && q.QRV <= 7 {
		flags |= byte(q.QRV)
	}
	b = append(b, flags, byte(floatCode(uint(max(q.Interval, 0)/time.Second), 4)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(q.Sources)))
	for _, s := range q.Sources {
		b = appendAddr(b, s)
	}
	return b
}

// The codes for durations are, from the top, a bit that is 1, 3 bits of exponent
// and m of mantissa for (mantissa + 2^m) * 2^(exponent+3); a code whose top bit is
// 0 means itself. RFC 3810, section 5.1.3 has m = 12, section 5.1.9 m = 4.

// float returns the value of a code.
func float(code uint, m int) uint {
	if code>>(m+3) == 0 {
		return code
	}
	return (code&(1<<m-1) | 1<<m) << (code>>m&7 + 3)
}

// floatCode returns the code of the largest value that is not above v.
func floatCode(v uint, m int) uint {
	e := bits.Len(v) - (m + 1) - 3 // exponent
	switch {
	case e < 0:
		return v
	case e > 7:
		return 1<<(m+4) - 1
	}
	return 1<<(m+3) | uint(e)<<m | v>>(e+3)&(1<<m-1)
}
