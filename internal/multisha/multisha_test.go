package multisha

import (
	"crypto/sha512"
	"math/rand/v2"
	"sync"
	"testing"
)

// messages returns n messages with lengths up to size.
func messages(r *rand.Rand, n, size int) [][]byte {
	m := make([][]byte, n)
	for i := range m {
		m[i] = make([]byte, r.IntN(size+1))
		for j := range m[i] {
			m[i][j] = byte(r.Uint32())
		}
	}
	return m
}

func check(t *testing.T, m [][]byte) {
	t.Helper()
	sums := make([][32]byte, len(m))
	Sum512_256(sums, m)
	for i := range m {
		if want := sha512.Sum512_256(m[i]); sums[i] != want {
			t.Fatalf("message %d of %d, %d bytes: got %x, want %x", i, len(m), len(m[i]), sums[i], want)
		}
	}
}

func TestEveryLength(t *testing.T) {
	if !available {
		t.Log("no AVX-512 here: this tests crypto/sha512 only")
	}
	m := make([][]byte, 600)
	for i := range m {
		m[i] = make([]byte, i)
		for j := range m[i] {
			m[i][j] = byte(i * j)
		}
	}
	check(t, m)
	check(t, nil)
	for n := range 20 {
		check(t, m[200:200+n])
	}
}

func TestRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		check(t, messages(r, r.IntN(40), 1<<r.IntN(14)))
	}
}

func TestCombined(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	m := messages(r, 64, 64<<10)
	for _, goroutines := range []int{1, 2, 8, 50} {
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Go(func() {
				for i := range 100 {
					b := m[(g*31+i)%len(m)]
					if got, want := Sum(b), sha512.Sum512_256(b); got != want {
						t.Errorf("%d goroutines: %d bytes: got %x, want %x", goroutines, len(b), got, want)
						return
					}
				}
			})
		}
		wg.Wait()
		if shared.serving != 0 || len(shared.waiting) != 0 {
			t.Fatalf("%d serving and %d waiting at the end", shared.serving, len(shared.waiting))
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("abc"), uint16(9))
	f.Add(make([]byte, 1000), uint16(111))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var m [][]byte
		for n := int(cut)%200 + 1; len(b) > 0; {
			k := min(n, len(b))
			m = append(m, b[:k])
			b = b[k:]
			n = n*3%301 + 1
		}
		check(t, m)
	})
}

func BenchmarkSum(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	m := make([][]byte, 32)
	total := 0
	for i := range m {
		m[i] = make([]byte, 16<<10+r.IntN(96<<10))
		total += len(m[i])
	}
	sums := make([][32]byte, len(m))
	b.Run("together", func(b *testing.B) {
		b.SetBytes(int64(total))
		for b.Loop() {
			Sum512_256(sums, m)
		}
	})
	b.Run("one by one", func(b *testing.B) {
		b.SetBytes(int64(total))
		for b.Loop() {
			for i := range m {
				sums[i] = sha512.Sum512_256(m[i])
			}
		}
	})
}
