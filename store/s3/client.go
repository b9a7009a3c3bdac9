package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/transfer"
)

// client makes requests about one bucket, again where that may help. Minio-go's own
// retries are off, but for a pause of up to 200 ms after each failure that may pass.
type client struct {
	place
	o         Options
	creds     *credentials.Credentials
	anonymous bool // there are none
	transport *transport
	core      atomic.Pointer[regional]
	seen      atomic.Bool // the bucket exists
}

// regional is a client of minio-go, which speaks to one region.
type regional struct {
	*minio.Core
	region string
}

// newClient returns a client for the bucket of rawURL. It finds credentials, which
// may take requests to whoever gives them, but makes none to the bucket.
func newClient(ctx context.Context, rawURL string, options *Options) (*client, error) {
	o := options.withDefaults()
	p, err := parse(rawURL, o.Getenv)
	if err != nil {
		return nil, err
	}
	c := &client{place: p, o: o, transport: newTransport(&o)}
	c.transport.server = o.Servers.Server(p.endpoint.String())
	if c.lookup == minio.BucketLookupAuto {
		if c.lookup, err = parseLookup(o.Lookup); err != nil {
			return nil, err
		}
	}
	if c.creds, c.anonymous, err = findCredentials(ctx, &o, p.aws()); err != nil {
		return nil, fmt.Errorf("%s: %w", p.base, err)
	}
	c.transport.resign = sign(c.creds, func() string { return c.core.Load().region })
	if err := c.settle(p.region(&o)); err != nil {
		return nil, fmt.Errorf("%s: %w", p.base, err)
	}
	return c, nil
}

// settle makes region the one that c speaks to.
func (c *client) settle(region string) error {
	core, err := minio.NewCore(c.endpoint.Host, &minio.Options{
		Creds:        c.creds,
		Secure:       c.endpoint.Scheme == "https",
		Transport:    c.transport,
		Region:       region, // or minio-go would ask for it
		BucketLookup: c.lookup,
		MaxRetries:   1,
	})
	if err != nil {
		return err
	}
	core.SetAppInfo("castor", "1")
	c.core.Store(&regional{core, region})
	return nil
}

func (c *client) close() { c.transport.base.CloseIdleConnections() }

// maxBackoff is the longest pause.
const maxBackoff = 10 * time.Second

