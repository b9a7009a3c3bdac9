package mcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// These tests are about a network on which anybody may send anything, and anything may
// get lost, twice or late: what a receiver keeps is right all the same.

const (
	hostileSize = 4 << 20
	hostileRate = 20e6 / 8 // so that it takes about two seconds
)

// raid is a distribution that somebody disturbs.
type raid struct {
	run
	t       *testing.T
	m       *storetest.Memory
	channel *channel // as the sender has it
	ctx     context.Context
	cancel  context.CancelFunc
	serving context.CancelFunc // ends the sender
	link    *memSender         // the sender's
	key     *wire.Key
}

// newRaid starts a sender.
func newRaid(t *testing.T, x *index.Index, m *storetest.Memory, key *wire.Key) *raid {
	d := &raid{run: run{net: newMemNet(), x: x, rate: hostileRate}, t: t, m: m, key: key}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	t.Cleanup(d.cancel)
	d.restart()
	return d
}

// restart starts another sender of the same.
func (d *raid) restart() {
	var ctx context.Context
	ctx, d.serving = context.WithCancel(d.ctx)
	s := d.serve(ctx, d.m, SendOptions{Key: d.key})
	d.net.mu.Lock()
	d.link = d.net.senders[len(d.net.senders)-1]
	d.net.mu.Unlock()
	d.channel = s.offered()[0]
}

func (d *raid) group(ord uint32) netip.Addr {
	return d.channel.wire.Group(wire.SiteScope, false, ord)
}

// every calls f at once and then every interval until the test ends.
func (d *raid) every(interval time.Duration, f func(i int)) {
	go func() {
		for i := 0; d.ctx.Err() == nil; i++ {
			f(i)
			select {
			case <-time.After(interval):
			case <-d.ctx.Done():
			}
		}
	}()
}

// joined returns the groups that r has joined, as ordinals, without the control group.
func (d *raid) joined(r *memReceiver) (ords []uint32) {
	d.net.mu.Lock()
	defer d.net.mu.Unlock()
	for g := range r.joined {
		if ord, ok := d.channel.wire.Ordinal(g); ok && ord != 0 {
			ords = append(ords, ord)
		}
	}
	slices.Sort(ords)
	return ords
}

// announce returns an announcement as the sender could make it, with the session salt.
func (d *raid) announce(salt byte) wire.Announce {
	return wire.Announce{Salt: wire.Salt{salt, 1}, Root: d.channel.root, Space: d.channel.space, Symbol: d.channel.symbol, Rate: 1e9}
}

// forge makes a packet of an announcement, of which seq only matters.
func (d *raid) forge(n wire.Announce, seq uint32) []byte {
	p, err := wire.AppendAnnounce(nil, wire.Header{Seq: seq}, n, nil)
	if err != nil {
		panic(err)
	}
	return p
}

// check checks that all has come, and is right.
func (d *raid) check(got *storetest.Memory, r Result, err error) {
	d.t.Helper()
	if err != nil || r.Err != nil {
		d.t.Errorf("received %d chunks of %d: %v, %v", r.Chunks, d.channel.space.Chunks, r.Err, err)
	}
	if got.Len() != d.channel.space.Chunks {
		d.t.Errorf("%d chunks, want %d", got.Len(), d.channel.space.Chunks)
	}
	d.right(got)
}

// right checks that what has come is right.
func (d *raid) right(got *storetest.Memory) {
	d.t.Helper()
	err := got.List(context.Background(), func(i store.Info) error {
		c, err := got.Get(context.Background(), i.ID)
		if err == nil {
			_, err = c.Open(d.x.Digest(), d.x.Params.Max)
		}
		return err
	})
	if err != nil {
		d.t.Errorf("what came is not right: %v", err)
	}
}

// receiveAll receives everything with a deadline.
func (d *raid) receiveAll(l ReceiverLink, o *ReceiveOptions) (*storetest.Memory, Result, error) {
	ctx, cancel := context.WithTimeout(d.ctx, 10*time.Minute)
	defer cancel()
	got := &storetest.Memory{}
	if o == nil {
		o = &ReceiveOptions{}
	}
	o.Key = d.key
	r, err := receive(ctx, l, d.x, got, o)
	return got, r, err
}

