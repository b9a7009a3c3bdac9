package bitset_test

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/castorsync/castor/internal/bitset"
)

func TestSet(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 127, 128, 1000} {
		s := bitset.New(n)
		want := map[int]bool{}
		r := rand.New(rand.NewPCG(1, uint64(n)))
		for k := range n {
			if s.Count() != len(want) {
				t.Fatalf("n = %d: Count() = %d, want %d", n, s.Count(), len(want))
			}
			i := r.IntN(n)
			if k < 2 {
				i = k * (n - 1) // both ends
			}
			s.Add(i)
			s.Add(i)
			want[i] = true
			for i := range n {
				if s.Has(i) != want[i] {
					t.Fatalf("n = %d: Has(%d) = %v, want %v", n, i, s.Has(i), want[i])
				}
			}
		}
	}
}

func TestSetConcurrent(t *testing.T) {
	const n, workers = 10_000, 8
	s := bitset.New(n)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers { // neighbours, so in the same words
				if s.Add(i); !s.Has(i) {
					t.Errorf("%d is lost", i)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Count(); got != n {
		t.Errorf("Count() = %d, want %d", got, n)
	}
}

func TestRemove(t *testing.T) {
	s := bitset.New(130)
	for i := range 130 {
		s.Add(i)
	}
	for i := range 130 {
		s.Remove(i)
		s.Remove(i)
		if s.Has(i) || s.Count() != 129-i {
			t.Fatalf("after removing %d: it is there: %v, count %d", i, s.Has(i), s.Count())
		}
	}
}
