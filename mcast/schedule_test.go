package mcast

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/mcast/wire"
)

// bench is a schedule with a clock of its own.
type bench struct {
	t     *testing.T
	s     *schedule
	start time.Time
	now   time.Time
	sent  []sent
	each  func(burst) // called after each burst
}

// sent is a burst that was sent.
type sent struct {
	at    time.Duration
	key   objectKey
	first int
	count int
}

const testRate = 12.5e6 // bytes a second

func newBench(t *testing.T, loss float64) *bench {
	start := time.Unix(1e9, 0)
	return &bench{t: t, s: newSchedule(testRate, loss), start: start, now: start}
}

// testChannel has pieces of an index, buckets and twice as many chunks.
func testChannel(number, pieces, buckets int) *channel {
	space := wire.Space{IndexBytes: int64(pieces) * wire.IndexObjectSize, Chunks: 2 * buckets, Level: 1}
	return &channel{number: number, packet: 1500, unique: 1 << 30, content: &content{space: space}}
}

func bucket(c *channel, i int) objectKey { return objectKey{c, c.space.Ordinal(wire.Bucket, i)} }

func hostNumber(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
}

// Objects of the tests have 8 blocks of 94 symbols unless said otherwise.
const testBlocks, testLongest = 8, 94

func (b *bench) join(k objectKey, host int) *object {
	if o := b.s.join(b.now, k, hostNumber(host)); o != nil {
		b.s.load(o, testBlocks, testLongest)
	}
	return b.s.objects[k]
}

func (b *bench) part(k objectKey, host int) { b.s.part(b.now, k, hostNumber(host)) }

// listen lets hosts 0 to n-1 listen to a channel that has begun.
func (b *bench) listen(c *channel, n int) {
	for i := range n {
		b.s.listens(b.now, c, hostNumber(i))
	}
	b.s.channels[c].begun = true
}

// step sends what is to be sent now. It returns false, and the time of the next, if
// nothing is.
func (b *bench) step() (more bool, wait time.Duration) {
	b.t.Helper()
	u, wait := b.s.next(b.now)
	if u.object == nil {
		if wait == 0 {
			b.t.Fatalf("after %v: nothing to send, and no time to wait", b.now.Sub(b.start))
		}
		return false, wait
	}
	if u.count < 1 || u.count > maxBurst || u.first+u.count != u.object.sent || !u.object.loaded || len(u.object.hosts) == 0 {
		b.t.Fatalf("after %v: burst %+v of %+v", b.now.Sub(b.start), u, u.object)
	}
	b.sent = append(b.sent, sent{b.now.Sub(b.start), u.object.key, u.first, u.count})
	if b.each != nil {
		b.each(u)
	}
	return true, 0
}

// run lets d pass.
func (b *bench) run(d time.Duration) {
	b.t.Helper()
	end := b.now.Add(d)
	for {
		more, wait := b.step()
		if more {
			continue
		}
		if wait < 0 || b.now.Add(wait).After(end) {
			b.now = end
			return
		}
		b.now = b.now.Add(wait)
	}
}

// packets returns how many packets of an object were sent.
func (b *bench) packets(k objectKey) (n int) {
	for _, s := range b.sent {
		if s.key == k {
			n += s.count
		}
	}
	return n
}

