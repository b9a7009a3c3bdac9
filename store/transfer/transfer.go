// Package transfer has what clients of servers share: bodies of bounded length,
// transfers that must not stall, and errors that would come again.
package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// TooLargeError says that a body is longer than it may be, in bytes.
type TooLargeError int64

func (e TooLargeError) Error() string {
	return fmt.Sprintf("%v: more than %d bytes", store.ErrDamaged, int64(e))
}

func (TooLargeError) Unwrap() error { return store.ErrDamaged }

// ReadBody reads r to its end into a buffer of bufpool. Length is what its sender
// says, of which net/http lets no more through; -1 if nothing. Memory is taken as
// bytes come, and not for more than limit: more is a [TooLargeError].
func ReadBody(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, TooLargeError(limit)
	}
	room := int64(64 << 10)
	if length >= 0 {
		room = min(length, 1<<20)
	}
	b := bufpool.Get(int(room))[:0]
	for int64(len(b)) != length {
		if len(b) == cap(b) {
			more := append(bufpool.Get(int(min(2*int64(cap(b)), limit+1)))[:0], b...)
			bufpool.Put(b)
			b = more
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			err = TooLargeError(limit)
		case err == io.EOF && length >= 0 && int64(len(b)) < length:
			err = io.ErrUnexpectedEOF
		case err == io.EOF, int64(len(b)) == length:
			return b, nil
		}
		if err != nil {
			bufpool.Put(b)
			return nil, err
		}
	}
	return b, nil
}

// OneLine returns s without what a server should not write to a terminal, as one line
// of about limit bytes.
func OneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// piece is how many bytes must move in each period of a Watch.
const piece = 16 << 10

// Watch ends a request whose body stalls. It is safe for concurrent use.
type Watch struct {
	period time.Duration

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	moved int         // guarded by mu: bytes since the period began
}

// NewWatch returns a Watch that is stopped. Once started, it calls cancel with an error
// that wraps os.ErrDeadlineExceeded when less than 16 KiB have moved in a period.
func NewWatch(period time.Duration, cancel context.CancelCauseFunc) *Watch {
	w := &Watch{period: period}
	w.timer = time.AfterFunc(period, func() {
		cancel(fmt.Errorf("%w: transfer stalled for %v", os.ErrDeadlineExceeded, period))
	})
	w.Stop()
	return w
}

// Start begins a period.
func (w *Watch) Start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = 0
	w.timer.Reset(w.period)
}

// Stop ends the watching until the next Start.
func (w *Watch) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

// Add notes that n bytes have moved.
func (w *Watch) Add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved += n; w.moved >= piece {
		w.moved = 0
		w.timer.Reset(w.period)
	}
}

// Permanent reports whether err would come again, whatever the server's answer: no
// certificate to be trusted, no such host, no TLS, damage.
func Permanent(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok && d.IsNotFound {
		return true
	}
	if _, ok := errors.AsType[PermanentError](err); ok {
		return true
	}
	return errors.Is(err, store.ErrDamaged) || errors.Is(err, http.ErrSchemeMismatch)
}

// PermanentError marks an error that would come again.
type PermanentError struct{ error }

// Forever returns err as one that would come again.
func Forever(err error) error { return PermanentError{err} }

func (p PermanentError) Unwrap() error { return p.error }
