package store_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// A source that fails with every chunk is not told of with every chunk.
func TestUnionTellsNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		fail := storetest.Fail(&store.Error{Op: "get", Loc: "a", ID: c.ID, Err: errors.New("403 Forbidden")})
		var log bytes.Buffer
		u := &store.Union{
			Sources:  []store.Getter{faulty(t, "get", fail, c), faulty(t, "get", fail, c), memory(t, c)},
			Verifier: store.VerifyWith(storetest.Digest, 1000),
			Log:      slog.New(slog.NewTextHandler(&log, nil)),
		}
		get := func(n int) {
			for range n {
				if _, err := u.Get(t.Context(), c.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		get(12345)
		// Of two sources: the first 3 times, and those numbered 10, 100, 1000 and 10,000.
		if got := strings.Count(log.String(), "\n"); got != 2*(3+4) {
			t.Errorf("%d lines, want 14:\n%s", got, &log)
		}
		if got := strings.Count(log.String(), "more_like_this=8999"); got != 2 {
			t.Errorf("the number of those that were not told comes %d times, want 2:\n%s", got, &log)
		}
		log.Reset()
		time.Sleep(time.Minute)
		get(2)
		if got := strings.Count(log.String(), "more_like_this=2345"); got != 2 || strings.Count(log.String(), "\n") != 2 {
			t.Errorf("after a minute:\n%s", &log)
		}
	})
}

func TestCacheTellsNowAndThen(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	full := storetest.Fail(&store.Error{Op: "put", Loc: "cache", ID: c.ID, Err: errors.New("no space left on device")})
	cache, log := cache(faulty(t, "put", full), memory(t, c))
	for range 1000 {
		checkGet(t, cache, c)
	}
	if got := strings.Count(log.String(), "\n"); got != 3+3 || strings.Count(log.String(), "more_like_this=899") != 1 {
		t.Errorf("%d lines, want 6:\n%s", got, log)
	}
}
