package remote

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// Store is a store on another host. It connects when it is first asked for something.
// Many chunks may be asked for at once, which one connection carries; those who ask
// for the same chunk at the same time share the answer. A connection that breaks is
// made anew, and what has not been answered is asked again.
type Store struct {
	loc    Location
	o      Options
	ctx    context.Context // of the store's life
	cancel context.CancelCauseFunc
	lanes  []*lane
	wg     sync.WaitGroup
	worked atomic.Bool // some connection came to HELLO
	put    putter

	mu      sync.Mutex
	calls   map[chunker.ID]*call     // guarded by mu: those that more may join
	missing map[chunker.ID]time.Time // guarded by mu: when that was answered
	closed  bool                     // guarded by mu
}

// Bounds of what is known to be missing: casync does not answer twice.
const (
	maxMissing = 1 << 16
	missingFor = time.Minute
)

var _ store.Store = (*Store)(nil)
var _ store.Syncer = (*Store)(nil)

// call is a chunk that somebody asks for.
type call struct {
	id    chunker.ID
	done  chan struct{} // closed when chunk and err are set
	chunk store.Chunk
	err   error

	askers int // guarded by Store.mu: those who wait
	blamed int // guarded by Store.mu: connections that broke when it was next
}

// Open returns the store at ssh://[user@]host[:port]/path or host:path. Nothing of the
// host is looked at yet. The caller must close the store.
func Open(ctx context.Context, rawURL string, o *Options) (*Store, error) {
	loc, err := ParseLocation(rawURL)
	if err != nil {
		return nil, err
	}
	s := &Store{loc: loc, o: o.withDefaults(), calls: map[chunker.ID]*call{}, missing: map[chunker.ID]time.Time{}}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.put.s, s.put.turn = s, make(chan struct{}, 1)
	for range s.o.Connections {
		l := &lane{s: s, wake: make(chan struct{}, 1), sent: map[chunker.ID]*call{}}
		s.lanes = append(s.lanes, l)
		s.wg.Go(l.run)
	}
	return s, nil
}

// String returns the location of the store.
func (s *Store) String() string { return s.loc.String() }

// Close ends the connections. Calls that are under way fail.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.put.close()
	for _, l := range s.lanes {
		l.stop()
	}
	s.wg.Wait()
	s.cancel(fs.ErrClosed)
	return nil
}

// Get returns a chunk as the other side sends it, compressed by most. What is answered
// to be missing is remembered for a minute.
func (s *Store) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if ctx.Err() != nil {
		return store.Chunk{}, context.Cause(ctx)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.Chunk{}, s.error("get", id, fs.ErrClosed)
	}
	if at, ok := s.missing[id]; ok && time.Since(at) < missingFor {
		s.mu.Unlock()
		return store.Chunk{}, s.error("get", id, fs.ErrNotExist)
	}
	c, ok := s.calls[id]
	if !ok {
		c = &call{id: id, done: make(chan struct{})}
		s.calls[id] = c
		s.idlest().add(c)
	}
	c.askers++
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.chunk, c.err
	case <-ctx.Done():
		s.mu.Lock()
		c.askers--
		s.mu.Unlock()
		return store.Chunk{}, context.Cause(ctx)
	}
}

// idlest returns the lane with the least to do. The caller holds s.mu.
func (s *Store) idlest() *lane {
	best := s.lanes[0]
	for _, l := range s.lanes[1:] {
		if l.load() < best.load() {
			best = l
		}
	}
	return best
}

// remember notes that a chunk is missing. The caller holds s.mu.
func (s *Store) remember(id chunker.ID) {
	if len(s.missing) == maxMissing {
		clear(s.missing)
	}
	s.missing[id] = time.Now()
}

// finish ends a call. With one asker the data, from bufpool, is the asker's. The caller
// holds s.mu.
func (s *Store) finish(c *call, chunk store.Chunk, err error) {
	delete(s.calls, c.id)
	switch {
	case c.askers == 0:
		bufpool.Put(chunk.Data)
	case c.askers == 1 && chunk.Data != nil:
		chunk = chunk.Lent()
	}
	c.chunk, c.err = chunk, err
	close(c.done)
}

func (s *Store) error(op string, id chunker.ID, err error) error {
	return &store.Error{Op: op, Loc: s.loc.String(), ID: id, Err: err}
}

// arrived makes a chunk of a frame.
func (s *Store) arrived(f frame) (store.Chunk, error) {
	c := store.Chunk{ID: f.id, Data: f.data, Loc: s.loc.String()}
	if f.flags&flagZipped != 0 {
		codec, err := cacnk.Detect(f.data)
		if err != nil {
			bufpool.Put(f.data)
			return store.Chunk{}, s.error("get", f.id, errors.Join(store.ErrDamaged, err))
		}
		c.Codec = codec
	}
	return c, nil
}
