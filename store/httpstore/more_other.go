//go:build !linux

package httpstore

import "net"

// writeMore writes b, after which more follows at once.
func writeMore(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}
