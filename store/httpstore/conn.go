package httpstore

import (
	"context"
	"errors"
	"io"
	"net"
)

// conn is a connection that came through a gate. It can hold the head of an answer
// back until the file behind it is sent, so that both go in the same packets.
type conn struct {
	net.Conn
	leave func() // the gate

	holds bool   // what is written goes into head
	head  []byte // held back
}

// connKey is the key of contexts for the *conn of a request.
type connKey struct{}

func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// maxHead is how much is held back at most.
const maxHead = 8 << 10

func (c *conn) Write(b []byte) (int, error) {
	if c.holds && len(c.head)+len(b) <= maxHead {
		c.head = append(c.head, b...)
		return len(b), nil
	}
	if err := c.release(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// hold holds back what is written until something is read from a file, or released.
func (c *conn) hold() { c.holds = true }

// release sends what was held back.
func (c *conn) release() error {
	if c == nil {
		return nil
	}
	c.holds = false
	if len(c.head) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.head)
	c.head = c.head[:0]
	return err
}

// ReadFrom sends r, without copying it if it is a file and the system can do that.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if len(c.head) > 0 {
		head := c.head
		c.holds, c.head = false, c.head[:0]
		if err := writeMore(c.Conn, head); err != nil {
			return 0, err
		}
	}
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// CloseWrite lets the client read an answer before the connection ends.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
