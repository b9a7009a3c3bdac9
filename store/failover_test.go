package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// failover returns a group of sources, and its log.
func failover(members ...store.Getter) (*store.Failover, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return &store.Failover{
		Members:  members,
		Verifier: &store.Verifier{Limit: 1000},
		Log:      slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

// counts returns how often members were asked for chunks.
func counts(members ...*storetest.Faulty) string {
	var all []string
	for _, m := range members {
		all = append(all, fmt.Sprint(m.Count("get")))
	}
	return strings.Join(all, " ")
}

// TestFailoverChunk has a first member that goes wrong with every chunk in one way.
func TestFailoverChunk(t *testing.T) {
	plain := storetest.Chunk(1, 1000)
	for form, c := range map[string]store.Chunk{"plain": plain, "zstd": compressed(t, plain)} {
		for name, fault := range faults(c) {
			first, second := faulty(t, "get", fault, c), faulty(t, "", nil, c)
			f, log := failover(first, second)
			for range 5 {
				checkGet(t, f, plain)
			}
			want := "5 5" // what is wrong with a chunk says nothing about the others
			if name == "failing" {
				want = "1 5"
			}
			if got := counts(first, second); got != want {
				t.Errorf("%s, %s: asked %s times, want %s", form, name, got, want)
			}
			if logged := strings.Count(log.String(), "level=WARN"); logged > 0 != (name == "failing") || logged > 1 {
				t.Errorf("%s, %s: logged %q", form, name, log)
			}
		}
	}
}

// TestFailoverDigests has chunks that different digests name.
func TestFailoverDigests(t *testing.T) {
	var chunks []store.Chunk
	for i := range 6 {
		b := storetest.Random(uint64(i), 900)
		chunks = append(chunks, store.Chunk{ID: chunker.Digests[i/2].Sum(b), Data: b})
	}
	f, _ := failover(memory(t, chunks...))
	for _, c := range chunks {
		if got, err := f.Get(t.Context(), c.ID); err != nil || !bytes.Equal(got.Data, c.Data) {
			t.Errorf("%v", err)
		}
	}
}

func TestFailoverRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		broken := true
		first := &storetest.Faulty{Source: memory(t, c), Choose: func(storetest.Call) storetest.Fault {
			if broken {
				return storetest.Fail(errStop)
			}
			return nil
		}}
		second := faulty(t, "", nil, c)
		f, log := failover(first, second)
		begin := time.Now()
		var tried []string // when the first member was
		for time.Since(begin) < 40*time.Minute {
			n := first.Count("get")
			checkGet(t, f, c)
			if first.Count("get") > n {
				tried = append(tried, time.Since(begin).String())
			}
			if time.Since(begin) == 35*time.Minute {
				broken = false
			}
			if !broken && first.Count("get") > n+1 {
				t.Fatal("asked twice for one chunk")
			}
			time.Sleep(time.Second)
			if len(tried) > 12 {
				break
			}
		}
		// Pauses of 30 s, 1, 2, 4 and from then on 8 minutes; then every second.
		want := "0s 30s 1m30s 3m30s 7m30s 15m30s 23m30s 31m30s 39m30s 39m31s"
		if got := strings.Join(tried, " "); !strings.HasPrefix(got, want) {
			t.Errorf("tried after %s, want %s", got, want)
		}
		if n := strings.Count(log.String(), "store works again"); n != 1 {
			t.Errorf("logged %d times that it works again: %q", n, log)
		}
	})
}

// TestFailoverProbe has many askers at the time when a member has rested: one tries it.
func TestFailoverProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		first := faulty(t, "get", func(ctx context.Context, _ store.Chunk, _ storetest.Next) (store.Chunk, error) {
			time.Sleep(10 * time.Second)
			return store.Chunk{}, errStop
		}, c)
		f, log := failover(first, memory(t, c))
		ask := func() (slow int) {
			var took [20]time.Duration
			if err := par.Each(t.Context(), 20, 20, func(ctx context.Context, i int) error {
				begin := time.Now()
				_, err := f.Get(ctx, c.ID)
				took[i] = time.Since(begin)
				return err
			}); err != nil {
				t.Error(err)
			}
			for _, d := range took {
				if d > 0 {
					slow++
				}
			}
			return slow
		}
		if got := ask(); got != 20 {
			t.Errorf("at first %d waited, want 20", got)
		}
		time.Sleep(29 * time.Second)
		if got := ask(); got != 0 {
			t.Errorf("while it rests %d waited, want 0", got)
		}
		time.Sleep(2 * time.Second)
		if got := ask(); got != 1 {
			t.Errorf("when it has rested %d waited, want 1", got)
		}
		time.Sleep(55 * time.Second) // 20 failures at once count as one
		if got := ask(); got != 0 {
			t.Errorf("while it rests again %d waited, want 0", got)
		}
		time.Sleep(6 * time.Second)
		if got := ask(); got != 1 {
			t.Errorf("when it has rested again %d waited, want 1", got)
		}
		if n := strings.Count(log.String(), "store failed"); n != 3 {
			t.Errorf("logged %d failures, want 3", n)
		}
	})
}

