package mcast

import (
	"cmp"
	"math"
	"net/netip"
	"time"

	"github.com/castorsync/castor/mcast/fec"
)

// schedule decides what a sender puts on one link, and when. It knows who listens to
// which object and how much of each has been sent, and nothing of what is in them.
// Times are passed in: it is a pure state machine, and not safe for concurrent use.
//
// An object is sent in rounds: one symbol of each of its blocks. Any k distinct
// symbols give a block of k back, so as many rounds as its longest block has source
// symbols are a full pass: who has listened all the time and lost nothing is done.
// The others get a little more, again and again, until they leave.
type schedule struct {
	rate     float64 // bytes a second on the wire
	objects  map[objectKey]*object
	channels map[*channel]*audience
	places   map[*channel]*place
	turns    uint64    // objects begun
	free     time.Time // when the link may carry more
	loss     estimate
	leave    time.Duration // how long listeners take to leave when they are done, smoothed
	room     int           // objects that may be in service at once on a lossy link: as many as memory holds
}

// These are the constants of the schedule; docs/multicast.md explains them.
const (
	maxBurst      = 16                     // packets sent at once
	fewObjects    = 4                      // in service at once on a clean link
	manyObjects   = 16                     // and on a lossy one
	holdBack      = 150 * time.Millisecond // for all hosts to join what is begun
	gatherQuiet   = 60 * time.Millisecond  // without a new host, before a channel begins
	gatherShort   = 150 * time.Millisecond // the same if the content is short
	shortContent  = 500 * time.Millisecond // which it is if sending it takes less than that
	gatherMost    = time.Second            // and at most since the first one
	minGrace      = 40 * time.Millisecond  // for listeners to leave, before more is sent
	maxGrace      = 500 * time.Millisecond
	maxBackoff    = 5 * time.Second // between deltas that nobody answers
	lingering     = 2 * time.Second // an object without listeners is remembered
	maxObjects    = 4096            // that are known at once
	lossyFraction = 0.03            // of repair symbols, from which on a link is lossy
)

// objectKey names an object.
type objectKey struct {
	ch  *channel
	ord uint32
}

func (k objectKey) compare(l objectKey) int {
	if k.ch != l.ch {
		return cmp.Compare(k.ch.number, l.ch.number)
	}
	return cmp.Compare(k.ord, l.ord)
}

// place is where a channel is.
type place struct {
	cursor uint32 // the object begun last, pieces of the index apart
	lap    uint32 // how often the cursor has gone round
	turn   uint64 // when that was, counted in objects begun on all channels
}

// place returns where ch is.
func (s *schedule) place(ch *channel) *place {
	p := s.places[ch]
	if p == nil {
		p = &place{}
		s.places[ch] = p
	}
	return p
}

// audience is who listens to a channel.
type audience struct {
	control map[netip.Addr]struct{} // hosts in the control group
	first   time.Time               // when the first one came
	last    time.Time               // when the last one came, as long as nothing is sent
	begun   bool
}

// gathering returns how long ch still waits for more hosts to come, before it sends the
// first object: those who come together should be served together. Who comes too late
// needs again what was sent until then, which of a short content may be all.
func (s *schedule) gathering(now time.Time, ch *channel) time.Duration {
	a := s.channels[ch]
	if a == nil || a.begun {
		return 0
	}
	quiet := gatherQuiet
	if float64(ch.unique) < s.rate*shortContent.Seconds() {
		quiet = gatherShort
	}
	return min(a.last.Add(quiet).Sub(now), a.first.Add(gatherMost).Sub(now))
}

// object is one that somebody listens to, or did a moment ago.
type object struct {
	key    objectKey
	hosts  map[netip.Addr]struct{}
	joined time.Time // when the first of the present hosts came
	empty  time.Time // when the last one left

	retry time.Time // when loading it may be tried again

	// Known when it is loaded.
	loaded  bool
	blocks  int
	longest int // source symbols of the longest block

	fresh  bool      // nothing has been sent to those who listen now
	sent   int       // packets
	target int       // rounds that are to be sent
	begun  int       // round in which the present pass began
	extras int       // deltas since then
	heard  int       // rounds sent when somebody last left
	last   time.Time // when the last packet went out
	next   time.Time // when the next may: the object's share of the rate
	seq    uint16    // of the next packet to the group
}

func newSchedule(rate float64, loss float64) *schedule {
	return &schedule{
		rate: rate, objects: map[objectKey]*object{}, channels: map[*channel]*audience{}, places: map[*channel]*place{},
		loss: expect(loss), room: manyObjects,
	}
}

