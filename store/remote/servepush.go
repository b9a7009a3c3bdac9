package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// pushing is a session in which the client pushes an index or an archive.
type pushing struct {
	s     *server
	wants features
	jobs  chan frame // chunks to be verified and stored

	index   *incoming      // nil: none is pushed
	entries *io.PipeWriter // to where the index is read

	archive *incoming // nil: none is pushed

	mu          sync.Mutex
	changed     *sync.Cond              // of what follows
	header      index.Header            // guarded by mu: of the index, before its ids
	ids         []chunker.ID            // guarded by mu: of the index, to be looked at
	read        bool                    // guarded by mu: ids has all there are
	outstanding map[chunker.ID]struct{} // guarded by mu: not known to be stored yet
	due         map[chunker.ID]struct{} // guarded by mu: those of outstanding that are asked for and have not come
	failed      bool                    // guarded by mu
}

const (
	maxDue     = 4096 // chunks that a client is asked for in advance
	requesters = 4    // goroutines that look what the sink lacks
)

// incoming is a file that is pushed.
type incoming struct {
	what  string
	file  Upload
	left  int64 // bytes that it may still have; no bound if negative to begin with
	bound bool
	ended chan struct{} // closed when all of it has come
}

func receive(what string, f Upload, limit int64) *incoming {
	return &incoming{what: what, file: f, left: limit, bound: limit > 0, ended: make(chan struct{})}
}

// Write takes a piece.
func (i *incoming) Write(b []byte) (int, error) {
	select {
	case <-i.ended:
		return 0, protocolError("more of the %s behind its end", i.what)
	default:
	}
	if i.bound {
		if i.left -= int64(len(b)); i.left < 0 {
			return 0, fmt.Errorf("%s is too large", i.what)
		}
	}
	return i.file.Write(b)
}

func (i *incoming) end() error {
	select {
	case <-i.ended:
		return protocolError("a second end of the %s", i.what)
	default:
		close(i.ended)
		return nil
	}
}

// push takes files, and the chunks of the index.
func (s *server) push(ctx context.Context, wants features) error {
	p := &pushing{s: s, wants: wants, jobs: make(chan frame), outstanding: map[chunker.ID]struct{}{}, due: map[chunker.ID]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	if wants&pushIndex != 0 {
		f, err := s.o.PutIndex(ctx)
		if err != nil {
			return err
		}
		defer f.Abort()
		p.index = receive("index", f, s.o.MaxIndex)
	}
	if wants&pushArchive != 0 {
		f, err := s.o.PutArchive(ctx)
		if err != nil {
			return err
		}
		defer f.Abort()
		p.archive = receive("archive", f, s.o.MaxArchive)
	}
	if err := p.session(ctx); err != nil {
		return err
	}
	if wants&pushChunks != 0 {
		if err := store.Sync(ctx, s.o.Sink); err != nil {
			return err
		}
	}
	for _, i := range []*incoming{p.archive, p.index} {
		if i == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := i.file.Commit(true); err != nil {
			return err
		}
	}
	return s.send(appendEmpty(nil, kindGoodbye), nil)
}

// session returns when everything is here.
func (p *pushing) session(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, p.fail)
	defer stop()
	stopWrites := context.AfterFunc(ctx, p.s.hurry)
	defer stopWrites()
	var r *io.PipeReader
	if p.index != nil {
		p.mu.Lock()
		r, p.entries = io.Pipe()
		p.mu.Unlock()
	}
	heard := make(chan error, 1) // reading may go on until the client leaves
	go func() { heard <- p.listen(ctx) }()
	if p.index != nil {
		g.Go(func() error {
			err := p.readIndex(r)
			r.CloseWithError(err)
			return err
		})
		for range requesters {
			g.Go(func() error { return p.request(ctx) })
		}
	}
	done := make(chan struct{})
	work, wctx := errgroup.WithContext(ctx)
	for range p.s.o.Workers {
		work.Go(func() error { return p.work(wctx, done) })
	}
	g.Go(work.Wait)
	g.Go(func() error {
		defer close(done)
		err := p.complete(ctx, heard)
		if err == nil {
			stopWrites() // what is left to be done and said has its time
		}
		return err
	})
	return g.Wait()
}

