package s3

import (
	"context"
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
)

// transport carries minio-go's requests, with time-outs for bodies and what
// minio-go has no words for: see extras.
type transport struct {
	base   *http.Transport
	server *transfer.Server
	stall  time.Duration
	resign func(*http.Request) *http.Request
}

func newTransport(o *Options) *transport {
	dialer := &net.Dialer{Timeout: o.Connect, KeepAlive: 15 * time.Second}
	t := &http.Transport{
		Proxy:                  o.Proxy,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    o.Connect,
		ResponseHeaderTimeout:  o.Answer,
		ExpectContinueTimeout:  time.Second, // for servers that do not answer that
		DisableCompression:     true,        // or objects that say they are gzip would be unpacked
		MaxIdleConns:           o.Idle,
		MaxIdleConnsPerHost:    o.Idle,
		IdleConnTimeout:        time.Minute, // before most servers hang up
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        32 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true) // one connection of HTTP/2 would carry everything
	if o.TLS != nil {
		t.TLSClientConfig = o.TLS.Clone()
	}
	return &transport{base: t, stall: o.Stall}
}

// extras ride on the context of a request to its transport.
type extras struct {
	body      *upload   // if non-nil, goes in place of the request's body
	unchanged time.Time // if set, DELETE only what was last modified then
}

type extrasKey struct{}

func withExtras(ctx context.Context, e *extras) context.Context {
	return context.WithValue(ctx, extrasKey{}, e)
}

// RoundTrip makes a request once.
func (t *transport) RoundTrip(rq *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(rq.Context())
	w := transfer.NewWatch(t.stall, cancel)
	rq = rq.WithContext(ctx)
	e, _ := ctx.Value(extrasKey{}).(*extras)
	if e != nil && !e.unchanged.IsZero() {
		rq.Header = rq.Header.Clone()
		rq.Header.Set("X-Amz-If-Match-Last-Modified-Time", e.unchanged.UTC().Format(http.TimeFormat))
		rq = t.resign(rq)
	}
	detach := func() {}
	if e != nil && e.body != nil {
		detach = e.body.attach(rq, w)
	}
	resp, err := t.base.RoundTrip(rq)
	if err != nil {
		detach()
		w.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, brokenError{err}
	}
	t.server.Answered()
	w.Start()
	b := &watched{ReadCloser: resp.Body, ctx: ctx, w: w, left: maxAnswer}
	b.end = func() {
		detach()
		w.Stop()
		cancel(nil)
	}
	if rq.Method == http.MethodGet && !strings.Contains(rq.URL.RawQuery, "list-type") && resp.StatusCode < 300 {
		b.left = -1 // an object
	}
	resp.Body = b
	return resp, nil
}

// maxAnswer bounds answers that are not objects: in XML, 1000 keys of 1 KiB, each
// byte of them escaped, are 6 MiB.
const maxAnswer = 8 << 20

// sign returns a function that signs requests anew, for headers that were added
// after minio-go had signed.
func sign(creds *credentials.Credentials, region func() string) func(*http.Request) *http.Request {
	return func(rq *http.Request) *http.Request {
		if rq.Header.Get("Authorization") == "" {
			return rq
		}
		v, err := creds.GetWithContext(nil)
		if err != nil {
			return rq // refused for its signature, and then tried again
		}
		rq.Header.Del("Authorization")
		return signer.SignV4(*rq, v.AccessKeyID, v.SecretAccessKey, v.SessionToken, region())
	}
}

// brokenError is an error of a connection. Its text has no "EOF", in place of which
// minio-go would put an error of its own that wraps nothing.
type brokenError struct{ err error }

func (e brokenError) Error() string {
	if errors.Is(e.err, io.EOF) || errors.Is(e.err, io.ErrUnexpectedEOF) {
		return "the server closed the connection"
	}
	return strings.ReplaceAll(e.err.Error(), "EOF", "end of file")
}

func (e brokenError) Unwrap() error { return e.err }

// watched is the body of an answer under a watch.
type watched struct {
	io.ReadCloser
	ctx  context.Context // of the request
	w    *transfer.Watch
	left int64  // bytes that may come; -1: any number
	end  func() // the request is over
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.Add(n)
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			b.left = 0
			return 0, transfer.Forever(fmt.Errorf("answer of more than %d bytes", maxAnswer))
		}
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *watched) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

// upload is the body of a request. Net/http may read it in goroutines that outlive
// the request: those get nothing more then.
type upload struct {
	r    io.ReaderAt
	size int64
}

// expectFrom is the size from which on the server is asked before a body is sent: it
// may refuse it.
const expectFrom = 1 << 20

// attach makes u the body of rq until detach is called.
func (u *upload) attach(rq *http.Request, w *transfer.Watch) (detach func()) {
	s := &sending{upload: u, w: w}
	rq.Body, rq.ContentLength = http.NoBody, u.size
	if u.size > 0 {
		rq.Body = &sendingBody{s: s}
		rq.GetBody = func() (io.ReadCloser, error) { return &sendingBody{s: s}, nil }
	}
	if u.size >= expectFrom {
		rq.Header = rq.Header.Clone()
		rq.Header.Set("Expect", "100-continue")
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.detached = true
	}
}

// sending is an upload in one request.
type sending struct {
	*upload
	w *transfer.Watch

	mu       sync.Mutex
	detached bool // guarded by mu
}

// sendingBody reads an upload once.
type sendingBody struct {
	s   *sending
	off int64 // guarded by s.mu
}

var errDetached = errors.New("the request has ended")

func (b *sendingBody) Read(p []byte) (int, error) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached {
		return 0, errDetached
	}
	if b.off == s.size {
		return 0, io.EOF
	}
	if b.off == 0 {
		s.w.Start()
	}
	n, err := s.r.ReadAt(p[:min(int64(len(p)), s.size-b.off)], b.off)
	b.off += int64(n)
	s.w.Add(n)
	if b.off == s.size {
		s.w.Stop() // from here on, the time for the answer counts
		err = nil
	}
	return n, err
}

func (b *sendingBody) Close() error { return nil }
