package mcast

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

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
