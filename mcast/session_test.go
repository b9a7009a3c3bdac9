package mcast

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// noise makes an index of size random bytes, and a store that has its chunks.
func noise(t testing.TB, size int, seed byte) (*index.Index, *storetest.Memory) {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return cut(t, b)
}

func cut(t testing.TB, b []byte) (*index.Index, *storetest.Memory) {
	t.Helper()
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
	m := &storetest.Memory{}
	r := chunker.NewReader(bytes.NewReader(b), x.Params)
	at := int64(0)
	for {
		c, err := r.Next()
		if err != nil {
			break
		}
		at += int64(len(c))
		id := chunker.BLAKE3.Sum(c)
		x.Entries = append(x.Entries, index.Entry{End: at, ID: id})
		if err := m.Put(context.Background(), store.Chunk{ID: id, Data: c}); err != nil {
			t.Fatal(err)
		}
	}
	return x, m
}

// run is a distribution over a memNet.
type run struct {
	net  *memNet
	x    *index.Index
	rate float64
}

// start runs a sender until the context ends.
func (d *run) serve(ctx context.Context, m store.Getter, o SendOptions) *Sender {
	o.Rate = d.rate
	s := NewSender([]SenderLink{d.net.sender()}, &o)
	if err := s.SetOffers([]Offer{{d.x, m}}); err != nil {
		panic(err)
	}
	go s.Run(ctx)
	return s
}

func receive(ctx context.Context, l ReceiverLink, x *index.Index, m *storetest.Memory, o *ReceiveOptions) (Result, error) {
	s, err := Dial(ctx, []ReceiverLink{l}, x.Root(), o)
	if err != nil {
		return Result{}, err
	}
	defer s.Close()
	y, err := s.Index(ctx)
	if err != nil {
		return Result{}, err
	}
	return s.Receive(ctx, y, func(id chunker.ID) bool { has, _ := m.Has(ctx, id); return !has }, m)
}

// TestDistribution sends to several receivers at several rates of loss, and looks at
// what it costs.
func TestDistribution(t *testing.T) {
	size := 100 << 20
	if testing.Short() {
		size = 8 << 20
	}
	for _, tt := range []struct {
		receivers int
		loss      float64
		rate      float64
		most      float64 // bytes on the wire for each of content
	}{
		{1, 0, 200e6 / 8, 1.08},
		{4, 0, 200e6 / 8, 1.08},
		{4, 0, 1e9 / 8, 1.08},
		{4, 0.05, 200e6 / 8, 1.22},
		{40, 0, 200e6 / 8, 1.08},
		{40, 0.05, 200e6 / 8, 1.28},
		{4, 0.20, 200e6 / 8, 1.6},
	} {
		t.Run(fmt.Sprintf("%d receivers, %.0f %%, %.0f Mbit", tt.receivers, 100*tt.loss, tt.rate*8/1e6), func(t *testing.T) {
			x, m := noise(t, size, 1)
			synctest.Test(t, func(t *testing.T) {
				d := &run{net: newMemNet(), x: x, rate: tt.rate}
				ctx, cancel := context.WithCancel(context.Background())
				d.serve(ctx, m, SendOptions{})
				begin := time.Now()
				var wg sync.WaitGroup
				for i := range tt.receivers {
					l := d.net.receiver(tt.loss)
					wg.Go(func() {
						time.Sleep(time.Duration(i) * time.Millisecond)
						got := &storetest.Memory{}
						r, err := receive(ctx, l, x, got, nil)
						if err != nil || r.Err != nil || r.Bytes != int64(size) {
							t.Errorf("receiver %d: %+v, %v", i, r, err)
						}
					})
				}
				wg.Wait()
				took := time.Since(begin)
				d.net.mu.Lock()
				bytes := d.net.bytes
				d.net.mu.Unlock()
				ratio := float64(bytes) / float64(size)
				t.Logf("%.3f× bytes, %v = %.2f of bytes/rate, %d joins", ratio, took.Round(time.Millisecond), took.Seconds()/(float64(bytes)/tt.rate), d.net.joins)
				if ratio > tt.most && !testing.Short() { // the beginning costs more
					t.Errorf("sent %.3f× the content, want at most %.2f×", ratio, tt.most)
				}
				time.Sleep(3 * time.Second)
				d.net.mu.Lock()
				before := d.net.packets
				d.net.mu.Unlock()
				time.Sleep(time.Hour)
				d.net.mu.Lock()
				defer d.net.mu.Unlock()
				if d.net.packets != before {
					t.Errorf("%d packets though nobody listens", d.net.packets-before)
				}
				cancel()
			})
		})
	}
}

// TestShortContent has receivers begin at about the same time with what is sent in no
// time: who comes when all has been sent needs it all again.
func TestShortContent(t *testing.T) {
	const size, rate, seeds = 4 << 20, 200e6 / 8, 10
	x, m := noise(t, size, 1)
	for _, loss := range []float64{0, 0.05} {
		sum := 0.0
		for seed := range uint64(seeds) {
			synctest.Test(t, func(t *testing.T) {
				d := &run{net: newMemNet(), x: x, rate: rate}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				d.serve(ctx, m, SendOptions{})
				random := rand.New(rand.NewPCG(seed, 1))
				var wg sync.WaitGroup
				for i := range 4 {
					l := d.net.receiver(loss)
					l.random = rand.New(rand.NewPCG(seed, uint64(2+i)))
					after := time.Duration(random.Int64N(int64(200 * time.Millisecond)))
					wg.Go(func() {
						time.Sleep(after)
						r, err := receive(ctx, l, x, &storetest.Memory{}, nil)
						if err != nil || r.Err != nil || r.Bytes != size {
							t.Errorf("receiver %d: %+v, %v", i, r, err)
						}
					})
				}
				wg.Wait()
				d.net.mu.Lock()
				defer d.net.mu.Unlock()
				sum += float64(d.net.bytes) / size
			})
		}
		t.Logf("%.0f %% loss: %.3f× bytes on average", 100*loss, sum/seeds)
		if most := 1.15 + 3*loss; sum/seeds > most {
			t.Errorf("%.0f %% loss: sent %.3f× the content on average, want at most %.2f×", 100*loss, sum/seeds, most)
		}
	}
}

// sleeper is a receiver's link on a computer that is suspended in the middle.
type sleeper struct {
	*memReceiver
	at     int // calls of Read until then
	asleep time.Duration
}

func (r *sleeper) Read(p []Packet) (int, error) {
	if r.at--; r.at == 0 {
		time.Sleep(r.asleep)
	}
	return r.memReceiver.Read(p)
}

// TestSuspended has a computer sleep for longer than a sender may be silent.
func TestSuspended(t *testing.T) {
	x, m := noise(t, 8<<20, 1)
	for _, at := range []int{5, 100, 400} { // before the index, and in the middle
		synctest.Test(t, func(t *testing.T) {
			d := &run{net: newMemNet(), x: x, rate: 60e6 / 8}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			d.serve(ctx, m, SendOptions{})
			l := &sleeper{d.net.receiver(0), at, 10 * time.Minute}
			got := &storetest.Memory{}
			begin := time.Now()
			r, err := receive(ctx, l, x, got, nil)
			if err != nil || r.Err != nil || r.Bytes != x.Size() {
				t.Errorf("suspended in call %d: %+v, %v", at, r, err)
			}
			took := time.Since(begin)
			t.Logf("suspended in call %d of Read: took %v more", at, took-l.asleep)
			if l.at > 0 || took > l.asleep+15*time.Second {
				t.Errorf("suspended in call %d: took %v, at %d", at, took, l.at)
			}
		})
	}
}
