package mcast

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testns"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store/storetest"
)

// soakVariable says how long TestSoak takes, instead of 20 s:
//
//	CASTOR_SOAK=10m go test ./mcast -run TestSoak -timeout 15m -v
const soakVariable = "CASTOR_SOAK"

// soak is a sender with receivers that come and go.
type soak struct {
	t       *testing.T
	bridge  *testns.Bridge
	hosts   []*testns.Host
	ifis    []*net.Interface // of hosts
	sender  *caster
	hostile *hostile
	indexes []*index.Index
	stores  []*storetest.Memory

	survived, killed, chunks atomic.Int64
}

// TestSoak has receivers come, be killed, lose packets and come back, for a while. All
// that are not killed must end right, and the sender must not grow.
func TestSoak(t *testing.T) {
	heavy(t)
	d := 20 * time.Second
	if v := os.Getenv(soakVariable); v != "" {
		var err error
		if d, err = time.ParseDuration(v); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
	}
	inNet(t, func(t *testing.T) {
		begin := time.Now()
		s := newSoak(t)
		vanished := s.vanish()
		var heaps []int64
		var routines []int
		round := min(d/5, 30*time.Second)
		for n := 0; time.Since(begin) < d || n < 3; n++ {
			s.round(n, round)
			if t.Failed() {
				return
			}
			// Who vanished without a word is believed to be there for a while.
			s.quiet(time.Now().Before(vanished))
			heaps, routines = append(heaps, heapInUse()), append(routines, runtime.NumGoroutine())
			t.Logf("round %d: %d receivers right, %d killed, %d chunks; heap %.1f MiB, %d goroutines, sender %+v", n, s.survived.Load(),
				s.killed.Load(), s.chunks.Load(), float64(heaps[n])/(1<<20), routines[n], s.sender.Status())
		}
		// The first round fills what is kept for reuse.
		last := len(heaps) - 1
		if grown := heaps[last] - heaps[0]; grown > 16<<20 {
			t.Errorf("the heap has grown from %d to %d bytes", heaps[0], heaps[last])
		}
		if grown := routines[last] - routines[0]; grown > 4 {
			t.Errorf("%d goroutines, in the beginning %d", routines[last], routines[0])
		}
		if s.survived.Load() < 10 || s.killed.Load() < 5 {
			t.Errorf("%d receivers right and %d killed: this says nothing", s.survived.Load(), s.killed.Load())
		}
	})
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, bridge: bridgeThatPrunes(t)}
	h := serverOn(s.bridge, "server")
	h.SplitSegments()
	var offers []Offer
	for i, size := range []int{12 << 20, 3 << 20} {
		x, m := noise(t, size, byte(30+i))
		s.indexes, s.stores = append(s.indexes, x), append(s.stores, m)
		offers = append(offers, Offer{x, m})
	}
	// Little memory, so that it is full from the first round on.
	s.sender = castOn(t, h, LinkOptions{}, SendOptions{Rate: 60 * mbit, Memory: 8 << 20}, offers...)
	for _, h := range hostsOn(s.bridge, "receiver", 4) {
		s.hosts, s.ifis = append(s.hosts, h), append(s.ifis, h.Interface())
	}
	s.hostile = newHostile(t, s.bridge.Host("hostile"))
	return s
}

// vanish has a host in the middle of receiving vanish from the link for good. It
// returns when nobody can believe any more that it is there.
func (s *soak) vanish() time.Time {
	h := s.bridge.Host("vanishing")
	k := takeOn(s.t, h, s.indexes[0], ReceiveOptions{})
	k.until(len(s.indexes[0].Entries) / 5)
	s.bridge.Exec("ip", "link", "set", h.Port, "down")
	k.fails(ErrSilent)
	st, _ := s.sender.link.MLD()
	return time.Now().Add(max(st.Lifetime, 260*time.Second) + 5*time.Second)
}

// round has receivers come and go for a while, each host with a loss of its own, and
// waits for those that are to end well.
func (s *soak) round(n int, d time.Duration) {
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for i, h := range s.hosts {
		r := rand.New(rand.NewPCG(uint64(n), uint64(i)))
		h.Loss([]float64{0, 0, 1, 5, 20}[r.IntN(5)])
		wg.Go(func() {
			// A host that leaves a group and joins it again within 10 ms tells nobody that
			// it has forgotten everything.
			for ; time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if err := s.visit(h, s.ifis[i], r); err != nil {
					s.t.Errorf("round %d, %s: %v", n, h.Port, err)
					return
				}
			}
		})
	}
	wg.Go(func() { s.meddle(uint64(n), end) })
	wg.Wait()
}

// visit is one receiver: it comes with a part of the chunks, and is killed or ends.
func (s *soak) visit(h *testns.Host, ifi *net.Interface, r *rand.Rand) error {
	which := r.IntN(len(s.indexes))
	x := s.indexes[which]
	k := &taker{x: x, store: &storetest.Memory{}}
	cached := []float64{0, 0, 0.5, 0.95}[r.IntN(4)]
	for _, e := range x.Entries {
		if r.Float64() < cached {
			c, err := s.stores[which].Get(context.Background(), e.ID)
			if err == nil {
				err = k.store.Put(context.Background(), c)
			}
			if err != nil {
				return err
			}
		}
	}
	var err error
	if k.tap, err = openTap(h, ifi); err != nil {
		return err
	}
	defer k.tap.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	after := time.Duration(r.IntN(1500)) * time.Millisecond
	dies := r.IntN(5) < 2
	switch {
	case dies && r.IntN(2) == 0:
		defer time.AfterFunc(after, cancel).Stop()
	case dies:
		defer time.AfterFunc(after, func() { k.tap.Close() }).Stop()
	}
	err = errors.Join(k.receive(ctx), k.result.Err)
	s.chunks.Add(int64(k.result.Chunks))
	switch {
	case err == nil:
		s.survived.Add(1)
		return checkChunks(x, k.store, false)
	case dies && (errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed)):
		s.killed.Add(1)
		return checkChunks(x, k.store, true)
	}
	return fmt.Errorf("%d %% of index %d cached, dies %v: %d chunks: %w", int(100*cached), which, dies, k.result.Chunks, err)
}

// meddle has hosts that are none join groups and leave them again.
func (s *soak) meddle(seed uint64, end time.Time) {
	e := s.hostile
	r := rand.New(rand.NewPCG(seed, 99))
	for ; time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		which := r.IntN(len(s.indexes))
		ch := s.sender.offered()[which]
		group := ch.wire.Group(wire.SiteScope, false, uint32(r.IntN(ch.space.Total())))
		from := e.somebody(16)
		e.report(from, mld.Record{Type: mld.ToExclude, Group: group})
		time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
		e.report(from, mld.Record{Type: mld.ToInclude, Group: group})
	}
}

// quiet waits until nobody listens to the sender, except somebody who has vanished.
func (s *soak) quiet(vanished bool) {
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st := s.sender.Status()
		if st.Listeners == 0 && st.Objects == 0 || vanished && st.Listeners <= 1 {
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("there are still listeners: %+v", st)
			return
		}
	}
}