// liar sends the objects of the groups that a receiver has joined, wrong, from an
// address of its own.
type liar struct {
	*raid
	link   *memSender
	victim *memReceiver
	salt   wire.Salt
	seq    uint32
	groups map[uint32]uint16
	object func(ord uint32) []byte
	made   map[uint32][]byte // what object has returned
}

func (d *raid) liar(victim *memReceiver, salt byte, object func(ord uint32) []byte) *liar {
	return &liar{d, d.net.sender(), victim, wire.Salt{salt, 1}, 0, map[uint32]uint16{}, object, map[uint32][]byte{}}
}

// tell sends an announcement, and symbols of every group that is joined.
func (l *liar) tell(symbols int) {
	l.seq++
	n := l.announce(l.salt[0])
	l.link.Send(l.group(0), l.forge(n, l.seq), 1500)
	for _, ord := range l.joined(l.victim) {
		b, ok := l.made[ord]
		if !ok {
			b = l.object(ord)
			l.made[ord] = b
		}
		if b == nil {
			continue
		}
		layout := fec.NewLayout(int64(len(b)), n.Symbol)
		padded := append(slices.Clip(b), make([]byte, layout.Padded()-int64(len(b)))...)
		for range min(symbols, layout.Symbols) {
			at := int(l.groups[ord]) % layout.Symbols
			block := 0
			for block+1 < layout.Blocks && at >= layout.First(block+1) {
				block++
			}
			l.seq++
			h := wire.Header{Session: l.salt.Session(), Seq: l.seq, GroupSeq: l.groups[ord], Ordinal: ord, Length: uint32(layout.Size), Block: uint16(block), ESI: uint8(at - layout.First(block))}
			l.groups[ord]++
			l.link.Send(l.group(ord), wire.AppendData(nil, h, padded[at*n.Symbol:][:n.Symbol], nil), 1500)
		}
	}
}

// wrong returns the objects of the channel with some chunks changed.
func (d *raid) wrong(ord uint32) []byte {
	b, err := d.channel.object(context.Background(), ord, d.m, 0)
	if err != nil {
		panic(err)
	}
	b[len(b)/2] ^= 1
	b[len(b)-1] ^= 1
	return b
}

// bulk is wrong for chunks, and nothing for the index.
func (d *raid) bulk(ord uint32) []byte {
	if d.channel.isIndex(ord) {
		return nil
	}
	return d.wrong(ord)
}

// lateGiveUp is for attacks on which the index is waited for from somebody who announces
// and sends none, until that counts as stalled.
const lateGiveUp = 20 * time.Second

