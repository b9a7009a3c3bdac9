//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A request goes on for a while after it was interrupted, and what waits for its end
// does not stay.
func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := begin(ctx)
		start := time.Now()
		done := r.Done()
		cancel()
		synctest.Wait()
		if err := r.Err(); err != nil {
			t.Errorf("at once: %v", err)
		}
		<-done
		if d := time.Since(start); d != grace || !errors.Is(r.Err(), errInterrupted) {
			t.Errorf("after %v: %v", d, r.Err())
		}
		r.end()

		r = begin(t.Context()) // answered without an interruption
		r.Done()
		r.end()
		begin(t.Context()).end()
	})
}
