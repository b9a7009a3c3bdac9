package blob

import (
	"math/bits"
	"time"
)

// Stats says what reading has taken so far.
type Stats struct {
	Hits   int64 `json:"hits"`   // chunks read that were in memory
	Shared int64 `json:"shared"` // that were on their way already
	Misses int64 `json:"misses"` // that had to be asked for
	Ahead  int64 `json:"ahead"`  // chunks asked for ahead of readers
	Failed int64 `json:"failed"` // requests that failed

	Image        int64 `json:"image"`         // chunks that were in the image
	Fetched      int64 `json:"fetched"`       // chunks got
	FetchedBytes int64 `json:"fetched_bytes"` // of content
	StoredBytes  int64 `json:"stored_bytes"`  // as they came
	CachedBytes  int64 `json:"cached_bytes"`  // in memory now
	Lacking      int64 `json:"lacking"`       // entries that the image does not have; 0 without one

	// Milliseconds in which half, nine tenths and 99 of 100 chunks came, each
	// rounded up to a power of two of microseconds.
	Median float64 `json:"fetch_ms_p50"`
	P90    float64 `json:"fetch_ms_p90"`
	P99    float64 `json:"fetch_ms_p99"`

	times [40]int64 // chunks by the binary logarithm of their microseconds
}

func (s *Stats) fetched(size, stored int, d time.Duration) {
	s.Fetched++
	s.FetchedBytes += int64(size)
	s.StoredBytes += int64(stored)
	s.times[min(bits.Len64(uint64(d.Microseconds())), len(s.times)-1)]++
}

// percentile returns the milliseconds in which the share of chunks came.
func (s *Stats) percentile(share float64) float64 {
	seen := int64(0)
	for i, n := range s.times {
		if seen += n; n > 0 && float64(seen) >= share*float64(s.Fetched) {
			return float64(int64(1)<<i) / 1000
		}
	}
	return 0
}

// Stats returns what reading has taken so far.
func (b *Blob) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.CachedBytes = b.cache.bytes
	if b.image != nil {
		s.Lacking = int64(b.image.Left())
	}
	s.Median, s.P90, s.P99 = s.percentile(0.5), s.percentile(0.9), s.percentile(0.99)
	return s
}
