package mld_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/mcast/mld"
)

// start is when tests with a clock of their own begin.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return start.Add(d) }

// table is a Table whose events are checked against what it says, and kept.
type table struct {
	*mld.Table
	t      *testing.T
	listen map[mld.Event]bool // by joins
	events []mld.Event
}

func newTable(t *testing.T, o mld.TableOptions) *table {
	tt := &table{t: t, listen: map[mld.Event]bool{}}
	tt.Table = mld.NewTable(o, func(e mld.Event) {
		tt.events = append(tt.events, e)
		key := e
		key.Joined = true
		if tt.listen[key] == e.Joined {
			t.Errorf("%+v changes nothing", e)
		}
		tt.listen[key] = e.Joined
	})
	return tt
}

// take returns the events since it was last called.
func (tt *table) take() []mld.Event {
	es := tt.events
	tt.events = nil
	return es
}

func host(n int) netip.Addr {
	a := [16]byte{0xfe, 0x80}
	binary.BigEndian.PutUint32(a[12:], uint32(n))
	return netip.AddrFrom16(a)
}

func groupN(n int) netip.Addr {
	a := [16]byte{0xff, 0x15}
	binary.BigEndian.PutUint32(a[12:], uint32(n))
	return netip.AddrFrom16(a)
}

func records(rs ...mld.Record) []mld.Record { return rs }

