package httpstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/transfer"
)

func TestNetrc(t *testing.T) {
	for _, tt := range []struct {
		file, host     string
		user, password string
	}{
		{"", "h", "", ""},
		{"machine h login u password p", "h", "u", "p"},
		{"machine h login u password p", "H", "u", "p"},
		{"machine h login u password p", "x", "", ""},
		{"machine x login a password b machine h login u password p machine h login y password z", "h", "u", "p"},
		{"machine\nh\n\tlogin u\n\n password p", "h", "u", "p"},
		{"default login u password p", "h", "u", "p"},
		{"machine x login a password b\ndefault login u password p", "h", "u", "p"},
		{"machine h password p", "h", "", "p"},
		{"machine h login u account a password #p # comment machine x", "h", "u", "#p"},
		{"# machine h login a password b\nmachine h login u password p", "h", "u", "p"},
		{"macdef init\nmachine h login a password b\n\nmachine h login u password p", "h", "u", "p"},
		{"machine x login machine password h machine h login u password p", "h", "u", "p"},
		{"machine h what ever login u password p", "h", "u", "p"},
		{"machine h", "h", "", ""},
		{"machine h login", "h", "", ""},
		{"machine", "h", "", ""},
	} {
		l, ok := parseNetrc(tt.file, tt.host)
		if l.user != tt.user || l.password != tt.password || ok != (tt.user+tt.password != "") {
			t.Errorf("%q: %+v, %v", tt.file, l, ok)
		}
	}
}

func FuzzNetrc(f *testing.F) {
	f.Add("machine h login u password p", "h")
	f.Fuzz(func(t *testing.T, file, host string) { parseNetrc(file, host) })
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "-5": 0, "x": 0, "1.5": 0, "99999999999999999999": 0,
		"Fri, 20 Nov 2026 12:01:00 GMT": time.Minute, "Fri, 20 Nov 2026 11:01:00 GMT": 0,
	} {
		if got := parseRetryAfter(s, now); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func FuzzChunkPath(f *testing.F) {
	id := chunker.BLAKE3.Sum([]byte("x"))
	f.Add(cacnk.Name(id, compressed))
	f.Add(cacnk.Name(id, plain))
	f.Add(strings.ToUpper(cacnk.Name(id, plain)))
	f.Add("abcd/../x")
	f.Fuzz(func(t *testing.T, path string) {
		id, form, ok := cacnk.ParseName(path)
		if ok && cacnk.Name(id, form) != path {
			t.Errorf("%q is taken for %q", path, cacnk.Name(id, form))
		}
		if ok && isIndexPath(path) {
			t.Errorf("%q is a chunk and an index", path)
		}
		if isIndexPath(path) && (strings.Contains(path, "..") && strings.Contains(path, "../") || strings.HasPrefix(path, "/")) {
			t.Errorf("%q is taken for an index", path)
		}
	})
}

func TestReadBody(t *testing.T) {
	boom := errors.New("boom")
	for _, n := range []int{0, 1, 5000, 64 << 10, 64<<10 + 1, 3 << 20} {
		b := bytes.Repeat([]byte("x"), n)
		for _, tt := range []struct {
			what          string
			r             io.Reader
			length, limit int
			want          error
		}{
			{"right", bytes.NewReader(b), n, n, nil},
			{"end with data", iotest.DataErrReader(bytes.NewReader(b)), n, n, nil},
			{"no length", bytes.NewReader(b), -1, n, nil},
			{"halves", iotest.HalfReader(bytes.NewReader(b)), -1, n + 1, nil},
			{"short", bytes.NewReader(b), n + 1, n + 1, io.ErrUnexpectedEOF},
			{"claims too much", iotest.ErrReader(boom), n + 1, n, store.ErrDamaged},
			{"too much", bytes.NewReader(append(b, 0)), -1, n, store.ErrDamaged},
			{"fails", io.MultiReader(bytes.NewReader(b), iotest.ErrReader(boom)), n + 1, n + 1, boom},
			{"fails without length", io.MultiReader(bytes.NewReader(b), iotest.ErrReader(boom)), -1, n + 1, boom},
		} {
			got, err := transfer.ReadBody(tt.r, int64(tt.length), int64(tt.limit))
			if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(got, b) || err != nil && got != nil {
				t.Errorf("%d bytes, %s: got %d, error %v, want %v", n, tt.what, len(got), err, tt.want)
			}
		}
	}
}

// TestBusy waits for memory that does not become free, then for some that does.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m metrics
		fs := newFlights(func(_ context.Context, id chunker.ID) (store.Chunk, error) { return store.Chunk{ID: id}, nil }, 1, 1<<20, &m)
		a, err := fs.join(t.Context(), chunker.ID{1})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := fs.join(t.Context(), chunker.ID{2}); err != errBusy || time.Since(begin) != slotWait {
			t.Errorf("error %v after %v", err, time.Since(begin))
		}
		time.AfterFunc(time.Second, func() { a.leave(false) })
		b, err := fs.join(t.Context(), chunker.ID{2})
		if err != nil {
			t.Fatal(err)
		}
		b.leave(false)
		if len(fs.now) != 0 || len(fs.slots) != 0 {
			t.Errorf("left: %d flights, %d slots", len(fs.now), len(fs.slots))
		}
	})
}

