package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
)

// Failover is a group of sources that hold the same. The first of them that works is
// asked, and the next ones only for what goes wrong there: if it fails, it rests for a
// while, in which the others are asked in its place; if it lacks a chunk or holds it
// damaged, which says nothing about the rest, only that chunk is asked for elsewhere. So
// chunks come verified out of a Failover. It does not deliver: what does belongs into a
// [Union].
type Failover struct {
	Members  []Getter
	Verifier *Verifier // checks chunks
	// Rest is how long a member that failed is left alone; 0 means 30 s. It doubles
	// with each failure in a row, up to 16 times that. Then one request tries it.
	Rest time.Duration
	// Log is told of members that fail, and work again. Nil means nobody is.
	Log *slog.Logger

	mu     sync.Mutex
	states []memberState // guarded by mu; as long as Members
}

// memberState is how a member does.
type memberState struct {
	failures int       // in a row
	until    time.Time // it rests
	err      error     // of the last failure
}

var (
	_ Getter    = (*Failover)(nil)
	_ Sizer     = (*Failover)(nil)
	_ io.Closer = (*Failover)(nil)
)

// defaultRest is how long a member rests after its first failure.
const defaultRest = 30 * time.Second

// Get returns the chunk from the first member that works and has it right. If none has,
// the error is a [NotFoundError], which wraps fs.ErrNotExist only if all of them lack the
// chunk.
func (f *Failover) Get(ctx context.Context, id chunker.ID) (c Chunk, err error) {
	err = f.each(ctx, id, func(g Getter) error {
		if c, err = g.Get(ctx, id); err != nil {
			return err
		}
		v, err := f.Verifier.Verify(c)
		if err != nil {
			v.Release()
			return err
		}
		c = v
		return nil
	})
	if err != nil {
		return Chunk{}, err
	}
	return c, nil
}

// StoredSize returns the size in the first member that works, has the chunk and tells.
func (f *Failover) StoredSize(ctx context.Context, id chunker.ID) (n int64, err error) {
	err = f.each(ctx, id, func(g Getter) error {
		n, err = StoredSize(ctx, g, id)
		return err
	})
	return n, err
}

// Has reports whether a member has the chunk. If one could not be asked, and none of the
// others has it, that is an error.
func (f *Failover) Has(ctx context.Context, id chunker.ID) (bool, error) {
	err := f.each(ctx, id, func(g Getter) error {
		ok, err := hasChunk(ctx, g, id)
		if err == nil && !ok {
			err = &Error{Op: "stat", Loc: fmt.Sprint(g), ID: id, Err: fs.ErrNotExist}
		}
		return err
	})
	if Missing(err) {
		return false, nil
	}
	return err == nil, err
}

// turn is a member to be asked.
type turn struct {
	i        int
	failures int // of the member when it was chosen
}

// each asks the members until one answers without error: those that work, in order, and
// the others only if none of those has answered at all.
func (f *Failover) each(ctx context.Context, id chunker.ID, ask func(Getter) error) error {
	working, resting := f.choose()
	var tried []error
	answered := false
	for k, t := range slices.Concat(working, resting) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if k >= len(working) && answered {
			tried = append(tried, f.lastError(t))
			continue
		}
		err := ask(f.Members[t.i])
		if err == nil {
			f.works(t)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tried = append(tried, err)
		switch {
		case Missing(err), errors.Is(err, ErrDamaged):
			f.works(t)
			answered = true
		case !errors.Is(err, errors.ErrUnsupported):
			f.failed(t, err)
		}
	}
	return &NotFoundError{ID: id, Tried: tried}
}

// choose returns the members that work, or have rested long enough to be tried, and
// those that rest.
func (f *Failover) choose() (working, resting []turn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.states == nil {
		f.states = make([]memberState, len(f.Members))
	}
	now := time.Now()
	for i := range f.states {
		s := &f.states[i]
		t := turn{i, s.failures}
		switch {
		case s.failures == 0:
			working = append(working, t)
		case !now.Before(s.until):
			s.until = now.Add(f.rest(s.failures)) // for everybody but this one
			working = append(working, t)
		default:
			resting = append(resting, t)
		}
	}
	return working, resting
}

func (f *Failover) rest(failures int) time.Duration {
	return cmp.Or(f.Rest, defaultRest) << min(failures-1, 4)
}

func (f *Failover) lastError(t turn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.states[t.i].err; err != nil {
		return err
	}
	return fmt.Errorf("%v: not asked", f.Members[t.i]) // it works again by now
}

// works notes that a member has answered.
func (f *Failover) works(t turn) {
	f.mu.Lock()
	again := f.states[t.i].failures > 0
	f.states[t.i] = memberState{}
	f.mu.Unlock()
	if again && f.Log != nil {
		f.Log.Info("store works again", "store", fmt.Sprint(f.Members[t.i]))
	}
}

// failed lets a member rest, unless another failure has done so since it was chosen.
func (f *Failover) failed(t turn, err error) {
	f.mu.Lock()
	s := &f.states[t.i]
	fresh := s.failures == t.failures
	if fresh {
		s.failures++
		s.until = time.Now().Add(f.rest(s.failures))
		s.err = err
	}
	f.mu.Unlock()
	if fresh && f.Log != nil {
		f.Log.Warn("store failed: the others of its group are asked", "store", fmt.Sprint(f.Members[t.i]), "error", err)
	}
}

// String returns the members as users write them.
func (f *Failover) String() string {
	names := make([]string, len(f.Members))
	for i, m := range f.Members {
		names[i] = fmt.Sprint(m)
	}
	return strings.Join(names, "|")
}

// Close closes the members that can be closed.
func (f *Failover) Close() error {
	var errs []error
	for _, m := range f.Members {
		errs = append(errs, passed{m}.Close())
	}
	return errors.Join(errs...)
}
