package remote

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/castorsync/castor/store"
)

// Upload is a file that appears under its name with Commit, whole, and not at all
// otherwise. *atomicfile.File is one.
type Upload interface {
	io.Writer
	Commit(sync bool) error
	Abort()
}

// ServerOptions say what [Serve] has to offer: to pull, any of Source, Index and
// Archive; to push, any of Sink, PutIndex and PutArchive. It cannot be both.
type ServerOptions struct {
	// Source has the chunks. They are sent as it has them, unverified, and compressed
	// if they are plain.
	Source store.Getter
	// Index and Archive open what the client may pull.
	Index, Archive func(context.Context) (io.ReadCloser, error)

	// Sink takes chunks, once they are verified.
	Sink store.Store
	// PutIndex and PutArchive make the file that the client may push. It is called when
	// that begins; the file is committed at the end.
	PutIndex, PutArchive func(context.Context) (Upload, error)

	// MaxIndex is the greatest size of an index that is pushed, in bytes; 0 means 1 GiB.
	// A push takes memory for it: 32 bytes a chunk.
	MaxIndex int64
	// MaxArchive is the greatest size of an archive that is pushed, in bytes; 0 means
	// no bound.
	MaxArchive int64
	// MaxChunk is the greatest size of a plain chunk that is put without an index, in
	// bytes; 0 means [chunker.MaxSize].
	MaxChunk int
	// Workers is how many chunks are read, or verified and stored, at once; 0 means
	// twice the number of CPUs.
	Workers int
	// Log is told of what goes wrong; nil means nobody is.
	Log *slog.Logger
}

// Serve is the server's side of one session, for casync's clients and for castor's: it
// reads frames from r and writes to w until the client has gone or everything is done,
// or ctx ends. It does not close them. If r has deadlines, as files and network
// connections do, Serve interrupts its pending read in the end; else a goroutine may
// stay until that returns.
//
// An id that is pulled is answered each time it is asked for. What is pushed is verified
// before it is stored, and an index appears when all its chunks are durable.
func Serve(ctx context.Context, r io.Reader, w io.Writer, options *ServerOptions) error {
	o := *options
	o.MaxIndex = cmp.Or(o.MaxIndex, 1<<30)
	o.Workers = cmp.Or(max(o.Workers, 0), 2*runtime.GOMAXPROCS(0))
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	has := o.features()
	if has == 0 || has&pullable != 0 && has&pushable != 0 {
		return errors.New("serve: want something to pull or something to push, not both")
	}
	s := &server{o: o, r: r, out: w, dec: newDecoder(r), w: bufio.NewWriterSize(w, 64<<10)}
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- s.session(sctx, has) }()
	select {
	case err := <-ended:
		s.interrupt()
		return err
	case <-ctx.Done():
		s.interrupt()
		select {
		case <-ended:
		case <-time.After(time.Second): // in a read or write that nothing interrupts
		}
		return context.Cause(ctx)
	}
}

// server is one session.
type server struct {
	o   ServerOptions
	r   io.Reader
	out io.Writer
	dec *decoder

	write sync.Mutex
	w     *bufio.Writer // guarded by write
}

// interrupt ends pending reads and writes where it can.
func (s *server) interrupt() {
	now := time.Now()
	if d, ok := s.r.(interface{ SetReadDeadline(time.Time) error }); ok {
		d.SetReadDeadline(now)
	}
	if d, ok := s.out.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(now)
	}
}

// hurry bounds the time that pending writes may take.
func (s *server) hurry() {
	if d, ok := s.out.(interface{ SetWriteDeadline(time.Time) error }); ok {
		d.SetWriteDeadline(time.Now().Add(2 * time.Second))
	}
}

// send writes a frame in two parts.
func (s *server) send(head, data []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.w.Write(head) // errors stay until Flush
	s.w.Write(data)
	return s.w.Flush()
}

// session is the whole of it. An error that the client does not know of is sent to it.
func (s *server) session(ctx context.Context, has features) error {
	err := s.run(ctx, has)
	_, aborted := errors.AsType[*AbortError](err)
	switch {
	case err == nil, aborted:
		return err
	case has&pullable != 0 && gone(err):
		return nil // a client may leave whenever it likes
	}
	s.o.Log.Error("session ends", "err", err)
	s.send(appendAbort(nil, errno(err), err.Error()), nil) // as far as it can be told
	return err
}

// gone reports whether err says that the client is not there any more.
func gone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}

// errno returns the number by which a client knows the kind of an error.
func errno(err error) uint64 {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errnoNoFile
	case errors.Is(err, errProtocol):
		return errnoProto
	}
	return errnoIO
}

// run says and hears HELLO and serves what the client wants.
func (s *server) run(ctx context.Context, has features) error {
	if has&pullable != 0 {
		if err := s.send(appendHello(nil, has), nil); err != nil {
			return err
		}
	}
	wants, err := s.dec.hello()
	if err != nil {
		if err == io.EOF {
			return fmt.Errorf("the client left before HELLO: %w", io.ErrUnexpectedEOF)
		}
		return err
	}
	if err := compatible(wants&casyncFeatures, has); err != nil {
		return err
	}
	if has&pullable != 0 {
		return s.pull(ctx, wants)
	}
	// Only now it is known whether the client may hear of features of castor.
	has |= wants & featureOffer
	if err := s.send(appendHello(nil, has), nil); err != nil {
		return err
	}
	switch {
	case wants&(pushIndex|pushArchive) != 0:
		return s.push(ctx, wants)
	case wants&featureOffer != 0:
		return s.store(ctx)
	}
	return protocolError("chunks can be pushed only together with their index")
}

const (
	pullable = readableStore | readableIndex | readableArchive
	pushable = writableStore | writableIndex | writableArchive
)

func (o *ServerOptions) features() (f features) {
	for _, s := range []struct {
		have bool
		features
	}{
		{o.Source != nil, readableStore}, {o.Index != nil, readableIndex}, {o.Archive != nil, readableArchive},
		{o.Sink != nil, writableStore}, {o.PutIndex != nil, writableIndex}, {o.PutArchive != nil, writableArchive},
	} {
		if s.have {
			f |= s.features
		}
	}
	return f
}
