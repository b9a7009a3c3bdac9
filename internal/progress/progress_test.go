package progress_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/internal/progress"
)

// events decodes JSON lines.
func events(t *testing.T, b []byte) []progress.Event {
	t.Helper()
	var all []progress.Event
	for line := range strings.Lines(string(b)) {
		var e progress.Event
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		m := progress.New(&buf, progress.JSON)
		m.Update(1, 2, nil) // before a phase: nothing
		m.Start("extract", 1000)
		time.Sleep(100 * time.Millisecond)
		m.Update(100, 1000, nil) // too soon
		time.Sleep(150 * time.Millisecond)
		m.Update(250, 1000, map[string]int64{"seed": 200, "store": 50})
		m.Update(300, 1000, nil) // too soon again
		time.Sleep(750 * time.Millisecond)
		m.Update(1000, 1000, nil)
		m.Start("verify", 0) // ends the phase before
		time.Sleep(time.Second)
		m.Update(5, 0, nil)
		m.End()
		m.End()
		want := []progress.Event{
			{Phase: "extract", Done: 250, Total: 1000, From: map[string]int64{"seed": 200, "store": 50}, Rate: 1000, ETA: 0.75},
			{Phase: "extract", Done: 1000, Total: 1000, Rate: 1000},
			{Phase: "extract", Done: 1000, Total: 1000, Rate: 1000, End: true},
			{Phase: "verify", Done: 5, Rate: 5},
			{Phase: "verify", Done: 5, Rate: 5, End: true},
		}
		if got := events(t, buf.Bytes()); !reflect.DeepEqual(got, want) {
			t.Errorf("got\n%+v, want\n%+v", got, want)
		}
	})
}

// TestJSONEnd ends a phase in which nothing was shown, and that took no time.
func TestJSONEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		m := progress.New(&buf, progress.JSON)
		m.Start("make", 10)
		m.Update(10, 10, nil)
		m.End()
		want := []progress.Event{{Phase: "make", Done: 10, Total: 10, End: true}}
		if got := events(t, buf.Bytes()); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		m := progress.New(&buf, progress.Plain)
		m.Start("extract", 4<<20)
		time.Sleep(4 * time.Second)
		m.Update(1<<20, 4<<20, nil) // too soon
		time.Sleep(time.Second)
		m.Update(1<<20, 4<<20, nil)
		time.Sleep(5 * time.Second)
		m.Update(4<<20, 4<<20, nil)
		m.End()
		m.Start("scan", 0)
		time.Sleep(5 * time.Second)
		m.Update(10<<10, 0, nil)
		time.Sleep(5 * time.Second)
		m.Update(5, 2, nil) // more than all
		m.End()
		want := `extract  25%  1.00 MiB of 4.00 MiB  205 KiB/s  15.00 s left
extract 100%  4.00 MiB of 4.00 MiB  410 KiB/s
scan 10.0 KiB  2.00 KiB/s
scan 100%  5 B of 2 B  0 B/s
`
		if got := buf.String(); got != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
	})
}

// screen returns what a terminal shows after b, a line each.
func screen(b []byte) []string {
	var lines []string
	var line []byte
	col := 0
	for _, c := range b {
		switch c {
		case '\r':
			col = 0
		case '\n':
			lines = append(lines, strings.TrimRight(string(line), " "))
			line, col = nil, 0
		default:
			if col == len(line) {
				line = append(line, 0)
			}
			line[col] = c
			col++
		}
	}
	return append(lines, strings.TrimRight(string(line), " "))
}

func TestBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		m := progress.New(&buf, progress.Bar)
		check := func(want ...string) {
			t.Helper()
			if got := screen(buf.Bytes()); !reflect.DeepEqual(got, want) {
				t.Errorf("screen\n%q, want\n%q", got, want)
			}
		}
		m.Start("extract", 1<<20)
		check("")
		time.Sleep(100 * time.Millisecond)
		m.Update(256<<10, 1<<20, nil)
		check("extract [======                  ]  25%  256 KiB of 1.00 MiB  2.50 MiB/s  300 ms left")
		time.Sleep(50 * time.Millisecond)
		m.Update(300<<10, 1<<20, nil) // too soon
		check("extract [======                  ]  25%  256 KiB of 1.00 MiB  2.50 MiB/s  300 ms left")
		fmt.Fprintln(m, "a message")
		check("a message", "")
		time.Sleep(50 * time.Millisecond)
		m.Update(512<<10, 1<<20, nil)
		check("a message", "extract [============            ]  50%  512 KiB of 1.00 MiB  2.50 MiB/s  200 ms left")
		time.Sleep(800 * time.Millisecond)
		m.Update(1<<20, 1<<20, nil) // a shorter line
		check("a message", "extract [========================] 100%  1.00 MiB of 1.00 MiB  1.00 MiB/s")
		m.End()
		check("a message", "")
		if n, err := io.WriteString(m, "done\n"); n != 5 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		m.Start("scan", 0)
		time.Sleep(time.Second)
		m.Update(1000, 0, nil)
		check("a message", "done", "scan 1000 B  1000 B/s")
		m.Start("next", 0)
		check("a message", "done", "")
		m.End()
		check("a message", "done", "")
	})
}

func TestDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for mode, every := range map[progress.Mode]time.Duration{
			progress.Bar:   100 * time.Millisecond,
			progress.JSON:  250 * time.Millisecond,
			progress.Plain: 5 * time.Second,
		} {
			var buf bytes.Buffer
			m := progress.New(&buf, mode)
			m.Start("phase", 10)
			for _, tt := range []struct {
				wait time.Duration
				want bool
			}{{0, false}, {every - 1, false}, {1, true}} {
				time.Sleep(tt.wait)
				if got := m.Due(); got != tt.want {
					t.Errorf("%s: after another %v, Due() = %v, want %v", mode, tt.wait, got, tt.want)
				}
			}
			if m.Update(1, 10, nil); m.Due() || buf.Len() == 0 {
				t.Errorf("%s: Update when due shows %q, Due() = %v", mode, &buf, m.Due())
			}
		}
	})
}

func TestNone(t *testing.T) {
	for _, mode := range []progress.Mode{progress.None, "", "unknown"} {
		m := progress.New(nil, mode)
		if m != nil {
			t.Errorf("New of mode %q is not nil", mode)
		}
		m.Start("phase", 10)
		m.Update(5, 10, nil)
		if m.Due() {
			t.Errorf("mode %q: Due() = true", mode)
		}
		m.End()
	}
}

// TestConcurrent updates from many goroutines: lines stay whole.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		m := progress.New(&buf, progress.JSON)
		m.Start("phase", 0)
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 50 {
					time.Sleep(100 * time.Millisecond)
					m.Update(int64(w*i), 0, nil)
					m.Due()
				}
			})
		}
		wg.Wait()
		m.End()
		got := events(t, buf.Bytes())
		if n := len(got); n < 10 || n > 21 || !got[n-1].End {
			t.Errorf("%d events, last %+v", n, got[n-1])
		}
	})
}
