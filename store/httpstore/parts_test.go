package httpstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
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
		fs := newFlights(func(_ context.Context, id chunker.ID) (store.Chunk, error) { return store.Chunk{ID: id}, nil }, 1, &m)
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
