package units_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/units"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64 // -1: an error
	}{
		{"0", 0},
		{"1", 1},
		{"65536", 65536},
		{"65536b", 65536},
		{"65536 B", 65536},
		{"64K", 64 << 10},
		{"64k", 64 << 10},
		{"64KB", 64 << 10},
		{"64kb", 64 << 10},
		{"64KiB", 64 << 10},
		{"64 KiB", 64 << 10},
		{"64Ki", 64 << 10},
		{" 64K ", 64 << 10},
		{"1M", 1 << 20},
		{"2G", 2 << 30},
		{"3T", 3 << 40},
		{"1P", 1 << 50},
		{"1E", 1 << 60},
		{"4EiB", 1 << 62},
		{"1.5M", 3 << 19},
		{"0.5K", 512},
		{".5K", 512},
		{"1.2345K", 1264}, // whole bytes
		{"1e3", 1000},
		{"", -1},
		{" ", -1},
		{"K", -1},
		{"KiB", -1},
		{"-1", -1},
		{"-1K", -1},
		{"1X", -1},
		{"1i", -1},
		{"1KK", -1},
		{"1KiBi", -1},
		{"1 2K", -1},
		{"1,5K", -1},
		{"5E", -1}, // beyond what is of use
		{"1e30", -1},
		{"9223372036854775807", -1},
		{"inf", -1},
		{"infinity", -1},
		{"nan", -1},
		{"1K 2", -1},
		{"0x", -1},
		{"١", -1},
	} {
		got, err := units.ParseSize(tt.in)
		if tt.want >= 0 {
			if err != nil || got != tt.want {
				t.Errorf("ParseSize(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "want a number of bytes") {
			t.Errorf("ParseSize(%q) = %d, %v, want an error", tt.in, got, err)
		}
	}
}

func TestSize(t *testing.T) {
	for _, tt := range []struct {
		in   int64
		want string
	}{
		{0, "0 B"},
		{1, "1 B"},
		{1023, "1023 B"},
		{1024, "1.00 KiB"},
		{1536, "1.50 KiB"},
		{10<<10 - 1, "10.0 KiB"},
		{10 << 10, "10.0 KiB"},
		{64 << 10, "64.0 KiB"},
		{100<<10 - 1, "100 KiB"},
		{999 << 10, "999 KiB"},
		{1023 << 10, "1023 KiB"},
		{1<<20 - 1, "1.00 MiB"},
		{1 << 20, "1.00 MiB"},
		{212 << 20, "212 MiB"},
		{4402341478, "4.10 GiB"},
		{1 << 40, "1.00 TiB"},
		{1 << 50, "1.00 PiB"},
		{1 << 60, "1.00 EiB"},
		{math.MaxInt64, "8.00 EiB"},
		{-5, "-5 B"},
	} {
		if got := units.Size(tt.in); got != tt.want {
			t.Errorf("Size(%d) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// TestSizeParses reads back what Size writes.
func TestSizeParses(t *testing.T) {
	for n := int64(1); n > 0 && n < 1<<61; n = n*7/3 + 1 {
		got, err := units.ParseSize(units.Size(n))
		if err != nil || math.Abs(float64(got-n)) > float64(n)/100 {
			t.Errorf("Size(%d) = %q, which is read as %d, %v", n, units.Size(n), got, err)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, tt := range []struct {
		in   time.Duration
		want string
	}{
		{0, "0 ms"},
		{999 * time.Microsecond, "0 ms"},
		{time.Millisecond, "1 ms"},
		{999*time.Millisecond + 999*time.Microsecond, "999 ms"},
		{time.Second, "1.00 s"},
		{1250 * time.Millisecond, "1.25 s"},
		{59*time.Second + 990*time.Millisecond, "59.99 s"},
		{time.Minute, "1m0s"},
		{185*time.Second + 400*time.Millisecond, "3m5s"},
		{time.Hour + 500*time.Millisecond, "1h0m1s"},
		{100 * time.Hour, "100h0m0s"},
	} {
		if got := units.Duration(tt.in); got != tt.want {
			t.Errorf("Duration(%d) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		in   int
		want string
	}{
		{0, "0"},
		{1, "1"},
		{999, "999"},
		{1000, "1 000"},
		{71402, "71 402"},
		{123456, "123 456"},
		{1234567, "1 234 567"},
		{-1, "-1"},
		{-999, "-999"},
		{-1000, "-1 000"},
		{-123456, "-123 456"},
	} {
		if got := units.Count(tt.in); got != tt.want {
			t.Errorf("Count(%d) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for s, want := range map[string]float64{
		"1000": 1000, "200M": 200e6, "1.5G": 1.5e9, "64kbit/s": 64e3, " 10 g ": 10e9,
		"": 0, "-1M": 0, "0": 0, "M": 0, "1X": 0, "nan": 0, "inf": 0,
	} {
		got, err := units.ParseRate(s)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseRate(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "0": 0, "-1h": -time.Hour, "7d": 7 * 24 * time.Hour, "1w": 7 * 24 * time.Hour,
		" 1w2d3h ": 9*24*time.Hour + 3*time.Hour, "250ms": 250 * time.Millisecond,
	} {
		if got, err := units.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "1", "-1d", "1d-1h", "1d1w", "1.5d", "99999w", "60000w60000w", "2000000h2000000h", "1y"} {
		if got, err := units.ParseDuration(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
}

func TestChunks(t *testing.T) {
	for n, want := range map[int]string{0: "0 chunks", 1: "1 chunk", 2: "2 chunks", 3193: units.Count(3193) + " chunks"} {
		if got := units.Chunks(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
