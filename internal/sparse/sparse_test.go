package sparse_test

import (
	"testing"

	"github.com/castorsync/castor/internal/sparse"
)

func TestIsZero(t *testing.T) {
	naive := func(b []byte) bool {
		for _, x := range b {
			if x != 0 {
				return false
			}
		}
		return true
	}
	for _, n := range []int{0, 1, 2, 7, 8, 9, 63, 64, 65, 4095, 4096, 4097, 8191, 8192, 8193, 3*4096 + 5} {
		b := make([]byte, n)
		if !sparse.IsZero(b) {
			t.Errorf("%d zeros are not zero", n)
		}
		for _, i := range []int{0, 1, n / 2, 4095, 4096, 4097, 8191, 8192, n - 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			b[i] = 1
			for _, part := range [][]byte{b, b[:i], b[i:], b[i+1:]} { // and unaligned
				if got, want := sparse.IsZero(part), naive(part); got != want {
					t.Errorf("IsZero of %d bytes with byte %d of %d set = %v, want %v", len(part), i, n, got, want)
				}
			}
			b[i] = 0
		}
	}
	if !sparse.IsZero(nil) {
		t.Error("nil is not zero")
	}
}

func BenchmarkIsZero(b *testing.B) {
	z := make([]byte, 64<<10)
	b.SetBytes(int64(len(z)))
	for b.Loop() {
		sparse.IsZero(z)
	}
}
