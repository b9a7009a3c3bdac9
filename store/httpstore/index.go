package httpstore

import (
	"context"
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
)

// GetIndex opens an index, or any other file, at an http or https URL, with the
// rules of [Open]. What the server does not have is an error that wraps
// fs.ErrNotExist. If the connection breaks, reading goes on where it was, if the
// server can do that and the file is still the same. Reads fail with the cause of
// ctx when that ends. The caller must close the reader.
func GetIndex(ctx context.Context, rawURL string, o *Options) (io.ReadCloser, error) {
	c, u, err := newClient(rawURL, o)
	if err != nil {
		return nil, err
	}
	r := &resumer{ctx: ctx, client: c, url: u}
	if err := c.retry(ctx, r.open); err != nil {
		c.close()
		return nil, indexError(ctx, "get", u, err)
	}
	return r, nil
}

// PutIndex uploads size bytes of r to an http or https URL, with the rules of
// [Open]. It does not use r after it returns.
func PutIndex(ctx context.Context, rawURL string, r io.ReaderAt, size int64, o *Options) error {
	c, u, err := newClient(rawURL, o)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.put(ctx, u, r, size); err != nil {
		return indexError(ctx, "put", u, err)
	}
	return nil
}

func indexError(ctx context.Context, op string, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if op == "get" && errors.Is(err, fs.ErrNotExist) {
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: op, Path: redact(u), Err: err}
}

// resumer reads a file from a server that may hang up.
type resumer struct {
	ctx    context.Context
	client *client
	url    *url.URL

	body io.ReadCloser // nil: to be opened at off
	off  int64         // bytes read so far
	etag string        // what makes sure that it is still the same file
	err  error         // sticky
}

var errChanged = fmt.Errorf("%w, and the server does not let reading go on where it was", io.ErrUnexpectedEOF)

// open asks for the file from off on.
func (r *resumer) open() error {
	header := http.Header{}
	if r.off > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", r.off))
		header.Set("If-Range", r.etag)
	}
	resp, err := r.client.send(r.ctx, http.MethodGet, r.url, header, nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if r.off > 0 {
		want = http.StatusPartialContent
	}
	if resp.StatusCode != want || r.off > 0 && !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", r.off)) {
		resp.Body.Close()
		return transfer.Forever(errChanged)
	}
	if etag := resp.Header.Get("ETag"); r.off == 0 && strings.HasPrefix(etag, `"`) {
		r.etag = etag
	}
	r.body = resp.Body
	return nil
}

// Read tries again where the connection breaks; the number of tries counts from the
// last byte that came.
func (r *resumer) Read(p []byte) (int, error) {
	for tries := 0; r.err == nil; tries++ {
		if r.body == nil {
			if r.err = r.client.retry(r.ctx, r.open); r.err != nil {
				break
			}
		}
		n, err := r.body.Read(p)
		r.off += int64(n)
		switch {
		case err == io.EOF:
			r.err = io.EOF
		case err != nil:
			r.body.Close()
			r.body = nil
			if r.ctx.Err() != nil || !temporary(err) || r.off > 0 && r.etag == "" || tries >= r.client.o.Retries {
				r.err = err
			}
		}
		if n > 0 || err == nil {
			return n, nil
		}
	}
	if r.err == io.EOF {
		return 0, io.EOF
	}
	return 0, indexError(r.ctx, "get", r.url, r.err)
}

// Close ends the request and closes the connections.
func (r *resumer) Close() error {
	if r.err == nil {
		r.err = fs.ErrClosed
	}
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	r.client.close()
	return nil
}
