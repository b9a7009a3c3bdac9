package mcast

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// job is an object that has come whole.
type job struct {
	group *group
	from  *sender
	p     *partial
	trial bool // the group is still joined
	verdict
	err error
}

// verdict is what accept has found of an object.
type verdict struct {
	right bool // some of it is, for certain
	lacks bool // some of what is wanted is not in it
}

// errPolluted says that an object is not what it should be: somebody has sent what
// does not belong to it.
var errPolluted = errors.New("an object is not what it should be")

// fetching is one call of fetch. Its methods run on the goroutine of the session.
type fetching struct {
	*Session
	todo    []uint32  // groups whose objects are still to come, in order
	jobs    chan *job // for the workers, and back from them
	done    chan *job
	working int // jobs that are not back
}

// fetch receives the objects of the groups todo, which are in order. It passes each to
// accept, on several goroutines: an error that wraps errPolluted makes it be fetched
// again, and so does that it lacks something as long as another sender may have it; any
// other error ends fetch. The limit of the length of an object of chunks is max. What is
// missing in the end is returned, with an error that says why.
func (s *Session) fetch(ctx context.Context, todo []uint32, max func(ord uint32) int64, accept func(ord uint32, object []byte) (verdict, error)) (left []uint32, err error) {
	s.max = max
	// What has come until now waits in the socket.
	now := time.Now()
	s.heard, s.useful, s.moved = now, now, now
	for _, n := range s.senders {
		n.heard, n.lacks = now, nil
	}
	workers := runtime.GOMAXPROCS(0)
	room := maxWindow + 2*workers
	f := &fetching{Session: s, todo: slices.Clone(todo), jobs: make(chan *job, room), done: make(chan *job, room)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(f.jobs)
	for range workers {
		wg.Go(func() {
			for j := range f.jobs {
				if ctx.Err() == nil {
					j.verdict, j.err = j.finish(accept)
				}
				f.done <- j
			}
		})
	}
	defer f.abandon()
	if err := f.run(ctx); err != nil {
		return f.todo, err
	}
	return nil, nil
}

// run returns when every object has been accepted.
func (f *fetching) run(ctx context.Context) error {
	next := time.Now()
	for len(f.todo) > 0 || f.working > 0 {
		if err := f.takeBack(); err != nil {
			return err
		}
		if now := time.Now(); !now.Before(next) {
			if late := now.Sub(next); late > cutOff {
				f.excuse(late)
			}
			next = now.Add(tick)
			if err := f.tick(now, f.todo); err != nil && f.working == 0 {
				return err
			}
		}
		if err := f.read(ctx, next); err != nil {
			return err
		}
		f.handOver()
	}
	return nil
}

// handOver gives what is whole to the workers, and leaves its groups. One who has not
// brought anything right yet does not end what others send: then that goes on until the
// object has been found right.
func (f *fetching) handOver() {
	now := time.Now()
	for _, g := range f.joined {
		if !g.full || g.trial {
			continue
		}
		j := g.whole()
		if j == nil { // its sender was forgotten meanwhile
			f.leave(g)
			continue
		}
		if j.trial = !j.from.proven && f.others(now, g.ord, j.from); j.trial {
			g.trial = true
		} else {
			f.settle(g.ord)
		}
		f.working++
		f.jobs <- j
	}
}

// settle says that nothing more is to come of a group.
func (f *fetching) settle(ord uint32) {
	if g := f.joined[ord]; g != nil {
		f.leave(g)
	}
	if i, ok := slices.BinarySearch(f.todo, ord); ok {
		f.todo = slices.Delete(f.todo, i, i+1)
	}
}

// again says that the object of a group is to come once more.
func (f *fetching) again(ord uint32) {
	if i, ok := slices.BinarySearch(f.todo, ord); !ok {
		f.todo = slices.Insert(f.todo, i, ord)
	}
}

// others reports whether a sender who is there and as credible as n may have of a group
// what n lacks.
func (s *Session) others(now time.Time, ord uint32, n *sender) bool {
	for _, o := range s.senders {
		if o != n && s.believed(o) && !o.lacks[ord] && (o.proven || !n.proven) && !o.bye && now.Sub(o.heard) < byeAfter {
			return true
		}
	}
	return false
}

// takeBack takes in what the workers are done with, without waiting.
func (f *fetching) takeBack() error {
	for {
		select {
		case j := <-f.done:
			if err := f.accepted(j); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// accepted takes in an object that a worker is done with. What is polluted is to come
// once more, and what lacks something if another sender may have that.
func (f *fetching) accepted(j *job) error {
	f.working--
	f.memory -= int64(len(j.p.data))
	j.group.trial = false
	now, ord := time.Now(), j.group.ord
	switch {
	case j.err == nil:
		j.from.proven = j.from.proven || j.right
		if j.right {
			f.useful, f.right = now, now
		}
		if j.lacks {
			j.from.lack(ord)
		}
		if j.lacks && f.others(now, ord, j.from) {
			f.again(ord)
		} else {
			f.settle(ord)
		}
	case errors.Is(j.err, errPolluted):
		j.from.strikes++
		if f.o.Log != nil {
			f.o.Log.Warn("multicast: what was received is wrong and is thrown away", "error", j.err)
		}
		f.again(ord)
	default:
		return j.err
	}
	return nil
}

// abandon leaves all groups, and waits for what the workers still have.
func (f *fetching) abandon() {
	for _, g := range f.joined {
		f.leave(g)
	}
	for ; f.working > 0; f.working-- {
		j := <-f.done
		f.memory -= int64(len(j.p.data))
	}
}

// whole takes an object that has come whole out of a group, if there is one.
func (g *group) whole() (j *job) {
	g.full = false
	for n, p := range g.from {
		if p.left == 0 && (j == nil || n.proven) {
			j = &job{group: g, from: n, p: p}
		}
	}
	if j != nil {
		delete(g.from, j.from)
	}
	return j
}

// finish decodes an object and has it accepted.
func (j *job) finish(accept func(ord uint32, object []byte) (verdict, error)) (verdict, error) {
	for _, b := range j.p.blocks {
		if err := b.Decode(); err != nil {
			return verdict{}, fmt.Errorf("%w: %w", errPolluted, err)
		}
	}
	return accept(j.group.ord, j.p.data[:j.p.layout.Size])
}
