package multisha

import (
	"crypto/sha512"
	"runtime"
	"sync"
)

// Sum returns the SHA-512/256 of m. Calls from several goroutines at the same
// time share lanes: one of them serves, that is hashes for all, and the others
// hand it their messages and wait.
func Sum(m []byte) [32]byte {
	if !available || len(m) < worthSharing {
		return sha512.Sum512_256(m)
	}
	return shared.sum(m)
}

// worthSharing is the length in bytes from which on handing a message over costs
// less than hashing it.
const worthSharing = 4 << 10

var shared combiner

// combiner is a queue of messages to hash, served by the callers themselves.
type combiner struct {
	mu      sync.Mutex
	waiting []*request // guarded by mu
	serving int        // goroutines that serve; guarded by mu
}

// A request's turn gets true when its sum is there, or false when its caller is
// to serve; it is then not in the queue any more.
var requests = sync.Pool{New: func() any { return &request{turn: make(chan bool, 1)} }}

func (c *combiner) sum(m []byte) [32]byte {
	r := requests.Get().(*request)
	r.message = m
	defer func() {
		r.message = nil
		requests.Put(r)
	}()
	c.mu.Lock()
	if c.serving < max(1, runtime.GOMAXPROCS(0)/4) { // with few serving, many share
		c.serving++
		c.mu.Unlock()
	} else {
		c.waiting = append(c.waiting, r)
		c.mu.Unlock()
		if <-r.turn {
			return r.sum
		}
	}
	c.serve(r)
	return r.sum
}

// serve hashes own and whatever is waiting until own is done, then lets another
// caller go on.
func (c *combiner) serve(own *request) {
	c.mu.Lock()
	alone := len(c.waiting)+1 < worthLanes
	c.mu.Unlock()
	if alone {
		own.sum = sha512.Sum512_256(own.message)
	} else {
		c.serveLanes(own)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if next := c.take(); next != nil {
		next.turn <- false
	} else {
		c.serving--
	}
}

func (c *combiner) serveLanes(own *request) {
	started, finished := false, false
	run(func() *request {
		if !started {
			started = true
			return own
		}
		if finished {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.take()
	}, func(r *request) {
		if r == own {
			finished = true
		} else {
			r.turn <- true
		}
	})
}

// take removes the first request from the queue, nil if there is none. c.mu is
// held.
func (c *combiner) take() *request {
	if len(c.waiting) == 0 {
		return nil
	}
	r := c.waiting[0]
	c.waiting = c.waiting[1:]
	return r
}
