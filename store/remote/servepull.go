package remote

import (
	"context"
	"io"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// maxQueued is how many ids a client may have asked for in advance; more are not read.
const maxQueued = 1 << 16

// pulling is a session in which the client pulls.
type pulling struct {
	s *server

	mu      sync.Mutex
	changed *sync.Cond            // of what follows
	high    []chunker.ID          // guarded by mu: asked for, to be answered first
	low     []chunker.ID          // guarded by mu: asked for; may have ids that moved to high
	queued  map[chunker.ID]uint64 // guarded by mu: what is in a queue, with its flags
	over    bool                  // guarded by mu: no more requests come
	err     error                 // guarded by mu: the first error
}

// pull serves requests, and the index or archive if the client wants one.
func (s *server) pull(ctx context.Context, wants features) error {
	p := &pulling{s: s, queued: map[chunker.ID]uint64{}}
	p.changed = sync.NewCond(&p.mu)
	stop := context.AfterFunc(ctx, func() { p.end(context.Cause(ctx), true) })
	defer stop()
	go p.listen(wants)

	var wg sync.WaitGroup
	for _, f := range []struct {
		wanted     bool
		open       func(context.Context) (io.ReadCloser, error)
		piece, eof kind
	}{
		{wants&pullIndex != 0, s.o.Index, kindIndex, kindIndexEOF},
		{wants&pullArchive != 0, s.o.Archive, kindArchive, kindArchiveEOF},
	} {
		if f.wanted {
			wg.Go(func() {
				if err := p.sendFile(ctx, f.open, f.piece, f.eof); err != nil {
					p.end(err, true)
				}
			})
		}
	}
	for range s.o.Workers {
		wg.Go(func() { p.work(ctx) })
	}
	wg.Wait()
	p.mu.Lock() // the client may still be listened to
	defer p.mu.Unlock()
	return p.err
}

// end says that no more requests are taken: for err, if not nil. What is queued is
// dropped with now, else still answered.
func (p *pulling) end(err error, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.over = true
	if now {
		p.high, p.low = nil, nil
	}
	p.changed.Broadcast()
}

// listen reads frames until the client leaves.
func (p *pulling) listen(wants features) {
	for {
		f, err := p.s.dec.next()
		switch {
		case err == io.EOF:
			p.end(nil, false)
			return
		case err != nil:
			p.end(err, true)
			return
		case f.kind == kindGoodbye:
			p.end(nil, true)
			return
		case f.kind == kindAbort:
			p.end(f.abort, true)
			return
		case f.kind != kindRequest || wants&pullChunks == 0:
			p.end(protocolError("%v in a session in which %s", f.kind, wants.verbs()), true)
			return
		}
		if !p.request(f.flags, f.ids) {
			return
		}
	}
}

// request queues ids, and waits while there are too many. An id that is still in the
// queue is answered once. It returns false if the session is over.
func (p *pulling) request(flags uint64, ids []chunker.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		for len(p.queued) >= maxQueued && !p.over {
			p.changed.Wait()
		}
		if p.over {
			return false
		}
		if old, ok := p.queued[id]; ok && old >= flags {
			continue
		}
		p.queued[id] = flags
		if flags&flagHigh != 0 {
			p.high = append(p.high, id)
		} else {
			p.low = append(p.low, id)
		}
		p.changed.Broadcast()
	}
	return true
}

// take returns the next id to answer. It returns false at the end of the session.
func (p *pulling) take() (chunker.ID, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		queue, flags := &p.high, uint64(flagHigh)
		if len(p.high) == 0 {
			queue, flags = &p.low, 0
		}
		if len(*queue) == 0 {
			if p.over {
				return chunker.ID{}, false
			}
			p.changed.Wait()
			continue
		}
		id := (*queue)[0]
		*queue = (*queue)[1:]
		if now, ok := p.queued[id]; !ok || now != flags {
			continue // it was moved to the other queue
		}
		delete(p.queued, id)
		p.changed.Broadcast()
		return id, true
	}
}

// work answers requests. An error ends the session when the requests before it have
// been answered: so the client sees which chunk it is about.
func (p *pulling) work(ctx context.Context) {
	for {
		id, ok := p.take()
		if !ok {
			return
		}
		if err := p.answer(ctx, id); err != nil {
			p.end(err, true)
		}
	}
}

func (p *pulling) answer(ctx context.Context, id chunker.ID) error {
	c, err := store.Chunk{ID: id, Data: []byte(probeText)}, error(nil)
	if id != probeID {
		c, err = p.s.o.Source.Get(ctx, id)
	}
	if store.Missing(err) {
		return p.s.send(appendID(nil, kindMissing, id), nil)
	}
	if err != nil {
		return err
	}
	defer c.Release()
	data, zipped, buf, err := encode(&c)
	if err != nil {
		return &store.Error{Op: "send", Loc: c.Loc, ID: id, Err: err}
	}
	defer bufpool.Put(buf)
	return p.s.send(appendChunkHead(nil, id, zipped, len(data)), data)
}

// sendFile sends an index or archive.
func (p *pulling) sendFile(ctx context.Context, open func(context.Context) (io.ReadCloser, error), piece, eof kind) error {
	r, err := open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	b := make([]byte, maxPiece)
	for {
		n, err := io.ReadFull(r, b)
		if n > 0 {
			if err := p.s.send(appendHead(nil, piece, n), b[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return p.s.send(appendEmpty(nil, eof), nil)
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}
