package mld_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/mcast/mld"
)

// querier is a Querier on a link where nothing happens but what a test says.
type querier struct {
	*mld.Querier
	t      *testing.T
	now    time.Duration
	active bool
	hosts  int
	sent   []string // "30: query", "20: advertisement"
}

func newQuerier(t *testing.T, o mld.QuerierOptions) *querier {
	return &querier{Querier: mld.NewQuerier(start, o), t: t}
}

// until has time pass, in which the querier is polled when it asks for it.
func (q *querier) until(end time.Duration) {
	q.t.Helper()
	for calls := 0; ; calls++ {
		send, next := q.Poll(after(q.now), q.active, q.hosts)
		for _, p := range send {
			kind := map[byte]string{mld.TypeQuery: "query", mld.TypeAdvertisement: "advertisement"}[p.Data[0]]
			q.sent = append(q.sent, fmt.Sprintf("%g: %s to %s", q.now.Seconds(), kind, p.To))
		}
		if next.IsZero() || next.After(after(end)) {
			break
		}
		if !next.After(after(q.now)) {
			q.t.Fatalf("at %v: polled, and to be polled again at %v", q.now, next.Sub(start))
		}
		q.now = next.Sub(start)
	}
	q.now = end
}

// expect sees what has been sent since it was last called.
func (q *querier) expect(want ...string) {
	q.t.Helper()
	if !slices.Equal(q.sent, want) {
		q.t.Errorf("sent %q, want %q", q.sent, want)
	}
	q.sent = nil
}

func queries(at ...string) []string {
	for i := range at {
		at[i] += ": query to ff02::1"
	}
	return at
}

var (
	self   = host(10)
	low    = host(5)
	lowest = host(1)
	high   = host(20)
)

// general is what another querier sends.
var general = mld.Query{Version: 2, MaxResponse: 10 * time.Second, QRV: 3, Interval: 60 * time.Second}

// Times of general: 3*60 s + 10 s/2, and 3*60 s + 10 s.
const (
	present  = 185 * time.Second
	lifetime = 190 * time.Second
)

func TestStartup(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{})
	q.until(100 * time.Second)
	q.expect(queries("10", "12")...)
	if q.Querying() || q.Lifetime() != 260*time.Second || q.Interval() != 125*time.Second {
		t.Errorf("idle: querying %v, lifetime %v, interval %v", q.Querying(), q.Lifetime(), q.Interval())
	}
	q.active = true
	q.until(200 * time.Second)
	q.expect(queries("100", "102", "132", "162", "192")...)
	if !q.Querying() || q.Lifetime() != 70*time.Second || q.Interval() != 30*time.Second {
		t.Errorf("active: querying %v, lifetime %v, interval %v", q.Querying(), q.Lifetime(), q.Interval())
	}
	q.active = false
	q.until(300 * time.Second)
	q.expect()
}

// TestFlapping becomes active and inactive all the time.
func TestFlapping(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{Listen: time.Second})
	for q.now < 100*time.Second {
		q.active = !q.active
		q.until(q.now + 500*time.Millisecond)
	}
	q.expect(queries("1", "3", "33", "35", "65", "67", "97", "99")...)
}

func TestWhenIdle(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{WhenIdle: true, Listen: time.Second, Interval: 20 * time.Second})
	q.until(50 * time.Second)
	q.expect(queries("1", "3", "23", "43")...)
}

func TestOwnQuery(t *testing.T) {
	for hosts, want := range map[int]time.Duration{
		0:      time.Second,
		500:    time.Second,
		3000:   3 * time.Second,
		100000: 10 * time.Second,
	} {
		q := newQuerier(t, mld.QuerierOptions{})
		send, _ := q.Poll(after(10*time.Second), true, hosts)
		if len(send) != 1 {
			t.Fatalf("sent %v", send)
		}
		m, err := mld.ParseQuery(send[0].Data)
		if err != nil || m.Version != 2 || !m.General() || m.QRV != 2 || m.Interval != 30*time.Second || m.MaxResponse != want {
			t.Errorf("%d hosts: query %+v, %v, want a delay of %v", hosts, m, err, want)
		}
	}
}

