package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/castorsync/castor/index"
)

// A pipe, a terminal or a named pipe that nobody has opened at its other end may
// make a call of the system wait for ever. What can meet one goes through here,
// so that a signal ends it all the same.

// await returns what f returns, or the cause of ctx as soon as that ends. Then f
// is abandoned, together with what it uses.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// piece is how many bytes are read or written at once.
const piece = 256 << 10

// cancelReader returns a reader of r whose Read returns the cause of ctx as soon
// as that ends, even while r makes it wait.
func cancelReader(ctx context.Context, r io.Reader) io.Reader {
	return &cancellableReader{ctx: ctx, r: r}
}

type cancellableReader struct {
	ctx context.Context
	r   io.Reader
	buf []byte
}

func (c *cancellableReader) Read(b []byte) (int, error) {
	if c.buf == nil {
		c.buf = make([]byte, piece)
	}
	into := c.buf[:min(len(b), len(c.buf))]
	n, err := await(c.ctx, func() (int, error) { return c.r.Read(into) })
	copy(b, into[:n])
	return n, err
}

// cancelWriter is cancelReader for writing. What has been written when ctx ends
// is the beginning of what was to be.
func cancelWriter(ctx context.Context, w io.Writer) *cancellableWriter {
	return &cancellableWriter{ctx: ctx, w: w}
}

type cancellableWriter struct {
	ctx context.Context
	w   io.Writer
	buf []byte // belongs to an abandoned write if there is an err
	err error  // sticky; set by Write
}

func (c *cancellableWriter) Write(b []byte) (n int, err error) {
	for n < len(b) && c.err == nil {
		c.buf = append(c.buf[:0], b[n:min(len(b), n+piece)]...)
		var m int
		m, c.err = await(c.ctx, func() (int, error) { return c.w.Write(c.buf) })
		n += m
	}
	return n, c.err
}

// open opens a file that may be a named pipe.
func (a *app) open(name string) (*os.File, error) {
	return await(a.ctx, func() (*os.File, error) { return os.Open(name) })
}

// index reads the index at loc.
func (a *app) index(loc string) (*index.Index, error) {
	return await(a.ctx, func() (*index.Index, error) { return a.places.Index(a.ctx, loc, a.Stdin) })
}

// indexReader opens the index at loc for reading it entry by entry. The caller
// calls done at the end.
func (a *app) indexReader(loc string) (x *index.Reader, done func() error, err error) {
	f, err := await(a.ctx, func() (io.ReadCloser, error) { return a.places.OpenIndex(a.ctx, loc, a.Stdin) })
	if err != nil {
		return nil, nil, err
	}
	x, err = index.NewReader(cancelReader(a.ctx, f))
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("index %s: %w", loc, err)
	}
	return x, f.Close, nil
}