// order returns the objects in the order in which they were begun.
func (b *bench) order() (keys []objectKey) {
	for _, s := range b.sent {
		if !slices.Contains(keys, s.key) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

// departure lets hosts leave an object once enough packets have come, a moment later.
func (b *bench) departure(k objectKey, enough func(sent int) bool, hosts ...int) {
	before := b.each
	b.each = func(u burst) {
		if before != nil {
			before(u)
		}
		if u.object.key == k && enough(u.object.sent) {
			for _, h := range hosts {
				b.part(k, h)
			}
		}
	}
}

func TestScheduleFullPass(t *testing.T) {
	for _, hosts := range []int{1, 2, 50} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		k := bucket(c, 3)
		for h := range hosts {
			b.s.listens(b.now, c, hostNumber(h))
			b.join(k, h)
		}
		b.run(gatherQuiet + minGrace - time.Millisecond)
		if b.packets(k) == 0 || b.sent[0].at != gatherQuiet {
			t.Fatalf("%d hosts: %d packets, want some after %v", hosts, b.packets(k), gatherQuiet)
		}
		for h := range hosts {
			b.part(k, h)
		}
		b.run(time.Hour)
		if n := b.packets(k); n > testBlocks*testLongest {
			t.Errorf("%d hosts: %d packets, want %d at most", hosts, n, testBlocks*testLongest)
		}
	}
	// All that is sent before the grace is a full pass, each packet once.
	b, c := newBench(t, 0), testChannel(0, 0, 10)
	k := bucket(c, 3)
	b.listen(c, 1)
	b.join(k, 0)
	next := 0
	b.each = func(u burst) {
		if u.first != next {
			t.Errorf("burst from %d, want %d", u.first, next)
		}
		next = u.first + u.count
	}
	b.run(testBlocks*testLongest*1500*time.Second/testRate + minGrace/2)
	if n := b.packets(k); n != testBlocks*testLongest {
		t.Errorf("%d packets in a full pass, want %d", n, testBlocks*testLongest)
	}
}

// Who comes in the middle gets a full pass from there.
func TestScheduleLateJoin(t *testing.T) {
	for _, late := range []int{1, 7, 8, 100, 375, 751} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		k := bucket(c, 0)
		b.listen(c, 2)
		b.join(k, 0)
		b.now = b.now.Add(holdBack)
		joined := -1
		b.each = func(u burst) {
			if joined < 0 && u.object.sent >= late {
				joined = u.object.sent
				b.join(k, 1)
			}
			if u.object.sent >= testBlocks*testLongest {
				b.part(k, 0)
			}
		}
		b.run(time.Second * testBlocks * testLongest * 2 * 1500 / testRate)
		round := (joined + testBlocks - 1) / testBlocks
		// Before the grace nothing more may come; deltas come behind.
		want := (round + testLongest) * testBlocks
		n := 0
		for i, s := range b.sent {
			if i > 0 && s.at-b.sent[i-1].at > minGrace/2 {
				break
			}
			n += s.count
		}
		if n != want {
			t.Errorf("a host that comes after %d packets: %d are sent, want %d", joined, n, want)
		}
	}
}

func TestScheduleLeaveStops(t *testing.T) {
	for _, after := range []int{1, 16, 17, 400, 752, 760} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		k := bucket(c, 0)
		b.listen(c, 1)
		b.join(k, 0)
		left := -1
		b.each = func(u burst) {
			if left < 0 && u.object.sent >= after {
				left = u.object.sent
				b.part(k, 0)
			}
		}
		b.run(time.Minute)
		if n := b.packets(k); n != left || left < 0 {
			t.Errorf("left after %d packets, and %d were sent", left, n)
		}
		if _, wait := b.s.next(b.now); wait >= 0 {
			t.Errorf("nobody is there, and the wait is %v", wait)
		}
		if len(b.s.objects) != 0 {
			t.Errorf("long after the last listener %d objects are known", len(b.s.objects))
		}
	}
}

// A host that comes back, or another one, at once or later, is served anew.
func TestScheduleComeBack(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Second, lingering + time.Second} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		k := bucket(c, 0)
		b.listen(c, 1)
		b.join(k, 0)
		b.run(10 * time.Millisecond)
		b.part(k, 0)
		b.run(pause)
		before := b.packets(k)
		b.join(k, 0)
		b.run(testBlocks*testLongest*1500*time.Second/testRate + minGrace/2)
		if n := b.packets(k) - before; n < testBlocks*testLongest || n >= testBlocks*(testLongest+1) {
			t.Errorf("after %v: %d packets for who comes back, want %d and the rest of a round", pause, n, testBlocks*testLongest)
		}
	}
}

// Deltas come after the grace and before new objects.
func TestScheduleDeltaFirst(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 0, 100)
	b.listen(c, 1)
	first := bucket(c, 0)
	b.join(first, 0)
	b.run(testBlocks*testLongest*1500*time.Second/testRate + time.Millisecond)
	done := b.s.objects[first].last
	for i := 1; i < 100; i++ {
		b.join(bucket(c, i), 0)
	}
	for b.packets(first) == testBlocks*testLongest {
		if more, wait := b.step(); !more {
			b.now = b.now.Add(wait)
		}
	}
	got := b.now.Sub(done)
	burst := time.Duration(float64(maxBurst*1500) / testRate * float64(time.Second))
	if got < minGrace || got > minGrace+burst {
		t.Errorf("the delta comes %v after the pass, want %v and at most a burst later", got, minGrace)
	}
	if n := len(b.order()); n >= 100 || n < 3 {
		t.Errorf("before the delta %d objects are begun", n)
	}
	if n := b.packets(first) - testBlocks*testLongest; n > 2*testBlocks {
		t.Errorf("the first delta has %d packets", n)
	}
}

