package mcast

import (
	"math"
	"time"
)

// window is how many groups a receiver joins at once. A group brings at most its share
// of the sender's rate, so the window is what a receiver takes: it is the control of
// congestion.
//
// Loss beyond a limit shrinks it. But loss that does not change with the window has
// another cause, such as radio, and costs less than a small window does: then the
// window is given back and the limit raised.
type window struct {
	size  int
	limit float64 // loss from which on the window shrinks
	slow  bool    // growing by one, no longer by doubling

	before     int     // the size before it shrank; 0: not on trial
	beforeLoss float64 // and the loss at that time
	next       time.Time
}

const (
	firstWindow = 8
	maxWindow   = 64
	lossLimit   = 0.22 // that much the repair symbols make good for cheaply
	windowStep  = 150 * time.Millisecond
)

func newWindow() window { return window{size: firstWindow, limit: lossLimit} }

// update takes in the packets that should have come and those that did, since the last
// call that returned true. overflow says that this host could not keep up.
func (w *window) update(now time.Time, expected, got int, overflow bool) bool {
	if now.Before(w.next) || expected < 64 && !overflow {
		return false
	}
	w.next = now.Add(windowStep)
	n := float64(max(expected, 1))
	loss := float64(max(expected-got, 0)) / n
	// What may be chance is no reason to fall behind the other receivers.
	chance := 2 * math.Sqrt(w.limit*(1-w.limit)/n)
	switch {
	case overflow || loss > w.limit+chance:
		w.slow = true
		if w.before > 0 && !overflow && loss > 0.8*w.beforeLoss && w.size <= w.before/2 {
			// Half of the groups, and no less loss.
			w.size, w.limit, w.before = w.before, min(1.25*loss, 0.9), 0
			return true
		}
		if overflow {
			w.before = 0 // it is this host
		} else if w.before == 0 {
			w.before, w.beforeLoss = w.size, loss
		}
		w.size = max(1, w.size*7/10)
	case w.slow:
		w.before = 0
		w.limit += (lossLimit - w.limit) / 64
		w.size = min(w.size+1, maxWindow)
	default:
		w.size = min(2*w.size, maxWindow)
	}
	return true
}
