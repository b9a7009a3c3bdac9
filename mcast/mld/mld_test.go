package mld_test

import (
	"bytes"
	"net/netip"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/castorsync/castor/mcast/mld"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestAccept(t *testing.T) {
	for _, tt := range []struct {
		src            string
		hops           int
		ether, looping bool
	}{
		{"fe80::1", 1, true, true},
		{"febf::1", 1, true, true},
		{"fe80::1%eth0", 1, true, true},
		{"fe80::1", 0, false, false},
		{"fe80::1", 2, false, false},
		{"fe80::1", 255, false, false},
		{"::", 1, false, true},
		{"::", 64, false, false},
		{"::1", 1, false, false},
		{"fec0::1", 1, false, false},
		{"2001:db8::1", 1, false, false},
		{"ff02::1", 1, false, false},
		{"169.254.0.1", 1, false, false},
		{"::ffff:169.254.0.1", 1, false, false},
		{"0.0.0.0", 1, false, false},
	} {
		for loopback, want := range map[bool]bool{false: tt.ether, true: tt.looping} {
			if got := mld.Accept(addr(tt.src), tt.hops, loopback); got != want {
				t.Errorf("Accept(%s, %d, %v) = %v, want %v", tt.src, tt.hops, loopback, got, want)
			}
		}
	}
	if mld.Accept(netip.Addr{}, 1, true) {
		t.Error("the zero Addr is accepted")
	}
}

// aReport is a report of two records by RFC 3810, figure of section 5.2: the first
// with auxiliary data.
var aReport = join(
	[]byte{143, 0, 0, 0, 0, 0, 0, 2},
	[]byte{5, 1, 0, 1}, b16("ff15::1"), b16("2001:db8::1"), []byte{1, 2, 3, 4},
	[]byte{4, 0, 0, 0}, b16("ff15::2"),
)

func join(bs ...[]byte) []byte { return bytes.Join(bs, nil) }

func b16(s string) []byte {
	a := addr(s).As16()
	return a[:]
}