// unanswered returns the packets of each minute of an object whose only host has gone
// without saying so.
func unanswered(t *testing.T, longest int, minutes int) (packets []int, gap time.Duration) {
	b, c := newBench(t, 0), testChannel(0, 0, 10)
	k := bucket(c, 0)
	b.listen(c, 1)
	b.s.load(b.s.join(b.now, k, hostNumber(0)), testBlocks, longest)
	for range minutes {
		before := b.packets(k)
		b.run(time.Minute)
		packets = append(packets, b.packets(k)-before)
	}
	packets[0] -= testBlocks * longest
	last := b.sent[len(b.sent)-1].at
	for i := len(b.sent) - 1; gap == 0; i-- {
		if d := last - b.sent[i].at; d > 100*time.Millisecond {
			gap = d
		}
	}
	return packets, gap
}

// Nobody answers deltas for as long as a host that is dead counts as a listener, which
// is 260 seconds at most.
func TestScheduleDeadHost(t *testing.T) {
	for _, longest := range []int{1, 2, 16, 47, 94, 128} {
		packets, gap := unanswered(t, longest, 4)
		if gap < maxBackoff/2 || gap > maxBackoff+time.Second {
			t.Errorf("k = %d: deltas come every %v in the end, want %v", longest, gap, maxBackoff)
		}
		rounds := 0
		for _, n := range packets {
			rounds += n / testBlocks
		}
		if most := 400 + 8*longest; rounds > most {
			t.Errorf("k = %d: a dead host costs %d rounds in four minutes, want %d at most", longest, rounds, most)
		}
	}
}

// A host that is alive and has stopped reading keeps its groups for ever.
func TestScheduleStoppedHost(t *testing.T) {
	packets, _ := unanswered(t, 94, 120)
	if n := float64(packets[119]) / (testBlocks * 94); n > 1 {
		t.Errorf("after two hours, deltas that nobody answers cost %.1f passes a minute", n)
	}
}

