package mld

import (
	"net/netip"
	"time"
)

// TableOptions are the settings of [NewTable]. Zero fields mean the defaults.
type TableOptions struct {
	// Wanted says whether anybody cares for a group; nil means all. Only groups
	// that are wanted when a report comes are remembered. It must be quick, and
	// must not call methods of the Table or [Listener].
	Wanted func(group netip.Addr) bool

	// Source is our address, for hosts that listen to some sources only. If it
	// is invalid, these don't count.
	Source netip.Addr

	MaxGroups  int // of one host, default 256
	MaxHosts   int // default 65536
	MaxMembers int // pairs of group and host, default 1048576, which take 50 to 110 MB

	// Rate is how many reports per second of one host are looked at, and how
	// many at once after a pause, default 200.
	Rate int
}

// TableStats are counts of a [Table].
type TableStats struct {
	Reports uint64 // all that came
	Records uint64 // in reports that were looked at
	Limited uint64 // reports above TableOptions.Rate, not looked at
	Refused uint64 // joins beyond one of the other limits

	Groups, Hosts, Members int // now
}

// Table knows which host listens to which group, by what each host said last.
// Hosts that say nothing for the lifetime of a membership are forgotten.
//
// A host takes memory only after it has joined a wanted group. Forged reports are
// bounded by the options: when a limit is reached, further joins are ignored until
// members leave or expire; those known stay. A host whose report was ignored is
// heard at its answer to the next query.
//
// A Table is not safe for concurrent use. Its times are arguments and must not
// run backwards.
type Table struct {
	o        TableOptions
	event    func(Event)
	lifetime time.Duration
	stats    TableStats

	hosts   map[netip.Addr]*host
	groups  map[netip.Addr]*group
	members map[member]time.Duration // when last heard, since epoch

	epoch time.Time     // the first time given
	since time.Duration // when lifetime became shorter: nobody expires earlier than lifetime after
	next  time.Duration // Expire finds nothing to do earlier
}

type host struct {
	addr    netip.Addr
	groups  int
	tokens  float64       // reports it may send now
	counted time.Duration // when tokens was right
}

type group struct {
	addr  netip.Addr
	hosts int
}

type member struct {
	group *group
	host  *host
}

// defaultLifetime is the Multicast Address Listening Interval of RFC 3810, section
// 9.4, with its defaults.
const defaultLifetime = defaultQRV*defaultInterval + defaultResponse

// sweepEvery is the shortest time between two walks over all members.
const sweepEvery = time.Second