// TestForged has others send what is made up, during all of a session or only after the
// index has come.
func TestForged(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, tt := range []struct {
		name   string
		most   time.Duration
		attack func(d *raid, r *memReceiver)
	}{
		{"nothing", 4 * time.Second, func(*raid, *memReceiver) {}},
		{"random packets", 4 * time.Second, func(d *raid, r *memReceiver) {
			a, rnd := d.net.sender(), rand.NewChaCha8([32]byte{1})
			d.every(2*time.Millisecond, func(i int) {
				for _, ord := range append(d.joined(r), 0) {
					b := make([]byte, i%1500+1)
					rnd.Read(b)
					if i%3 > 0 {
						b[0] = wire.Version<<4 | byte(i%5)
					}
					a.Send(d.group(ord), b, 1500)
				}
			})
		}},
		{"absurd announcements", 4 * time.Second, func(d *raid, r *memReceiver) {
			a := d.net.sender()
			d.every(5*time.Millisecond, func(i int) {
				n := d.announce(byte(i))
				switch i % 8 {
				case 0:
					n.Space = wire.Space{IndexBytes: math.MaxInt64, Chunks: math.MaxInt32, Level: 255}
				case 1:
					n.Space.Level = wire.MaxLevel + 1
				case 2:
					n.Space.IndexBytes = -1
				case 3:
					n.Symbol = 0
				case 4:
					n.Root = chunker.ID{9}
				case 5:
					n.Root, n.Space = chunker.ID{}, wire.Space{}
				case 6:
					n.Space.Chunks, n.Space.Level = 1<<30, 0
				case 7:
					n.Space.IndexBytes = 1<<36 + 1
				}
				a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
			})
		}},
		{"data from nobody", 4 * time.Second, func(d *raid, r *memReceiver) {
			l := d.liar(r, 7, d.wrong)
			d.every(5*time.Millisecond, func(int) {
				for _, ord := range d.joined(r) {
					h := wire.Header{Session: l.salt.Session(), Ordinal: ord, Length: 1 << 20}
					l.link.Send(d.group(ord), wire.AppendData(nil, h, make([]byte, d.channel.symbol), nil), 1500)
				}
			})
		}},
		{"announcements of another cursor", lateGiveUp, func(d *raid, r *memReceiver) {
			a := d.net.sender()
			d.every(5*time.Millisecond, func(i int) {
				n := d.announce(1)
				n.Cursor, n.Lap, n.Listeners, n.Rate = rand.Uint32(), rand.Uint32(), math.MaxUint32, math.MaxUint64
				a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
			})
		}},
		{"many sessions", lateGiveUp, func(d *raid, r *memReceiver) {
			a := d.net.sender()
			d.every(30*time.Millisecond, func(i int) {
				a.Send(d.group(0), d.forge(d.announce(byte(i)), uint32(i)), 1500)
			})
		}},
		{"another space, after the index", 4 * time.Second, func(d *raid, r *memReceiver) {
			a := d.net.sender()
			time.AfterFunc(700*time.Millisecond, func() {
				d.every(5*time.Millisecond, func(i int) {
					n := d.announce(1)
					n.Space = wire.Space{IndexBytes: 1 << 36, Chunks: 1<<30 - 1, Level: 20}
					a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
				})
			})
		}},
		{"another space", lateGiveUp, func(d *raid, r *memReceiver) {
			a := d.net.sender()
			d.every(5*time.Millisecond, func(i int) {
				n := d.announce(1)
				n.Space = wire.Space{IndexBytes: 1 << 36, Chunks: 1<<30 - 1, Level: 20}
				a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
			})
		}},
		{"bye in the sender's name", 4 * time.Second, func(d *raid, r *memReceiver) {
			d.every(5*time.Millisecond, func(i int) {
				d.link.Send(d.group(0), wire.AppendBye(nil, wire.Header{Seq: uint32(i)}, wire.Salt{1}, nil), 1500)
			})
		}},
		{"wrong chunks, fast", lateGiveUp, func(d *raid, r *memReceiver) {
			l := d.liar(r, 1, d.bulk)
			d.every(40*time.Millisecond, func(int) { l.tell(200) })
		}},
		{"wrong chunks, slow", lateGiveUp, func(d *raid, r *memReceiver) {
			l := d.liar(r, 1, d.bulk)
			d.every(10*time.Millisecond, func(int) { l.tell(2) })
		}},
		{"garbage", lateGiveUp, func(d *raid, r *memReceiver) {
			l := d.liar(r, 1, func(ord uint32) []byte {
				if d.channel.isIndex(ord) {
					return nil
				}
				return bytes.Repeat([]byte{0xff}, 100000)
			})
			d.every(10*time.Millisecond, func(int) { l.tell(100) })
		}},
		{"wrong index", lateGiveUp, func(d *raid, r *memReceiver) {
			l := d.liar(r, 1, d.wrong)
			d.every(40*time.Millisecond, func(int) { l.tell(200) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newRaid(t, x, m, nil)
				r := d.net.receiver(0)
				tt.attack(d, r)
				begin := time.Now()
				got, result, err := d.receiveAll(r, nil)
				took := time.Since(begin)
				d.check(got, result, err)
				if took > tt.most {
					t.Errorf("took %v, want %v at most", took, tt.most)
				}
				d.cancel()
			})
		})
	}
}

