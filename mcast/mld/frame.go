package mld

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv6Head     = 40
	hopByHopHead = 8 // extension header with nothing but the router alert option

	nextHopByHop = 0
	nextICMPv6   = 58
)

// parsePacket returns the message in an IPv6 packet, and its source and hop limit.
// It takes only what MLD looks like: a hop-by-hop extension header, then ICMPv6
// with a right checksum. The message is part of b.
func parsePacket(b []byte) (message, error) {
	if len(b) < ipv6Head+hopByHopHead || b[0]>>4 != 6 || b[6] != nextHopByHop {
		return message{}, errMessage
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	head := 8 + 8*int(b[ipv6Head+1])
	if size > len(b)-ipv6Head || head > size || b[ipv6Head] != nextICMPv6 {
		return message{}, errMessage
	}
	m := message{
		src:      addrAt(b[8:]),
		hopLimit: int(b[7]),
		data:     b[ipv6Head+head : ipv6Head+size],
	}
	if checksum(m.src, addrAt(b[24:]), m.data) != 0 {
		return message{}, errMessage
	}
	return m, nil
}

// checksum returns the checksum of the ICMPv6 message b, RFC 4443, section 2.3: 0
// if b has the right one.
func checksum(src, dst netip.Addr, b []byte) uint16 {
	var pseudo []byte
	pseudo = appendAddr(appendAddr(pseudo, src), dst)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, nextICMPv6)
	sum := addWords(addWords(0, pseudo), b)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// addWords adds the 16-bit words of b to sum, which has room for those of any
// packet.
func addWords(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
