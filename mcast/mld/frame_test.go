package mld

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

var (
	frameSource = netip.MustParseAddr("fe80::1")
	frameGroup  = netip.MustParseAddr("ff15::1:2345")
)

// frame returns an IPv6 packet with a message in it.
func frame(icmp []byte) []byte {
	icmp = bytes.Clone(icmp)
	binary.BigEndian.PutUint16(icmp[2:], checksum(frameSource, frameGroup, icmp))
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(hopByHopHead+len(icmp)))
	b = appendAddr(appendAddr(append(b, nextHopByHop, 1), frameSource), frameGroup)
	b = append(b, nextICMPv6, 0, 5, 2, 0, 0, 1, 0)
	return append(b, icmp...)
}

func TestParsePacket(t *testing.T) {
	icmp := AppendReportV1(nil, frameGroup, false)
	for _, padding := range []int{0, 6} { // Ethernet's, of short packets
		m, err := parsePacket(append(frame(icmp), make([]byte, padding)...))
		if err != nil || m.src != frameSource || m.hopLimit != 1 || len(m.data) != len(icmp) || m.data[0] != TypeReportV1 {
			t.Errorf("got %+v, %v", m, err)
		}
	}
	for i, bit := range map[int]byte{
		0: 0x80, 4: 1, 5: 1, 6: 1, // version, lengths, next header
		15: 1, 39: 1, // addresses, which the checksum is over
		40: 1, 41: 1, 50: 1, 60: 1,
	} {
		b := frame(icmp)
		b[i] ^= bit
		if m, err := parsePacket(b); err == nil {
			t.Errorf("byte %d wrong: got %+v", i, m)
		}
	}
	for n, b := 0, frame(icmp); n < len(b); n++ {
		if m, err := parsePacket(b[:n:n]); err == nil {
			t.Errorf("cut to %d bytes: got %+v", n, m)
		}
	}
}

// TestChecksum has the example of RFC 1071, section 3, whose sum is ddf2, with a
// pseudo header that adds 8 + 58.
func TestChecksum(t *testing.T) {
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}
	if got, want := checksum(netip.Addr{}, netip.Addr{}, b), ^uint16(0xddf2+8+58); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := checksum(netip.Addr{}, netip.Addr{}, b[:7]), ^uint16(0xddf2-0xf7+7+58); got != want {
		t.Errorf("odd length: got %x, want %x", got, want)
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(frame(AppendReportV1(nil, frameGroup, false)))
	f.Add(frame([]byte{TypeSolicitation, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parsePacket(b)
		if err == nil && (len(m.data)+ipv6Head+hopByHopHead > len(b) || !m.src.IsValid()) {
			t.Errorf("% x: %+v", b, m)
		}
	})
}