// TestRecordTypes handles each type, with and without sources, for a host that
// listens or doesn't.
func TestRecordTypes(t *testing.T) {
	us, them := addr("2001:db8::1"), addr("2001:db8::2")
	for _, tt := range []struct {
		typ     mld.RecordType
		sources []netip.Addr
		before  bool
		after   bool
	}{
		{mld.IsInclude, nil, true, false},
		{mld.IsInclude, []netip.Addr{them}, false, false},
		{mld.IsInclude, []netip.Addr{them}, true, false},
		{mld.IsInclude, []netip.Addr{them, us}, false, true},
		{mld.IsExclude, nil, false, true},
		{mld.IsExclude, nil, true, true},
		{mld.IsExclude, []netip.Addr{them}, false, true},
		{mld.IsExclude, []netip.Addr{them, us}, true, false},
		{mld.ToInclude, nil, false, false},
		{mld.ToInclude, nil, true, false},
		{mld.ToInclude, []netip.Addr{them}, true, false},
		{mld.ToInclude, []netip.Addr{us}, false, true},
		{mld.ToExclude, nil, false, true},
		{mld.ToExclude, []netip.Addr{us}, true, false},
		{mld.ToExclude, []netip.Addr{us}, false, false},
		{mld.Allow, nil, false, false},
		{mld.Allow, []netip.Addr{them}, false, false},
		{mld.Allow, []netip.Addr{them}, true, true},
		{mld.Allow, []netip.Addr{us}, false, true},
		{mld.Block, nil, true, true},
		{mld.Block, []netip.Addr{them}, true, true},
		{mld.Block, []netip.Addr{them, us}, true, false},
		{mld.Block, []netip.Addr{us}, false, false},
		{0, []netip.Addr{us}, false, false},
		{7, []netip.Addr{us}, true, true},
	} {
		table := newTable(t, mld.TableOptions{Source: us})
		table.Handle(start, host(2), records(mld.Record{Type: mld.ToExclude, Group: groupN(1)})) // another
		if tt.before {
			table.Handle(start, host(1), records(mld.Record{Type: mld.ToExclude, Group: groupN(1)}))
		}
		table.take()
		table.Handle(start, host(1), records(mld.Record{Type: tt.typ, Group: groupN(1), Sources: tt.sources}))
		listens := slices.Contains(table.Hosts(groupN(1)), host(1))
		if listens != tt.after || len(table.take()) != btoi(tt.before != tt.after) {
			t.Errorf("type %d, %v, listens %v: then %v, want %v", tt.typ, tt.sources, tt.before, listens, tt.after)
		}
		if table.Listeners(groupN(1)) != 1+btoi(tt.after) {
			t.Errorf("type %d, %v: %d listeners", tt.typ, tt.sources, table.Listeners(groupN(1)))
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestNoSource(t *testing.T) {
	table := newTable(t, mld.TableOptions{})
	table.Handle(start, host(1), records(
		mld.Record{Type: mld.Allow, Group: groupN(1), Sources: []netip.Addr{addr("::")}},
		mld.Record{Type: mld.Block, Group: groupN(1), Sources: []netip.Addr{{}}},
	))
	if es := table.take(); len(es) != 0 {
		t.Errorf("events %v", es)
	}
}

func TestWanted(t *testing.T) {
	want := true
	table := newTable(t, mld.TableOptions{Wanted: func(g netip.Addr) bool { return want && g == groupN(1) }})
	table.Handle(start, host(1), records(mld.Record{Type: mld.ToExclude, Group: groupN(2)}))
	if s := table.Stats(); s.Hosts != 0 || s.Members != 0 || s.Reports != 1 || s.Records != 1 {
		t.Errorf("an unwanted join left a trace: %+v", s)
	}
	table.Handle(start, host(1), records(mld.Record{Type: mld.ToExclude, Group: groupN(1)}))
	want = false // a leave counts still
	table.Handle(start, host(1), records(mld.Record{Type: mld.ToInclude, Group: groupN(1)}))
	if es := table.take(); len(es) != 2 || table.Listeners(groupN(1)) != 0 {
		t.Errorf("events %v", es)
	}
}

func TestExpire(t *testing.T) {
	const life = 260 * time.Second
	table := newTable(t, mld.TableOptions{})
	if !table.NextExpiry().IsZero() {
		t.Error("an empty table has something to expire")
	}
	joined := records(mld.Record{Type: mld.IsExclude, Group: groupN(1)})
	table.Handle(after(0), host(1), joined)
	table.Handle(after(100*time.Second), host(2), joined)
	table.Handle(after(200*time.Second), host(1), joined)
	table.take()
	var gone []time.Duration
	for at := 200 * time.Second; !table.NextExpiry().IsZero(); at += time.Second {
		if at > 1000*time.Second {
			t.Fatal("no end")
		}
		if table.NextExpiry().After(after(at)) {
			continue
		}
		table.Expire(after(at))
		for range table.take() {
			gone = append(gone, at)
		}
	}
	if want := []time.Duration{100*time.Second + life, 200*time.Second + life}; !slices.Equal(gone, want) {
		t.Errorf("expired at %v, want %v", gone, want)
	}
	if s := table.Stats(); s.Groups+s.Hosts+s.Members != 0 {
		t.Errorf("left: %+v", s)
	}
}

// TestShorterLifetime gives those heard long ago the time to answer the query by
// which the lifetime was learned.
func TestShorterLifetime(t *testing.T) {
	table := newTable(t, mld.TableOptions{})
	table.Handle(after(0), host(1), records(mld.Record{Type: mld.IsExclude, Group: groupN(1)}))
	table.take()
	table.SetLifetime(after(200*time.Second), 70*time.Second)
	table.SetLifetime(after(250*time.Second), 70*time.Second) // no change
	table.Expire(after(269 * time.Second))
	if es := table.take(); len(es) != 0 {
		t.Fatalf("events %v", es)
	}
	if next := table.NextExpiry(); next.After(after(270 * time.Second)) {
		t.Errorf("next expiry %v", next.Sub(start))
	}
	table.Expire(after(270 * time.Second))
	if es := table.take(); len(es) != 1 {
		t.Errorf("events %v", es)
	}
}

func TestLimits(t *testing.T) {
	table := newTable(t, mld.TableOptions{MaxGroups: 3, MaxHosts: 4, MaxMembers: 10})
	for h := range 6 {
		var rs []mld.Record
		for g := range 5 {
			rs = append(rs, mld.Record{Type: mld.ToExclude, Group: groupN(g)})
		}
		table.Handle(start, host(h), rs)
	}
	// 3 + 3 + 3 + 1 groups; 2 + 2 + 2 + 4 refused, and 5 of each host too many.
	if s := table.Stats(); s.Hosts != 4 || s.Members != 10 || s.Groups != 3 || s.Refused != 20 {
		t.Errorf("stats %+v", s)
	}
	// Those that are known may say so again.
	table.take()
	table.Handle(start, host(0), records(mld.Record{Type: mld.IsExclude, Group: groupN(0)}))
	if s := table.Stats(); s.Refused != 20 || len(table.take()) != 0 {
		t.Errorf("stats %+v", s)
	}
	table.Handle(start, host(0), records(mld.Record{Type: mld.ToInclude, Group: groupN(0)}))
	table.Handle(start, host(3), records(mld.Record{Type: mld.ToExclude, Group: groupN(4)}))
	if table.Listeners(groupN(4)) != 1 {
		t.Error("no room after a leave")
	}
}

// TestFlood has a host join and leave as fast as it can: only 200 reports a second
// are looked at, and leaving doesn't renew that.
func TestFlood(t *testing.T) {
	table := newTable(t, mld.TableOptions{})
	for ms := range 5000 {
		now := after(time.Duration(ms) * time.Millisecond)
		typ := mld.ToExclude
		if ms%2 == 1 {
			typ = mld.ToInclude
		}
		table.Handle(now, host(1), records(mld.Record{Type: typ, Group: groupN(1)}))
		table.Expire(now)
	}
	s := table.Stats()
	if looked := s.Reports - s.Limited; s.Reports != 5000 || looked < 1190 || looked > 1210 {
		t.Errorf("%d of %d reports were looked at, want 200 and 200 a second", looked, s.Reports)
	}
	table.Handle(after(5*time.Second), host(2), records(mld.Record{Type: mld.ToExclude, Group: groupN(1)}))
	if !slices.Contains(table.Hosts(groupN(1)), host(2)) {
		t.Error("another host is not heard")
	}
}

// TestForgedHosts has every report come from another host, which leaves at once.
func TestForgedHosts(t *testing.T) {
	table := newTable(t, mld.TableOptions{MaxHosts: 100})
	for i := range 10000 {
		now := after(time.Duration(i) * 10 * time.Millisecond)
		table.Handle(now, host(i), records(
			mld.Record{Type: mld.ToExclude, Group: groupN(1)}, mld.Record{Type: mld.ToInclude, Group: groupN(1)}))
		table.Expire(now)
		table.take()
	}
	if s := table.Stats(); s.Hosts > 100 || s.Members != 0 || s.Refused > 5100 {
		t.Errorf("stats %+v", s)
	}
	table.Expire(after(200 * time.Second))
	if s := table.Stats(); s.Hosts != 0 || !table.NextExpiry().IsZero() {
		t.Errorf("stats in the end %+v", s)
	}
}

// TestRandom compares a table with the plainest one possible.
func TestRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	type pair struct{ g, h int }
	model := map[pair]time.Duration{}
	const life = 20 * time.Second
	table := newTable(t, mld.TableOptions{Rate: 1000})
	table.SetLifetime(start, life)
	for at := time.Duration(0); at < 500*time.Second; at += time.Duration(rnd.IntN(200)) * time.Millisecond {
		p := pair{rnd.IntN(10), rnd.IntN(20)}
		r := mld.Record{Type: mld.IsExclude, Group: groupN(p.g)}
		if rnd.IntN(3) > 0 {
			model[p] = at
		} else {
			r.Type = mld.ToInclude
			delete(model, p)
		}
		table.Handle(after(at), host(p.h), records(r))
		table.Expire(after(at))
		if rnd.IntN(50) > 0 {
			continue
		}
		for g := range 10 {
			var early, late []netip.Addr // to be there at least and at most
			for p, heard := range model {
				if p.g == g && at < heard+life {
					early = append(early, host(p.h))
				}
				if p.g == g && at < heard+life+1200*time.Millisecond {
					late = append(late, host(p.h))
				}
			}
			got := table.Hosts(groupN(g))
			if len(got) != table.Listeners(groupN(g)) || !subset(early, got) || !subset(got, late) {
				t.Fatalf("group %d at %v: %v, want %v or %v", g, at, got, early, late)
			}
		}
	}
}

func subset(of, in []netip.Addr) bool {
	return !slices.ContainsFunc(of, func(a netip.Addr) bool { return !slices.Contains(in, a) })
}