// rounds returns how many whole rounds have been sent.
func (o *object) rounds() int { return o.sent / max(o.blocks, 1) }

func (o *object) pending() bool { return o.loaded && len(o.hosts) > 0 && o.rounds() < o.target }

// join notes that host listens to an object. It returns the object if it is new.
func (s *schedule) join(now time.Time, k objectKey, host netip.Addr) *object {
	o := s.objects[k]
	isNew := o == nil
	if isNew {
		if len(s.objects) >= maxObjects {
			return nil // a flood of joins; who means it joins again
		}
		o = &object{key: k, hosts: map[netip.Addr]struct{}{}}
		s.objects[k] = o
	}
	if _, ok := o.hosts[host]; ok {
		return nil
	}
	if len(o.hosts) == 0 {
		o.joined, o.fresh = now, true
	}
	o.hosts[host] = struct{}{}
	if o.blocks > 0 {
		s.extend(o)
	}
	if isNew {
		return o
	}
	return nil
}

// load tells the size of an object, in blocks and in symbols of the longest one.
func (s *schedule) load(o *object, blocks, longest int) {
	o.loaded = true
	if o.blocks != blocks || o.longest != longest {
		o.blocks, o.longest, o.sent, o.target = blocks, longest, 0, 0
		s.extend(o)
	}
}

// extend makes the target of o a full pass from here: a host that has just come needs
// as many symbols as a block has, whichever they are.
func (s *schedule) extend(o *object) {
	at := (o.sent + max(o.blocks, 1) - 1) / max(o.blocks, 1)
	if want := at + o.longest + s.loss.extra(o.longest) + o.haste(); want > o.target {
		o.target = want
		o.begun, o.extras = at, 0
	}
}

// haste returns how many rounds more a piece of the index gets: it is small, and who
// waits for it falls behind the others.
func (o *object) haste() int {
	if o.key.ch.isIndex(o.key.ord) {
		return 2 + o.longest/4
	}
	return 0
}

// part notes that host has left an object.
func (s *schedule) part(now time.Time, k objectKey, host netip.Addr) {
	o := s.objects[k]
	if o == nil {
		return
	}
	if _, ok := o.hosts[host]; !ok {
		return
	}
	if o.loaded && !o.pending() && o.extras == 0 && now.Sub(o.last) < time.Second {
		s.leave += (now.Sub(o.last) - s.leave) / 8
	}
	o.heard = o.rounds()
	delete(o.hosts, host)
	if len(o.hosts) > 0 {
		return
	}
	o.empty = now
	if o.loaded && o.longest >= 16 && o.rounds()-o.begun >= o.longest {
		s.loss.learn(float64(o.rounds()-o.begun-o.longest)/float64(o.longest), o.extras > 0)
	}
	o.target = o.rounds() // stop at once
}

// listens notes that host is in the control group of ch, and leaves that it is no
// more. They report whether that changes anything.
func (s *schedule) listens(now time.Time, ch *channel, host netip.Addr) bool {
	a := s.channels[ch]
	if a == nil {
		a = &audience{control: map[netip.Addr]struct{}{}, first: now}
		s.channels[ch] = a
	}
	if _, ok := a.control[host]; ok {
		return false
	}
	a.control[host], a.last = struct{}{}, now
	return true
}

func (s *schedule) leaves(ch *channel, host netip.Addr) {
	if a := s.channels[ch]; a != nil {
		delete(a.control, host)
		if len(a.control) == 0 {
			delete(s.channels, ch)
		}
	}
}

// hosts returns how many hosts are in the control group of ch.
func (s *schedule) hosts(ch *channel) int {
	if a := s.channels[ch]; a != nil {
		return len(a.control)
	}
	return 0
}

// lossy reports whether listeners have needed much more than a full pass of late.
func (s *schedule) lossy() bool { return s.loss.need > lossyFraction }

// share returns the rate of one object, in bytes a second, when active ones are in
// service: the fewer objects a receiver joins, the less it gets, as long as the link
// is lossy. On a clean link it all goes to those that there are.
func (s *schedule) share(active int) float64 {
	if s.lossy() {
		return s.rate / float64(s.room)
	}
	return s.rate / float64(max(1, min(active, fewObjects)))
}

// limit returns how many objects may be in a pass at once.
func (s *schedule) limit() int {
	if s.lossy() {
		return s.room
	}
	return fewObjects
}

// burst is what to send next: count packets of an object, from its packet number
// first on.
type burst struct {
	object *object
	first  int
	count  int
}

