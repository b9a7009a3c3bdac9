package mld

import (
	"encoding/binary"
	"time"
)

// Advertisement is a Multicast Router Advertisement, RFC 4286, section 3: it makes
// a snooping switch forward all reports and all groups to the port it comes from.
type Advertisement struct {
	Interval   time.Duration // between advertisements; in s, below 256 s
	Query      time.Duration // between General Queries; in s
	Robustness int
}

// ParseAdvertisement returns the advertisement b, an ICMPv6 message whose checksum
// is right.
func ParseAdvertisement(b []byte) (Advertisement, error) {
	if len(b) < 8 || b[0] != TypeAdvertisement {
		return Advertisement{}, errMessage
	}
	return Advertisement{
		Interval:   time.Duration(b[1]) * time.Second,
		Query:      time.Duration(binary.BigEndian.Uint16(b[4:])) * time.Second,
		Robustness: int(binary.BigEndian.Uint16(b[6:])),
	}, nil
}

// Append appends a as a message, with a checksum of 0, which the kernel fills in.
// Values that the message cannot express become the largest it can.
func (a *Advertisement) Append(b []byte) []byte {
	b = append(b, TypeAdvertisement, byte(clamp(int(a.Interval/time.Second), 0xff)), 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(clamp(int(a.Query/time.Second), 0xffff)))
	return binary.BigEndian.AppendUint16(b, uint16(clamp(a.Robustness, 0xffff)))
}

func clamp(n, most int) int { return min(max(n, 0), most) }

// ParseSolicitation returns nil if b is a Multicast Router Solicitation, RFC 4286,
// section 4, by which a switch that has just started asks for advertisements.
func ParseSolicitation(b []byte) error {
	if len(b) < 4 || b[0] != TypeSolicitation {
		return errMessage
	}
	return nil
}

// AppendSolicitation appends a Multicast Router Solicitation.
func AppendSolicitation(b []byte) []byte { return append(b, TypeSolicitation, 0, 0, 0) }

// appendTermination appends a Multicast Router Termination, RFC 4286, section 5,
// which takes an advertisement back.
func appendTermination(b []byte) []byte { return append(b, TypeTermination, 0, 0, 0) }