func TestParseReport(t *testing.T) {
	got, err := mld.ParseReport(aReport)
	want := []mld.Record{
		{Type: mld.Allow, Group: addr("ff15::1"), Sources: []netip.Addr{addr("2001:db8::1")}},
		{Type: mld.ToExclude, Group: addr("ff15::2")},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for done, typ := range map[bool]mld.RecordType{false: mld.ToExclude, true: mld.ToInclude} {
		got, err := mld.ParseReport(mld.AppendReportV1(nil, addr("ff15::1"), done))
		want := []mld.Record{{Type: typ, Group: addr("ff15::1")}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("version 1, done %v: got %v, %v, want %v", done, got, err, want)
		}
	}
}

// TestTruncated cuts every message at every length.
func TestTruncated(t *testing.T) {
	q := mld.Query{Version: 2, Group: addr("ff15::1"), Sources: []netip.Addr{addr("2001:db8::1")}}
	query := q.Append(nil)
	advert := (&mld.Advertisement{}).Append(nil)
	for _, tt := range []struct {
		name  string
		whole []byte
		parse func(b []byte) error
	}{
		{"report", aReport, func(b []byte) error { _, err := mld.ParseReport(b); return err }},
		{"version 1", mld.AppendReportV1(nil, addr("ff15::1"), false), func(b []byte) error { _, err := mld.ParseReport(b); return err }},
		{"query", query, func(b []byte) error { _, err := mld.ParseQuery(b); return err }},
		{"advertisement", advert, func(b []byte) error { _, err := mld.ParseAdvertisement(b); return err }},
		{"solicitation", mld.AppendSolicitation(nil), mld.ParseSolicitation},
	} {
		for n := range tt.whole {
			if tt.name == "query" && n == 24 {
				continue // a version 1 query
			}
			if err := tt.parse(tt.whole[:n:n]); err == nil {
				t.Errorf("%s of %d bytes cut to %d: no error", tt.name, len(tt.whole), n)
			}
		}
		if err := tt.parse(tt.whole); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := tt.parse(append([]byte{1}, tt.whole[1:]...)); err == nil {
			t.Errorf("%s of another type: no error", tt.name)
		}
	}
}

func TestHostileReport(t *testing.T) {
	head := func(n ...byte) []byte { return append([]byte{143, 0, 0, 0, 0, 0}, n...) }
	for name, b := range map[string][]byte{
		"65535 records in none":      head(0xff, 0xff),
		"65535 records in one":       join(head(0xff, 0xff), []byte{4, 0, 0, 0}, b16("ff15::1")),
		"65535 sources":              join(head(0, 1), []byte{4, 0, 0xff, 0xff}, b16("ff15::1")),
		"1020 bytes auxiliary":       join(head(0, 1), []byte{4, 0xff, 0, 0}, b16("ff15::1")),
		"second in the first's data": join(head(0, 2), []byte{4, 5, 0, 0}, b16("ff15::1"), []byte{4, 0, 0, 0}, b16("ff15::1")),
	} {
		rs, err := mld.ParseReport(b)
		if err == nil {
			t.Errorf("%s: got %v", name, rs)
		}
		if n := allocated(func() { mld.ParseReport(b) }); n > 1<<16 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

// allocated returns how many bytes f allocates at most.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestQueryCodes has values of RFC 3810, sections 5.1.3 and 5.1.9.
func TestQueryCodes(t *testing.T) {
	for _, tt := range []struct {
		response, interval time.Duration
		code               [3]byte
		wantR, wantI       time.Duration // 0: as given
	}{
		{time.Second, 30 * time.Second, [3]byte{0x03, 0xe8, 30}, 0, 0},
		{10 * time.Second, 125 * time.Second, [3]byte{0x27, 0x10, 125}, 0, 0},
		{32767 * time.Millisecond, 127 * time.Second, [3]byte{0x7f, 0xff, 0x7f}, 0, 0},
		{32768 * time.Millisecond, 128 * time.Second, [3]byte{0x80, 0, 0x80}, 0, 0},
		{65000 * time.Millisecond, 255 * time.Second, [3]byte{0x8f, 0xbd, 0x8f}, 0, 248 * time.Second},
		{8387584 * time.Millisecond, 31744 * time.Second, [3]byte{0xff, 0xff, 0xff}, 0, 0},
		{24 * time.Hour, 24 * time.Hour, [3]byte{0xff, 0xff, 0xff}, 8387584 * time.Millisecond, 31744 * time.Second},
		{-time.Second, -time.Second, [3]byte{0, 0, 0}, -1, -1},
	} {
		q := mld.Query{Version: 2, MaxResponse: tt.response, Interval: tt.interval, QRV: 2}
		b := q.Append(nil)
		if got := [3]byte{b[4], b[5], b[25]}; got != tt.code {
			t.Errorf("%v, %v: codes %x, want %x", tt.response, tt.interval, got, tt.code)
		}
		got, err := mld.ParseQuery(b)
		if err != nil {
			t.Fatal(err)
		}
		wantR, wantI := orGiven(tt.wantR, tt.response), orGiven(tt.wantI, tt.interval)
		if got.MaxResponse != wantR || got.Interval != wantI || got.QRV != 2 || !got.General() {
			t.Errorf("got %+v, want %v, %v", got, wantR, wantI)
		}
	}
}

// orGiven returns what want stands for in TestQueryCodes; -1 stands for 0.
func orGiven(want, given time.Duration) time.Duration {
	switch want {
	case 0:
		return given
	case -1:
		return 0
	}
	return want
}

func TestParseQuery(t *testing.T) {
	for _, want := range []mld.Query{
		{Version: 1, Group: addr("::"), MaxResponse: 65535 * time.Millisecond},
		{Version: 1, Group: addr("ff15::1"), MaxResponse: time.Second},
		{Version: 2, Group: addr("::")},
		{Version: 2, Group: addr("ff15::1"), Suppress: true, QRV: 7,
			Sources: []netip.Addr{addr("2001:db8::1"), addr("2001:db8::2")}},
	} {
		got, err := mld.ParseQuery(want.Append(nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if got.General() != want.Group.IsUnspecified() {
			t.Errorf("%+v: General is %v", got, got.General())
		}
	}
	q := mld.Query{Version: 2, QRV: 8}
	if got, err := mld.ParseQuery(q.Append(nil)); err != nil || got.QRV != 0 {
		t.Errorf("robustness 8: got %+v, %v, want 0", got, err)
	}
}

func TestAdvertisement(t *testing.T) {
	want := mld.Advertisement{Interval: 20 * time.Second, Query: 125 * time.Second, Robustness: 2}
	b := want.Append(nil)
	if !bytes.Equal(b, []byte{151, 20, 0, 0, 0, 125, 0, 2}) {
		t.Errorf("message % x", b)
	}
	if got, err := mld.ParseAdvertisement(b); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	large := mld.Advertisement{Interval: time.Hour, Query: 24 * time.Hour, Robustness: 1 << 20}
	if b := large.Append(nil); !bytes.Equal(b, []byte{151, 255, 0, 0, 255, 255, 255, 255}) {
		t.Errorf("too large values: message % x", b)
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add(aReport)
	f.Add(mld.AppendReportV1(nil, addr("ff15::1"), true))
	f.Add([]byte{143, 0, 0, 0, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		rs, err := mld.ParseReport(b)
		if err != nil {
			return
		}
		again, err := mld.ParseReport(mld.AppendReport(nil, rs))
		if err != nil || !reflect.DeepEqual(again, rs) {
			t.Errorf("% x: %v, then %v, %v", b, rs, again, err)
		}
	})
}

func FuzzParseQuery(f *testing.F) {
	q := mld.Query{Version: 2, Group: addr("ff15::1"), MaxResponse: time.Minute, QRV: 2,
		Interval: time.Hour, Sources: []netip.Addr{addr("2001:db8::1")}}
	f.Add(q.Append(nil))
	f.Add(q.Append(nil)[:24])
	f.Add(append(q.Append(nil), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := mld.ParseQuery(b)
		if err != nil {
			return
		}
		// What is reserved, the checksum and what follows get lost.
		want := bytes.Clone(b)
		clear(want[1:4])
		clear(want[6:8])
		if q.Version == 2 {
			want[24] &= 0xf
			want = want[:28+16*len(q.Sources)]
		}
		if got := q.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("% x: %+v, then % x", want, q, got)
		}
	})
}

func FuzzParseAdvertisement(f *testing.F) {
	f.Add((&mld.Advertisement{Interval: time.Second}).Append(nil))
	f.Add(mld.AppendSolicitation(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if mld.ParseSolicitation(b) == nil && b[0] != mld.TypeSolicitation {
			t.Errorf("% x is a solicitation", b)
		}
		a, err := mld.ParseAdvertisement(b)
		if err != nil {
			return
		}
		again, err := mld.ParseAdvertisement(a.Append(nil))
		if err != nil || again != a {
			t.Errorf("% x: %+v, then %+v, %v", b, a, again, err)
		}
	})
}