// Who sends only what is wrong is not believed for ever.
func TestOnlyLies(t *testing.T) {
	x, m := noise(t, hostileSize/2, 2)
	synctest.Test(t, func(t *testing.T) {
		d := newRaid(t, x, m, nil)
		r := d.net.receiver(0)
		s, err := Dial(d.ctx, []ReceiverLink{r}, x.Root(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		d.link.cut = true // the sender says no more
		l := d.liar(r, 1, d.wrong)
		d.every(50*time.Millisecond, func(int) { l.tell(150) })
		begin, got := time.Now(), &storetest.Memory{}
		result, err := s.Receive(d.ctx, x, func(chunker.ID) bool { return true }, got)
		took := time.Since(begin)
		if err != nil || result.Err == nil || !errors.Is(result.Err, ErrStalled) && !errors.Is(result.Err, ErrSilent) || took > 20*time.Second {
			t.Errorf("after %v: %+v, %v", took, result, err)
		}
		d.right(got)
		d.cancel()
	})
}

func TestWrongKey(t *testing.T) {
	x, m := noise(t, 100000, 2)
	mine, other := &wire.Key{1}, &wire.Key{2}
	for name, keys := range map[string][2]*wire.Key{"other": {mine, other}, "sender has none": {nil, mine}, "receiver has none": {mine, nil}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newRaid(t, x, m, keys[0])
				d.key = keys[1]
				begin := time.Now()
				_, _, err := d.receiveAll(d.net.receiver(0), nil)
				if took := time.Since(begin); !errors.Is(err, ErrNoSender) || took < firstWait || took > firstWait+time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				// Even on the group of the sender its announcements mean nothing.
				s := &Session{root: x.Root(), o: ReceiveOptions{Key: keys[1]}, senders: map[senderKey]*sender{}, control: d.group(0)}
				p, err := wire.AppendAnnounce(nil, wire.Header{}, d.announce(1), keys[0])
				if err != nil {
					t.Fatal(err)
				}
				s.packet(time.Now(), Packet{Data: p, Group: s.control})
				if len(s.senders) != 0 {
					t.Error("an announcement with another key is believed")
				}
				d.cancel()
			})
		})
	}
}

// With a key, what was recorded may be sent again by anybody: it is right or refused.
func TestReplay(t *testing.T) {
	x, m := noise(t, 1<<20, 2)
	synctest.Test(t, func(t *testing.T) {
		d := newRaid(t, x, m, &wire.Key{5})
		var mu sync.Mutex
		var tape []Packet // guarded by mu
		got, result, err := d.receiveAll(&tapped{memReceiver: d.net.receiver(0), each: func(p Packet) []Packet {
			mu.Lock()
			defer mu.Unlock()
			tape = append(tape, p)
			return []Packet{p}
		}}, nil)
		d.check(got, result, err)
		d.serving()
		time.Sleep(5 * time.Second)
		a := d.net.sender()
		replay := func(interval time.Duration) {
			d.every(interval, func(i int) { a.Send(tape[i%len(tape)].Group, tape[i%len(tape)].Data, 1500) })
		}
		// There is only the replay: what comes of it is right.
		replay(time.Millisecond)
		got, _, _ = d.receiveAll(d.net.receiver(0), nil)
		d.right(got)
		// And with a sender everything comes.
		d.restart()
		got, result, err = d.receiveAll(d.net.receiver(0), nil)
		d.check(got, result, err)
		d.cancel()
	})
}

// tapped is a receiver whose packets go through each, and whose joins are recorded.
type tapped struct {
	*memReceiver
	each  func(Packet) []Packet
	more  []Packet
	joins []netip.Addr
}

func (r *tapped) Join(g, source netip.Addr) error {
	r.joins = append(r.joins, g)
	return r.memReceiver.Join(g, source)
}