// NewTable returns an empty table with the default lifetime. It calls event, from
// within the methods called, for every change; event must not call methods of the
// table.
func NewTable(o TableOptions, event func(Event)) *Table {
	o.MaxGroups = orDefault(o.MaxGroups, 256)
	o.MaxHosts = orDefault(o.MaxHosts, 1<<16)
	o.MaxMembers = orDefault(o.MaxMembers, 1<<20)
	o.Rate = orDefault(o.Rate, 200)
	o.Source = o.Source.WithZone("")
	return &Table{
		o:        o,
		event:    event,
		lifetime: defaultLifetime,
		hosts:    map[netip.Addr]*host{},
		groups:   map[netip.Addr]*group{},
		members:  map[member]time.Duration{},
	}
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Handle takes what host src reported, an address without zone.
func (t *Table) Handle(now time.Time, src netip.Addr, rs []Record) {
	at := t.at(now)
	t.stats.Reports++
	h := t.hosts[src]
	if h != nil && !t.admit(h, at) {
		t.stats.Limited++
		return
	}
	t.stats.Records += uint64(len(rs))
	for i := range rs {
		r := &rs[i]
		switch r.change(t.o.Source) {
		case leaves:
			if g := t.groups[r.Group]; g != nil && h != nil {
				t.remove(member{g, h})
			}
			continue
		case unchanged:
			continue
		}
		if t.o.Wanted != nil && !t.o.Wanted(r.Group) {
			continue
		}
		if h == nil {
			if h = t.addHost(src, at); h == nil {
				continue
			}
		}
		t.join(h, r.Group, at)
	}
}

// at returns now as the maps have it.
func (t *Table) at(now time.Time) time.Duration {
	if t.epoch.IsZero() {
		t.epoch = now
	}
	return now.Sub(t.epoch)
}

// admit takes a token from h's bucket, if there is one.
func (t *Table) admit(h *host, at time.Duration) bool {
	rate := float64(t.o.Rate)
	h.tokens = min(rate, h.tokens+rate*(at-h.counted).Seconds())
	h.counted = at
	if h.tokens < 1 {
		return false
	}
	h.tokens--
	return true
}

// addHost returns a new host, or nil if there are too many.
func (t *Table) addHost(addr netip.Addr, at time.Duration) *host {
	if len(t.hosts) >= t.o.MaxHosts {
		t.stats.Refused++
		return nil
	}
	h := &host{addr: addr, tokens: float64(t.o.Rate) - 1, counted: at}
	t.hosts[addr] = h
	t.sooner(at + sweepEvery) // should it leave at once
	return h
}

func (t *Table) join(h *host, addr netip.Addr, at time.Duration) {
	g := t.groups[addr]
	if g != nil {
		if _, ok := t.members[member{g, h}]; ok {
			t.members[member{g, h}] = at
			return
		}
	}
	if h.groups >= t.o.MaxGroups || len(t.members) >= t.o.MaxMembers {
		t.stats.Refused++
		return
	}
	if g == nil {
		g = &group{addr: addr}
		t.groups[addr] = g
	}
	t.members[member{g, h}] = at
	g.hosts++
	h.groups++
	t.sooner(at + t.lifetime)
	t.event(Event{Group: addr, Host: h.addr, Joined: true})
}

// remove removes m, if it is there. Its host stays until its bucket is full, lest
// joining and leaving renew it.
func (t *Table) remove(m member) {
	if _, ok := t.members[m]; !ok {
		return
	}
	delete(t.members, m)
	m.host.groups--
	if m.group.hosts--; m.group.hosts == 0 {
		delete(t.groups, m.group.addr)
	}
	t.event(Event{Group: m.group.addr, Host: m.host.addr})
}

// sooner has Expire look at the members at the given time, or earlier.
func (t *Table) sooner(at time.Duration) {
	if len(t.members)+len(t.hosts) == 1 || at < t.next {
		t.next = at
	}
}

// SetLifetime sets for how long a host is believed to listen after it was heard.
// Where that becomes shorter, everybody gets that time to be heard again, so that
// nobody expires who could not know; who forges queries can keep dead hosts so.
func (t *Table) SetLifetime(now time.Time, d time.Duration) {
	if d < t.lifetime {
		t.since = t.at(now)
		t.next = t.since
	}
	t.lifetime = d
}

// Expire forgets the members that have not been heard for the lifetime. It walks
// over all members at most once a second, so that they may expire that much late.
func (t *Table) Expire(now time.Time) {
	at := t.at(now)
	if len(t.hosts) == 0 || at < t.next {
		return
	}
	next := at + t.lifetime
	for m, heard := range t.members {
		if end := max(heard, t.since) + t.lifetime; end <= at {
			t.remove(m)
		} else {
			next = min(next, end)
		}
	}
	for addr, h := range t.hosts {
		if h.groups > 0 {
			continue
		}
		if at-h.counted >= time.Second { // its bucket is full
			delete(t.hosts, addr)
		} else {
			next = at
		}
	}
	t.next = max(next, at+sweepEvery)
}

// NextExpiry returns when Expire has to be called next, or the zero Time while the
// table is empty.
func (t *Table) NextExpiry() time.Time {
	if len(t.hosts) == 0 {
		return time.Time{}
	}
	return t.epoch.Add(t.next)
}

// Listeners returns how many hosts listen to the group.
func (t *Table) Listeners(addr netip.Addr) int {
	if g := t.groups[addr]; g != nil {
		return g.hosts
	}
	return 0
}

// Hosts returns the hosts that listen to the group, in no order. It walks over all
// members.
func (t *Table) Hosts(addr netip.Addr) []netip.Addr {
	g := t.groups[addr]
	if g == nil {
		return nil
	}
	as := make([]netip.Addr, 0, g.hosts)
	for m := range t.members {
		if m.group == g {
			as = append(as, m.host.addr)
		}
	}
	return as
}

// Stats returns the counts.
func (t *Table) Stats() TableStats {
	s := t.stats
	s.Groups, s.Hosts, s.Members = len(t.groups), len(t.hosts), len(t.members)
	return s
}
