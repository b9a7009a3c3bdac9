// Package progress shows how far long work has come: a bar on a terminal, a
// plain line now and then elsewhere, or JSON for programs.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/castorsync/castor/internal/units"
)

// Mode is the way in which progress is shown.
type Mode string

// The modes.
const (
	None  Mode = "none"
	Bar   Mode = "bar"   // one line that is written over
	Plain Mode = "plain" // a line every few seconds
	JSON  Mode = "json"  // an object a line, see Event
)

// Event is what JSON progress tells, a line each.
type Event struct {
	Phase string           `json:"phase"`          // what is being done, e.g. "extract"
	Done  int64            `json:"done"`           // bytes
	Total int64            `json:"total"`          // bytes; 0 if not known
	From  map[string]int64 `json:"from,omitempty"` // bytes by where they came from
	Rate  float64          `json:"rate"`           // bytes a second since the phase began
	ETA   float64          `json:"eta,omitempty"`  // seconds to go, if known
	End   bool             `json:"end,omitempty"`  // the phase is over
}

// Meter shows one phase of work after another. A nil Meter shows nothing. It is
// safe for concurrent use.
type Meter struct {
	w     io.Writer
	mode  Mode
	every time.Duration

	mu    sync.Mutex
	ev    Event     // guarded by mu, as all below
	start time.Time // of the phase
	shown time.Time // when something was last shown
	width int       // of what the line holds
}

// New returns a Meter that writes to w.
func New(w io.Writer, mode Mode) *Meter {
	every := map[Mode]time.Duration{Bar: 100 * time.Millisecond, Plain: 5 * time.Second, JSON: 250 * time.Millisecond}[mode]
	if every == 0 {
		return nil
	}
	return &Meter{w: w, mode: mode, every: every}
}

// Start begins a phase of total bytes, 0 if that is not known.
func (m *Meter) Start(phase string, total int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
	m.ev = Event{Phase: phase, Total: total}
	m.start, m.shown = time.Now(), time.Now()
}

// Update says how many bytes are done. The meter keeps from, which may be nil.
func (m *Meter) Update(done, total int64, from map[string]int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ev.Phase == "" {
		return
	}
	m.ev.Done, m.ev.Total, m.ev.From = done, total, from
	if now := time.Now(); now.Sub(m.shown) >= m.every {
		m.shown = now
		m.show()
	}
}

// Due reports whether an Update would be shown, so that callers need not gather
// what nobody sees.
func (m *Meter) Due() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.shown) >= m.every
}

// End ends the phase and clears the line.
func (m *Meter) End() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
}

func (m *Meter) end() {
	if m.ev.Phase != "" && m.mode == JSON {
		m.ev.End = true
		m.show()
	}
	if m.width > 0 {
		fmt.Fprintf(m.w, "\r%*s\r", m.width, "")
		m.width = 0
	}
	m.ev = Event{}
}

// Write writes a message to the meter's writer without disturbing the bar.
func (m *Meter) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.width > 0 {
		fmt.Fprintf(m.w, "\r%*s\r", m.width, "")
		m.width = 0
	}
	return m.w.Write(b)
}

func (m *Meter) show() {
	elapsed := time.Since(m.start).Seconds()
	if elapsed > 0 {
		m.ev.Rate = float64(m.ev.Done) / elapsed
	}
	m.ev.ETA = 0
	if m.ev.Total > m.ev.Done && m.ev.Rate > 0 {
		m.ev.ETA = float64(m.ev.Total-m.ev.Done) / m.ev.Rate
	}
	switch m.mode {
	case JSON:
		json.NewEncoder(m.w).Encode(m.ev)
	case Plain:
		fmt.Fprintln(m.w, m.line())
	case Bar:
		line := m.line()
		fmt.Fprintf(m.w, "\r%-*s", m.width, line)
		m.width = len(line)
	}
}

// line describes the event in ASCII.
func (m *Meter) line() string {
	e := m.ev
	if e.Total <= 0 {
		return fmt.Sprintf("%s %s  %s/s", e.Phase, units.Size(e.Done), units.Size(int64(e.Rate)))
	}
	part := min(1, float64(e.Done)/float64(e.Total))
	bar := ""
	if m.mode == Bar {
		const width = 24
		n := int(part * width)
		bar = "[" + strings.Repeat("=", n) + strings.Repeat(" ", width-n) + "] "
	}
	s := fmt.Sprintf("%s %s%3.0f%%  %s of %s  %s/s", e.Phase, bar, 100*part, units.Size(e.Done), units.Size(e.Total), units.Size(int64(e.Rate)))
	if e.ETA > 0 {
		s += "  " + units.Duration(time.Duration(e.ETA*float64(time.Second))) + " left"
	}
	return s
}