func TestFailoverMissing(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	missing := memory(t)
	failing := faulty(t, "get", storetest.Fail(errStop))
	for _, tt := range []struct {
		name    string
		members []store.Getter
		is      error
		missing bool
	}{
		{"none has it", []store.Getter{missing, memory(t)}, fs.ErrNotExist, true},
		{"one fails", []store.Getter{failing, missing}, errStop, false},
		{"all fail", []store.Getter{failing, failing}, errStop, false},
		{"one has it damaged", []store.Getter{missing, faulty(t, "get", storetest.Flip(1), c)}, store.ErrDamaged, false},
		{"no members", nil, fs.ErrNotExist, true},
	} {
		f, _ := failover(tt.members...)
		for call := range 3 { // the later ones find members at rest
			_, err := f.Get(t.Context(), c.ID)
			if _, ok := errors.AsType[*store.NotFoundError](err); !ok || !errors.Is(err, tt.is) || store.Missing(err) != tt.missing {
				t.Errorf("%s, call %d: got error %v", tt.name, call, err)
			}
		}
	}
	if _, err := new(store.Failover).Get(cancelled(t), c.ID); !store.Missing(err) && err != errStop {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFailoverAllRest has all members at rest: they are asked all the same.
func TestFailoverAllRest(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	fails := 2
	m := &storetest.Faulty{Source: memory(t, c), Choose: func(storetest.Call) storetest.Fault {
		if fails--; fails >= 0 {
			return storetest.Fail(errStop)
		}
		return nil
	}}
	f, _ := failover(m)
	for range 2 {
		if _, err := f.Get(t.Context(), c.ID); !errors.Is(err, errStop) {
			t.Errorf("got error %v", err)
		}
	}
	checkGet(t, f, c)
}

func TestFailoverHas(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	other := storetest.Chunk(2, 1000).ID
	for _, tt := range []struct {
		name    string
		members []store.Getter
		has     bool
		err     error // of another chunk
		size    error // of StoredSize of the chunk
	}{
		{"first", []store.Getter{memory(t, c), memory(t)}, true, nil, nil},
		{"second", []store.Getter{memory(t), memory(t, c)}, true, nil, nil},
		{"first cannot tell", []store.Getter{getter{memory(t)}, memory(t, c)}, true, errors.ErrUnsupported, nil},
		{"second cannot tell sizes", []store.Getter{memory(t), core{memory(t, c)}}, true, nil, errors.ErrUnsupported},
		{"first fails", []store.Getter{faulty(t, "has", storetest.Fail(errStop)), memory(t, c)}, true, errStop, nil},
		{"neither", []store.Getter{memory(t), memory(t)}, false, nil, fs.ErrNotExist},
	} {
		f, _ := failover(tt.members...)
		if has, err := f.Has(t.Context(), c.ID); has != tt.has || err != nil {
			t.Errorf("%s: Has = %v, %v", tt.name, has, err)
		}
		if has, err := f.Has(t.Context(), other); has || !errors.Is(err, tt.err) || tt.err == nil && err != nil {
			t.Errorf("%s: Has of another = %v, %v", tt.name, has, err)
		}
		if n, err := f.StoredSize(t.Context(), c.ID); tt.size == nil && (n != 1000 || err != nil) || !errors.Is(err, tt.size) {
			t.Errorf("%s: StoredSize = %d, %v", tt.name, n, err)
		}
	}
}

func TestFailoverCancelled(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	ctx, cancel := context.WithCancelCause(t.Context())
	first := faulty(t, "get", func(ctx context.Context, c store.Chunk, call storetest.Next) (store.Chunk, error) {
		cancel(errStop)
		<-ctx.Done()
		return store.Chunk{}, context.Cause(ctx)
	}, c)
	f, log := failover(first, memory(t, c))
	if _, err := f.Get(ctx, c.ID); err != errStop {
		t.Errorf("got error %v", err)
	}
	if log.Len() > 0 {
		t.Errorf("a cancelled call counts as a failure: logged %q", log)
	}
}

func TestFailoverClose(t *testing.T) {
	n := 0
	f, _ := failover(closing{memory(t), &n}, memory(t), closing{memory(t), &n})
	if err := f.Close(); !errors.Is(err, errStop) || n != 2 {
		t.Errorf("%v, %d closed", err, n)
	}
	if got := f.String(); !strings.Contains(got, "|memory|") {
		t.Errorf("is called %q", got)
	}
}
