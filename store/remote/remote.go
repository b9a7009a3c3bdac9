// Package remote speaks casync's protocol through ssh: it gets chunks, indexes and
// archives from hosts that have casync or castor, pushes them there, and is the other
// end of all that.
//
// The other end is a command, such as casync pull, which ssh starts and whose input
// and output carry frames. casync takes chunks only together with their index; castor
// also takes them one by one, see [Store.Put].
package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/internal/sshexec"
)

// Options are the settings of a client. The zero value and nil mean the defaults.
type Options struct {
	// SSH says how hosts are reached; nil means the defaults, with an empty
	// environment.
	SSH *sshexec.Options
	// Command is run on the host, by a shell, with pull or push and what goes with
	// that as arguments. "" means $CASYNC_REMOTE_PATH in the environment of SSH, or
	// casync.
	Command string
	// Connections is over how many connections chunks are asked for; 0 means 1.
	Connections int

	// Connect is the time for a connection to be made, questions of ssh to the user
	// included; 0 means 2 min.
	Connect time.Duration
	// Stall is the time in which something must come, or a piece of a chunk go, while
	// answers are due; 0 means 1 min.
	Stall time.Duration

	// Retries is how often in succession a new connection is tried when one breaks
	// without an answer, once one has worked; 0 means 6, a negative number 0.
	Retries int
	// Backoff is the pause before the first retry, less up to half of it at random.
	// It doubles each time, up to 10 s; 0 means 200 ms.
	Backoff time.Duration
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Command == "" && d.SSH != nil && d.SSH.Getenv != nil {
		d.Command = d.SSH.Getenv("CASYNC_REMOTE_PATH")
	}
	d.Command = cmp.Or(d.Command, "casync")
	d.Connections = max(d.Connections, 1)
	d.Connect = cmp.Or(d.Connect, 2*time.Minute)
	d.Stall = cmp.Or(d.Stall, time.Minute)
	d.Retries = max(cmp.Or(d.Retries, 6), 0)
	d.Backoff = cmp.Or(d.Backoff, 200*time.Millisecond)
	return d
}

// pause returns how long to wait before retry n, counted from 1.
func (o *Options) pause(n int) time.Duration {
	d := min(o.Backoff<<min(n-1, 16), 10*time.Second)
	return d - rand.N(d/2+1)
}

var (
	errConnect = errors.New("no answer within the time for connecting")
	errStall   = errors.New("nothing came for too long while answers were due")
)

// what names the things of a session, as the arguments of pull and push do; an empty
// one is unused.
type what struct{ archive, index, store string }

// peer is the other side of a session.
type peer struct {
	conn     *sshexec.Conn
	dec      *decoder
	features features
	cancel   context.CancelCauseFunc
	moved    atomic.Int64 // when something came, or a piece of a chunk went, in nanoseconds
}

// dial starts a session, and says and hears HELLO. The session ends when ctx does. The
// caller must close the peer.
func dial(ctx context.Context, host sshexec.Host, o *Options, verb string, w what, wants features) (p *peer, err error) {
	args := []string{verb, "-"}
	for _, s := range []string{w.archive, w.index, w.store} {
		args = append(args, cmp.Or(s, "-"))
	}
	line, err := sshexec.Quote(args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(o.Connect, func() { cancel(errConnect) })
	conn, err := sshexec.Shell(ctx, host, o.Command+" "+line, o.SSH)
	if err != nil {
		timer.Stop()
		cancel(err)
		return nil, err
	}
	p = &peer{conn: conn, cancel: cancel}
	p.dec = newDecoder(&watched{conn, &p.moved})
	p.features, err = p.dec.greet(conn, wants)
	timer.Stop()
	if err == nil {
		err = compatible(wants&casyncFeatures, p.features&casyncFeatures)
	}
	if err != nil {
		err = p.explain(err)
		p.kill()
		return nil, err
	}
	return p, nil
}

// explain returns err, with which the session ended, with the reason.
func (p *peer) explain(err error) error {
	if a, ok := errors.AsType[*AbortError](err); ok {
		return fmt.Errorf("%v: %w", p.conn.Host(), a)
	}
	if errors.Is(err, errProtocol) {
		return fmt.Errorf("%v: %w", p.conn.Host(), err)
	}
	return p.conn.Explain(err)
}

// close ends the session as the protocol has it, kill at once.
func (p *peer) close() {
	p.conn.Close()
	p.cancel(context.Canceled)
}

func (p *peer) kill() {
	p.cancel(context.Canceled)
	p.conn.Close()
}

// watched notes when something came.
type watched struct {
	r    io.Reader
	last *atomic.Int64
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.last.Store(time.Now().UnixNano())
	return n, err
}

// watch kills the session when nothing moves for too long while busySince, which is
// called from another goroutine, says that something is due: since when, in
// nanoseconds, or 0. It ends when done is closed.
func (p *peer) watch(stall time.Duration, done <-chan struct{}, busySince func() int64) {
	t := time.NewTicker(max(stall/8, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-t.C:
			since := busySince()
			if since != 0 && now.UnixNano()-max(since, p.moved.Load()) > int64(stall) {
				p.cancel(errStall)
				return
			}
		}
	}
}
