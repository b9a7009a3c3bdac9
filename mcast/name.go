package mcast

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
)

// maxName is the greatest length of a name in bytes.
const maxName = 255

// CheckName returns an error if name cannot be announced, or not be told from a root
// in a URL.
func CheckName(name string) error {
	switch b, err := hex.DecodeString(name); {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxName:
		return fmt.Errorf("the name %q is longer than %d bytes", name, maxName)
	case strings.HasPrefix(name, "/"):
		return fmt.Errorf("the name %q begins with a slash", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("the name %q is not UTF-8", name)
	case err == nil && len(b) == len(chunker.ID{}):
		return fmt.Errorf("the name %q looks like a root", name)
	}
	return nil
}

// NextVersion returns the version of a name whose index or content was modified at
// that time, if the version before was last: it needs no memory to be the same after a
// restart and greater after a change. A file that is replaced by an older one, or by
// one from the future, gets the present time.
func NextVersion(last uint64, modified time.Time) uint64 {
	now := time.Now()
	if v := modified.UnixNano(); v > 0 && uint64(v) > last && !modified.After(now) {
		return uint64(v)
	}
	return max(last+1, uint64(max(now.UnixNano(), 1)))
}

// nameTable is what a sender announces, by group. It is never changed.
type nameTable map[netip.Addr][]wire.Name

// SetNames makes names what is announced from now on. One that is signed is announced
// on the channel of its signer, and like all others on that of names without one.
func (s *Sender) SetNames(names []wire.Name) error {
	t := nameTable{}
	add := func(n wire.Name, signer ed25519.PublicKey) {
		g := wire.OfName(n.Name, signer, s.o.Key).Group(s.o.Scope, s.o.SSM, 0)
		t[g] = append(t[g], n)
	}
	seen := map[string]bool{}
	for _, n := range names {
		if err := CheckName(n.Name); err != nil {
			return err
		}
		if seen[n.Name] {
			return fmt.Errorf("the name %q is given twice", n.Name)
		}
		seen[n.Name] = true
		add(n, nil)
		if n.Signer != nil {
			add(n, n.Signer)
		}
	}
	s.names.Store(&t)
	for _, l := range s.links {
		l.wake()
	}
	return nil
}

// named returns what is announced in the group of a name; nil if it is none.
func (s *Sender) named(group netip.Addr) []wire.Name {
	if t := s.names.Load(); t != nil {
		return (*t)[group]
	}
	return nil
}

// How often a name is announced: whoever comes is answered at once, but not more often
// than nameLeast, and then nameEvery as long as anybody is there.
const (
	nameEvery  = 500 * time.Millisecond
	nameLeast  = 20 * time.Millisecond
	nameSpread = time.Millisecond // between two names that are sent to nobody
	nameShare  = 0.1              // of the rate that names may take at most
	nameBurst  = 50 * time.Millisecond
)

// nameGroup is the state of the group of a name on one link.
type nameGroup struct {
	hosts map[netip.Addr]struct{}
	names []wire.Name // announced last
	last  time.Time   // of an announcement
	next  time.Time
	seq   uint16
}

// nameGroups are those that somebody listens to on one link.
type nameGroups struct {
	groups map[netip.Addr]*nameGroup
	next   time.Time // when the first one is due
	free   time.Time // when the rate allows more
	always *nameTable
}

// nameEvent takes in who comes to the group of a name and who leaves.
func (l *sendLink) nameEvent(now time.Time, e mld.Event) {
	names := l.named(e.Group)
	g := l.listened.groups[e.Group]
	switch {
	case names == nil:
	case e.Joined:
		if g == nil {
			g = &nameGroup{hosts: map[netip.Addr]struct{}{}, names: names}
			if l.listened.groups == nil {
				l.listened.groups = map[netip.Addr]*nameGroup{}
			}
			l.listened.groups[e.Group] = g
		}
		if _, ok := g.hosts[e.Host]; !ok {
			g.hosts[e.Host] = struct{}{}
			g.next = g.last.Add(nameLeast)
			l.listened.due(g.next)
		}
	case g != nil:
		if delete(g.hosts, e.Host); len(g.hosts) == 0 {
			delete(l.listened.groups, e.Group)
		}
	}
}

// due notes that a group is due at a time.
func (n *nameGroups) due(at time.Time) {
	if at.Before(n.next) {
		n.next = at
	}
}

// forgetNames drops the groups of names that are not announced any more, and has those
// that stand for something else now announced at once.
func (l *sendLink) forgetNames(now time.Time) {
	for a, g := range l.listened.groups {
		names := l.named(a)
		if names == nil {
			delete(l.listened.groups, a)
			continue
		}
		if !slices.EqualFunc(names, g.names, func(a, b wire.Name) bool { return a.Version == b.Version && a.Root == b.Root }) {
			g.next = g.last.Add(nameLeast)
			l.listened.due(g.next)
		}
		g.names = names
	}
}

// announceNames sends the announcements of names that are due and returns when the
// next one is.
func (l *sendLink) announceNames(now time.Time) (wait time.Duration) {
	every := nameEvery
	if l.o.Always {
		l.pretendNames(now)
		every = max(every, time.Duration(len(l.listened.groups))*nameSpread)
	}
	if len(l.listened.groups) == 0 {
		return time.Hour
	}
	if d := l.listened.next.Sub(now); d > 0 {
		return d
	}
	l.listened.next = now.Add(every)
	for group, g := range l.listened.groups {
		if g.next.After(now) {
			l.listened.due(g.next)
			continue
		}
		if l.listened.free.Sub(now) > nameBurst { // a flood of joins
			l.listened.due(l.listened.free.Add(-nameBurst))
			continue
		}
		for _, n := range g.names {
			l.announceName(now, group, g, n)
		}
		g.last, g.next = now, now.Add(every)
	}
	return l.listened.next.Sub(now)
}

// pretendNames makes somebody listen to every name, each beginning at another time.
func (l *sendLink) pretendNames(now time.Time) {
	t := l.names.Load()
	if t == nil || t == l.listened.always {
		return
	}
	l.listened.always = t
	nobody := netip.IPv6Unspecified()
	for group := range *t {
		if l.listened.groups[group] != nil {
			continue
		}
		l.nameEvent(now, mld.Event{Group: group, Host: nobody, Joined: true})
		l.listened.groups[group].next = now.Add(time.Duration(len(l.listened.groups)) * nameSpread)
	}
	l.listened.next = now
}

func (l *sendLink) announceName(now time.Time, group netip.Addr, g *nameGroup, n wire.Name) {
	if l.seq > math.MaxUint32-maxBurst {
		l.newSalt()
	}
	var err error
	l.packets, err = wire.AppendName(l.packets[:0], wire.Header{Seq: l.seq, GroupSeq: g.seq}, l.salt, n, l.o.Key)
	if err != nil { // SetNames has checked it
		panic(fmt.Sprintf("mcast: internal error: %v", err))
	}
	l.seq++
	g.seq++
	size := float64(len(l.packets) + perPacket)
	l.listened.free = later(l.listened.free, now, size/(nameShare*l.o.Rate))
	l.sendAnnouncement(group)
}

// gatherNames is how long a receiver still listens when it has heard a name: several
// senders may announce it, and not all know the latest version.
const gatherNames = 100 * time.Millisecond

// rejoinMost is the greatest time between two reports about a name of which nothing is
// heard.
const rejoinMost = 10 * time.Second

// Resolve listens on the links until it hears for what a name stands, and returns the
// greatest version heard within a short time. With a signer, only what that key has
// signed counts. It returns an error that wraps ErrNoSender, and says what was heard,
// if that is nothing of use. The links stay the caller's.
func Resolve(ctx context.Context, links []ReceiverLink, name string, signer ed25519.PublicKey, o *ReceiveOptions) (wire.Name, error) {
	n, err := newNameListener(links, name, signer, o)
	if err != nil {
		return wire.Name{}, err
	}
	defer n.leave()
	return n.listen(ctx, 0, time.Now().Add(n.o.Wait))
}

// Await is Resolve for a version greater than after, and waits for one until ctx ends.
func Await(ctx context.Context, links []ReceiverLink, name string, signer ed25519.PublicKey, after uint64, o *ReceiveOptions) (wire.Name, error) {
	n, err := newNameListener(links, name, signer, o)
	if err != nil {
		return wire.Name{}, err
	}
	defer n.leave()
	return n.listen(ctx, after, time.Time{})
}

// nameListener hears a name.
type nameListener struct {
	o       ReceiveOptions
	name    string
	signer  ed25519.PublicKey
	group   netip.Addr
	links   []ReceiverLink // that have joined
	errs    []error        // of those that have not
	packets []Packet

	best  wire.Name
	first time.Time // when it was heard first that a greater version is there
	heard nameCounts
}

// nameCounts say what came in the group of a name.
type nameCounts struct {
	packets, last            int // the latter when the group was last joined
	known, unreadable, wrong int
	source                   netip.Addr
}

func newNameListener(links []ReceiverLink, name string, signer ed25519.PublicKey, o *ReceiveOptions) (*nameListener, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	n := &nameListener{name: name, signer: signer, packets: make([]Packet, 64)}
	if o != nil {
		n.o = *o
	}
	if n.o.Scope == 0 {
		n.o.Scope = wire.SiteScope
	}
	if n.o.Wait <= 0 {
		n.o.Wait = firstWait
	}
	n.group = wire.OfName(name, signer, n.o.Key).Group(n.o.Scope, n.o.Source.IsValid(), 0)
	for _, l := range links {
		if err := l.Join(n.group, n.o.Source); err != nil {
			n.errs = append(n.errs, fmt.Errorf("interface %s: %w", l.Name(), err))
			continue
		}
		n.links = append(n.links, l)
	}
	if len(n.links) == 0 {
		return nil, n.silence(0)
	}
	return n, nil
}

func (n *nameListener) leave() {
	for _, l := range n.links {
		l.Leave(n.group, n.o.Source)
	}
}

// listen waits for a version greater than after, until end unless that is zero.
func (n *nameListener) listen(ctx context.Context, after uint64, end time.Time) (wire.Name, error) {
	begin := time.Now()
	every, told := time.Second, false
	again := begin.Add(every)
	for {
		for _, l := range n.links {
			if err := n.read(ctx, l, after); err != nil {
				return wire.Name{}, err
			}
		}
		now := time.Now()
		switch {
		case !n.first.IsZero():
			if now.Sub(n.first) >= gatherNames {
				return n.best, nil
			}
			continue
		case !end.IsZero() && !now.Before(end):
			return wire.Name{}, n.silence(now.Sub(begin))
		case end.IsZero() && !told && n.heard.known == 0 && now.Sub(begin) > n.o.Wait:
			told = true
			if n.o.Log != nil {
				n.o.Log.Warn("still waiting", "error", n.silence(now.Sub(begin)))
			}
		}
		if now.Before(again) {
			continue
		}
		if n.heard.packets > n.heard.last { // it works
			every = time.Second
		} else { // the report may be lost
			for _, l := range n.links {
				l.Leave(n.group, n.o.Source)
				l.Join(n.group, n.o.Source)
			}
			if !end.IsZero() {
				every = time.Second
			} else {
				every = min(2*every, rejoinMost)
			}
		}
		again, n.heard.last = now.Add(every), n.heard.packets
	}
}

// read takes in the packets that come within a moment.
func (n *nameListener) read(ctx context.Context, l ReceiverLink, after uint64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.SetReadDeadline(time.Now().Add(tick))
	count, err := l.Read(n.packets)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("interface %s: %w", l.Name(), err)
	}
	for _, p := range n.packets[:count] {
		if p.Group == n.group && (n.o.Drop == nil || !n.o.Drop()) {
			n.packet(p, after)
		}
	}
	return nil
}