// next returns what to send now, or how long to wait for something to send; a
// negative time if that takes an event. Bursts may be sent at the time they are
// returned.
func (s *schedule) next(now time.Time) (b burst, wait time.Duration) {
	const never = time.Duration(math.MaxInt64)
	if d := s.free.Sub(now); d > 0 {
		return burst{}, d
	}
	wait = never
	var extra, going, fresh, late *object // the best of each kind
	active, started := 0, 0
	for k, o := range s.objects {
		if len(o.hosts) == 0 {
			if now.Sub(o.empty) > lingering {
				delete(s.objects, k)
			}
			continue
		}
		if !o.loaded {
			if d := s.due(o).Sub(now); d > 0 && o.blocks > 0 {
				wait = min(wait, d) // to be loaded then
			}
			continue
		}
		if !o.pending() {
			if d := s.due(o).Sub(now); d > 0 {
				wait = min(wait, d)
				continue
			}
			s.addDelta(o)
		}
		if d := s.held(o, now); d > 0 {
			wait = min(wait, d)
			continue
		}
		active++
		if !o.fresh && o.extras == 0 {
			started++
		}
		if d := o.next.Sub(now); d > 0 { // it has had its share
			wait = min(wait, d)
			continue
		}
		switch {
		case o.fresh:
			if fresh == nil || s.before(o.key, fresh.key) {
				fresh = o
			}
		case s.rank(o) == forDead:
			late = earlier(late, o)
		case o.extras > 0:
			extra = earlier(extra, o)
		default:
			going = earlier(going, o)
		}
	}
	// Deltas first: they let receivers go on to what comes next together.
	o := extra
	if o == nil && started < s.limit() {
		o = fresh
	}
	if o == nil {
		o = going
	}
	if o == nil {
		o = late
	}
	if o == nil {
		if wait == never {
			wait = -1
		}
		return burst{}, wait
	}
	if o.fresh {
		s.begin(o)
	}
	b = burst{o, o.sent, min(maxBurst, o.target*o.blocks-o.sent)}
	size := float64(b.count * o.key.ch.packet)
	o.sent += b.count
	o.last = now
	o.next = later(o.next, now, size/s.share(active))
	s.free = later(s.free, now, size/s.rate)
	return b, 0
}

// spend takes in that bytes are sent on the wire of which the schedule knows nothing.
func (s *schedule) spend(now time.Time, bytes int) {
	s.free = later(s.free, now, float64(bytes)/s.rate)
}

// begin notes that a fresh object is sent from now on: it is its channel's turn, and the
// cursor goes there.
func (s *schedule) begin(o *object) {
	o.fresh = false
	p := s.place(o.key.ch)
	s.turns++
	p.turn = s.turns
	if !o.key.ch.isIndex(o.key.ord) { // which is for who comes late
		if o.key.ord < p.cursor {
			p.lap++
		}
		p.cursor = o.key.ord
	}
	if a := s.channels[o.key.ch]; a != nil {
		a.begun = true
	}
}

// held returns how long o still waits for hosts that listen to its channel and have
// not joined it yet: those who begin together need the same packets.
func (s *schedule) held(o *object, now time.Time) time.Duration {
	if !o.fresh {
		return 0
	}
	if d := s.gathering(now, o.key.ch); d > 0 {
		return d
	}
	if len(o.hosts) >= s.hosts(o.key.ch) {
		return 0
	}
	return o.joined.Add(holdBack).Sub(now)
}

// earlier returns the object that may send first.
func earlier(a, b *object) *object {
	if a == nil || b.next.Before(a.next) || b.next.Equal(a.next) && b.key.compare(a.key) < 0 {
		return b
	}
	return a
}

// slack is how late sending may be and still be made good for.
const slack = 5 * time.Millisecond

// later returns the time seconds behind at, which counts as not long before now.
func later(at, now time.Time, seconds float64) time.Time {
	if at.Before(now.Add(-slack)) {
		at = now.Add(-slack)
	}
	return at.Add(time.Duration(seconds * float64(time.Second)))
}

// due returns when o, of which the target has been sent, gets a delta.
func (s *schedule) due(o *object) time.Time {
	grace := min(max(minGrace, 2*s.leave), maxGrace)
	// Beyond what others have needed it is less and less likely that somebody is
	// there.
	if over := s.beyond(o); over > 0 {
		grace = min(grace<<min(1+8*over/o.longest, 7), maxBackoff)
	}
	return o.last.Add(grace)
}

