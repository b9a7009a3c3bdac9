package mcast

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// TestOverlap offers two channels that share source-specific groups: each is received.
func TestOverlap(t *testing.T) {
	byGroup := map[netip.Addr]Offer{}
	m := &storetest.Memory{}
	var pair []Offer
	for i := 0; len(pair) == 0; i++ {
		b := []byte(fmt.Sprint(i))
		if err := m.Put(t.Context(), store.Chunk{ID: chunker.BLAKE3.Sum(b), Data: b}); err != nil {
			t.Fatal(err)
		}
		o := Offer{indexOf(b), m}
		ch := wire.OfRoot(o.Index.Root(), nil)
		for ord := range uint32(4) { // control, a piece of the index, a bucket and a chunk
			g := ch.Group(wire.SiteScope, true, ord)
			if other, ok := byGroup[g]; ok && other != o {
				pair = []Offer{other, o}
			}
			byGroup[g] = o
		}
	}
	for _, one := range pair {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			net := newMemNet()
			s := NewSender([]SenderLink{net.sender()}, &SendOptions{SSM: true})
			if err := s.SetOffers(pair); err != nil {
				t.Fatal(err)
			}
			go s.Run(ctx)
			got := &storetest.Memory{}
			o := &ReceiveOptions{Source: netip.MustParseAddr("fe80::5:1")}
			r, err := receive(ctx, net.receiver(0), one.Index, got, o)
			if err != nil || r.Err != nil || got.Len() != 1 {
				t.Errorf("root %v: %+v, %v", one.Index.Root(), r, err)
			}
		})
	}
}
