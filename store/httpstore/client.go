package httpstore

import (
	"context"
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// client makes requests to one server: with its credentials, with time-outs, and
// again where that may help.
type client struct {
	o      Options
	http   *http.Client
	server *transfer.Server
	own    *http.Transport // to the server
	away   *http.Transport // to where it redirects
}

// newClient returns a client for the server of rawURL, and the URL without
// credentials.
func newClient(rawURL string, options *Options) (*client, *url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error has the URL in it, and that the password.
		return nil, nil, fmt.Errorf("not a URL: %w", clean(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" {
		return nil, nil, fmt.Errorf("%s: want http:// or https:// and a host", redact(u))
	}
	o := options.withDefaults()
	credentials, err := authorization(u, &o)
	if err != nil {
		return nil, nil, err
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""

	c := &client{o: o, server: o.Servers.Server(u.Scheme + "://" + u.Host), own: newTransport(&o), away: newTransport(&o)}
	if c.away.TLSClientConfig != nil {
		c.away.TLSClientConfig.Certificates = nil
		c.away.TLSClientConfig.GetClientCertificate = nil
	}
	c.http = &http.Client{
		Transport:     &origin{url: u, authorization: credentials, header: o.Header, own: c.own, away: c.away},
		CheckRedirect: checkRedirect,
	}
	return c, u, nil
}

func newTransport(o *Options) *http.Transport {
	dialer := &net.Dialer{Timeout: o.Connect, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy:                  o.Proxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    o.Connect,
		ResponseHeaderTimeout:  o.Answer,
		DisableCompression:     true, // or gzip files would be unpacked on the way
		MaxIdleConns:           o.Idle,
		MaxIdleConnsPerHost:    o.Idle,
		IdleConnTimeout:        time.Minute, // before most servers hang up
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        32 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(o.HTTP2)
	if o.TLS != nil {
		t.TLSClientConfig = o.TLS.Clone()
	}
	return t
}

func (c *client) close() {
	c.own.CloseIdleConnections()
	c.away.CloseIdleConnections()
}

// send makes a request once and returns the answer to it, which the caller must
// close. Any status but 200 to 299 is a *StatusError. The body of the request may
// be nil.
func (c *client) send(ctx context.Context, method string, u *url.URL, header http.Header, body *upload) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := transfer.NewWatch(c.o.Stall, cancel)
	rq, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		cancel(err)
		return nil, clean(err)
	}
	rq.Header = header.Clone()
	if rq.Header == nil {
		rq.Header = http.Header{}
	}
	rq.Header.Set("User-Agent", "castor")
	if body != nil {
		body.attach(rq, w)
	}
	resp, err := c.http.Do(rq)
	if body != nil {
		body.detach()
	}
	if err != nil {
		w.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, clean(err)
	}
	c.server.Answered()
	w.Start()
	resp.Body = &watched{ReadCloser: resp.Body, ctx: ctx, w: w, end: cancel}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // also so that the connection can be used again
		resp.Body.Close()
		err := newStatusError(resp, method)
		err.explain(resp.Header.Get("Content-Type"), text)
		return nil, err
	}
	return resp, nil
}

// get returns a body of up to limit bytes in a buffer of bufpool.
func (c *client) get(ctx context.Context, u *url.URL, limit int64) (b []byte, err error) {
	err = c.retry(ctx, func() error {
		resp, err := c.send(ctx, http.MethodGet, u, nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return newStatusError(resp, http.MethodGet)
		}
		b, err = transfer.ReadBody(resp.Body, resp.ContentLength, limit)
		return err
	})
	return b, err
}

// head returns the length of what get would return, or of the form that is stored, -1 if the server does not say.
func (c *client) head(ctx context.Context, u *url.URL) (n int64, err error) {
	err = c.retry(ctx, func() error {
		resp, err := c.send(ctx, http.MethodHead, u, nil, nil)
		if err != nil {
			return err
		}
		n = resp.ContentLength
		if stored, perr := strconv.ParseInt(resp.Header.Get(storedHeader), 10, 64); perr == nil && stored >= 0 && n < 0 {
			n = stored
		}
		return resp.Body.Close()
	})
	return n, err
}

// put uploads size bytes of r, which it does not use after it returns.
func (c *client) put(ctx context.Context, u *url.URL, r io.ReaderAt, size int64) error {
	return c.retry(ctx, func() error {
		resp, err := c.send(ctx, http.MethodPut, u, nil, &upload{r: r, size: size})
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// clean takes the URL out of an error of net/http, for it may hold secrets: of the
// user, or in what a redirect points to.
func clean(err error) error {
	for {
		ue, ok := errors.AsType[*url.Error](err)
		if !ok {
			return err
		}
		err = ue.Err
	}
}

// redact returns u without what may be secret.
func redact(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}
