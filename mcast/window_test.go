package mcast

import (
	"math/rand/v2"
	"testing"
	"time"
)

// steps calls update every windowStep, n times, with packets of which the part lost
// does not come.
func (w *window) steps(t *testing.T, now *time.Time, n, packets int, lost func(size int) float64) (sum int) {
	t.Helper()
	for range n {
		*now = now.Add(windowStep)
		got := packets - int(float64(packets)*lost(w.size))
		if !w.update(*now, packets, got, false) {
			t.Fatalf("%d packets after %v are not looked at", packets, windowStep)
		}
		if w.size < 1 || w.size > maxWindow {
			t.Fatalf("window of %d", w.size)
		}
		sum += w.size
	}
	return sum
}

func noLoss(int) float64 { return 0 }

func TestWindowGrows(t *testing.T) {
	w, now := newWindow(), time.Unix(0, 0)
	if w.size != firstWindow {
		t.Fatalf("begins with %d", w.size)
	}
	for _, want := range []int{16, 32, 64, 64, 64} {
		if w.steps(t, &now, 1, 1000, noLoss); w.size != want {
			t.Errorf("size %d, want %d", w.size, want)
		}
	}
}

// Not too often, and not for a few packets.
func TestWindowWaits(t *testing.T) {
	w, now := newWindow(), time.Unix(0, 0)
	if w.update(now, 63, 0, false) || w.size != firstWindow {
		t.Error("63 packets count")
	}
	if !w.update(now, 64, 64, false) || w.size != 2*firstWindow {
		t.Error("64 packets do not count")
	}
	if w.update(now.Add(windowStep-1), 1000, 1000, false) || w.update(now.Add(windowStep-1), 1000, 0, true) {
		t.Error("changes faster than it can tell what the last change has done")
	}
	if !w.update(now.Add(windowStep), 0, 0, true) || w.size != 2*firstWindow*7/10 {
		t.Errorf("an overflow without packets makes it %d", w.size)
	}
}

func TestWindowShrinks(t *testing.T) {
	w, now := newWindow(), time.Unix(0, 0)
	w.steps(t, &now, 3, 1000, noLoss)
	// A little loss is no reason, and neither is what may be chance.
	w.steps(t, &now, 10, 1000, func(int) float64 { return lossLimit - 0.01 })
	if w.size != maxWindow {
		t.Errorf("loss below the limit: size %d", w.size)
	}
	w.steps(t, &now, 10, 100, func(int) float64 { return lossLimit + 0.03 })
	if w.size != maxWindow {
		t.Errorf("loss that may be chance: size %d", w.size)
	}
	w.steps(t, &now, 1, 1000, func(int) float64 { return lossLimit + 0.1 })
	if w.size != maxWindow*7/10 {
		t.Errorf("loss above the limit: size %d", w.size)
	}
	w.steps(t, &now, 1, 1000, noLoss)
	if w.size != maxWindow*7/10+1 {
		t.Errorf("after loss it grows to %d, want by one", w.size)
	}
	// Overflow never makes it larger, and leaves one group.
	for range 30 {
		now = now.Add(windowStep)
		before := w.size
		if w.update(now, 1000, 900, true); w.size > before {
			t.Fatalf("an overflow makes %d groups of %d", w.size, before)
		}
	}
	if w.size != 1 {
		t.Errorf("overflow again and again: size %d, want 1", w.size)
	}
	if sum := w.steps(t, &now, 100, 1000, noLoss); w.size != maxWindow || sum < 64*50 {
		t.Errorf("it does not recover: size %d", w.size)
	}
}

// Loss that comes from the window: it stays about what the line takes.
func TestWindowCongestion(t *testing.T) {
	for _, line := range []float64{2, 5, 12, 30, 60} {
		w, now := newWindow(), time.Unix(0, 0)
		lost := func(size int) float64 { return max(0, 1-line/float64(size)) }
		w.steps(t, &now, 50, 2000, lost)
		const n = 500
		mean := float64(w.steps(t, &now, n, 2000, lost)) / n
		if mean < 0.6*line || mean > 1.3*line+0.5 {
			t.Errorf("a line for %.0f groups: %.1f are joined on average", line, mean)
		}
	}
}

// Loss that does not depend on the window is recognised, and the window comes back.
func TestWindowRandomLoss(t *testing.T) {
	for _, loss := range []float64{lossLimit / 2, lossLimit + 0.05, 0.4, 0.6} {
		r := rand.New(rand.NewPCG(1, uint64(100*loss)))
		w, now := newWindow(), time.Unix(0, 0)
		for range 200 {
			now = now.Add(windowStep)
			const n = 800
			got := 0
			for range n {
				if r.Float64() >= loss {
					got++
				}
			}
			w.update(now, n, got, false)
		}
		if w.size < maxWindow/2 {
			t.Errorf("%.0f %% are lost whatever the window: it has %d groups", 100*loss, w.size)
		}
		// And when that is over, the limit comes down again.
		w.steps(t, &now, 600, 1000, noLoss)
		if w.limit > 1.1*lossLimit || w.size != maxWindow {
			t.Errorf("long after %.0f %% of loss: limit %.3f, size %d", 100*loss, w.limit, w.size)
		}
	}
}

// Overflow says that this host cannot keep up: loss after it is no news, and no reason
// to take more.
func TestWindowLossAfterOverflow(t *testing.T) {
	w, now := newWindow(), time.Unix(0, 0)
	w.steps(t, &now, 3, 1000, noLoss)
	for range 3 {
		now = now.Add(windowStep)
		w.update(now, 1000, 1000, true)
	}
	before := w.size
	if w.steps(t, &now, 1, 1000, func(int) float64 { return lossLimit + 0.1 }); w.size > before {
		t.Errorf("a host that overflows and then loses packets goes from %d groups to %d", before, w.size)
	}
}
