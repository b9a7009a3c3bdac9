package par_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/internal/par"
)

var errStop = errors.New("stop")

// TestOrdered gives items work of different length: they come in order, each
// once, from one goroutine at a time.
func TestOrdered(t *testing.T) {
	for _, workers := range []int{1, 2, 7} {
		for _, depth := range []int{1, workers, 2 * workers, 100} {
			t.Run(fmt.Sprint(workers, depth), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const n = 200
					var got []int
					work := func(_ context.Context, i *int) error {
						time.Sleep(time.Duration(*i*7919%13) * time.Millisecond)
						*i *= 10
						return nil
					}
					emit := func(i *int) error {
						got = append(got, *i)
						return nil
					}
					o := par.NewOrdered(t.Context(), workers, depth, work, emit)
					for i := range n {
						if err := o.Submit(i); err != nil {
							t.Fatalf("Submit: %v", err)
						}
					}
					if err := o.Wait(); err != nil {
						t.Fatalf("Wait: %v", err)
					}
					if len(got) != n || !slices.IsSorted(got) || got[1] != 10 {
						t.Errorf("emitted %v", got)
					}
				})
			})
		}
	}
}

func TestOrderedEmpty(t *testing.T) {
	o := par.NewOrdered(t.Context(), 3, 6, func(context.Context, *int) error { return errStop }, func(*int) error { return errStop })
	if err := o.Wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

// TestOrderedDepth blocks the first item and counts how many others go on.
func TestOrderedDepth(t *testing.T) {
	for _, tt := range []struct{ workers, depth int }{{1, 1}, {1, 2}, {2, 2}, {4, 4}, {4, 8}, {3, 20}} {
		t.Run(fmt.Sprint(tt.workers, tt.depth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var begun, running, most, emitted atomic.Int64
				first := make(chan struct{})
				work := func(_ context.Context, i *int) error {
					begun.Add(1)
					now := running.Add(1)
					for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
					}
					if *i == 0 {
						<-first
					}
					time.Sleep(time.Second)
					running.Add(-1)
					return nil
				}
				emit := func(*int) error { emitted.Add(1); return nil }
				o := par.NewOrdered(t.Context(), tt.workers, tt.depth, work, emit)
				go func() {
					for i := range 100 {
						o.Submit(i)
					}
					o.Wait()
				}()
				time.Sleep(time.Hour)
				synctest.Wait()
				if got, want := int(begun.Load()), tt.depth; tt.workers > 1 && got != want || got > want {
					t.Errorf("%d items on the way while the first is worked on, want %d", got, want)
				}
				if n := emitted.Load(); n != 0 {
					t.Errorf("%d items overtook the first", n)
				}
				close(first)
				time.Sleep(time.Hour)
				if n := emitted.Load(); n != 100 {
					t.Errorf("%d items emitted, want 100", n)
				}
				if got, want := int(most.Load()), min(tt.workers, tt.depth); got != want {
					t.Errorf("%d worked on at once, want %d", got, want)
				}
			})
		})
	}
}

// TestOrderedErrors stops in every way: the reason comes out of Wait, no item is
// emitted after it, and no goroutine is left.
func TestOrderedErrors(t *testing.T) {
	const n, bad = 100, 30
	for _, tt := range []struct {
		name string
		work func(i int, cancel context.CancelCauseFunc) error
		emit func(i int, cancel context.CancelCauseFunc) error
		last int // the last item that may be emitted
	}{
		{"work", func(i int, _ context.CancelCauseFunc) error {
			if i == bad {
				return errStop
			}
			return nil
		}, nil, bad - 1},
		{"all work", func(i int, _ context.CancelCauseFunc) error {
			if i >= bad {
				return fmt.Errorf("item %d: %w", i, errStop)
			}
			return nil
		}, nil, bad - 1},
		{"emit", nil, func(i int, _ context.CancelCauseFunc) error {
			if i == bad {
				return errStop
			}
			return nil
		}, bad},
		{"cancelled in work", func(i int, cancel context.CancelCauseFunc) error {
			if i == bad {
				cancel(errStop)
			}
			return nil
		}, nil, n},
		{"cancelled in emit", nil, func(i int, cancel context.CancelCauseFunc) error {
			if i == bad {
				cancel(errStop)
			}
			return nil
		}, bad},
	} {
		for _, workers := range []int{1, 4} {
			t.Run(fmt.Sprint(tt.name, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // fails if goroutines are left
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					last := -1
					work := func(_ context.Context, i *int) error {
						if tt.work == nil {
							return nil
						}
						return tt.work(*i, cancel)
					}
					emit := func(i *int) error {
						if *i != last+1 {
							t.Errorf("item %d emitted after %d", *i, last)
						}
						if last = *i; tt.emit == nil {
							return nil
						}
						return tt.emit(*i, cancel)
					}
					o := par.NewOrdered(ctx, workers, 2*workers, work, emit)
					var serr error
					for i := 0; i < n && serr == nil; i++ {
						serr = o.Submit(i)
					}
					err := o.Wait()
					if !errors.Is(err, errStop) {
						t.Errorf("Wait: %v, want %v", err, errStop)
					}
					if serr == nil || !errors.Is(serr, errStop) {
						t.Errorf("Submit: %v, want %v", serr, errStop)
					}
					if last > tt.last {
						t.Errorf("item %d emitted, want %d at most", last, tt.last)
					}
				})
			})
		}
	}
}

