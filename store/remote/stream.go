package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/internal/sshexec"
)

// GetIndex opens an index on another host: see [ParseLocation]. What is not there is an
// error that wraps fs.ErrNotExist, of GetIndex or of the first Read. Reads fail with the
// cause of ctx when that ends. The caller must close the reader.
func GetIndex(ctx context.Context, rawURL string, o *Options) (io.ReadCloser, error) {
	return get(ctx, rawURL, o, pullIndex)
}

// GetArchive opens an archive, with the rules of [GetIndex].
func GetArchive(ctx context.Context, rawURL string, o *Options) (io.ReadCloser, error) {
	return get(ctx, rawURL, o, pullArchive)
}

func get(ctx context.Context, rawURL string, options *Options, wants features) (io.ReadCloser, error) {
	loc, err := ParseLocation(rawURL)
	if err != nil {
		return nil, err
	}
	o := options.withDefaults()
	w := what{index: loc.arg()}
	g := &getting{ctx: ctx, loc: loc, piece: kindIndex, eof: kindIndexEOF, ended: make(chan struct{})}
	if wants == pullArchive {
		w = what{archive: loc.arg()}
		g.piece, g.eof = kindArchive, kindArchiveEOF
	}
	if g.p, err = dial(ctx, loc.Host, &o, "pull", w, wants); err != nil {
		return nil, fileError(ctx, "get", loc, err)
	}
	go g.p.watch(o.Stall, g.ended, g.reading.Load)
	return g, nil
}

// fileError returns an error about a file on another host.
func fileError(ctx context.Context, op string, loc Location, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if absent(err) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return &fs.PathError{Op: op, Path: loc.String(), Err: err}
}

// absent reports whether the other side says that a file does not exist. casync only
// has words for it.
func absent(err error) bool {
	if a, ok := errors.AsType[*AbortError](err); ok {
		return a.Errno == errnoNoFile
	}
	e, ok := errors.AsType[*sshexec.ExitError](err)
	if !ok {
		return false
	}
	x, ok := errors.AsType[*exec.ExitError](e.Err)
	return ok && x.ExitCode() == 1 && strings.Contains(e.Stderr, "No such file or directory")
}

// getting reads a file from another host.
type getting struct {
	ctx        context.Context
	p          *peer
	loc        Location
	piece, eof kind
	reading    atomic.Int64 // since when a frame is awaited, in nanoseconds; or 0
	ended      chan struct{}
	end        sync.Once

	rest []byte // of the frame
	err  error  // sticky
}

func (g *getting) Read(b []byte) (int, error) {
	if len(g.rest) == 0 && g.err == nil {
		g.err = g.next()
		if g.err != nil {
			g.finish()
		}
	}
	if len(g.rest) == 0 {
		return 0, g.err
	}
	n := copy(b, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// next reads a frame.
func (g *getting) next() error {
	g.reading.Store(time.Now().UnixNano())
	defer g.reading.Store(0)
	f, err := g.p.dec.next()
	switch {
	case err != nil:
	case f.kind == g.piece:
		g.rest = f.data
		return nil
	case f.kind == g.eof:
		return io.EOF
	case f.kind == kindAbort:
		err = f.abort
	default:
		err = protocolError("%v instead of %v", f.kind, g.piece)
	}
	return fileError(g.ctx, "get", g.loc, g.p.explain(err))
}

func (g *getting) finish() {
	g.end.Do(func() {
		close(g.ended)
		g.p.kill()
	})
}

// Close ends the connection.
func (g *getting) Close() error {
	g.finish()
	if g.err == nil {
		g.err = fs.ErrClosed
	}
	g.rest = nil
	return nil
}
