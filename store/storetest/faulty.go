package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// Faulty is a store that goes wrong. It passes every call on to Source, through
// the fault that Choose picks for it. It may be used where a Getter is wanted and
// Source is no more than that; what Source cannot do is errors.ErrUnsupported.
//
// For instance, this source fails every third time, and its first chunk hangs:
//
//	&storetest.Faulty{Source: s, Choose: func(c storetest.Call) storetest.Fault {
//		switch {
//		case c.Op == "get" && c.ID == first:
//			return storetest.Hang
//		case c.N%3 == 2:
//			return storetest.Fail(io.ErrUnexpectedEOF)
//		}
//		return nil
//	}}
type Faulty struct {
	Source store.Getter
	Choose func(Call) Fault // called from one goroutine at a time; nil: no faults

	mu     sync.Mutex
	calls  []Call         // guarded by mu
	counts map[string]int // guarded by mu: calls by Op
}

// Call is a call of a method of [Faulty].
type Call struct {
	Op string     // "get", "put", "has", "list" or "sync"
	ID chunker.ID // zero for list and sync
	N  int        // how many calls with the same Op came before
}

// Next makes a call without a fault.
type Next func(context.Context, store.Chunk) (store.Chunk, error)

// Fault is something that goes wrong with a call. It is given the chunk of the
// call, of which get and has know only the ID, and may go on with it. It returns
// what comes back. Nil stands for the fault that leaves calls as they are.
type Fault func(ctx context.Context, c store.Chunk, call Next) (store.Chunk, error)

// Fail is the fault that only returns err.
func Fail(err error) Fault {
	return func(context.Context, store.Chunk, Next) (store.Chunk, error) {
		return store.Chunk{}, err
	}
}

// Short loses the last n bytes of a chunk as it is stored.
func Short(n int) Fault {
	return alter(func(c store.Chunk) store.Chunk {
		c.Data = c.Data[:max(len(c.Data)-n, 0)]
		return c
	})
}

// Flip flips a bit of byte i, counted round, of a chunk as it is stored.
func Flip(i int) Fault {
	return alter(func(c store.Chunk) store.Chunk {
		c.Data[i%len(c.Data)] ^= 1
		return c
	})
}

// Swap passes off another chunk as the right one.
func Swap(other store.Chunk) Fault {
	return alter(func(c store.Chunk) store.Chunk {
		return store.Chunk{ID: c.ID, Data: bytes.Clone(other.Data), Codec: other.Codec, Loc: c.Loc}
	})
}

// alter applies f to the chunk on its way in or out, whichever has data.
func alter(f func(store.Chunk) store.Chunk) Fault {
	change := func(c store.Chunk) store.Chunk {
		if len(c.Data) == 0 {
			return c
		}
		// Anew, for the plain form that c may carry, and its owner, are right.
		return f(store.Chunk{ID: c.ID, Data: bytes.Clone(c.Data), Codec: c.Codec, Loc: c.Loc})
	}
	return func(ctx context.Context, c store.Chunk, call Next) (store.Chunk, error) {
		c, err := call(ctx, change(c))
		return change(c), err
	}
}

// Hang is the fault of a call that does not return before its context ends.
func Hang(ctx context.Context, _ store.Chunk, _ Next) (store.Chunk, error) {
	<-ctx.Done()
	return store.Chunk{}, context.Cause(ctx)
}

// Cancel cancels with cause before the call is made, in most cases the context
// that the test gave to what it tests.
func Cancel(cancel context.CancelCauseFunc, cause error) Fault {
	return func(ctx context.Context, c store.Chunk, call Next) (store.Chunk, error) {
		cancel(cause)
		return call(ctx, c)
	}
}

var (
	_ store.Store  = (*Faulty)(nil)
	_ store.Syncer = (*Faulty)(nil)
	_ store.Lister = (*Faulty)(nil)
)

// String says what it is, for messages.
func (f *Faulty) String() string { return "faulty" }

// Calls returns the calls made so far, in order.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Count returns how many calls there were with the given Op.
func (f *Faulty) Count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

// run notes the call and makes it with its fault.
func (f *Faulty) run(ctx context.Context, op string, c store.Chunk, call Next) (store.Chunk, error) {
	if fault := f.choose(op, c.ID); fault != nil {
		return fault(ctx, c, call)
	}
	return call(ctx, c)
}

func (f *Faulty) choose(op string, id chunker.ID) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := Call{Op: op, ID: id, N: f.counts[op]}
	f.calls = append(f.calls, c)
	if f.counts == nil {
		f.counts = map[string]int{}
	}
	f.counts[op]++
	if f.Choose == nil {
		return nil
	}
	return f.Choose(c)
}

// Get gets the chunk from Source.
func (f *Faulty) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	return f.run(ctx, "get", store.Chunk{ID: id}, func(ctx context.Context, c store.Chunk) (store.Chunk, error) {
		return f.Source.Get(ctx, c.ID)
	})
}

// Put puts the chunk into Source.
func (f *Faulty) Put(ctx context.Context, c store.Chunk) error {
	_, err := f.run(ctx, "put", c, func(ctx context.Context, c store.Chunk) (store.Chunk, error) {
		if p, ok := f.Source.(store.Putter); ok {
			return store.Chunk{}, p.Put(ctx, c)
		}
		return store.Chunk{}, errors.ErrUnsupported
	})
	return err
}

// Has asks Source for the chunk.
func (f *Faulty) Has(ctx context.Context, id chunker.ID) (has bool, err error) {
	_, err = f.run(ctx, "has", store.Chunk{ID: id}, func(ctx context.Context, c store.Chunk) (store.Chunk, error) {
		s, ok := f.Source.(store.Store)
		if !ok {
			return store.Chunk{}, errors.ErrUnsupported
		}
		has, err = s.Has(ctx, c.ID)
		return store.Chunk{}, err
	})
	return has && err == nil, err
}

// List lists Source. Its fault concerns the call as a whole.
func (f *Faulty) List(ctx context.Context, each func(store.Info) error) error {
	_, err := f.run(ctx, "list", store.Chunk{}, func(ctx context.Context, c store.Chunk) (store.Chunk, error) {
		if l, ok := f.Source.(store.Lister); ok {
			return store.Chunk{}, l.List(ctx, each)
		}
		return store.Chunk{}, errors.ErrUnsupported
	})
	return err
}

// Sync syncs Source.
func (f *Faulty) Sync(ctx context.Context) error {
	_, err := f.run(ctx, "sync", store.Chunk{}, func(ctx context.Context, _ store.Chunk) (store.Chunk, error) {
		if p, ok := f.Source.(store.Putter); ok {
			return store.Chunk{}, store.Sync(ctx, p)
		}
		return store.Chunk{}, nil
	})
	return err
}