// beyond returns how many rounds more have been sent than others have needed, or since
// somebody last left, and an eighth of a pass; if it is positive, whoever is there may be
// dead, and what is sent to them comes after all else.
func (s *schedule) beyond(o *object) int {
	since := max(o.begun+o.longest+2*s.loss.extra(o.longest), o.heard)
	return o.rounds() - since - o.longest/8
}

// addDelta makes o send a little more: about 2 % of a block, and more each time that
// was not enough.
func (s *schedule) addDelta(o *object) {
	o.target = o.rounds() + max(1, o.longest/64)*min(1+o.extras/4, 4) + o.haste()
	o.extras++
}

// before reports whether a comes before b: pieces of the index come first of all, then
// the channel that has waited longest, and within a channel what is behind its cursor,
// going round.
func (s *schedule) before(a, b objectKey) bool {
	if x, y := a.ch.isIndex(a.ord), b.ch.isIndex(b.ord); x != y {
		return x
	}
	if a.ch != b.ch {
		if x, y := s.place(a.ch).turn, s.place(b.ch).turn; x != y {
			return x < y
		}
		return a.compare(b) < 0
	}
	if cursor := s.place(a.ch).cursor; (a.ord > cursor) != (b.ord > cursor) {
		return a.ord > cursor
	}
	return a.ord < b.ord
}

// upcoming returns the object that is needed next and is not loaded, except those that
// skip says; nil if there is none. Of those that have been begun and those that are to be,
// it is the one that has waited longer: where memory is short and many hosts are dead, some
// of the former are always due.
func (s *schedule) upcoming(now time.Time, skip func(*object) bool) *object {
	var service, pass, dead *object // the best of each rank
	for _, o := range s.objects {
		if o.loaded || len(o.hosts) == 0 || skip(o) || o.retry.After(now) {
			continue
		}
		if !o.fresh && o.rounds() >= o.target && s.due(o).After(now) {
			continue
		}
		switch s.rank(o) {
		case forService:
			if service == nil || s.since(o).Before(s.since(service)) || s.since(o).Equal(s.since(service)) && s.before(o.key, service.key) {
				service = o
			}
		case forPass:
			if pass == nil || s.before(o.key, pass.key) {
				pass = o
			}
		case forDead:
			if dead == nil || s.before(o.key, dead.key) {
				dead = o
			}
		}
	}
	switch {
	case service != nil && (pass == nil || !s.since(pass).Before(s.since(service))):
		return service
	case pass != nil:
		return pass
	}
	return dead
}

// since returns since when o is needed.
func (s *schedule) since(o *object) time.Time {
	switch {
	case o.fresh:
		return o.joined
	case o.rounds() < o.target:
		return o.last
	}
	return s.due(o)
}

// yields reports whether o, which is loaded and needed, makes room for next: what is for
// the dead does for what is for the living, and what is not begun for what is needed for
// longer.
func (s *schedule) yields(o, next *object) bool {
	if s.rank(o) == forPass {
		return s.rank(next) == forService && s.since(next).Before(s.since(o))
	}
	return s.rank(o) > s.rank(next)
}

// rank is what an object is needed for.
type rank int

const (
	forService rank = iota // it has been begun
	forPass                // it is to be begun
	forDead                // those who listen may be dead
)

func (s *schedule) rank(o *object) rank {
	switch {
	case o.fresh:
		return forPass
	case o.extras > 0 && s.beyond(o) > 0:
		return forDead
	}
	return forService
}

// busy reports whether somebody listens to an object of ch.
func (s *schedule) busy(ch *channel) bool {
	for k, o := range s.objects {
		if k.ch == ch && len(o.hosts) > 0 {
			return true
		}
	}
	return false
}

// estimate is what listeners need beyond a full pass, as a part of it.
type estimate struct {
	need float64 // smoothed
}

// expect returns the estimate for a part loss of all packets being lost: the mean, and
// what the unluckiest of some blocks needs.
func expect(loss float64) estimate {
	return estimate{loss/(1-loss) + 2.5*math.Sqrt(loss*(1-loss)/fec.MaxSource)}
}

// learn takes in what the last listener of an object has needed. After deltas that is
// exact; without, it was enough.
func (e *estimate) learn(need float64, exact bool) {
	switch {
	case exact && need > e.need:
		e.need += (min(need, 1) - e.need) / 4
	case exact:
		e.need += (need - e.need) / 8
	default:
		e.need -= e.need / 10
	}
}

// extra returns how many symbols to send beyond the k of a block at first. It is on
// the low side: too few cost a short wait, and too many are lost.
func (e *estimate) extra(k int) int {
	return int(0.9 * e.need * float64(k))
}