// TestOrderedFirst has two items fail, the later one sooner: the first in order
// is the error.
func TestOrderedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := par.NewOrdered(t.Context(), 2, 4, func(_ context.Context, i *int) error {
			if *i == 0 {
				time.Sleep(time.Hour)
				return errStop
			}
			return errors.New("the later one")
		}, func(*int) error { return nil })
		for i := range 2 {
			if err := o.Submit(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Wait(); err != errStop {
			t.Errorf("Wait: %v, want %v", err, errStop)
		}
	})
}

// TestOrderedUnblocks cancels while Submit and work wait.
func TestOrderedUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		time.AfterFunc(time.Hour, func() { cancel(errStop) })
		o := par.NewOrdered(ctx, 2, 4, func(ctx context.Context, _ *int) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}, func(*int) error { return nil })
		var err error
		for err == nil {
			err = o.Submit(0)
		}
		if err != errStop {
			t.Errorf("Submit: %v, want %v", err, errStop)
		}
		if err := o.Wait(); err != errStop {
			t.Errorf("Wait: %v, want %v", err, errStop)
		}
	})
}

func TestEach(t *testing.T) {
	for _, tt := range []struct{ workers, n int }{{1, 0}, {1, 1}, {1, 10}, {4, 1}, {4, 1000}, {100, 10}, {0, 10}, {-1, 3}} {
		var mu sync.Mutex // guards calls
		calls := make([]int, tt.n)
		err := par.Each(t.Context(), tt.workers, tt.n, func(_ context.Context, i int) error {
			mu.Lock()
			defer mu.Unlock()
			calls[i]++
			return nil
		})
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		if i := slices.IndexFunc(calls, func(n int) bool { return n != 1 }); i >= 0 {
			t.Errorf("%+v: work(%d) called %d times", tt, i, calls[i])
		}
	}
}

func TestEachErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var mu sync.Mutex // guards calls
		err := par.Each(t.Context(), 4, 1000, func(ctx context.Context, i int) error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == 50 {
				return errStop
			}
			return nil
		})
		if err != errStop || calls > 50+4 {
			t.Errorf("error %v after %d calls, want %v soon after 50", err, calls, errStop)
		}
		// The others are told, and their errors do not count.
		err = par.Each(t.Context(), 4, 4, func(ctx context.Context, i int) error {
			if i == 3 {
				time.Sleep(time.Second)
				return errStop
			}
			<-ctx.Done()
			return errors.New("cut short")
		})
		if err != errStop {
			t.Errorf("error %v, want %v", err, errStop)
		}
	})
}

func TestEachCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	for _, n := range []int{0, 1, 100} {
		err := par.Each(ctx, 4, n, func(context.Context, int) error { t.Error("called"); return nil })
		if err != errStop {
			t.Errorf("n = %d: %v, want the cause", n, err)
		}
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	defer cancel(nil)
	err := par.Each(ctx, runtime.GOMAXPROCS(0), 100, func(_ context.Context, i int) error {
		if i == 99 {
			cancel(errStop) // in the last call, which goes well
		}
		return nil
	})
	if err != errStop {
		t.Errorf("cancelled in the last call: %v, want the cause", err)
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct{ n, size, budget, want int }{
		{8, 1, 100, 8},
		{8, 20, 100, 5},
		{8, 100, 100, 1},
		{8, 1000, 100, 1},
		{8, 0, 100, 8},
		{0, 1, 100, 1},
		{8, 1, 0, 1},
	} {
		if got := par.Fit(tt.n, tt.size, tt.budget); got != tt.want {
			t.Errorf("Fit(%d, %d, %d) = %d, want %d", tt.n, tt.size, tt.budget, got, tt.want)
		}
	}
}
