package mld

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLink is a link, and a source on it.
type fakeLink struct {
	in   chan message
	stop chan struct{}

	mu   sync.Mutex // guards the following
	addr netip.Addr
	gone error
	sent []Packet
}

func (f *fakeLink) receive(buf []byte) (message, error) {
	select {
	case m := <-f.in:
		m.data = buf[:copy(buf, m.data)]
		return m, nil
	case <-f.stop:
		return message{}, os.ErrClosed
	}
}

func (f *fakeLink) interrupt()   { close(f.stop) }
func (f *fakeLink) Close() error { return nil }

func (f *fakeLink) self() (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addr, f.gone
}

func (f *fakeLink) send(self netip.Addr, p Packet) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, p)
	return nil
}

// set sets what self returns.
func (f *fakeLink) set(addr netip.Addr, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addr, f.gone = addr, err
}

// count returns how many messages of each type were sent.
func (f *fakeLink) count() map[byte]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := map[byte]int{}
	for _, p := range f.sent {
		count[p.Data[0]]++
	}
	return count
}

// listen runs a Listener on a fakeLink; stop ends that and returns Run's error.
func listen(t *testing.T, o Options, event func(*Listener, Event)) (l *Listener, f *fakeLink, stop func(cause error) error) {
	f = &fakeLink{
		in:   make(chan message),
		stop: make(chan struct{}),
		addr: netip.MustParseAddr("fe80::10"),
	}
	l = newListener(o)
	l.link, l.sources = f, []source{f}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, func(e Event) { event(l, e) }) }()
	return l, f, func(cause error) error {
		cancel(cause)
		return <-ended
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan Event, 10)
		l, f, stop := listen(t, Options{Querier: QuerierOptions{Advertise: true}}, func(l *Listener, e Event) {
			events <- e
			l.SetActive(l.Stats().Members > 0)
		})
		host, group := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff15::1")
		report := func(t RecordType) []byte { return AppendReport(nil, []Record{{Type: t, Group: group}}) }
		query := Query{Version: 2, QRV: 2, Interval: 20 * time.Second}
		for _, m := range []message{
			{host, 2, 0, report(ToExclude)},
			{netip.MustParseAddr("2001:db8::1"), 1, 0, report(ToExclude)},
			{host, 1, 0, nil},
			{host, 1, 0, []byte{TypeReport, 0, 0, 0, 0, 0, 0, 1}},
			{host, 1, 5, []byte{TypeSolicitation}},
			{host, 1, 8, []byte{TypeQuery}},
			{host, 1, 0, []byte{200}}, // not ours
			{f.addr, 1, 0, query.Append(nil)},
			{host, 1, 0, report(ToExclude)},
		} {
			f.in <- m
		}
		synctest.Wait()
		s := l.Stats()
		if s.Rejected != 2 || s.Malformed != 4 || s.Overflow != 8 || s.Queries != 0 || s.Reports != 1 || s.Members != 1 {
			t.Errorf("stats %+v", s)
		}
		time.Sleep(10*time.Second + 1)
		synctest.Wait()
		if s := l.Stats(); !s.Querying || s.Querier != f.addr || s.Lifetime != 70*time.Second {
			t.Errorf("not the querier: %+v", s)
		}
		time.Sleep(65 * time.Second) // heard 75 s ago; but 65 s since it could know
		synctest.Wait()
		if len(events) != 1 || <-events != (Event{group, host, true}) {
			t.Fatal("want one event, of the join")
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if len(events) != 1 || <-events != (Event{group, host, false}) {
			t.Fatal("want one event, of the expiry")
		}
		f.in <- message{host, 1, 0, query.Append(nil)}
		synctest.Wait()
		if s := l.Stats(); s.Querying || s.Querier != host || s.Queries != 1 || s.Interval != 20*time.Second {
			t.Errorf("stats %+v", s)
		}
		cause := errors.New("cause")
		if err := stop(cause); err != cause {
			t.Errorf("Run: %v, want %v", err, cause)
		}
		count := f.count()
		// Queries at 10, 12, 42 and 72 s; advertisements at 0, 2, 4, 24, 44, 64 s.
		if count[TypeQuery] != 4 || count[TypeAdvertisement] != 6 || count[TypeTermination] != 1 {
			t.Errorf("sent %v", count)
		}
	})
}

// TestRunEnds ends Run by other means than its context.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, stop := listen(t, Options{}, func(*Listener, Event) {})
		synctest.Wait()
		gone := errors.New("gone")
		f.set(netip.Addr{}, gone)
		time.Sleep(checkEvery + time.Second)
		if err := stop(nil); err != gone {
			t.Errorf("Run: %v, want %v", err, gone)
		}
	})
}

// TestNoAddress has an interface whose address comes late.
func TestNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Querier: QuerierOptions{Listen: 6 * time.Second, WhenIdle: true}}
		l, f, stop := listen(t, o, func(*Listener, Event) {})
		synctest.Wait()
		f.set(netip.Addr{}, nil)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if s := l.Stats(); s.Sent != 2 || s.Failed != 2 || len(f.count()) != 0 {
			t.Errorf("stats %+v, sent %v", s, f.count())
		}
		f.set(netip.MustParseAddr("fe80::10"), nil)
		time.Sleep(40 * time.Second)
		if err := stop(nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if n := f.count()[TypeQuery]; n != 1 {
			t.Errorf("sent %d queries after the address came, want 1", n)
		}
	})
}
