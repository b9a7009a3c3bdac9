package store

import (
	"context"
	"sync"

	"github.com/castorsync/castor/chunker"
)

// Shared returns g such that those who ask for a chunk while it is on its way already
// share one call of g. It has the powers that g has: it is a [Store] if g is one. Closing
// it closes g.
//
// One who asks and leaves does not end the call for the others; it ends when the last
// has left. What several share is released by none of them: its buffers are left to the
// garbage collector.
func Shared(g Getter) Getter {
	s := &shared{passed: passed{g}, calls: map[chunker.ID]*sharedCall{}}
	return dress(s, g, func(ctx context.Context, f func(context.Context) error) error { return f(ctx) })
}

type shared struct {
	passed

	mu    sync.Mutex
	calls map[chunker.ID]*sharedCall // guarded by mu: those that more may join
}

// sharedCall is a chunk on its way.
type sharedCall struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when chunk and err are set

	askers int // guarded by shared.mu: those who wait
	joined int // guarded by shared.mu: those who ever did
	chunk  Chunk
	err    error
}

func (s *shared) Get(ctx context.Context, id chunker.ID) (Chunk, error) {
	if ctx.Err() != nil {
		return Chunk{}, context.Cause(ctx)
	}
	s.mu.Lock()
	c, ok := s.calls[id]
	if !ok {
		callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &sharedCall{cancel: cancel, done: make(chan struct{})}
		s.calls[id] = c
		go s.run(callCtx, id, c)
	}
	c.askers++
	c.joined++
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.chunk, c.err
	case <-ctx.Done():
		s.leave(id, c)
		return Chunk{}, context.Cause(ctx)
	}
}

// run makes the call.
func (s *shared) run(ctx context.Context, id chunker.ID, c *sharedCall) {
	defer c.cancel()
	chunk, err := s.to.Get(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(id, c)
	switch {
	case err != nil:
	case c.askers == 0:
		chunk.Release()
		chunk = Chunk{}
	case c.joined > 1:
		chunk.lent, chunk.own = nil, nil // belong to nobody now
	}
	c.chunk, c.err = chunk, err
	close(c.done)
}

// leave ends the part of one who does not wait any longer.
func (s *shared) leave(id chunker.ID, c *sharedCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.askers--; c.askers == 0 {
		c.cancel()
		s.forget(id, c)
	}
}

// forget lets nobody else join. The caller holds s.mu.
func (s *shared) forget(id chunker.ID, c *sharedCall) {
	if s.calls[id] == c {
		delete(s.calls, id)
	}
}