func TestPause(t *testing.T) {
	c := &client{o: (&Options{}).withDefaults()}
	for try := range 100 {
		most := min(200*time.Millisecond<<min(try, 10), maxBackoff)
		if d := c.pause(io.EOF, try); d < most/2 || d > most {
			t.Errorf("pause %v after try %d, want about %v", d, try, most)
		}
	}
	if d := c.pause(&StatusError{RetryAfter: time.Hour}, 0); d != time.Minute {
		t.Errorf("pause %v, want a minute", d)
	}
}

// TestRoom has chunks that are greater than was thought: those behind them wait, in order,
// and each leaves nothing behind.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(1000)
		take := func(want error) int64 {
			t.Helper()
			n, err := r.take(t.Context())
			if err != want {
				t.Errorf("error %v, want %v", err, want)
			}
			return n
		}
		a, b := take(nil), take(nil)
		if a != 125 || b != 125 {
			t.Errorf("took %d and %d", a, b)
		}
		r.settle(a, 5000)
		begin := time.Now()
		take(errBusy)
		if d := time.Since(begin); d != slotWait {
			t.Errorf("waited %v", d)
		}
		errStop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errStop) })
		if _, err := r.take(ctx); err != errStop {
			t.Errorf("error %v", err)
		}
		var order []int
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				n := take(nil)
				order = append(order, i)
				if r.taken != n {
					t.Errorf("%d of %d taken: there is room for one, as great as the greatest", n, r.taken)
				}
				time.Sleep(time.Second)
				r.settle(n, 0)
			})
			synctest.Wait()
		}
		r.settle(b, 0)
		r.settle(5000, 0)
		wg.Wait()
		if !slices.Equal(order, []int{0, 1, 2}) || r.taken != 0 || len(r.queue) != 0 {
			t.Errorf("order %v; left: %d bytes, %d waiting", order, r.taken, len(r.queue))
		}
		for range 100 {
			r.settle(take(nil), 10)
			r.settle(10, 0)
		}
		if r.guess > 30 {
			t.Errorf("after small ones %d are taken for one", r.guess)
		}
	})
}

// TestRoomOfFlights asks for chunks in the form in which they are not held, which is far
// greater: they are converted as there is room for them.
func TestRoomOfFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m metrics
		fs := newFlights(func(_ context.Context, id chunker.ID) (store.Chunk, error) {
			return store.Chunk{ID: id, Data: make([]byte, 10)}, nil
		}, 100, 1000, &m)
		convert := func(store.Chunk) ([]byte, []byte, error) { return make([]byte, 400), nil, nil }
		var now, most, busy atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				f, err := fs.join(t.Context(), chunker.ID{byte(i)})
				if err != nil {
					t.Error(err)
					return
				}
				defer f.leave(false)
				if _, err := f.converted(convert); err != nil {
					busy.Add(1)
					return
				}
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Second)
				now.Add(-1)
			})
			if i == 0 {
				synctest.Wait() // it is known how great they are
			}
		}
		wg.Wait()
		if most.Load() != 2 || busy.Load() == 0 {
			t.Errorf("%d converted chunks at once, want 2; %d were refused", most.Load(), busy.Load())
		}
		if len(fs.now) != 0 || len(fs.slots) != 0 || fs.stored.taken != 0 || fs.others.taken != 0 {
			t.Errorf("left: %d flights, %d slots, %d and %d bytes", len(fs.now), len(fs.slots), fs.stored.taken, fs.others.taken)
		}
	})
}