func TestScheduleGathering(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts int
		every time.Duration
		short bool          // content
		want  time.Duration // of the first packet
	}{
		{"one", 1, 0, false, gatherQuiet},
		{"together", 30, 0, false, gatherQuiet},
		{"two", 2, gatherQuiet * 4 / 5, false, gatherQuiet * 9 / 5},
		{"far apart", 2, 3 * gatherQuiet, false, gatherQuiet},
		{"without end", 100, gatherQuiet / 2, false, gatherMost},
		{"short", 1, 0, true, gatherShort},
		{"short, two", 2, gatherShort * 4 / 5, true, gatherShort * 9 / 5},
		{"short, without end", 100, gatherShort / 2, true, gatherMost},
	} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		if tt.short {
			c.unique = int64(testRate*shortContent.Seconds()) - 1
		}
		for h := range tt.hosts {
			b.s.listens(b.now, c, hostNumber(h))
			b.join(bucket(c, 0), h)
			b.run(tt.every)
		}
		b.run(10 * time.Second)
		if got := b.sent[0].at; got != tt.want {
			t.Errorf("%s: begins after %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A fresh object waits for the other hosts of its channel.
func TestScheduleHold(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts int
		joins []time.Duration // of hosts 0, 1, …
		want  time.Duration   // until it begins
	}{
		{"all there", 2, []time.Duration{0, 0}, 0},
		{"one is late", 2, []time.Duration{0, 60 * time.Millisecond}, 60 * time.Millisecond},
		{"one never comes", 3, []time.Duration{0, 60 * time.Millisecond}, holdBack},
		{"one comes too late", 2, []time.Duration{0, 400 * time.Millisecond}, holdBack},
		{"alone", 1, []time.Duration{0}, 0},
		{"not in the control group", 0, []time.Duration{0}, 0},
	} {
		b, c := newBench(t, 0), testChannel(0, 0, 10)
		if tt.hosts > 0 {
			b.listen(c, tt.hosts)
		}
		for h, at := range tt.joins {
			b.run(at - b.now.Sub(b.start))
			b.join(bucket(c, 0), h)
		}
		b.run(time.Second)
		if got := b.sent[0].at; got != tt.want {
			t.Errorf("%s: begins after %v, want %v", tt.name, got, tt.want)
		}
	}
}

// leaky is a bucket that leaks at a rate: what is in it at most is how much more was
// sent, over any time, than the rate allows.
type leaky struct {
	rate  float64
	at    time.Duration
	level float64
	most  float64
}

func (l *leaky) add(at time.Duration, bytes float64) {
	l.level = max(0, l.level-l.rate*(at-l.at).Seconds()) + bytes
	l.at, l.most = at, max(l.most, l.level)
}

func TestSchedulePacing(t *testing.T) {
	const packet = 1500
	for _, tt := range []struct {
		objects int
		loss    float64
		share   float64 // of the rate, for an object
	}{
		{1, 0, 1}, {2, 0, 0.5}, {4, 0, 0.25}, {60, 0, 0.25}, {1, 0.2, 1. / manyObjects}, {16, 0.2, 1. / manyObjects}, {60, 0.2, 1. / manyObjects},
	} {
		t.Run(fmt.Sprintf("%d objects, loss %v", tt.objects, tt.loss), func(t *testing.T) {
			b, c := newBench(t, tt.loss), testChannel(0, 0, 100)
			r := rand.New(rand.NewPCG(5, uint64(tt.objects)))
			b.listen(c, 1)
			for i := range tt.objects {
				b.s.load(b.s.join(b.now, bucket(c, i), hostNumber(0)), 80, 128)
			}
			for b.now.Sub(b.start) < 200*time.Millisecond {
				if more, wait := b.step(); !more {
					if r.IntN(10) == 0 { // late now and then
						wait += time.Duration(r.Int64N(int64(20 * time.Millisecond)))
					}
					b.now = b.now.Add(wait)
				}
			}
			all := &leaky{rate: testRate}
			each := map[objectKey]*leaky{}
			total := 0.
			for _, s := range b.sent {
				n := float64(s.count * packet)
				total += n
				all.add(s.at, n)
				if each[s.key] == nil {
					each[s.key] = &leaky{rate: testRate * tt.share}
				}
				each[s.key].add(s.at, n)
			}
			room := func(l *leaky) float64 { return maxBurst*packet + l.rate*slack.Seconds() + 1 }
			if all.most > room(all) {
				t.Errorf("%.0f bytes more than the rate allows, want %.0f at most", all.most, room(all))
			}
			for k, l := range each {
				// Objects that begin one after the other have more while they are few.
				if tt.objects <= 1 || tt.loss > 0 {
					if l.most > room(l) {
						t.Errorf("group %d: %.0f bytes more than its share, want %.0f at most", k.ord, l.most, room(l))
					}
				}
			}
			want := testRate * 0.2 * min(1, tt.share*float64(tt.objects))
			if total > want+room(all)+float64(tt.objects)*maxBurst*packet || total < 0.5*want {
				t.Errorf("%.0f bytes in 200 ms, want about %.0f", total, want)
			}
		})
	}
}

// Called in time, the schedule makes use of the whole rate, and gives each object in
// service as much.
func TestScheduleFair(t *testing.T) {
	for _, loss := range []float64{0, 0.2} {
		b, c := newBench(t, loss), testChannel(0, 0, 100)
		b.listen(c, 1)
		for i := range 50 {
			b.s.load(b.s.join(b.now, bucket(c, i), hostNumber(0)), 80, 128)
		}
		b.run(500 * time.Millisecond)
		total, most, least := 0, 0, 1<<30
		for _, k := range b.order() {
			n := b.packets(k)
			total += n
			most, least = max(most, n), min(least, n)
		}
		if got := float64(total*1500) / (testRate * 0.5); got < 0.99 || got > 1.02 {
			t.Errorf("loss %v: %.3f of the rate", loss, got)
		}
		want := fewObjects
		if loss > 0 {
			want = manyObjects
		}
		if n := len(b.order()); n != want {
			t.Errorf("loss %v: %d objects in service, want %d", loss, n, want)
		}
		if most-least > 4*maxBurst {
			t.Errorf("loss %v: one object has %d packets, another %d", loss, most, least)
		}
	}
}

func TestScheduleIndexFirst(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 3, 10)
	b.listen(c, 1)
	want := []objectKey{{c, 1}, {c, 2}, {c, 3}, bucket(c, 2), bucket(c, 4), bucket(c, 6), bucket(c, 8)}
	b.s.place(c).cursor = bucket(c, 9).ord
	for _, i := range []int{5, 2, 0, 3, 6, 1, 4} {
		b.join(want[i], 0)
	}
	for _, k := range want {
		b.departure(k, func(n int) bool { return n >= testBlocks*testLongest }, 0)
	}
	b.run(time.Minute)
	if got := b.order(); !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", ords(got), ords(want))
	}
}

