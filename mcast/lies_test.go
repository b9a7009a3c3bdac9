package mcast

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/mcast/wire"
)

// absent returns the objects of the channel without any chunk, and nothing for the index.
func (d *raid) absent(ord uint32) (b []byte) {
	if d.channel.isIndex(ord) {
		return nil
	}
	from, to := d.channel.space.ChunkRange(ord)
	for range to - from {
		b = binary.BigEndian.AppendUint32(b, uint32(wire.Absent)<<28)
	}
	return b
}

// afterIndex is when the index has come and chunks are coming.
const afterIndex = 700 * time.Millisecond

// TestLies has others say what cannot be told from what a sender may say: that does not
// keep what the sender has from coming.
func TestLies(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	// identities has f lie as another one every 50 ms.
	identities := func(d *raid, r *memReceiver, object func(uint32) []byte, f func(l *liar)) {
		var l *liar
		d.every(10*time.Millisecond, func(i int) {
			if i%5 == 0 {
				l = d.liar(r, byte(i/5), object)
				l.salt[2] = byte(i / 5 >> 8)
			}
			f(l)
		})
	}
	for _, tt := range []struct {
		name   string
		most   time.Duration
		attack func(d *raid, r *memReceiver)
	}{
		{"nothing is there", lateGiveUp, func(d *raid, r *memReceiver) {
			l := d.liar(r, 1, d.absent)
			time.AfterFunc(afterIndex, func() { d.every(5*time.Millisecond, func(int) { l.tell(1) }) })
		}},
		{"nothing is there, say many", lateGiveUp, func(d *raid, r *memReceiver) {
			identities(d, r, d.absent, func(l *liar) { l.tell(1) })
		}},
		{"wrong chunks of many, faster than the sender", lateGiveUp, func(d *raid, r *memReceiver) {
			identities(d, r, d.bulk, func(l *liar) { l.tell(2000) })
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

// TestForgedLoss has somebody send packets of which many seem to be lost. The window is
// for what the sender sends.
func TestForgedLoss(t *testing.T) {
	x, m := noise(t, 2*hostileSize, 2)
	synctest.Test(t, func(t *testing.T) {
		d := newRaid(t, x, m, nil)
		r := d.net.receiver(0)
		a := d.net.sender()
		salt := wire.Salt{9}
		seqs := map[uint32]uint16{}
		time.AfterFunc(afterIndex, func() {
			d.every(2*time.Millisecond, func(i int) {
				a.Send(d.group(0), d.forge(d.announce(salt[0]), uint32(i)), 1500)
				for _, ord := range d.joined(r) {
					gap := uint16(900)
					if i > 60 { // less, as if the window had been the cause
						gap = 4
					}
					seqs[ord] += gap
					h := wire.Header{Session: wire.Salt{salt[0], 1}.Session(), Seq: uint32(i), GroupSeq: seqs[ord], Ordinal: ord, Length: 100000}
					a.Send(d.group(ord), wire.AppendData(nil, h, make([]byte, d.channel.symbol), nil), 1500)
				}
			})
		})
		least := maxWindow
		got, result, err := d.receiveAll(r, &ReceiveOptions{Status: func(p Progress) { least = min(least, p.Window) }})
		d.check(got, result, err)
		if least < firstWindow {
			t.Errorf("the window shrank to %d", least)
		}
		d.cancel()
	})
}
