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

// store takes chunks one by one, from castor: see putter.
func (s *server) store(all context.Context) error {
	g, ctx := errgroup.WithContext(all)
	type job struct {
		chunk frame
		offer []chunker.ID
	}
	jobs := make(chan job)
	var pending sync.WaitGroup // jobs that are not done
	heard := make(chan error, 1)
	submit := func(j job) error {
		pending.Add(1)
		select {
		case jobs <- j:
			return nil
		case <-ctx.Done():
			pending.Done()
			return context.Cause(ctx)
		}
	}
	durable := func() error {
		pending.Wait()
		if err := store.Sync(ctx, s.o.Sink); err != nil {
			return err
		}
		return s.send(appendEmpty(nil, kindSync), nil)
	}
	go func() { // ends when the client leaves, or with Serve
		for {
			f, err := s.dec.next()
			switch {
			case err != nil:
			case f.kind == kindChunk:
				err = submit(job{chunk: f})
			case f.kind == kindOffer:
				err = submit(job{offer: append([]chunker.ID(nil), f.ids...)})
			case f.kind == kindSync:
				err = durable()
			case f.kind == kindAbort:
				err = f.abort
			default:
				err = protocolError("%v where chunks and offers are due", f.kind)
			}
			if err != nil {
				heard <- err
				return
			}
		}
	}()
	quit := make(chan struct{})
	limit := cmp.Or(s.o.MaxChunk, chunker.MaxSize)
	work := func(j job) error {
		if j.offer != nil {
			return s.offered(ctx, j.offer)
		}
		if err := s.keep(ctx, j.chunk, limit, anyDigest...); err != nil {
			return err
		}
		return s.send(appendID(nil, kindStored, j.chunk.id), nil)
	}
	for range s.o.Workers {
		g.Go(func() error {
			for {
				select {
				case j := <-jobs:
					err := work(j)
					pending.Done()
					if err != nil {
						return err
					}
				case <-quit:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		})
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

// offered says of each id whether the sink has it.
func (s *server) offered(ctx context.Context, ids []chunker.ID) error {
	for _, id := range ids {
		has, err := s.o.Sink.Has(ctx, id)
		if err != nil {
			return err
		}
		answer := appendID(nil, kindStored, id)
		if !has {
			answer = appendRequest(nil, 0, []chunker.ID{id})
		}
		if err := s.send(answer, nil); err != nil {
			return err
		}
	}
	return nil
}
