package mld

import (
	"net/netip"
	"time"
)

// QuerierOptions are the settings of [NewQuerier]. Zero fields mean the defaults.
type QuerierOptions struct {
	// Off never queries. Where nobody else does, hosts tell of a group once, and
	// are forgotten after the default lifetime of 260 s if they don't join again.
	Off bool

	// WhenIdle queries also while the caller is not active. There is no need to:
	// a host that joins says so by itself.
	WhenIdle bool

	// Listen is how long to listen for another querier first, default 10 s.
	Listen time.Duration

	// Interval is the time between General Queries, default 30 s.
	Interval time.Duration

	// Advertise sends Multicast Router Advertisements, for switches that forward
	// reports only to routers while another querier is elected. These then send
	// the traffic of all groups here.
	Advertise bool

	// AdvertiseInterval is the time between them, default 20 s.
	AdvertiseInterval time.Duration
}

// Defaults of RFC 3810, section 9.
const (
	defaultQRV      = 2                 // Robustness Variable
	defaultInterval = 125 * time.Second // Query Interval
	defaultResponse = 10 * time.Second  // Query Response Interval
)

// Bounds of the lifetime of memberships that another querier can make us use, and
// of how long one query silences us. Without them a forged query would end all
// memberships, or keep the dead for days.
const (
	minLifetime = 10 * time.Second
	maxLifetime = time.Hour
)

const (
	startupQueries  = 2               // Startup Query Count, RFC 3810, section 9.7
	startupInterval = 2 * time.Second // between these; RFC 3810, section 9.6, has a quarter of the Query Interval

	initialAdvertisements = 3               // RFC 4286, section 3.1, as the following
	initialInterval       = 2 * time.Second // between these
	solicitedDelay        = time.Second     // shortest time between two
)

// Maximum response delay of our queries: hosts answer within the shortest, or
// within what gives each of them perHost of its own, if there are many.
const (
	minResponse = time.Second
	perHost     = time.Millisecond
)

// Packet is a message to be sent with hop limit 1, the router alert option and a
// link-local source.
type Packet struct {
	To   netip.Addr // without zone
	Data []byte     // ICMPv6 message without checksum
}

// Querier decides when to send General Queries, which make all hosts of the link
// report what they listen to. It is the querier side of RFC 3810, section 7.6.2,
// except that it never takes the role from another querier that was there first,
// whatever its address; and has no business with leaving hosts, so that it sends
// no queries about single groups.
//
// At first it listens, for QuerierOptions.Listen. If nobody else queries by then,
// it sends two General Queries, to learn who listens already. Further on it sends
// some while the caller is active: two at once, then one per interval. When it
// hears a query from a lower address than ours, it stops until that querier has
// been silent for the Other Querier Present Interval. So a forged query silences it
// for an hour at most, and others of the kind for longer: meanwhile hosts are asked
// by the forger, or expire.
//
// A Querier is not safe for concurrent use. Its times are arguments and must not
// run backwards.
type Querier struct {
	o      QuerierOptions
	listen time.Time // until when we listen first

	other     netip.Addr // the querier, if it is not us
	otherEnds time.Time
	qrv       int // of the other querier, or the defaults
	interval  time.Duration
	response  time.Duration

	querying bool
	quick    int       // startup queries yet to be sent
	query    time.Time // when to send the next, if at all

	initial    int       // advertisements yet to be sent quickly
	advertised time.Time // when the last was sent
	advertise  time.Time // when to send the next
}

// NewQuerier returns a Querier that starts to listen now.
func NewQuerier(now time.Time, o QuerierOptions) *Querier {
	o.Listen = orDefault(o.Listen, 10*time.Second)
	o.Interval = orDefault(o.Interval, 30*time.Second)
	o.AdvertiseInterval = orDefault(o.AdvertiseInterval, 20*time.Second)
	q := &Querier{o: o, listen: now.Add(o.Listen), quick: startupQueries, initial: initialAdvertisements, advertise: now}
	q.setDefaults()
	return q
}

func (q *Querier) setDefaults() {
	q.qrv, q.interval, q.response = defaultQRV, defaultInterval, defaultResponse
}

// Heard takes a query from src; self is our address, of which queries are ignored,
// or invalid.
func (q *Querier) Heard(now time.Time, src, self netip.Addr, m Query) {
	switch {
	case src == self, q.querying && self.IsValid() && self.Less(src):
		return // ours; or its sender is to stop when it hears ours
	case q.other.IsValid() && q.other.Less(src) && now.Before(q.otherEnds):
		return
	}
	q.other = src
	if m.General() {
		q.learn(m)
	}
	// Other Querier Present Interval, RFC 3810, section 9.5.
	q.otherEnds = now.Add(min(time.Duration(q.qrv)*q.interval+q.response/2, maxLifetime))
	q.querying = false
}