// complete waits until both files have ended and all chunks are stored.
func (p *pushing) complete(ctx context.Context, heard <-chan error) error {
	await := func(c <-chan struct{}) error {
		select {
		case <-c:
			return nil
		case err := <-heard:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, i := range []*incoming{p.archive, p.index} {
		if i != nil {
			if err := await(i.ended); err != nil {
				return err
			}
		}
	}
	if p.index == nil {
		return nil
	}
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		p.mu.Lock()
		defer p.mu.Unlock()
		for !p.failed && (!p.read || len(p.ids) > 0 || len(p.outstanding) > 0) {
			p.changed.Wait()
		}
	}()
	if err := await(stored); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// fail wakes who waits for something that will not come.
func (p *pushing) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = true
	p.changed.Broadcast()
	if p.entries != nil {
		p.entries.CloseWithError(context.Canceled)
	}
}

// listen reads frames until an error.
func (p *pushing) listen(ctx context.Context) error {
	for {
		f, err := p.s.dec.next()
		if err == io.EOF {
			return fmt.Errorf("the client left early: %w", io.ErrUnexpectedEOF)
		}
		if err == nil {
			err = p.frame(ctx, f)
		}
		if err != nil {
			return err
		}
	}
}

func (p *pushing) frame(ctx context.Context, f frame) error {
	switch {
	case f.kind == kindIndex && p.index != nil:
		if _, err := p.index.Write(f.data); err != nil {
			return err
		}
		_, err := p.entries.Write(f.data)
		return err
	case f.kind == kindIndexEOF && p.index != nil:
		p.entries.Close()
		return p.index.end()
	case f.kind == kindArchive && p.archive != nil:
		_, err := p.archive.Write(f.data)
		return err
	case f.kind == kindArchiveEOF && p.archive != nil:
		return p.archive.end()
	case f.kind == kindChunk:
		return p.chunk(ctx, f)
	case f.kind == kindMissing:
		return fmt.Errorf("chunk %v is in the index, and the client does not have it", f.id)
	case f.kind == kindAbort:
		return f.abort
	case f.kind == kindGoodbye:
		return errors.New("the client says goodbye before everything is here")
	}
	return protocolError("%v in a session in which %s", f.kind, p.wants.verbs())
}

// chunk passes a chunk that was asked for to the workers.
func (p *pushing) chunk(ctx context.Context, f frame) error {
	p.mu.Lock()
	_, ok := p.due[f.id]
	delete(p.due, f.id)
	p.mu.Unlock()
	if !ok {
		bufpool.Put(f.data)
		return protocolError("CHUNK %v, which was not asked for", f.id)
	}
	select {
	case p.jobs <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readIndex collects the ids of the index, and checks it all.
func (p *pushing) readIndex(r io.Reader) error {
	x, err := index.NewReader(r)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.header = x.Header()
	p.mu.Unlock()
	want := p.wants&pushIndexChunks != 0
	err = x.Each(func(e index.Entry) error {
		if want {
			p.mu.Lock()
			p.ids = append(p.ids, e.ID)
			p.changed.Broadcast()
			p.mu.Unlock()
		}
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = err == nil
	p.changed.Broadcast()
	return err
}

// request asks for the chunks that the sink lacks, until the index has no more.
func (p *pushing) request(ctx context.Context) error {
	var lacking []chunker.ID
	for {
		id, ok, err := p.next(ctx, len(lacking) == 0)
		if err != nil {
			return err
		}
		if ok {
			has, err := p.s.o.Sink.Has(ctx, id)
			if err != nil {
				return err
			}
			if !p.settle(id, has) {
				lacking = append(lacking, id)
			}
			if len(lacking) < maxBatch {
				continue
			}
		}
		if len(lacking) == 0 {
			return nil
		}
		if err := p.s.send(appendRequest(nil, 0, lacking), nil); err != nil {
			return err
		}
		lacking = lacking[:0]
	}
}

// next returns the next id of the index to be looked at, which counts as outstanding.
// If there is none now, it waits for one if it may, and returns false if none comes.
func (p *pushing) next(ctx context.Context, wait bool) (id chunker.ID, ok bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.ids) > 0 && len(p.outstanding) < maxDue {
			id, p.ids = p.ids[0], p.ids[1:]
			if _, twice := p.outstanding[id]; !twice {
				p.outstanding[id] = struct{}{}
				return id, true, nil
			}
			p.changed.Broadcast()
		}
		switch {
		case p.failed:
			return id, false, context.Cause(ctx)
		case !wait, p.read && len(p.ids) == 0:
			return id, false, nil
		}
		p.changed.Wait()
	}
}

// settle notes that the sink has a chunk, or that it is to come. It returns has.
func (p *pushing) settle(id chunker.ID, has bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if has {
		delete(p.outstanding, id)
		p.changed.Broadcast()
	} else {
		p.due[id] = struct{}{}
	}
	return has
}

// work verifies and stores chunks until done is closed.
func (p *pushing) work(ctx context.Context, done <-chan struct{}) error {
	for {
		select {
		case f := <-p.jobs:
			p.mu.Lock()
			h := p.header
			p.mu.Unlock()
			if err := p.s.keep(ctx, f, h.Params.Max, h.Features.Digest()); err != nil {
				return err
			}
			p.settle(f.id, true)
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// keep verifies a chunk with the first digest that fits and puts it into the sink. It
// uses the data of the frame up.
func (s *server) keep(ctx context.Context, f frame, limit int, digests ...chunker.Digest) (err error) {
	c := store.Chunk{ID: f.id, Data: f.data, Loc: "the client"}.Lent()
	if f.flags&flagZipped != 0 {
		if c.Codec, err = cacnk.Detect(f.data); err != nil {
			return &store.Error{Op: "decode", Loc: c.Loc, ID: f.id, Err: fmt.Errorf("%w: %w", store.ErrDamaged, err)}
		}
	}
	for i, d := range digests {
		v, err := c.Verify(d, limit)
		if err == nil {
			defer v.Release()
			return s.o.Sink.Put(ctx, v)
		}
		if i == len(digests)-1 {
			return err
		}
	}
	return nil
}
