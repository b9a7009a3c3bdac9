package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// watchPiece is how many bytes must move in each period of a watch.
const watchPiece = 16 << 10

// watch ends a request whose body stalls.
type watch struct {
	period time.Duration
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	moved int         // guarded by mu: bytes since the period began
}

func newWatch(period time.Duration, cancel context.CancelCauseFunc) *watch {
	w := &watch{period: period, cancel: cancel}
	w.timer = time.AfterFunc(period, func() {
		cancel(fmt.Errorf("%w: transfer stalled for %v", os.ErrDeadlineExceeded, period))
	})
	w.stop()
	return w
}

func (w *watch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.restart()
}

func (w *watch) restart() {
	w.moved = 0
	w.timer.Reset(w.period)
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

// add notes that n bytes have moved.
func (w *watch) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.moved += n; w.moved >= watchPiece {
		w.restart()
	}
}

// watched is the body of an answer under a watch.
type watched struct {
	io.ReadCloser
	ctx context.Context // of the request
	w   *watch
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.add(n)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *watched) Close() error {
	b.w.stop()
	err := b.ReadCloser.Close()
	b.w.cancel(nil)
	return err
}

// upload is the body of a request. The transport may read it in goroutines that
// outlive the request: after detach they get nothing more.
type upload struct {
	r    io.ReaderAt
	size int64

	mu       sync.Mutex
	detached bool // guarded by mu
}

func (u *upload) attach(rq *http.Request, w *watch) {
	open := func() io.ReadCloser { return &uploading{u: u, w: w} }
	rq.Body, rq.ContentLength = open(), u.size
	rq.GetBody = func() (io.ReadCloser, error) { return open(), nil }
	if u.size == 0 {
		rq.Body, rq.GetBody = http.NoBody, nil
	}
}

func (u *upload) detach() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.detached = true
}

// uploading reads an upload once.
type uploading struct {
	u   *upload
	w   *watch
	off int64 // guarded by u.mu
}

var errDetached = errors.New("the request has ended")

func (b *uploading) Read(p []byte) (int, error) {
	b.u.mu.Lock()
	defer b.u.mu.Unlock()
	if b.u.detached {
		return 0, errDetached
	}
	if b.off == b.u.size {
		return 0, io.EOF
	}
	if b.off == 0 {
		b.w.start()
	}
	n, err := b.u.r.ReadAt(p[:min(int64(len(p)), b.u.size-b.off)], b.off)
	b.off += int64(n)
	b.w.add(n)
	if b.off == b.u.size {
		b.w.stop() // from here on, the time for the answer counts
		err = nil
	}
	return n, err
}

func (b *uploading) Close() error { return nil }
