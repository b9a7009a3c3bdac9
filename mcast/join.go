package mcast

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// group is a group that is joined.
type group struct {
	ord     uint32
	address netip.Addr
	joined  time.Time
	heard   time.Time
	away    time.Time // when to join again what was left for a moment; zero: it is joined

	patience time.Duration // without a packet, before that
	from     map[*sender]*partial
	full     bool // an object has come whole
	trial    bool // one that has is being looked at, and may be wrong
}

// leave leaves a group and forgets what has come of its object.
func (s *Session) leave(g *group) {
	s.link.Leave(g.address, s.o.Source)
	for n := range g.from {
		s.discard(g, n)
	}
	delete(s.joined, g.ord)
	s.left[g.ord] = time.Now()
}

// holdOff is how long a group that was left is not joined again: what is left and joined
// within one report the sender never hears of, and goes on where it was.
const holdOff = 200 * time.Millisecond

// tick joins what comes next, and looks whether anything comes at all.
func (s *Session) tick(now time.Time, todo []uint32) error {
	overflows := s.link.Overflows()
	if s.window.update(now, s.expected, s.got, overflows > s.overflows) {
		s.expected, s.got = 0, 0
		s.progress.Overflow += overflows - s.overflows
		s.overflows = overflows
	}
	s.progress.Joined, s.progress.Window = len(s.joined), s.window.size
	if s.o.Status != nil {
		s.o.Status(s.progress)
	}
	if err := s.alive(now); err != nil {
		return err
	}
	for ord, at := range s.left {
		if now.Sub(at) >= holdOff {
			delete(s.left, ord)
		}
	}
	counted := 0
	patience := s.patience()
	for _, g := range s.joined {
		switch {
		case !g.away.IsZero() && now.After(g.away):
			s.link.Join(g.address, s.o.Source)
			g.joined, g.away, g.patience = now, time.Time{}, patience
		case g.away.IsZero() && now.Sub(latest(g.joined, g.heard)) > g.patience:
			s.joinAgain(now, g)
		}
		if !g.nearly() {
			counted++
		}
	}
	s.shrink(counted)
	// After the sender's cursor, going round.
	start, _ := slices.BinarySearch(todo, s.cursor()+1)
	for i := range todo {
		if counted >= s.window.size || len(s.joined) >= 2*s.window.size || len(s.joined) >= maxWindow || s.memory >= s.o.Memory {
			break
		}
		ord := todo[(start+i)%len(todo)]
		if s.joined[ord] != nil {
			continue
		}
		if _, justLeft := s.left[ord]; justLeft {
			continue
		}
		g := &group{ord: ord, address: s.address(ord), joined: now, patience: patience, from: map[*sender]*partial{}}
		if err := s.link.Join(g.address, s.o.Source); err != nil {
			if len(s.joined) == 0 {
				return fmt.Errorf("interface %s: %w", s.link.Name(), err)
			}
			break // what is joined will do for now
		}
		s.joined[ord] = g
		counted++
	}
	return nil
}

// joinAgain leaves a group of which nothing comes and joins it again, in a moment: a
// report may be lost, or the sender takes us for somebody who was here before and needs
// little more.
func (s *Session) joinAgain(now time.Time, g *group) {
	s.link.Leave(g.address, s.o.Source)
	if !g.nearly() {
		g.away = now.Add(holdOff)
		return
	}
	// It waits for little: only the report is repeated.
	s.link.Join(g.address, s.o.Source)
	g.joined, g.patience = now, s.patience()
}

// patience returns how long a group that is joined now may have to wait until the sender
// has sent the rest of what is joined, and some more.
func (s *Session) patience() time.Duration {
	waiting := int64(0)
	for ord := range s.joined {
		waiting += max(s.max(ord), 1)
	}
	d := rejoinAfter
	if n := s.best(); n != nil && n.Rate > 0 {
		d += time.Duration(min(8*float64(waiting)/float64(n.Rate), 30) * float64(time.Second))
	}
	return d
}

// shrink leaves groups of which nothing has come if there are more than the window
// allows.
func (s *Session) shrink(counted int) {
	for _, g := range s.joined {
		if counted <= s.window.size {
			return
		}
		if len(g.from) == 0 && !g.trial {
			s.leave(g)
			counted--
		}
	}
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// nearly reports whether more than half of a group's object is there: it waits for
// little and does not count against the window.
func (g *group) nearly() bool {
	for _, p := range g.from {
		have, want := 0, 0
		for _, b := range p.blocks {
			have += b.Count()
			want += b.Count() + b.Need()
		}
		if 2*have > want {
			return true
		}
	}
	return false
}

// alive returns an error if there is nothing more to hope for.
func (s *Session) alive(now time.Time) error {
	var last time.Time
	bye := true
	for _, n := range s.senders {
		if n.strikes < maxStrikes && (s.only == nil || n == s.only) {
			last = latest(last, n.heard)
			bye = bye && n.bye
		}
	}
	quiet := now.Sub(last)
	switch {
	case last.IsZero() && !s.waited(now):
		return nil // another one may come
	case last.IsZero():
		return fmt.Errorf("%w: none of its senders can be believed", ErrStalled)
	case quiet > silentAfter, bye && quiet > byeAfter:
		return fmt.Errorf("%w: nothing heard for %v", ErrSilent, quiet.Round(time.Second))
	}
	if (quiet > time.Second || bye) && now.After(s.rejoin) { // the report may be lost
		s.rejoin = now.Add(time.Second)
		s.link.Leave(s.control, s.o.Source)
		s.link.Join(s.control, s.o.Source)
	}
	idle := now.Sub(s.useful)
	if s.only != nil && len(s.senders) > 1 && idle > probation {
		return fmt.Errorf("%w: it has sent nothing for %v", ErrStalled, idle.Round(time.Second))
	}
	if idle > stalledMax || idle > stalledMin && now.Sub(s.moved) > stalledMin {
		return fmt.Errorf("%w: nothing of use for %v", ErrStalled, idle.Round(time.Second))
	}
	return nil
}
