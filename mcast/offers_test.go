package mcast

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// TestOfferAgain offers the same root with another store, as a file does that has moved:
// its chunks come from there then.
func TestOfferAgain(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, sameIndex := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := &raid{run: run{net: newMemNet(), x: x, rate: 100e6 / 8}, t: t, m: m}
			ctx := t.Context()
			s := d.serve(ctx, &storetest.Memory{}, SendOptions{})
			d.channel, d.ctx = s.offered()[0], ctx
			y := x
			if !sameIndex {
				y, _ = noise(t, hostileSize, 2)
			}
			if err := s.SetOffers([]Offer{{y, m}}); err != nil {
				t.Fatal(err)
			}
			if now := s.offered(); len(now) != 1 || now[0] != d.channel {
				t.Error("it does not go on undisturbed")
			}
			got, result, err := d.receiveAll(d.net.receiver(0), nil)
			d.check(got, result, err)
			time.Sleep(time.Second)
		})
	}
}

// TestLackedForAWhile has chunks come into the store after they were announced absent, as
// when a disk was away: who comes then gets them.
func TestLackedForAWhile(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	synctest.Test(t, func(t *testing.T) {
		d := &raid{run: run{net: newMemNet(), x: x, rate: 100e6 / 8}, t: t, m: m}
		src := &storetest.Memory{}
		s := d.serve(t.Context(), src, SendOptions{})
		d.channel, d.ctx = s.offered()[0], t.Context()
		if _, r, err := d.receiveAll(d.net.receiver(0), nil); err != nil || r.Err == nil || r.Chunks > 0 {
			t.Errorf("from a store without chunks: %+v, %v", r, err)
		}
		if err := m.List(t.Context(), func(i store.Info) error {
			c, err := m.Get(t.Context(), i.ID)
			return errors.Join(err, src.Put(t.Context(), c))
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lingering)
		got, result, err := d.receiveAll(d.net.receiver(0), nil)
		d.check(got, result, err)
	})
}

// TestJoinFlood forges joins of control groups all the time: what is sent stays below the
// rate, and who is served goes on being served.
func TestJoinFlood(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	offers := []Offer{{x, m}}
	for i := range 300 {
		offers = append(offers, Offer{indexOf([]byte(fmt.Sprint(i))), m})
	}
	synctest.Test(t, func(t *testing.T) {
		d := &raid{run: run{net: newMemNet(), x: x, rate: 8e6 / 8}, t: t, m: m}
		d.ctx, d.cancel = context.WithCancel(t.Context())
		defer d.cancel()
		s := d.serve(d.ctx, m, SendOptions{})
		if err := s.SetOffers(offers); err != nil {
			t.Fatal(err)
		}
		d.channel = s.offered()[0]
		var groups []netip.Addr
		for _, ch := range s.offered() {
			groups = append(groups, ch.wire.Group(wire.SiteScope, false, 0))
		}
		l := d.net.senders[0]
		d.every(10*time.Millisecond, func(i int) {
			for _, g := range groups {
				l.events <- mld.Event{Group: g, Host: hostNumber(1e6 + i), Joined: true}
			}
		})
		time.Sleep(time.Second)
		begin, before := time.Now(), d.net.sentBytes()
		got, result, err := d.receiveAll(d.net.receiver(0), nil)
		d.check(got, result, err)
		took := time.Since(begin)
		if rate := float64(d.net.sentBytes()-before) / took.Seconds(); rate > 1.05*d.rate {
			t.Errorf("%.0f bytes a second, want at most %.0f", rate, d.rate)
		}
		if took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