func (r *tapped) Read(p []Packet) (int, error) {
	if len(r.more) == 0 {
		n, err := r.memReceiver.Read(p[:min(len(p), 16)])
		if err != nil {
			return n, err
		}
		for _, q := range p[:n] {
			if r.each == nil {
				r.more = append(r.more, q)
			} else {
				r.more = append(r.more, r.each(q)...)
			}
		}
	}
	n := copy(p, r.more)
	r.more = r.more[n:]
	return n, nil
}

// Packets that come twice, late, or in another order do no harm.
func TestDisorder(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, keyed := range []bool{false, true} {
		t.Run(fmt.Sprintf("keyed %v", keyed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var key *wire.Key
				if keyed {
					key = &wire.Key{1}
				}
				d := newRaid(t, x, m, key)
				r := rand.New(rand.NewPCG(1, 2))
				var held []Packet
				l := &tapped{memReceiver: d.net.receiver(0), each: func(p Packet) (out []Packet) {
					for range []int{1, 1, 1, 2, 3}[r.IntN(5)] {
						q := p
						q.Data = bytes.Clone(p.Data)
						if r.IntN(3) == 0 {
							held = append(held, q)
						} else {
							out = append(out, q)
						}
					}
					for len(held) > 0 && (len(held) > 200 || r.IntN(3) == 0) {
						i := r.IntN(len(held))
						out = append(out, held[i])
						held[i] = held[len(held)-1]
						held = held[:len(held)-1]
					}
					return out
				}}
				begin := time.Now()
				got, result, err := d.receiveAll(l, nil)
				d.check(got, result, err)
				if took := time.Since(begin); took > 8*time.Second {
					t.Errorf("took %v", took)
				}
				d.cancel()
			})
		})
	}
}

// A sender that dies leaves what it has brought. Another one brings the rest.
func TestSenderDies(t *testing.T) {
	x, m := noise(t, 2*hostileSize, 2)
	for _, tt := range []struct {
		name string
		die  func(d *raid)
		most time.Duration
	}{
		{"at once", func(d *raid) { d.net.mu.Lock(); d.link.cut = true; d.net.mu.Unlock() }, silentAfter + time.Second},
		{"with a bye", func(d *raid) { d.serving() }, byeAfter + time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newRaid(t, x, m, nil)
				var died time.Time
				time.AfterFunc(2700*time.Millisecond, func() { died = time.Now(); tt.die(d) })
				r := d.net.receiver(0)
				got, result, err := d.receiveAll(r, nil)
				took := time.Since(died)
				if err != nil || !errors.Is(result.Err, ErrSilent) || result.Chunks == 0 || result.Chunks != got.Len() || result.Chunks >= d.channel.space.Chunks {
					t.Errorf("%+v, %v, %d chunks", result, err, got.Len())
				}
				if took > tt.most {
					t.Errorf("noticed after %v, want %v at most", took, tt.most)
				}
				d.right(got)
				if n := r.groups(); n != 0 {
					t.Errorf("%d groups are still joined", n)
				}
				// The rest.
				before := got.Len()
				d.restart()
				rest, err := receive(d.ctx, r, x, got, nil)
				if rest.Chunks != d.channel.space.Chunks-before {
					t.Errorf("%d chunks in the first session, %d in the second", before, rest.Chunks)
				}
				d.check(got, rest, err)
				d.cancel()
			})
		})
	}
}

// A session goes on with a sender that is started anew, or another one.
func TestSenderRestarts(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, pause := range []time.Duration{0, 500 * time.Millisecond, 2500 * time.Millisecond} {
		for _, dies := range []bool{false, true} {
			if !dies && pause > byeAfter/2 {
				continue // who hears a bye does not wait for that long
			}
			t.Run(fmt.Sprintf("dies %v, %v", dies, pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newRaid(t, x, m, &wire.Key{1})
					time.AfterFunc(1200*time.Millisecond, func() {
						if dies {
							d.net.mu.Lock()
							d.link.cut = true
							d.net.mu.Unlock()
						}
						d.serving()
						time.Sleep(pause)
						d.restart()
					})
					begin := time.Now()
					got, result, err := d.receiveAll(d.net.receiver(0), nil)
					d.check(got, result, err)
					if took := time.Since(begin); took > pause+8*time.Second {
						t.Errorf("took %v", took)
					}
					d.cancel()
				})
			})
		}
	}
}