func (n *nameListener) packet(p Packet, after uint64) {
	n.heard.packets++
	n.heard.source = p.Source
	h, _, err := wire.ParseHeader(p.Data)
	var got wire.Name
	if err == nil && h.Type == wire.NameType {
		got, err = wire.OpenName(h, p.Data, n.o.Key)
	}
	switch {
	case err != nil || h.Type != wire.NameType:
		n.heard.unreadable++
		return
	case got.Name != n.name: // source-specific groups may have several
		return
	case n.signer != nil && !got.Verify(n.signer), got.Signer != nil && !got.Verify(got.Signer):
		n.heard.wrong++
		return
	}
	n.heard.known++
	if got.Version <= after {
		return
	}
	if n.first.IsZero() {
		n.first = time.Now()
	}
	if got.Version > n.best.Version {
		n.best = got
	}
}

// silence says what was and what was not heard.
func (n *nameListener) silence(waited time.Duration) error {
	var names []string
	for _, l := range n.links {
		names = append(names, l.Name())
	}
	text := fmt.Sprintf("the name %s: joined %v on %s for %v and heard ", n.name, n.group, strings.Join(names, ", "), waited.Round(100*time.Millisecond))
	if len(names) == 0 {
		text = fmt.Sprintf("the name %s: could not join %v on any interface", n.name, n.group)
	} else if c := n.heard; c.packets == 0 {
		text += "nothing"
		if n.signer != nil {
			text += "; only names signed with the key given are announced there"
		}
	} else {
		text += fmt.Sprintf("%d packets, the last one from %v: %d could not be read with the network key given or without one, %d were not signed as they should be", c.packets, c.source, c.unreadable, c.wrong)
	}
	return fmt.Errorf("%w: %w", ErrNoSender, errors.Join(append(n.errs, errors.New(text))...))
}
