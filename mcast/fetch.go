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
	err   error
}

// errPolluted says that an object is not what it should be: somebody has sent what
// does not belong to it.
var errPolluted = errors.New("an object is not what it should be")

// fetch receives the objects of the groups todo, which are in order. It passes each to
// accept, on several goroutines: an error that wraps errPolluted makes it be fetched
// again, any other ends fetch. The limit of the length of an object of chunks is max.
// What is missing in the end is returned, with an error that says why.
func (s *Session) fetch(ctx context.Context, todo []uint32, max func(ord uint32) int64, accept func(ord uint32, object []byte) error) (left []uint32, err error) {
	s.max = max
	// What has come until now waits in the socket.
	now := time.Now()
	s.heard, s.useful, s.moved = now, now, now
	for _, n := range s.senders {
		n.heard = now
	}
	todo = slices.Clone(todo)
	workers := runtime.GOMAXPROCS(0)
	jobs := make(chan *job, maxWindow+2*workers)
	done := make(chan *job, maxWindow+2*workers)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(jobs)
	for range workers {
		wg.Go(func() {
			for j := range jobs {
				if ctx.Err() == nil {
					j.err = j.finish(accept)
				}
				done <- j
			}
		})
	}
	working := 0
	takeBack := func(j *job) error {
		working--
		s.memory -= int64(len(j.p.data))
		switch {
		case j.err == nil:
			j.from.proven = true
			s.useful = time.Now()
		case errors.Is(j.err, errPolluted):
			j.from.strikes++
			if s.o.Log != nil {
				s.o.Log.Warn("multicast: what was received is wrong and is thrown away", "error", j.err)
			}
			i, _ := slices.BinarySearch(todo, j.group.ord)
			todo = slices.Insert(todo, i, j.group.ord)
		default:
			return j.err
		}
		return nil
	}
	defer func() {
		for _, g := range s.joined {
			s.leave(g)
		}
		for ; working > 0 && err != nil; working-- {
			j := <-done
			s.memory -= int64(len(j.p.data))
		}
	}()
	next := time.Now()
	for len(todo) > 0 || working > 0 {
		for more := true; more; {
			select {
			case j := <-done:
				if err := takeBack(j); err != nil {
					return todo, err
				}
			default:
				more = false
			}
		}
		if now := time.Now(); !now.Before(next) {
			if late := now.Sub(next); late > cutOff {
				s.excuse(late)
			}
			next = now.Add(tick)
			if err := s.tick(now, todo); err != nil && working == 0 {
				return todo, err
			}
		}
		if err := s.read(ctx, next); err != nil {
			return todo, err
		}
		for _, g := range s.joined {
			if !g.full {
				continue
			}
			if j := s.whole(g); j != nil {
				working++
				jobs <- j
				if i, ok := slices.BinarySearch(todo, g.ord); ok {
					todo = slices.Delete(todo, i, i+1)
				}
			}
		}
	}
	return nil, nil
}

// whole takes the object of a full group out of the session, and leaves the group. It is
// nil if its sender was forgotten meanwhile: then the object has to be fetched again.
func (s *Session) whole(g *group) *job {
	defer s.leave(g)
	for n, p := range g.from {
		if p.left == 0 {
			delete(g.from, n)
			return &job{group: g, from: n, p: p}
		}
	}
	return nil
}

// finish decodes an object and has it accepted.
func (j *job) finish(accept func(ord uint32, object []byte) error) error {
	for _, b := range j.p.blocks {
		if err := b.Decode(); err != nil {
			return fmt.Errorf("%w: %w", errPolluted, err)
		}
	}
	return accept(j.group.ord, j.p.data[:j.p.layout.Size])
}
