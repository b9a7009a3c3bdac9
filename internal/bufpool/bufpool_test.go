package bufpool_test

import (
	"sync"
	"testing"

	"github.com/castorsync/castor/internal/bufpool"
)

func TestGet(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 5, 255, 256, 257, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		for range 3 {
			b := bufpool.Get(n)
			if len(b) != n || cap(b)&(cap(b)-1) != 0 || n > 1 && cap(b) >= 2*n {
				t.Errorf("Get(%d) has length %d and capacity %d", n, len(b), cap(b))
			}
			bufpool.Put(b)
		}
	}
}

// reused reports whether Get(n) returns b's memory after put. The pool forgets
// some buffers, at random under -race, so it is tried often.
func reused(n int, make func() []byte) bool {
	for range 200 {
		b := make()
		bufpool.Put(b)
		if got := bufpool.Get(n); n > 0 && &got[0] == &b[:1][0] {
			return true
		}
	}
	return false
}

func TestPut(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    int
		make func() []byte
		want bool
	}{
		{"the same length", 5000, func() []byte { return bufpool.Get(5000) }, true},
		{"another length of its class", 4097, func() []byte { return bufpool.Get(8192) }, true},
		{"cut to nothing", 5000, func() []byte { return bufpool.Get(5000)[:0] }, true},
		{"a larger class", 5000, func() []byte { return bufpool.Get(9000) }, false},
		{"a smaller class", 9000, func() []byte { return bufpool.Get(5000) }, false},
	} {
		if got := reused(tt.n, tt.make); got != tt.want {
			t.Errorf("%s: reused %v, want %v", tt.name, got, tt.want)
		}
	}
	bufpool.Put(nil)
}

// TestConcurrent writes to lent buffers: nobody else may have them.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 500 {
				b := bufpool.Get(100 + i)
				for j := range b {
					b[j] = byte(w)
				}
				for j := range b {
					if b[j] != byte(w) {
						t.Error("a buffer is lent twice")
						return
					}
				}
				bufpool.Put(b)
			}
		})
	}
	wg.Wait()
}