// learn takes the elected querier's variables, RFC 3810, sections 5.1.8 and 5.1.9,
// and 8.3.1 for version 1.
func (q *Querier) learn(m Query) {
	q.setDefaults()
	q.response = m.MaxResponse
	if m.QRV > 0 {
		q.qrv = m.QRV
	}
	if m.Interval > 0 {
		q.interval = m.Interval
	}
}

// Solicited takes a Multicast Router Solicitation.
func (q *Querier) Solicited(now time.Time) {
	if at := q.advertised.Add(solicitedDelay); at.Before(q.advertise) {
		q.advertise = at
	}
}

// Poll returns what is to be sent now, and when to call it again at the latest; a
// zero Time means that there is no need to. Active says whether the caller serves
// anybody, hosts is how many there are. Call it again when active changes and
// after Heard and Solicited.
func (q *Querier) Poll(now time.Time, active bool, hosts int) (send []Packet, next time.Time) {
	if p, at := q.pollQuery(now, active, hosts); p != nil {
		send, next = append(send, *p), at
	} else {
		next = at
	}
	if q.o.Advertise {
		if !now.Before(q.advertise) {
			send = append(send, q.advertisement())
			gap := q.o.AdvertiseInterval
			if q.initial > 0 {
				q.initial--
			}
			if q.initial > 0 {
				gap = min(gap, initialInterval)
			}
			q.advertised, q.advertise = now, now.Add(gap)
		}
		next = earlier(next, q.advertise)
	}
	return send, next
}

func (q *Querier) pollQuery(now time.Time, active bool, hosts int) (*Packet, time.Time) {
	if q.other.IsValid() {
		if now.Before(q.otherEnds) {
			return nil, q.otherEnds
		}
		q.other = netip.Addr{}
		q.setDefaults()
		q.quick = startupQueries
	}
	if q.o.Off {
		return nil, time.Time{}
	}
	if now.Before(q.listen) {
		return nil, q.listen
	}
	active = active || q.o.WhenIdle
	if active && !q.querying && !now.Before(q.query) {
		// Not if we have just asked: a host that joins and leaves all the time
		// shall not make the others answer as often.
		q.quick = startupQueries
	}
	q.querying = active
	if !active && q.quick == 0 {
		return nil, time.Time{}
	}
	if now.Before(q.query) {
		return nil, q.query
	}
	gap := q.o.Interval
	if q.quick > 0 {
		q.quick--
		if q.quick > 0 {
			gap = min(gap, startupInterval)
		}
	}
	q.query = now.Add(gap)
	return q.generalQuery(hosts), q.query
}

func (q *Querier) generalQuery(hosts int) *Packet {
	m := Query{
		Version:     2,
		MaxResponse: min(max(minResponse, time.Duration(hosts)*perHost), q.ownResponse()),
		QRV:         defaultQRV,
		Interval:    max(q.o.Interval, time.Second), // what the message can say
	}
	return &Packet{allNodes, m.Append(nil)}
}

// ownResponse returns the longest maximum response delay of our queries.
func (q *Querier) ownResponse() time.Duration { return min(q.o.Interval/3, defaultResponse) }

func (q *Querier) advertisement() Packet {
	a := Advertisement{Interval: q.o.AdvertiseInterval, Query: q.Interval(), Robustness: q.qrv}
	return Packet{allSnoopers, a.Append(nil)}
}

// earlier returns the earlier of two times, where a zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Querying reports whether we are the querier of the link. We are not while there
// is no need to: hosts are then believed for the default lifetime.
func (q *Querier) Querying() bool { return q.querying }

// Other returns the querier of the link that was last heard and is not us, or an
// invalid address.
func (q *Querier) Other() netip.Addr { return q.other }

// Interval returns the time between General Queries: ours, the other querier's, or
// if there is none, the default of RFC 3810.
func (q *Querier) Interval() time.Duration {
	if q.querying {
		return q.o.Interval
	}
	return q.interval
}

// Lifetime returns for how long a host may be silent: the Multicast Address
// Listening Interval of RFC 3810, section 9.4. What another querier says of it is
// believed within 10 s and 1 h.
func (q *Querier) Lifetime() time.Duration {
	if q.querying {
		return defaultQRV*q.o.Interval + q.ownResponse()
	}
	return min(max(time.Duration(q.qrv)*q.interval+q.response, minLifetime), maxLifetime)
}
