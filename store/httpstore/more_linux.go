package httpstore

import (
	"net"

	"golang.org/x/sys/unix"
)

// writeMore writes b, and tells the system that more follows at once.
func writeMore(c net.Conn, b []byte) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_, err := c.Write(b)
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, err := unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			switch err {
			case nil:
				b = b[n:]
			case unix.EAGAIN:
				return false // again when the connection takes more
			case unix.EINTR:
			default:
				failed = err
				return true
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return failed
}
