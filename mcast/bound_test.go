package mcast

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store/storetest"
)

// TestDrip has somebody send what looks of use, a little now and then, of which nothing is
// ever right, when the sender has gone: the receiver gives up.
func TestDrip(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, known := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := newRaid(t, x, m, nil)
			d.serving()
			r := d.net.receiver(0)
			a := d.net.sender()
			d.every(400*time.Millisecond, func(i int) {
				n := d.announce(1)
				n.Symbol, n.Cursor = fec.Align, uint32(i)
				a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
				if i %= 1 << 14; i%50 != 0 {
					return
				}
				for _, ord := range d.joined(r) { // its number is new each time
					h := wire.Header{Session: n.Salt.Session(), Seq: uint32(i), Ordinal: ord, Length: 1 << 17, Block: uint16(i / 50 % 16), ESI: uint8(i / 50 / 16)}
					a.Send(d.group(ord), wire.AppendData(nil, h, make([]byte, fec.Align), nil), 1500)
				}
			})
			o := &ReceiveOptions{}
			if known {
				o.Index = x
			}
			begin := time.Now()
			s, err := Dial(d.ctx, []ReceiverLink{r}, x.Root(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !known {
				if _, err = s.Index(d.ctx); err == nil {
					t.Error("an index")
				}
			} else if res, err := s.Receive(d.ctx, x, func(chunker.ID) bool { return true }, &storetest.Memory{}); err != nil || res.Err == nil {
				t.Errorf("%+v, %v", res, err)
			}
			if took := time.Since(begin); took > provenAfter+stalledMax+time.Minute {
				t.Errorf("known %v: gave up after %v", known, took)
			}
			d.cancel()
		})
	}
}

// TestGreatIndex has somebody announce an index that takes more memory than there may be:
// it is not begun, and that of the sender comes.
func TestGreatIndex(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, most := range []int64{0, index.EncodedSize(len(x.Entries)), index.EncodedSize(len(x.Entries)) - 1} {
		synctest.Test(t, func(t *testing.T) {
			d := newRaid(t, x, m, nil)
			r := d.net.receiver(0)
			a := d.net.sender()
			d.every(time.Millisecond, func(i int) { // before the sender does
				n := d.announce(1)
				n.Space.IndexBytes, n.Space.Chunks = 1<<36, 1<<29
				a.Send(d.group(0), d.forge(n, uint32(i)), 1500)
			})
			begin := time.Now()
			s, err := Dial(d.ctx, []ReceiverLink{r}, x.Root(), &ReceiveOptions{MaxIndex: most})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, err = s.Index(d.ctx)
			if tooSmall := most == index.EncodedSize(len(x.Entries))-1; (err == nil) == tooSmall {
				t.Errorf("at most %d bytes: %v", most, err)
			}
			if took := time.Since(begin); took > firstWait+100*time.Millisecond {
				t.Errorf("took %v", took)
			}
			d.cancel()
		})
	}
}

// TestFirstLies has somebody be quicker than the sender, with what is wrong: that is not
// all that is waited for.
func TestFirstLies(t *testing.T) {
	x, m := noise(t, hostileSize, 2)
	for _, known := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := newRaid(t, x, m, nil)
			d.net.delay = 300 * time.Millisecond
			r := d.net.receiver(0)
			l := d.liar(r, 1, d.wrong)
			d.every(5*time.Millisecond, func(int) { l.tell(2000) })
			o := &ReceiveOptions{}
			if known {
				o.Index = x
			}
			s, err := Dial(d.ctx, []ReceiverLink{r}, x.Root(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !known {
				if _, err := s.Index(d.ctx); err != nil {
					t.Fatal(err)
				}
			}
			got := &storetest.Memory{}
			res, err := s.Receive(d.ctx, x, func(chunker.ID) bool { return true }, got)
			d.check(got, res, err)
			d.cancel()
		})
	}
}