// retry calls f until it succeeds, fails for good or has been tried often enough.
// When ctx ends it returns its cause.
func (c *client) retry(ctx context.Context, f func(*regional) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	mended := false
	for try := 0; ; try++ {
		core := c.core.Load()
		err := f(core)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !mended && c.mend(core, err):
			mended = true
			continue
		case !temporary(err), c.transport.server.Gone(err):
			return err
		case try >= c.o.Retries:
			if try > 0 {
				err = fmt.Errorf("%w (tried %d times)", err, try+1)
			}
			return err
		}
		d := min(c.o.Backoff<<min(try, 16), maxBackoff)
		select {
		case <-time.After(d - rand.N(d/2+1)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mend does something about the reason for which the server refused a request that
// used core, and reports whether it could.
func (c *client) mend(core *regional, err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	switch {
	case !ok:
		return false
	case e.expired():
		c.creds.Expire()
		return true
	case e.misplaced() && isRegion(e.Region) && e.Region != core.region:
		return c.settle(e.Region) == nil
	}
	return false
}

// isRegion reports whether s, which a server has told, may become part of a host's
// name.
func isRegion(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// explain makes err, of minio-go, one of ours.
func (c *client) explain(err error) error {
	if err == nil {
		c.seen.Store(true)
		return nil
	}
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return clean(err)
	}
	return newStatusError(r, c.bucket, c.anonymous)
}

// get returns an object of up to limit bytes in a buffer of bufpool.
func (c *client) get(ctx context.Context, key string, limit int64) (b []byte, err error) {
	err = c.retry(ctx, func(core *regional) error {
		body, info, _, err := core.GetObject(ctx, c.bucket, key, minio.GetObjectOptions{})
		if err != nil {
			return c.explain(err)
		}
		c.seen.Store(true)
		defer body.Close()
		b, err = transfer.ReadBody(body, info.Size, limit)
		return err
	})
	return b, err
}

// object is what the server says of an object.
type object struct {
	size int64
	used time.Time // when it was last modified
	etag string
}

// stat asks for what there is to know of an object.
func (c *client) stat(ctx context.Context, key string) (o object, err error) {
	err = c.retry(ctx, func(core *regional) error {
		o, err = c.statOnce(ctx, core, key)
		return err
	})
	return o, err
}

func (c *client) statOnce(ctx context.Context, core *regional, key string) (object, error) {
	info, err := core.StatObject(ctx, c.bucket, key, minio.StatObjectOptions{})
	err = c.explain(err)
	if code := status(err); code >= 300 && code < 500 && (code != http.StatusNotFound || !c.seen.Load()) {
		err = c.whyNot(ctx, core, key, err)
	}
	return object{info.Size, info.LastModified, info.ETag}, err
}

// whyNot returns the reason for which an object cannot be asked for: the answer to
// HEAD, which is err, has a status but no words, and does not tell a missing object
// from a missing bucket.
func (c *client) whyNot(ctx context.Context, core *regional, key string, err error) error {
	var o minio.GetObjectOptions
	if o.SetRange(0, 0) != nil {
		return err
	}
	body, _, _, gerr := core.GetObject(ctx, c.bucket, key, o)
	if gerr == nil {
		c.seen.Store(true)
		body.Close()
		return err
	}
	why := c.explain(gerr)
	if store.Missing(why) {
		c.seen.Store(true)
	}
	if status(why) == 0 {
		return err
	}
	return why
}

// put uploads size bytes of r, which it does not use after it returns. If onlyNew is
// set and there is such an object, that stays and the error has status 412.
func (c *client) put(ctx context.Context, key string, r io.ReaderAt, size int64, contentType string, onlyNew bool) error {
	sum := "" // https protects the body
	if c.endpoint.Scheme == "http" {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return err
		}
		sum = hex.EncodeToString(h.Sum(nil))
	}
	o := minio.PutObjectOptions{ContentType: contentType, DisableContentSha256: true}
	if onlyNew {
		o.SetMatchETagExcept("*")
	}
	ctx = withExtras(ctx, &extras{body: &upload{r: r, size: size}})
	return c.retry(ctx, func(core *regional) error {
		_, err := core.PutObject(ctx, c.bucket, key, http.NoBody, size, "", sum, o)
		return c.explain(err)
	})
}

// renew has the server copy an object onto itself, so that it was modified now, as
// long as it is what o says. It returns when it was last modified then.
func (c *client) renew(ctx context.Context, key string, o object, contentType string) (t time.Time, err error) {
	err = c.retry(ctx, func(core *regional) error {
		info, err := core.Client.CopyObject(ctx,
			minio.CopyDestOptions{Bucket: c.bucket, Object: key, ReplaceMetadata: true, ContentType: contentType},
			minio.CopySrcOptions{Bucket: c.bucket, Object: key, MatchETag: o.etag})
		t = info.LastModified
		return c.explain(err)
	})
	return t, err
}

// copy has the server copy an object.
func (c *client) copy(ctx context.Context, to, from string) error {
	return c.retry(ctx, func(core *regional) error {
		_, err := core.Client.CopyObject(ctx,
			minio.CopyDestOptions{Bucket: c.bucket, Object: to},
			minio.CopySrcOptions{Bucket: c.bucket, Object: from})
		return c.explain(err)
	})
}

// remove deletes an object if it was last modified at t, which the caller has just
// been told. Not all servers check that once more; one that refuses to is asked
// without.
func (c *client) remove(ctx context.Context, core *regional, key string, t time.Time) error {
	checked := withExtras(ctx, &extras{unchanged: t})
	if s3utils.IsS3ExpressBucket(c.bucket) {
		checked = ctx // transport cannot sign for those
	}
	err := c.explain(core.RemoveObject(checked, c.bucket, key, minio.RemoveObjectOptions{}))
	if unknown(err) {
		err = c.explain(core.RemoveObject(ctx, c.bucket, key, minio.RemoveObjectOptions{}))
	}
	return err
}

// list calls each for the objects whose keys begin with prefix, in the order of keys;
// unless deep, those without a further slash. It returns what each returns.
func (c *client) list(ctx context.Context, prefix string, deep bool, each func(minio.ObjectInfo) error) error {
	l := lister{c: c, prefix: prefix, deep: deep, each: each}
	for {
		from := l.after
		err := c.retry(ctx, func(core *regional) error { return l.run(ctx, core) })
		switch {
		case l.stopped != nil:
			return l.stopped
		case err == nil, ctx.Err() != nil, l.after == from || !temporary(err):
			return err
		}
	}
}

// lister lists pages, on from where it was.
type lister struct {
	c       *client
	prefix  string
	deep    bool
	each    func(minio.ObjectInfo) error
	after   string // the last key that was listed
	stopped error  // what each returned
}

func (l *lister) run(ctx context.Context, core *regional) error {
	from := l.after
	owner := false
	for o := range core.ListObjectsIter(ctx, l.c.bucket, minio.ListObjectsOptions{
		Prefix: l.prefix, Recursive: l.deep, StartAfter: from, FetchOwner: &owner,
	}) {
		if o.Err != nil {
			return l.c.explain(o.Err)
		}
		if from != "" && o.Key <= from {
			continue
		}
		l.after = max(l.after, o.Key)
		if ctx.Err() != nil {
			break
		}
		if err := l.each(o); err != nil {
			l.stopped = err
			return transfer.Forever(err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.c.seen.Store(true)
	return nil
}
