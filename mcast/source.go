package mcast

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// Source is the channel of an index as a source of chunks. It cannot be asked for one
// chunk: it has the power of a [store.Deliverer].
type Source struct {
	Loc     string // for messages
	Root    chunker.ID
	Links   []ReceiverLink // those that implement io.Closer are closed by Close
	Options ReceiveOptions

	// Index is the index that Root names. It must be set before Deliver.
	Index *index.Index

	// Alone says that there is no other source, so that nobody is in a hurry to ask
	// one when the channel fails.
	Alone bool

	session  *Session
	content  *content // of Index; nil: it is not known yet
	failed   error    // why not everything was delivered
	result   Result
	progress atomic.Pointer[Progress]
}

var (
	_ store.Getter    = (*Source)(nil)
	_ store.Deliverer = (*Source)(nil)
)

func (s *Source) dial(ctx context.Context) (*Session, error) {
	if s.session != nil {
		return s.session, nil
	}
	o := s.Options
	o.Index = s.Index
	o.Status = func(p Progress) { s.progress.Store(&p) }
	var err error
	s.session, err = dial(ctx, s.Links, s.Root, &o, s.content)
	return s.session, err
}

// ReceiveIndex receives the index, if Index is not set, sets it and returns it.
func (s *Source) ReceiveIndex(ctx context.Context) (*index.Index, error) {
	if s.Index != nil {
		return s.Index, nil
	}
	c, err := s.dial(ctx)
	if err == nil {
		s.Index, err = c.Index(ctx)
		s.content = c.content
	}
	return s.Index, err
}

// stampede is the time over which receivers spread that turn to another store when the
// channel fails.
const stampede = 2 * time.Second

// Deliver implements [store.Deliverer].
func (s *Source) Deliver(ctx context.Context, want func(id chunker.ID) bool, sink store.Putter) error {
	need, err := s.need(want)
	if ctx.Err() != nil { // then want may say anything
		return context.Cause(ctx)
	}
	if err == nil && need.missing.Count() == 0 {
		return nil
	}
	var c *Session
	if err == nil {
		c, err = s.dial(ctx)
	}
	if err == nil {
		if s.result, err = c.receive(ctx, need, sink); err != nil {
			return err
		}
		err = s.result.Err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.failed = err
	if err != nil && !s.Alone {
		if s.Options.Log != nil {
			s.Options.Log.Warn("what multicast did not bring comes from other stores", "channel", s.Loc, "error", err)
		}
		Jitter(ctx, stampede)
	}
	return nil
}

// need returns which of the wanted chunks the channel has.
func (s *Source) need(want func(id chunker.ID) bool) (*need, error) {
	if s.content == nil || s.content.index != s.Index {
		var err error
		if s.content, err = newContent(s.Index, levelOf(s.Index)); err != nil {
			return nil, err
		}
	}
	return newNeed(s.content, want), nil
}

// Progress says how far the channel is. It may be called at any time.
func (s *Source) Progress() (p Progress) {
	if at := s.progress.Load(); at != nil {
		p = *at
	}
	return p
}

// Result says what Deliver has brought. It must not be called meanwhile.
func (s *Source) Result() Result { return s.result }

// Get says why the channel has not brought the chunk.
func (s *Source) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	err := s.failed
	if err == nil {
		err = errors.New("chunks come only as a whole")
	}
	return store.Chunk{}, &store.Error{Op: "receive", Loc: s.Loc, ID: id, Err: err}
}

// Close leaves the channel and closes the links.
func (s *Source) Close() error {
	if s.session != nil {
		s.session.Close()
	}
	var errs []error
	for _, l := range s.Links {
		if c, ok := l.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Jitter waits for a random time up to d, or until ctx ends: many receivers lose a
// sender at the same moment, and must not all turn to another store at once.
func Jitter(ctx context.Context, d time.Duration) {
	t := time.NewTimer(rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
