package sftp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
)

// packet is how much a request reads or writes, in bytes: what every server takes.
const packet = 32 << 10

// inFlight is how many requests for one file are on their way at once. Together they
// are 2 MiB, the window of OpenSSH.
const inFlight = 64

// conn is a connection to a server.
type conn struct {
	link   io.ReadWriteCloser
	end    func() // closes link, once
	client *sftp.Client
	in     *bufio.Reader // of what the server says; for the goroutine of client
	rest   int           // bytes left of the packet that it reads
	names  tally

	moved  atomic.Int64  // when a byte moved last, or the connection was taken into use, in ns since 1970
	load   atomic.Int32  // calls that use it
	failed chan struct{} // closed when the connection is to be given up
	dead   chan struct{} // closed when it is: err may be read

	once sync.Once
	err  error // why
}

// lostError says that the connection broke.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// lost reports whether a call failed because its connection broke.
func lost(err error) bool {
	_, ok := errors.AsType[lostError](err)
	return ok || errors.Is(err, sftp.ErrSSHFxConnectionLost)
}

var (
	errGaveUp   = errors.New("the server does not speak SFTP")
	errStalled  = errors.New("the server does not answer")
	errNonsense = errors.New("the server's answer makes no sense")
	errNames    = fmt.Errorf("the server lists more than %d MiB of names in a directory", maxNames>>20)
)

// newConn agrees on SFTP with the far side of link, which it takes over. It gives up
// when ctx ends.
func newConn(ctx context.Context, link io.ReadWriteCloser) (*conn, error) {
	c := &conn{
		link:   link,
		end:    sync.OnceFunc(func() { link.Close() }),
		in:     bufio.NewReaderSize(link, 256<<10),
		failed: make(chan struct{}),
		dead:   make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, c.end)
	client, err := sftp.NewClientPipe(c, c, sftp.MaxPacketChecked(packet),
		sftp.MaxConcurrentRequestsPerFile(inFlight), sftp.UseConcurrentWrites(true))
	if stop() && err == nil {
		c.client = client
		return c, nil
	}
	switch broken, ok := errors.AsType[lostError](err); {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case ok:
		err = c.explain(broken.error)
	default:
		err = fmt.Errorf("there is no SFTP: %w", err)
	}
	c.end()
	if client != nil {
		client.Close()
	}
	return nil, err
}

// watch waits for the end of the connection. Nothing has to be closed afterwards.
func (c *conn) watch(stall time.Duration) {
	tick := time.NewTicker(max(stall/8, time.Millisecond))
	defer tick.Stop()
	for c.alive() {
		select {
		case <-c.failed:
		case now := <-tick.C:
			if c.load.Load() > 0 && now.Sub(time.Unix(0, c.moved.Load())) > stall {
				c.fail(fmt.Errorf("%w for %v", errStalled, stall))
			}
		}
	}
	if broken, ok := errors.AsType[lostError](c.err); ok {
		c.err = c.explain(broken.error)
	}
	c.end()
	c.client.Close() // waits for its goroutine
	if c.err == errGaveUp {
		c.err = c.client.Wait()
	}
	close(c.dead)
}

// explain returns the reason for which link broke, of which err is the symptom.
func (c *conn) explain(err error) error {
	if e, ok := c.link.(interface{ Explain(error) error }); ok {
		return e.Explain(err)
	}
	if err == io.EOF {
		return errors.New("the server closed the connection")
	}
	return err
}

// alive reports whether the connection is not given up.
func (c *conn) alive() bool {
	select {
	case <-c.failed:
		return false
	default:
		return true
	}
}

// fail gives the connection up. Only the first call counts.
func (c *conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.failed)
	})
}

// Read reads for client what the server sends. It is called for one packet at a time,
// from one goroutine.
func (c *conn) Read(p []byte) (int, error) {
	if c.rest == 0 {
		if err := c.packet(); err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(len(p), c.rest)])
	c.rest -= n
	c.moved.Store(time.Now().UnixNano())
	if err != nil {
		err = lostError{err}
		c.fail(err)
	}
	return n, err
}

// packet looks at the packet that comes next: a uint32 length of what follows, and
// that begins with the type.
func (c *conn) packet() error {
	head, err := c.in.Peek(5)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		err = lostError{err}
		c.fail(err)
		return err
	}
	// The client checks the length before it takes memory.
	size := binary.BigEndian.Uint32(head)
	c.rest = int(min(uint64(size)+4, 1<<30))
	const data, name = 103, 104 // SSH_FXP_DATA, SSH_FXP_NAME
	switch head[4] {
	case data:
		err = c.data(size)
	case name:
		err = c.names.add(int64(size))
	}
	if err != nil {
		c.fail(err)
	}
	return err
}

// data refuses a packet of no data, which is no end either: the client would ask for
// the same data for ever. The lengths of the packet and of its data are uint32.
func (c *conn) data(size uint32) error {
	const least = 4 + 1 + 4 + 4 // length, type, ID, length
	if size+4 <= least {
		return errNonsense
	}
	head, err := c.in.Peek(least)
	if err != nil {
		return lostError{err}
	}
	if binary.BigEndian.Uint32(head[least-4:]) == 0 {
		return errNonsense
	}
	return nil
}

// Write sends for client.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.link.Write(p)
	c.moved.Store(time.Now().UnixNano())
	if err != nil {
		err = lostError{err}
		c.fail(err)
		return n, err
	}
	return n, nil
}

// Close is what client does when it has given up.
func (c *conn) Close() error {
	c.fail(errGaveUp)
	return nil
}
