package udp

import "golang.org/x/sys/unix"

// NoSegments makes s do without UDP_SEGMENT.
func NoSegments(s *Sender) { s.plain.Store(true) }

// UsesSegments reports whether s has not yet found UDP_SEGMENT to be refused.
func UsesSegments(s *Sender) bool { return !s.plain.Load() }

// SetMessageSize makes Read truncate messages that are longer.
func SetMessageSize(r *Receiver, size int) { r.batch.allocate(size) }

// NoChecksum makes s send without checksums, with which Linux refuses
// UDP_SEGMENT.
func (s *Sender) NoChecksum() error {
	return s.setsockopt(unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX)
}

// NoChecksum makes r accept packets without checksums.
func (r *Receiver) NoChecksum() error {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1)
	})("", "", raw)
}

// ReportDrops makes Linux tell s of packets that a full queue drops, which it
// otherwise keeps to itself.
func (s *Sender) ReportDrops() error {
	return s.setsockopt(unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
}

func (s *Sender) setsockopt(level, name int) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(func(fd int) error { return unix.SetsockoptInt(fd, level, name, 1) })("", "", raw)
}