// Who comes late shares with who is there.
func TestLateJoin(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, late := range []time.Duration{300 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newRaid(t, x, m, nil)
				var wg sync.WaitGroup
				for i := range 3 {
					r := d.net.receiver(0)
					wg.Go(func() {
						time.Sleep(time.Duration(i) * late)
						got, result, err := d.receiveAll(r, nil)
						d.check(got, result, err)
					})
				}
				wg.Wait()
				d.net.mu.Lock()
				defer d.net.mu.Unlock()
				if n := float64(d.net.bytes) / hostileSize; n > 3.1 {
					t.Errorf("%.2f× the content for three receivers", n)
				}
				d.cancel()
			})
		})
	}
}

// A sender that sees no listeners sends everything always, and receivers get it.
func TestAlways(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, percent := range []int{0, 90} {
		t.Run(fmt.Sprintf("has %d %%", percent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &raid{run: run{net: newMemNet(), x: x, rate: hostileRate}, t: t, m: m}
				d.ctx, d.cancel = context.WithCancel(context.Background())
				s := d.serve(d.ctx, m, SendOptions{Always: true})
				d.net.mu.Lock()
				d.net.senders[0].deaf = true
				d.net.mu.Unlock()
				d.channel = s.offered()[0]
				time.Sleep(700 * time.Millisecond) // it goes on anyway
				got := &storetest.Memory{}
				for i := range d.channel.space.Chunks {
					if i%10 < percent/10 {
						c, err := m.Get(d.ctx, d.channel.id(i))
						if err == nil {
							err = got.Put(d.ctx, c)
						}
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				begin := time.Now()
				result, err := receive(d.ctx, d.net.receiver(0.02), x, got, nil)
				d.check(got, result, err)
				if took := time.Since(begin); took > 12*time.Second {
					t.Errorf("took %v", took)
				}
				d.net.mu.Lock()
				if rate := float64(d.net.bytes) / time.Since(begin.Add(-700*time.Millisecond)).Seconds(); rate > 1.05*hostileRate {
					t.Errorf("%.0f bytes a second, want %.0f", rate, float64(hostileRate))
				}
				d.net.mu.Unlock()
				d.cancel()
			})
		})
	}
}

// A receiver joins the groups of what it lacks, and no other one.
func TestJoinsMissing(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, percent := range []int{0, 50, 99, 100} {
		t.Run(fmt.Sprintf("has %d %%", percent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newRaid(t, x, m, nil)
				r := rand.New(rand.NewPCG(uint64(percent), 1))
				got := &storetest.Memory{}
				lacking := r.IntN(d.channel.space.Chunks)
				for i := range d.channel.space.Chunks {
					if percent == 99 && i != lacking || percent != 99 && r.IntN(100) < percent {
						c, err := m.Get(d.ctx, d.channel.id(i))
						if err == nil {
							err = got.Put(d.ctx, c)
						}
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				lacks := newNeed(d.channel.content, func(id chunker.ID) bool { has, _ := got.Has(d.ctx, id); return !has })
				want := map[netip.Addr]bool{}
				for _, ord := range lacks.groups() {
					want[d.group(ord)] = true
				}
				for i := range d.channel.space.IndexPieces() {
					want[d.group(d.channel.space.Ordinal(wire.IndexPiece, i))] = true
				}
				missing := d.channel.space.Chunks - got.Len()
				want[d.group(0)] = true
				l := &tapped{memReceiver: d.net.receiver(0)}
				result, err := receive(d.ctx, l, x, got, nil)
				if result.Chunks != missing {
					t.Errorf("%d chunks came, want %d", result.Chunks, missing)
				}
				d.check(got, result, err)
				joined := map[netip.Addr]bool{}
				for _, g := range l.joins {
					joined[g] = true
					if !want[g] {
						ord, _ := d.channel.wire.Ordinal(g)
						t.Errorf("group %d is joined, of which nothing is missing", ord)
					}
				}
				if len(joined) != len(want) {
					t.Errorf("%d groups are joined, want %d", len(joined), len(want))
				}
				if n := l.groups(); n != 0 {
					t.Errorf("%d groups are still joined", n)
				}
				d.cancel()
			})
		})
	}
}

