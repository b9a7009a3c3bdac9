package httpstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/castorsync/castor/store/transfer"
)

// maxBackoff is the longest pause that is not the server's wish.
const maxBackoff = 10 * time.Second

// retry calls f until it succeeds, fails for good or has been tried often enough.
// When ctx ends it returns its cause.
func (c *client) retry(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !temporary(err), c.server.Gone(err):
			return err
		case try == c.o.Retries:
			if try > 0 {
				err = fmt.Errorf("%w (tried %d times)", err, try+1)
			}
			return err
		}
		select {
		case <-time.After(c.pause(err, try)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pause returns how long to wait after the given try, counted from 0.
func (c *client) pause(err error, try int) time.Duration {
	d := min(c.o.Backoff<<min(try, 16), maxBackoff)
	d -= rand.N(d/2 + 1)
	if s, ok := errors.AsType[*StatusError](err); ok {
		d = max(d, min(s.RetryAfter, c.o.MaxRetryAfter))
	}
	return d
}

// temporary reports whether what failed with err may work a little later.
func temporary(err error) bool {
	if s, ok := errors.AsType[*StatusError](err); ok {
		switch s.Code {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
			return false
		}
		return s.Code >= 500
	}
	return !transfer.Permanent(err) && !errors.Is(err, errRedirect) && !errors.Is(err, errPlainHTTP)
}
