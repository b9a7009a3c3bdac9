package mcast

import (
	"net/netip"
	"time"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/mcast/wire"
)

type senderKey struct {
	source  netip.Addr
	session wire.Session
}

// sender is somebody who announces the channel. What different senders send is kept
// apart: one that is wrong must not spoil what another one sends.
type sender struct {
	wire.Announce
	open    func(h wire.Header, p []byte) ([]byte, error)
	first   time.Time // when it was first heard
	heard   time.Time // when it was last heard
	strikes int
	brought bool // a symbol of use
	proven  bool // an object that was right
	bye     bool
	lacks   map[uint32]bool // groups whose object it has not whole
}

// lack notes that the sender lacks a part of a group's object: what it sends of that is of
// no use.
func (n *sender) lack(ord uint32) {
	if n.lacks == nil {
		n.lacks = map[uint32]bool{}
	}
	n.lacks[ord] = true
}

// believed reports whether the symbols of n count.
func (s *Session) believed(n *sender) bool {
	return n.strikes < maxStrikes && (s.only == nil || n == s.only)
}

// announced takes in an announcement, of a sender that may be new.
func (s *Session) announced(now time.Time, key senderKey, h wire.Header, p []byte) {
	a, err := wire.OpenAnnounce(h, p, s.o.Key)
	if err != nil || a.Root != s.root || s.content != nil && a.Space != s.content.space {
		return
	}
	n := s.senders[key]
	if n == nil {
		s.renew(key.source)
		if len(s.senders) >= maxSenders && !s.forgetSender(now) {
			return
		}
		aead := s.o.Key.AEAD(a.Salt)
		n = &sender{first: now, open: func(h wire.Header, p []byte) ([]byte, error) { return wire.OpenData(h, p, aead) }}
		s.senders[key] = n
	} else if a.Space != n.Space || a.Symbol != n.Symbol {
		return // it is what it was in a session
	} else if n.Cursor != a.Cursor || n.Lap != a.Lap {
		s.moved = now
	}
	n.Announce, n.bye = a, false
	s.hears(now, n)
	s.progress.Rate, s.progress.Lap, s.progress.Hosts = a.Rate, a.Lap, a.Listeners
}

// cutOff is how long nothing must have come of any sender, of which each announces itself
// every 500 ms, for the link to have been away.
const cutOff = time.Second

// hears notes that something has come from n. If the link was away until now, what was
// sent meanwhile is lost, and the sender may take us for dead: everything is joined again.
func (s *Session) hears(now time.Time, n *sender) {
	n.heard = now
	if n.strikes >= maxStrikes {
		return
	}
	if now.Sub(s.heard) > cutOff {
		s.moved = now // as far as we know
		for _, g := range s.joined {
			if g.away.IsZero() {
				s.link.Leave(g.address, s.o.Source)
				g.away = now.Add(holdOff)
			}
		}
	}
	s.heard = now
}

// excuse leaves out of account a time in which this program did not run: a computer that
// was suspended, or has far too much to do, cannot tell whether anybody has sent.
func (s *Session) excuse(d time.Duration) {
	for _, n := range s.senders {
		n.heard = n.heard.Add(d)
	}
	s.useful, s.moved, s.right = s.useful.Add(d), s.moved.Add(d), s.right.Add(d)
}

// sessionsOf is how many sessions of one source are known: one that is restarted has two
// for a while.
const sessionsOf = 2

// renew makes room for another session of a source: that goes which is no use.
func (s *Session) renew(source netip.Addr) {
	count := 0
	var oldest senderKey
	var old *sender
	for k, n := range s.senders {
		if k.source != source {
			continue
		}
		count++
		if n != s.only && (old == nil || old.proven && !n.proven || old.proven == n.proven && n.heard.Before(old.heard)) {
			oldest, old = k, n
		}
	}
	if count >= sessionsOf && old != nil {
		s.forget(oldest, old)
	}
}

// How long a sender is kept that has sent nothing of use, and one that has sent nothing
// right.
const (
	shortProbation = 500 * time.Millisecond
	probation      = 2 * time.Second
)

// forgetSender makes room for another sender, if it can: one that has fallen silent
// goes, or one that has had its time and is no use.
func (s *Session) forgetSender(now time.Time) bool {
	for k, n := range s.senders {
		age := now.Sub(n.first)
		if now.Sub(n.heard) > silentAfter || n != s.only && (!n.brought && age > shortProbation || !n.proven && age > probation) {
			s.forget(k, n)
			return true
		}
	}
	return false
}

// forget forgets a sender and all that has come from it.
func (s *Session) forget(k senderKey, n *sender) {
	for _, g := range s.joined {
		s.discard(g, n)
	}
	delete(s.senders, k)
}

// best returns the sender to go by: one that has proven itself, else the one that was
// heard first; nil if all have failed.
func (s *Session) best() (best *sender) {
	if s.only != nil {
		return s.only
	}
	for _, n := range s.senders {
		if n.strikes >= maxStrikes {
			continue
		}
		if best == nil || n.proven && !best.proven || n.proven == best.proven && n.first.Before(best.first) {
			best = n
		}
	}
	return best
}

// cursor returns where the sender is that was heard last of those that have proven
// themselves, or else of all.
func (s *Session) cursor() uint32 {
	var last *sender
	for _, n := range s.senders {
		if n.strikes < maxStrikes && (last == nil || n.proven && !last.proven || n.proven == last.proven && n.heard.After(last.heard)) {
			last = n
		}
	}
	if last == nil {
		return 0
	}
	return last.Cursor
}

// know fixes how the channel's groups are numbered, which follows from its index. Senders
// that announce otherwise are forgotten.
func (s *Session) know(x *index.Index) error {
	if s.content != nil && s.content.index == x {
		return nil
	}
	c, err := newContent(x, levelOf(x))
	if err != nil {
		return err
	}
	s.learn(c)
	return nil
}

// learn is know for what has been made of the index.
func (s *Session) learn(c *content) {
	s.content = c
	for k, n := range s.senders {
		if n.Space != c.space {
			s.forget(k, n)
		}
	}
}
