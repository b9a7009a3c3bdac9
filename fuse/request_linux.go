//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"errors"
	"time"
)

// grace is how long a request goes on after a signal to whoever made it. Without it
// signals that are no reason to give up, such as the end of a child process, would
// make reads of files fail, as programs do not expect. With it those that would wait for
// a store that does not answer can be ended.
const grace = time.Second

var errInterrupted = errors.New("interrupted")

// request is the context of a request of the kernel: it ends some time after the
// kernel says that the request was interrupted. It is used by one goroutine.
type request struct {
	context.Context // ends with the interruption
	done            chan struct{}
	over            chan struct{} // closed by end
}

func begin(ctx context.Context) *request { return &request{Context: ctx} }

// Done costs something, and so only those pay for it who have to wait.
func (r *request) Done() <-chan struct{} {
	if r.done == nil {
		r.done, r.over = make(chan struct{}), make(chan struct{})
		go r.watch(r.done, r.over)
	}
	return r.done
}

func (r *request) watch(done, over chan struct{}) {
	select {
	case <-r.Context.Done():
	case <-over:
		return
	}
	select {
	case <-time.After(grace):
		close(done)
	case <-over:
	}
}

func (r *request) Err() error {
	select {
	case <-r.done: // nil blocks
		return errInterrupted
	default:
		return nil
	}
}

// end says that the request is answered.
func (r *request) end() {
	if r.over != nil {
		close(r.over)
		r.done, r.over = nil, nil
	}
}