// TestElection has a querier with a lower address come and go.
func TestElection(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{})
	q.active = true
	q.until(20 * time.Second)
	q.expect(queries("10", "12")...)

	q.Heard(after(q.now), high, self, general) // it is to stop when it hears ours
	q.Heard(after(q.now), self, self, general)
	q.until(50 * time.Second)
	q.expect(queries("42")...)
	if !q.Querying() || q.Other().IsValid() {
		t.Errorf("gave way to %v", q.Other())
	}

	q.Heard(after(q.now), low, self, general)
	if q.Querying() || q.Other() != low || q.Lifetime() != lifetime || q.Interval() != 60*time.Second {
		t.Errorf("querying %v, other %v, lifetime %v, interval %v", q.Querying(), q.Other(), q.Lifetime(), q.Interval())
	}
	q.until(50*time.Second + present - 1)
	q.expect()
	q.until(50*time.Second + present + 10*time.Second)
	q.expect(queries("235", "237")...)
	if !q.Querying() || q.Other().IsValid() || q.Lifetime() != 70*time.Second {
		t.Errorf("after the other has gone: querying %v, other %v, lifetime %v", q.Querying(), q.Other(), q.Lifetime())
	}
}

// TestThereFirst finds a querier with a higher address, and lets it be.
func TestThereFirst(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{})
	q.active = true
	q.until(5 * time.Second)
	for range 5 {
		q.Heard(after(q.now), high, self, general)
		q.until(q.now + 60*time.Second)
	}
	q.expect()
	if q.Other() != high {
		t.Errorf("querier %v, want %v", q.Other(), high)
	}
	q.until(q.now - 60*time.Second + present)
	q.expect(queries("430", "432")[:1]...)
}

// TestOthers has others fight: what the lowest says counts.
func TestOthers(t *testing.T) {
	for _, off := range []bool{false, true} {
		q := newQuerier(t, mld.QuerierOptions{Off: off})
		shorter := general
		shorter.Interval, shorter.QRV = 20*time.Second, 2
		for _, tt := range []struct {
			from mld.Query
			host int
			want int
		}{
			{general, 20, 20},
			{shorter, 5, 5},
			{general, 20, 5},
			{general, 1, 1},
			{shorter, 5, 1},
		} {
			q.Heard(after(q.now), host(tt.host), self, tt.from)
			if q.Other() != host(tt.want) {
				t.Errorf("heard %v: querier %v, want %v", host(tt.host), q.Other(), host(tt.want))
			}
		}
		if q.Lifetime() != lifetime {
			t.Errorf("lifetime %v, want %v", q.Lifetime(), lifetime)
		}
		q.until(500 * time.Second)
		if off {
			q.expect()
		} else {
			q.expect(queries("185", "187")...)
		}
		if q.Other().IsValid() || q.Lifetime() != 260*time.Second {
			t.Errorf("off %v: querier %v, lifetime %v, after all have gone", off, q.Other(), q.Lifetime())
		}
	}
}

func TestLearn(t *testing.T) {
	for _, tt := range []struct {
		q    mld.Query
		want time.Duration
	}{
		{general, lifetime},
		{mld.Query{Version: 1, MaxResponse: 10 * time.Second}, 260 * time.Second},
		{mld.Query{Version: 2, MaxResponse: 10 * time.Second}, 260 * time.Second}, // QRV and QQIC 0: the defaults
		{mld.Query{Version: 2, QRV: 1, Interval: time.Second}, 10 * time.Second},
		{mld.Query{Version: 2, QRV: 7, Interval: 31744 * time.Second, MaxResponse: 8387584 * time.Millisecond}, time.Hour},
		{mld.Query{Version: 2, Group: groupN(1), QRV: 1, Interval: 20 * time.Second}, 260 * time.Second}, // not about all
	} {
		q := newQuerier(t, mld.QuerierOptions{})
		q.Heard(after(0), lowest, self, tt.q)
		if q.Lifetime() != tt.want || q.Other() != lowest {
			t.Errorf("%+v: lifetime %v, want %v; querier %v", tt.q, q.Lifetime(), tt.want, q.Other())
		}
	}
}

// TestSilenced bounds for how long one forged query can keep us from querying.
func TestSilenced(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{})
	q.active = true
	q.Heard(after(0), lowest, self, mld.Query{Version: 2, QRV: 7, Interval: 31744 * time.Second, MaxResponse: 8387584 * time.Millisecond})
	q.until(2 * time.Hour)
	if len(q.sent) == 0 {
		t.Error("no query in 2 h")
	}
}

func TestAdvertiseTimes(t *testing.T) {
	q := newQuerier(t, mld.QuerierOptions{Off: true, Advertise: true})
	to := func(at string) string { return at + ": advertisement to ff02::6a" }
	q.until(50 * time.Second)
	q.expect(to("0"), to("2"), to("4"), to("24"), to("44"))
	for range 10 { // a flood of solicitations
		q.Solicited(after(q.now))
		q.until(q.now + 100*time.Millisecond)
	}
	q.expect(to("50"), to("51"))
}
