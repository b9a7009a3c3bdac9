package remote

import (
	"cmp"
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// anyDigest are those that may name a chunk of which nothing else is known.
var anyDigest = []chunker.Digest{chunker.BLAKE3, chunker.SHA512256, chunker.SHA256}

// storing is a session in which castor puts chunks one by one: see putter.
type storing struct {
	*server
	jobs    chan storeJob
	pending sync.WaitGroup // jobs that are not done
}

// storeJob is a chunk to be kept or, if there is one, an offer to be answered.
type storeJob struct {
	chunk frame
	offer []chunker.ID
}

// store takes chunks until the client leaves.
func (s *server) store(all context.Context) error {
	t := &storing{server: s, jobs: make(chan storeJob)}
	g, ctx := errgroup.WithContext(all)
	heard := make(chan error, 1)
	go func() { heard <- t.listen(ctx) }() // ends when the client leaves, or with Serve
	quit := make(chan struct{})
	for range s.o.Workers {
		g.Go(func() error { return t.work(ctx, quit) })
	}
	g.Go(func() error {
		select {
		case err := <-heard:
			close(quit)
			if err == io.EOF {
				return nil
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return store.Sync(all, s.o.Sink)
}

// listen reads frames until an error.
func (t *storing) listen(ctx context.Context) error {
	for {
		f, err := t.dec.next()
		if err != nil {
			return err
		}
		switch f.kind {
		case kindChunk:
			err = t.submit(ctx, storeJob{chunk: f})
		case kindOffer:
			err = t.submit(ctx, storeJob{offer: append([]chunker.ID(nil), f.ids...)})
		case kindSync:
			err = t.sync(ctx)
		case kindAbort:
			err = f.abort
		default:
			err = protocolError("%v where chunks and offers are due", f.kind)
		}
		if err != nil {
			return err
		}
	}
}

func (t *storing) submit(ctx context.Context, j storeJob) error {
	t.pending.Add(1)
	select {
	case t.jobs <- j:
		return nil
	case <-ctx.Done():
		t.pending.Done()
		return context.Cause(ctx)
	}
}

// sync answers a SYNC when everything that came before it is durable.
func (t *storing) sync(ctx context.Context) error {
	t.pending.Wait()
	if err := store.Sync(ctx, t.o.Sink); err != nil {
		return err
	}
	return t.send(appendEmpty(nil, kindSync), nil)
}

// work does jobs until quit is closed.
func (t *storing) work(ctx context.Context, quit <-chan struct{}) error {
	for {
		select {
		case j := <-t.jobs:
			err := t.do(ctx, j)
			t.pending.Done()
			if err != nil {
				return err
			}
		case <-quit:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *storing) do(ctx context.Context, j storeJob) error {
	if j.offer != nil {
		return t.offered(ctx, j.offer)
	}
	if err := t.keep(ctx, j.chunk, cmp.Or(t.o.MaxChunk, chunker.MaxSize), anyDigest...); err != nil {
		return err
	}
	return t.send(appendID(nil, kindStored, j.chunk.id), nil)
}

// offered says of each id whether the sink has it.
func (t *storing) offered(ctx context.Context, ids []chunker.ID) error {
	for _, id := range ids {
		has, err := t.o.Sink.Has(ctx, id)
		if err != nil {
			return err
		}
		answer := appendID(nil, kindStored, id)
		if !has {
			answer = appendRequest(nil, 0, []chunker.ID{id})
		}
		if err := t.send(answer, nil); err != nil {
			return err
		}
	}
	return nil
}