// The index is for who comes late. The others go on where they are.
func TestScheduleIndexLeavesCursor(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 3, 10)
	b.listen(c, 1)
	b.s.place(c).cursor = bucket(c, 5).ord
	for _, k := range []objectKey{bucket(c, 6), {c, 1}, {c, 2}, bucket(c, 2)} {
		b.join(k, 0)
		b.departure(k, func(n int) bool { return n >= testBlocks*testLongest }, 0)
	}
	b.run(time.Minute)
	if got, want := b.order(), []objectKey{{c, 1}, {c, 2}, bucket(c, 6), bucket(c, 2)}; !slices.Equal(got, want) || b.s.place(c).lap != 1 {
		t.Errorf("order %v, lap %d, want %v, 1", ords(got), b.s.place(c).lap, ords(want))
	}
}

func ords(keys []objectKey) (all []uint32) {
	for _, k := range keys {
		all = append(all, k.ord)
	}
	return all
}

// Channels take turns, and the cursor of each goes round through all that is wanted,
// whoever wants it, and counts.
func TestScheduleCursor(t *testing.T) {
	b := newBench(t, 0)
	first, second := testChannel(1, 0, 20), testChannel(2, 0, 20)
	b.listen(first, 1)
	b.listen(second, 1)
	var keys []objectKey
	for i := range 20 {
		keys = append(keys, bucket(first, i), bucket(second, i))
	}
	var begun []objectKey
	last := objectKey{}
	b.each = func(u burst) {
		k := u.object.key
		if u.first%(testBlocks*testLongest) == 0 && k != last {
			begun, last = append(begun, k), k
			if at := b.s.place(k.ch).cursor; at != k.ord {
				t.Errorf("begins %d, and the cursor is at %d", k.ord, at)
			}
		}
		if u.object.sent >= testBlocks*testLongest { // who leaves wants the next lap
			b.part(k, 0)
		}
	}
	for lap := range uint32(5) {
		b.now = b.now.Add(lingering + time.Second)
		b.step() // forgets
		begun = nil
		for _, i := range rand.New(rand.NewPCG(uint64(lap), 1)).Perm(len(keys)) {
			b.join(keys[i], 0)
		}
		b.run(10 * time.Second)
		for _, ch := range []*channel{first, second} {
			if got := b.s.place(ch).lap; got != lap {
				t.Errorf("lap %d, want %d", got, lap)
			}
		}
		if !slices.Equal(begun, keys) {
			t.Errorf("lap %d: order %v", lap, ords(begun))
		}
	}
}

func TestScheduleFlood(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 0, 20000)
	b.listen(c, 1)
	for i := range 20000 {
		b.join(bucket(c, i), i%7)
	}
	if n := len(b.s.objects); n != maxObjects {
		t.Errorf("%d objects are known, want %d", n, maxObjects)
	}
	b.run(50 * time.Millisecond)
	for i := range 20000 {
		b.part(bucket(c, i), i%7)
	}
	b.run(lingering + time.Second)
	b.run(time.Second)
	if n := len(b.s.objects); n != 0 {
		t.Errorf("after the flood %d objects are known", n)
	}
	b.join(bucket(c, 19999), 0)
	b.run(time.Second)
	if b.packets(bucket(c, 19999)) == 0 {
		t.Error("after the flood nobody is served")
	}
}

