package httpstore

import (
	"context"
	"errors"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"net/http"
	"sync"
)

// watched is the body of an answer under a watch.
type watched struct {
	io.ReadCloser
	ctx context.Context // of the request
	w   *transfer.Watch
	end context.CancelCauseFunc // of ctx
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.Add(n)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *watched) Close() error {
	b.w.Stop()
	err := b.ReadCloser.Close()
	b.end(nil)
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

func (u *upload) attach(rq *http.Request, w *transfer.Watch) {
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
	w   *transfer.Watch
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
		b.w.Start()
	}
	n, err := b.u.r.ReadAt(p[:min(int64(len(p)), b.u.size-b.off)], b.off)
	b.off += int64(n)
	b.w.Add(n)
	if b.off == b.u.size {
		b.w.Stop() // from here on, the time for the answer counts
		err = nil
	}
	return n, err
}

func (b *uploading) Close() error { return nil }
