package s3

import (
	"context"
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// GetIndex opens an index, or any other object, at a URL of the forms of [Open]. What
// is not there is an error that wraps fs.ErrNotExist. If the connection breaks,
// reading goes on where it was, if the object is still the same. Reads fail with the
// cause of ctx when that ends. The caller must close the reader.
func GetIndex(ctx context.Context, rawURL string, o *Options) (io.ReadCloser, error) {
	c, err := newObjectClient(ctx, rawURL, o)
	if err != nil {
		return nil, err
	}
	r := &resumer{ctx: ctx, client: c}
	if err := c.retry(ctx, r.open); err != nil {
		c.close()
		return nil, c.indexError(ctx, "get", err)
	}
	return r, nil
}

// maxPut is the greatest object that S3 takes in one upload.
const maxPut = 5 << 30

// PutIndex uploads size bytes of r, up to 5 GiB, to a URL of the forms of [Open]. The
// object is there whole or, if there is an error, perhaps not. It does not use r after
// it returns.
func PutIndex(ctx context.Context, rawURL string, r io.ReaderAt, size int64, o *Options) error {
	c, err := newObjectClient(ctx, rawURL, o)
	if err != nil {
		return err
	}
	defer c.close()
	if size > maxPut {
		err = fmt.Errorf("%d bytes: S3 takes at most %d at once", size, int64(maxPut))
	} else {
		err = c.put(ctx, c.key, r, size, "application/octet-stream", false)
	}
	if err != nil {
		return c.indexError(ctx, "put", err)
	}
	return nil
}

// ListIndexes calls each for the objects right below a URL of the forms of [Open] whose
// names end in .caibx or .caidx, in the order of names. It returns what each returns.
func ListIndexes(ctx context.Context, rawURL string, o *Options, each func(url string, size int64, modified time.Time) error) error {
	c, err := newClient(ctx, rawURL, o)
	if err != nil {
		return err
	}
	defer c.close()
	prefix := c.key
	if prefix != "" {
		prefix += "/"
	}
	stopped := false
	err = c.list(ctx, prefix, false, func(o minio.ObjectInfo) error {
		name, ok := strings.CutPrefix(o.Key, prefix)
		ext := path.Ext(name)
		if !ok || strings.Contains(name, "/") || ext != ".caibx" && ext != ".caidx" {
			return nil
		}
		err := each(c.url(o.Key), o.Size, o.LastModified)
		stopped = err != nil
		return err
	})
	if err == nil || stopped {
		return err
	}
	return c.indexError(ctx, "list", err)
}

// newObjectClient is newClient for the URL of an object.
func newObjectClient(ctx context.Context, rawURL string, o *Options) (*client, error) {
	c, err := newClient(ctx, rawURL, o)
	if err == nil && c.key == "" {
		return nil, fmt.Errorf("%s: there is no name behind the bucket", c.base)
	}
	return c, err
}

func (c *client) indexError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: op, Path: c.url(c.key), Err: err}
}

// resumer reads an object from a server that may hang up.
type resumer struct {
	ctx    context.Context
	client *client

	body io.ReadCloser // nil: to be opened at off
	off  int64         // bytes read so far
	size int64         // -1: unknown
	etag string        // what makes sure that it is still the same object
	err  error         // sticky
}

var errChanged = transfer.Forever(fmt.Errorf("%w, and reading cannot go on where it was", io.ErrUnexpectedEOF))

// open asks for the object from off on.
func (r *resumer) open(core *regional) error {
	c := r.client
	var o minio.GetObjectOptions
	if r.off > 0 {
		if err := errors.Join(o.SetRange(r.off, 0), o.SetMatchETag(r.etag)); err != nil {
			return transfer.Forever(err)
		}
	}
	body, info, header, err := core.GetObject(r.ctx, c.bucket, c.key, o)
	if err != nil {
		if err = c.explain(err); r.off > 0 && status(err) == http.StatusPreconditionFailed {
			return errChanged
		}
		return err
	}
	if r.off > 0 && !strings.HasPrefix(header.Get("Content-Range"), fmt.Sprintf("bytes %d-", r.off)) {
		body.Close()
		return errChanged
	}
	if r.off == 0 {
		r.etag, r.size = info.ETag, info.Size
	}
	r.body = body
	return nil
}

// Read tries again where the connection breaks; the number of tries counts from the
// last byte that came.
func (r *resumer) Read(p []byte) (int, error) {
	for tries := 0; r.err == nil; tries++ {
		if r.ctx.Err() != nil { // though bytes may be at hand
			r.err = context.Cause(r.ctx)
			break
		}
		if r.body == nil {
			if r.err = r.client.retry(r.ctx, r.open); r.err != nil {
				break
			}
		}
		n, err := r.body.Read(p)
		r.off += int64(n)
		if err == io.EOF && r.size >= 0 && r.off < r.size {
			err = io.ErrUnexpectedEOF
		}
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
	return 0, r.client.indexError(r.ctx, "get", r.err)
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