// Leaves of whom nobody knows, twice, of the wrong object: nothing comes of it.
func TestScheduleStrayLeaves(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 0, 10)
	b.s.leaves(c, hostNumber(0))
	b.part(bucket(c, 0), 0)
	b.listen(c, 2)
	o := b.join(bucket(c, 0), 0)
	b.part(bucket(c, 0), 1)
	b.part(bucket(c, 1), 0)
	if len(o.hosts) != 1 || len(b.s.objects) != 1 {
		t.Errorf("%d hosts, %d objects", len(o.hosts), len(b.s.objects))
	}
	if b.s.listens(b.now, c, hostNumber(1)) {
		t.Error("who is there already is new")
	}
	target := o.target
	b.join(bucket(c, 0), 0)
	if o.target != target {
		t.Error("a report that is repeated counts as another host")
	}
	b.s.leaves(c, hostNumber(0))
	b.s.leaves(c, hostNumber(0))
	if b.s.hosts(c) != 1 {
		t.Errorf("%d hosts, want 1", b.s.hosts(c))
	}
	b.s.leaves(c, hostNumber(1))
	if len(b.s.channels) != 0 {
		t.Error("the channel is known though nobody listens")
	}
}

// What listeners need beyond a full pass is learned, upwards and downwards.
func TestScheduleLearns(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 0, 400)
	b.listen(c, 1)
	send := func(i int, need float64) (sent float64) {
		k := bucket(c, i)
		b.join(k, 0)
		enough := int(testBlocks * testLongest * (1 + need))
		done := false
		b.each = func(u burst) {
			if u.object.key == k && u.object.sent >= enough && !done {
				done = true
				b.part(k, 0)
			}
		}
		b.run(5 * time.Second)
		if !done {
			t.Fatalf("object %d is not sent", i)
		}
		return float64(b.packets(k)) / (testBlocks * testLongest)
	}
	for i := range 40 {
		send(i, 0.25)
	}
	if got := b.s.loss.need; got < 0.2 || got > 0.35 {
		t.Errorf("after many that need 25 %% more: %.3f", got)
	}
	if !b.s.lossy() {
		t.Error("the link does not count as lossy")
	}
	if extra := b.s.loss.extra(100); extra < 15 || extra > 30 {
		t.Errorf("%d symbols more of 100", extra)
	}
	for i := range 100 {
		send(40+i, 0)
	}
	if got := b.s.loss.need; got > 0.02 {
		t.Errorf("after many that need nothing: %.3f", got)
	}
	if b.s.lossy() {
		t.Error("the link still counts as lossy")
	}
	if got := send(200, 0); got > 1.05 {
		t.Errorf("a full pass on a clean link is %.3f of one", got)
	}
}

func TestEstimate(t *testing.T) {
	e := estimate{}
	for range 1000 {
		e.learn(100, true) // nonsense
	}
	if e.need > 1 || e.extra(128) > 128 {
		t.Errorf("need %v, %d symbols more of 128: want the repair symbols there are at most", e.need, e.extra(128))
	}
	before := e.need
	if e.learn(0.5, true); e.need >= before {
		t.Error("needing less makes no difference")
	}
	for range 1000 {
		e.learn(0, false)
	}
	if e.need < 0 || e.need > 0.001 || e.extra(128) != 0 {
		t.Errorf("need %v", e.need)
	}
}

// chaos lets hosts come and go at random for a while.
func chaos(t *testing.T, seed uint64) *bench {
	r := rand.New(rand.NewPCG(seed, 9))
	b := newBench(t, []float64{0, 0.01, 0.2}[seed%3])
	chans := []*channel{testChannel(0, 2, 40), testChannel(1, 0, 3), testChannel(2, 1, 50)}
	key := func() objectKey {
		c := chans[r.IntN(len(chans))]
		return objectKey{c, 1 + uint32(r.IntN(c.space.Total()-1))}
	}
	for range 800 {
		switch h := r.IntN(12); r.IntN(10) {
		case 0:
			b.s.listens(b.now, chans[r.IntN(len(chans))], hostNumber(h))
		case 1:
			b.s.leaves(chans[r.IntN(len(chans))], hostNumber(h))
		case 2, 3, 4, 5:
			k := key()
			if o := b.s.join(b.now, k, hostNumber(h)); o != nil && r.IntN(10) > 0 {
				b.s.load(o, 1+r.IntN(6), 1+r.IntN(60))
			}
		case 6, 7:
			if live := b.s.live(); len(live) > 0 {
				b.s.part(b.now, live[r.IntN(len(live))].key, hostNumber(h))
			}
		case 8: // as if memory were short
			if live := b.s.live(); len(live) > 0 {
				if o := live[r.IntN(len(live))]; o.loaded {
					o.loaded = false
				} else {
					b.s.load(o, max(o.blocks, 1), max(o.longest, 1))
				}
			}
		default:
			b.run(time.Duration(r.ExpFloat64() * float64(20*time.Millisecond)))
		}
	}
	return b
}