// Whatever lengths others make up, no more memory is taken than may be.
func TestMemoryBound(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	synctest.Test(t, func(t *testing.T) {
		d := newRaid(t, x, m, nil)
		r := d.net.receiver(0)
		const memory = 3 << 20
		var s *Session
		most := int64(0)
		s, err := Dial(d.ctx, []ReceiverLink{r}, x.Root(), &ReceiveOptions{Memory: memory, Status: func(Progress) { most = max(most, s.memory) }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		need := newNeed(d.channel.content, func(chunker.ID) bool { return true })
		a := d.net.sender()
		d.every(40*time.Millisecond, func(i int) {
			for n := range byte(6) {
				a.Send(d.group(0), d.forge(d.announce(n), uint32(i)), 1500)
				for _, ord := range d.joined(r) {
					for _, length := range []uint32{math.MaxUint32, 1 << 31, uint32(need.limit(ord)) + 1, uint32(need.limit(ord)), 1, 0} {
						salt := wire.Salt{n, 1}
						h := wire.Header{Session: salt.Session(), Ordinal: ord, Length: length, Block: uint16(i), ESI: uint8(i)}
						a.Send(d.group(ord), wire.AppendData(nil, h, make([]byte, d.channel.symbol), nil), 1500)
					}
				}
			}
		})
		ctx, cancel := context.WithTimeout(d.ctx, 3*time.Minute)
		defer cancel()
		got := &storetest.Memory{}
		result, err := s.Receive(ctx, x, func(chunker.ID) bool { return true }, got)
		if err != nil {
			t.Errorf("no end: %+v, %v", result, err)
		}
		d.right(got)
		if most > memory || most == 0 {
			t.Errorf("%d bytes of objects, want %d at most", most, memory)
		}
		if s.memory != 0 {
			t.Errorf("%d bytes are still counted", s.memory)
		}
		d.cancel()
	})
}

// An object larger than the memory for all of them is not begun because somebody
// announces large buckets.
func TestHugeObject(t *testing.T) {
	x := indexOf()
	for i := range 100000 {
		x.Entries = append(x.Entries, index.Entry{End: int64(i+1) * 200000, ID: chunker.ID{byte(i), byte(i >> 8), byte(i >> 16)}})
	}
	c, err := newContent(x, wire.MaxLevel)
	if err != nil {
		t.Fatal(err)
	}
	need := newNeed(c, func(chunker.ID) bool { return true })
	s := &Session{o: ReceiveOptions{Memory: 1 << 20}, max: need.limit}
	ord := c.space.Ordinal(wire.Bucket, 0)
	n := &sender{Announce: wire.Announce{Space: c.space, Symbol: 1408}}
	if p := s.newPartial(&group{ord: ord}, n, wire.Header{Ordinal: ord, Length: math.MaxUint32}); p != nil {
		t.Errorf("memory for %d bytes", len(p.data))
	}
}

// capture is a link that keeps what is sent.
type capture struct{ packets [][]byte }

func (c *capture) Name() string   { return "capture" }
func (c *capture) MTU() int       { return 1500 }
func (c *capture) SetActive(bool) {}
func (c *capture) Listen(ctx context.Context, _ func(netip.Addr) bool, _ func(mld.Event)) error {
	<-ctx.Done()
	return nil
}

func (c *capture) Send(_ netip.Addr, b []byte, size int) error {
	for len(b) > 0 {
		n := min(size, len(b))
		c.packets = append(c.packets, bytes.Clone(b[:n]))
		b = b[n:]
	}
	return nil
}

// Before a sequence number, and so a nonce, would come twice, a new session begins.
func TestSequenceWraps(t *testing.T) {
	x, m := noise(t, 300000, 2)
	key := &wire.Key{1}
	c := &capture{}
	s := NewSender([]SenderLink{c}, &SendOptions{Key: key})
	if err := s.SetOffers([]Offer{{x, m}}); err != nil {
		t.Fatal(err)
	}
	l, ch := s.links[0], s.offered()[0]
	k := objectKey{ch, ch.space.Ordinal(wire.Bucket, 0)}
	p, err := ch.payload(t.Context(), k.ord)
	if err != nil {
		t.Fatal(err)
	}
	l.loader.payloads[k] = p
	o := &object{key: k, blocks: p.layout.Blocks, longest: p.layout.Longest()}
	l.newSalt()
	first := l.salt
	l.seq = math.MaxUint32 - 100
	for i := range 20 {
		l.transmit(burst{o, i * maxBurst, maxBurst})
	}
	for range 10 { // without data, too
		l.seq = max(l.seq, math.MaxUint32-5)
		for range 10 {
			l.announceNow(ch)
		}
	}
	type number struct {
		wire.Session
		seq uint32
	}
	seen := map[number]bool{}
	salts := map[wire.Session]wire.Salt{first.Session(): first}
	data := 0
	for i, p := range c.packets {
		h, _, err := wire.ParseHeader(p)
		if err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
		if n := (number{h.Session, h.Seq}); seen[n] {
			t.Errorf("packet %d: number %x of session %x comes twice", i, h.Seq, h.Session)
		} else {
			seen[n] = true
		}
		if h.Type == wire.AnnounceType {
			n, err := wire.OpenAnnounce(h, p, key)
			if err != nil {
				t.Fatalf("packet %d: %v", i, err)
			}
			salts[h.Session] = n.Salt
			continue
		}
		data++
		salt, ok := salts[h.Session]
		if _, err := wire.OpenData(h, p, key.AEAD(salt)); err != nil || !ok {
			t.Errorf("packet %d: announced: %v, %v", i, ok, err)
		}
	}
	if data != 20*maxBurst || len(salts) < 2 {
		t.Errorf("%d packets of data in %d sessions", data, len(salts))
	}
}

// counted is a store that counts what is got from it.
type counted struct {
	store.Getter
	gets atomic.Int64
	most int64
	end  func()
}

func (c *counted) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if c.gets.Add(1) == c.most {
		c.end()
	}
	return c.Getter.Get(ctx, id)
}

// Hosts that have joined more than fits into memory and then died cost little.
func TestDeadListeners(t *testing.T) {
	x, m := noise(t, 4<<20, 2)
	synctest.Test(t, func(t *testing.T) {
		d := &raid{run: run{net: newMemNet(), x: x, rate: 100e6 / 8}, t: t, m: m}
		d.ctx, d.cancel = context.WithCancel(context.Background())
		chunks := int64(len(x.Entries))
		src := &counted{Getter: m, most: 400 * chunks, end: d.cancel}
		s := d.serve(d.ctx, src, SendOptions{Memory: 2 << 20})
		d.channel = s.offered()[0]
		dead := d.net.receiver(0)
		for ord := range uint32(1 + d.channel.space.IndexPieces() + d.channel.space.Buckets()) {
			dead.Join(d.group(ord), netip.Addr{})
		}
		time.Sleep(2 * time.Minute)
		if n := src.gets.Load(); n > 100*chunks {
			t.Errorf("%d chunks were loaded of %d in two minutes", n, chunks)
		}
		d.net.mu.Lock()
		defer d.net.mu.Unlock()
		if n := float64(d.net.bytes) / (4 << 20); n > 10 || n < 1 {
			t.Errorf("%.1f× the content was sent to nobody", n)
		}
		d.cancel()
	})
}
