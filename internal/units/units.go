// Package units reads and writes sizes and times as people do.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var factors = map[string]float64{
	"": 1, "b": 1,
	"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60,
}

// ParseSize reads a number of bytes: "65536", "64K", "64KiB", "64kb", "1.5M".
// All units are powers of 1024.
func ParseSize(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(t, "abcdefghijklmnopqrstuvwxyz ")
	unit := strings.TrimSpace(t[len(digits):])
	if len(unit) > 1 {
		unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	}
	f, ok := factors[unit]
	n, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || n < 0 || n*f > math.MaxInt64/2 || math.IsNaN(n) {
		return 0, fmt.Errorf("size %q: want a number of bytes such as 65536, 64K or 1.5MiB", s)
	}
	return int64(n * f), nil
}

// Size writes a number of bytes with three significant digits: "64.0 KiB".
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= 1023.5 && i < 5 {
		f /= 1024
		i++
	}
	prec := 2
	if f >= 99.95 {
		prec = 0
	} else if f >= 9.995 {
		prec = 1
	}
	return fmt.Sprintf("%.*f %ciB", prec, f, "KMGTPE"[i])
}

// Duration writes a time for people: "250 ms", "1.25 s", "3m5s".
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Count writes an integer with spaces between thousands: "71 402".
func Count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// Chunks writes a number of chunks: "1 chunk", "12 345 chunks".
func Chunks(n int) string {
	if n == 1 {
		return "1 chunk"
	}
	return Count(n) + " chunks"
}

// ParseRate reads a number of bits a second: "200M", "1G", "64kbit". Units are powers
// of 1000, as is usual for rates.
func ParseRate(s string) (float64, error) {
	t := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s)), "/s"), "bit")
	factor := 1.0
	for unit, f := range map[string]float64{"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12} {
		if digits, ok := strings.CutSuffix(t, unit); ok {
			t, factor = digits, f
			break
		}
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(t), 64)
	if err != nil || !(f > 0) || f*factor > 1e15 {
		return 0, fmt.Errorf("rate %q: want bits a second such as 200M or 1.5G", s)
	}
	return f * factor, nil
}

// longUnits are units of time that [time.ParseDuration] does not know.
var longUnits = []struct {
	name string
	d    time.Duration
}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}}

// ParseDuration reads a time as [time.ParseDuration] does, that may begin with weeks and
// days of 24 hours, in whole numbers: "90m", "7d", "1w", "1d12h".
func ParseDuration(s string) (sum time.Duration, err error) {
	fail := fmt.Errorf("time %q: want one such as 90m, 36h, 7d or 1w", s)
	rest := strings.TrimSpace(s)
	for _, u := range longUnits {
		number, after, ok := strings.Cut(rest, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, fail
		}
		sum, rest = sum+time.Duration(n)*u.d, after
	}
	if rest == "" && sum > 0 {
		return sum, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || sum > 0 && d < 0 || d > math.MaxInt64/2 || sum > math.MaxInt64/2 {
		return 0, fail
	}
	return sum + d, nil
}