// Whatever happens, all that is wanted is served in the end, and when everybody has
// gone, all is quiet.
func TestScheduleChaos(t *testing.T) {
	for seed := range uint64(5) {
		b := chaos(t, seed)
		pending := map[*object]int{}
		for _, o := range b.s.live() {
			if !o.loaded {
				b.s.load(o, max(o.blocks, 1), max(o.longest, 1))
			}
			if o.pending() {
				pending[o] = o.target
			}
		}
		all := 0
		for o := range pending {
			all += (o.target*o.blocks - o.sent) * 1500
		}
		b.run(time.Duration(4*float64(all)/testRate*float64(time.Second)) + 10*time.Second)
		for o, target := range pending {
			if o.rounds() < target {
				t.Errorf("seed %d: group %d has had %d of %d rounds", seed, o.key.ord, o.rounds(), target)
			}
		}
		l := &leaky{rate: testRate}
		for _, s := range b.sent {
			l.add(s.at, float64(1500*s.count))
		}
		if most := maxBurst*1500 + testRate*slack.Seconds() + 1; l.most > most {
			t.Errorf("seed %d: %.0f bytes more than the rate allows", seed, l.most)
		}
		for _, o := range b.s.live() {
			for h := range 12 {
				b.part(o.key, h)
			}
		}
		before := len(b.sent)
		b.run(time.Hour)
		if _, wait := b.s.next(b.now); len(b.sent) != before || wait >= 0 || len(b.s.objects) != 0 {
			t.Errorf("seed %d: nobody is there; %d bursts, wait %v, %d objects", seed, len(b.sent)-before, wait, len(b.s.objects))
		}
	}
}

// The same events lead to the same bursts, whatever the order of maps.
func TestScheduleDeterministic(t *testing.T) {
	for seed := range uint64(2) {
		first := chaos(t, seed)
		again := chaos(t, seed)
		same := func(a, b sent) bool {
			return a.at == b.at && a.first == b.first && a.count == b.count && a.key.ord == b.key.ord && a.key.ch.number == b.key.ch.number
		}
		if !slices.EqualFunc(first.sent, again.sent, same) {
			t.Fatalf("seed %d: another run sends something else", seed)
		}
	}
}

// live returns the objects that somebody listens to, in order.
func (s *schedule) live() []*object {
	var all []*object
	for _, o := range s.objects {
		if len(o.hosts) > 0 {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *object) int { return a.key.compare(b.key) })
	return all
}

// TestScheduleLoads has objects that are not loaded at the moment, and due again as soon
// as they have been sent, as those of many dead hosts: what is to be begun is loaded
// all the same.
func TestScheduleLoads(t *testing.T) {
	b, c := newBench(t, 0), testChannel(0, 1, 20)
	begun := map[objectKey]bool{}
	for i := range 10 {
		k := bucket(c, i)
		b.join(k, 1)
		begun[k] = true
	}
	b.run(5 * time.Second)
	for k := range begun {
		if o := b.s.objects[k]; b.s.rank(o) == forPass {
			t.Fatalf("object %d is not begun", k.ord)
		}
		b.s.part(b.now, k, hostNumber(1)) // somebody leaves, another one stays
		b.s.join(b.now, k, hostNumber(2))
		b.s.join(b.now, k, hostNumber(3))
		o := b.s.objects[k]
		o.fresh, o.extras, o.target, o.loaded, o.last = false, 1, o.rounds(), false, b.now.Add(-time.Hour)
	}
	fresh := objectKey{c, c.space.Ordinal(wire.IndexPiece, 0)}
	b.s.join(b.now, fresh, hostNumber(4))
	none := func(*object) bool { return false }
	for range 30 {
		o := b.s.upcoming(b.now, none)
		if o == nil {
			t.Fatal("nothing is needed")
		}
		if o.key == fresh {
			return
		}
		// It is loaded, sent, dropped, and due again at once.
		b.now = b.now.Add(50 * time.Millisecond)
		o.last = b.now.Add(-maxGrace)
	}
	t.Error("what is fresh is never loaded")
}
