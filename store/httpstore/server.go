package httpstore

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerOptions are the settings of [Server]. The zero value and nil mean the
// defaults.
type ServerOptions struct {
	// Header is the time for the head of a request to come; 0 means 10 s.
	Header time.Duration
	// Progress is the time in which 64 KiB of a body, or what is left of it, must
	// move; 0 means 30 s. Slower clients are cut off.
	Progress time.Duration
	// Idle is how long a connection may wait for the next request; 0 means 2 min.
	Idle time.Duration
	// MaxHeader is the greatest size of the head of a request in bytes; 0 means
	// 16 KiB. The library adds 4 KiB.
	MaxHeader int
	// Gate bounds the number of connections: serve its listeners. Nil means no bound.
	Gate *Gate
	// Log is told of what goes wrong with connections; nil means nobody is.
	Log *slog.Logger
}

// Server returns a server for h that bounds what clients may take: the size and the
// time of a head, the time for each piece of a body, in both directions, and the number
// of connections, if there is a gate.
func Server(h http.Handler, o *ServerOptions) *http.Server {
	var d ServerOptions
	if o != nil {
		d = *o
	}
	log := slog.New(slog.DiscardHandler)
	if d.Log != nil {
		log = d.Log
	}
	s := &http.Server{
		Handler:           &patient{h, cmp.Or(d.Progress, 30*time.Second)},
		ReadHeaderTimeout: cmp.Or(d.Header, 10*time.Second),
		IdleTimeout:       cmp.Or(d.Idle, 2*time.Minute),
		MaxHeaderBytes:    cmp.Or(d.MaxHeader, 16<<10),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if c, ok := c.(*conn); ok {
				return context.WithValue(ctx, connKey{}, c)
			}
			return ctx
		},
	}
	if d.Gate != nil {
		s.ConnState = d.Gate.state
	}
	return s
}

// piece is how many bytes must move within the time that a patient handler gives.
const piece = 64 << 10

// patient is a handler for clients of which some are slow, to a limit.
type patient struct {
	h    http.Handler
	time time.Duration
}

func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Errors of deadlines are left alone: a connection that knows none is a test's.
	control := http.NewResponseController(w)
	if r.Body != nil && r.Body != http.NoBody {
		// Also for what the server reads of a body that the handler leaves.
		control.SetReadDeadline(time.Now().Add(p.time))
		r.Body = &patientReader{ReadCloser: r.Body, control: control, time: p.time}
	}
	p.h.ServeHTTP(&patientWriter{w, control, p.time, connOf(r.Context())}, r)
	control.SetWriteDeadline(time.Now().Add(p.time)) // for what is flushed in the end
}

// patientReader gives the client more time after each piece.
type patientReader struct {
	io.ReadCloser
	control *http.ResponseController
	time    time.Duration
	moved   int // bytes since the deadline was set
}

func (b *patientReader) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	switch b.moved += n; {
	case err == io.EOF:
		b.control.SetReadDeadline(time.Time{}) // while the handler works, nothing need come
	case b.moved >= piece:
		b.moved = 0
		b.control.SetReadDeadline(time.Now().Add(b.time))
	}
	return n, err
}

// patientWriter gives the client time for each piece.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	time    time.Duration
	conn    *conn // or nil
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *patientWriter) Write(b []byte) (n int, err error) {
	for err == nil && n < len(b) {
		w.control.SetWriteDeadline(time.Now().Add(w.time))
		var m int
		m, err = w.ResponseWriter.Write(b[n:min(len(b), n+piece)])
		n += m
	}
	w.control.SetWriteDeadline(time.Time{}) // while the handler works, nothing need go
	return n, err
}

// ReadFrom writes r, of which it lets files go without a copy. It is the last thing that
// a handler writes.
func (w *patientWriter) ReadFrom(r io.Reader) (n int64, err error) {
	l, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if w.conn != nil {
		w.conn.hold()
		w.control.Flush() // the head; else the library would copy the beginning of the file
	}
	for err == nil && l.N > 0 {
		w.control.SetWriteDeadline(time.Now().Add(w.time))
		part := io.LimitedReader{R: l.R, N: min(l.N, piece)}
		var m int64
		m, err = io.Copy(w.ResponseWriter, &part)
		n += m
		l.N -= m
		if err == nil && part.N > 0 {
			break // the source has ended
		}
	}
	if rerr := w.conn.release(); err == nil {
		err = rerr
	}
	return n, err
}
