// Package multisha computes SHA-512/256 of several messages at once.
//
// One message keeps a core's vector units mostly idle, since each step of SHA-512
// waits for the one before. Eight independent messages side by side, a 64-bit
// lane each, take hardly longer than one. This needs AVX-512; elsewhere messages
// are hashed one by one by crypto/sha512.
package multisha

import (
	"crypto/sha512"
	"encoding/binary"
)

const (
	lanes     = 8
	blockSize = sha512.BlockSize
	maxBlocks = 512 // at a time: a quarter of a millisecond
)

// initial is the state with which SHA-512/256 begins (FIPS 180-4, 5.3.6.2).
var initial = [8]uint64{
	0x22312194fc2bf72c, 0x9f555fa3c84c64c2, 0x2393b86b6f53b151, 0x963877195940eabd,
	0x96283ee2a88effe3, 0xbe5e1e2553863992, 0x2b0199fc2c85b8aa, 0x0eb72ddc81c52ca2,
}

// Sum512_256 sets sums[i] to the SHA-512/256 of messages[i].
func Sum512_256[T ~[32]byte](sums []T, messages [][]byte) {
	if !available || len(messages) < worthLanes {
		for i, m := range messages {
			sums[i] = sha512.Sum512_256(m)
		}
		return
	}
	requests := make([]request, len(messages))
	started := 0
	run(func() *request {
		if started == len(requests) {
			return nil
		}
		r := &requests[started]
		r.message = messages[started]
		started++
		return r
	}, func(*request) {})
	for i := range requests {
		sums[i] = requests[i].sum
	}
}

// worthLanes is the number of messages from which on lanes are faster than one
// message after the other.
const worthLanes = 3

// request is a message and, in the end, its sum.
type request struct {
	message []byte
	sum     [32]byte
	turn    chan bool // see combiner
}

// lane is where one message is at.
type lane struct {
	r      *request            // nil: the lane is idle
	data   []byte              // whole blocks to be hashed now
	pad    [2 * blockSize]byte // the end of the message, padded
	padded bool                // data is in pad
}

type work struct {
	lanes [lanes]lane
	state [8][lanes]uint64
	data  [lanes]*byte
}

// run hashes messages as long as next returns any, and passes each to done when
// its sum is there. A lane that becomes free is filled at once.
func run(next func() *request, done func(*request)) {
	var w work
	for {
		// As many blocks as every busy lane has, and not so many that the thread
		// could not be preempted for long. Idle lanes follow a busy one.
		n, busy := maxBlocks, -1
		for i := range w.lanes {
			l := &w.lanes[i]
			if l.r == nil {
				w.start(i, next())
			}
			if l.r == nil {
				continue
			}
			n = min(n, len(l.data)/blockSize)
			busy = i
		}
		if busy < 0 {
			return
		}
		for i := range w.lanes {
			if w.lanes[i].r != nil {
				w.data[i] = &w.lanes[i].data[0]
			} else {
				w.data[i] = &w.lanes[busy].data[0]
			}
		}
		blocks(&w.state, &w.data, n)
		for i := range w.lanes {
			l := &w.lanes[i]
			if l.r == nil {
				continue
			}
			if l.data = l.data[n*blockSize:]; len(l.data) > 0 {
				continue
			}
			if !l.padded {
				l.finish()
				continue
			}
			for j := range 4 {
				binary.BigEndian.PutUint64(l.r.sum[8*j:], w.state[j][i])
			}
			done(l.r)
			l.r = nil
		}
	}
}

// start begins a message in lane i. A nil r leaves the lane idle.
func (w *work) start(i int, r *request) {
	if r == nil {
		return
	}
	l := &w.lanes[i]
	l.r, l.data, l.padded = r, r.message[:len(r.message)/blockSize*blockSize], false
	for j, v := range initial {
		w.state[j][i] = v
	}
	if len(l.data) == 0 {
		l.finish()
	}
}

// finish makes the padded end of the message what is hashed next.
func (l *lane) finish() {
	m := l.r.message
	rest := m[len(m)/blockSize*blockSize:]
	n := blockSize
	if len(rest) >= blockSize-16 {
		n = 2 * blockSize
	}
	clear(l.pad[:n])
	copy(l.pad[:], rest)
	l.pad[len(rest)] = 0x80
	binary.BigEndian.PutUint64(l.pad[n-8:], uint64(len(m))<<3)
	l.data, l.padded = l.pad[:n], true
}
