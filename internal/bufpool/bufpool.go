// Package bufpool lends byte buffers by size, so that moving chunks makes no
// garbage.
package bufpool

import (
	"math/bits"
	"sync"
)

// largest is the capacity up to which buffers are kept, in bytes. Greater ones are
// made to measure: rounding them up to a power of two and holding on to them would
// cost more memory than making them costs time.
const largest = 4 << 20

// pools[i] holds buffers of capacity 1<<i.
var pools [23]sync.Pool

// Get returns a buffer of length n with undefined content.
func Get(n int) []byte {
	if n > largest {
		return make([]byte, n)
	}
	class := bits.Len(uint(max(n, 1) - 1))
	if b, ok := pools[class].Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<class)
}

// Put takes back a buffer that Get returned, at any length, or nil. The caller
// must not use it afterwards, nor pass any other.
func Put(b []byte) {
	n := cap(b)
	if n == 0 || n > largest || n&(n-1) != 0 {
		return
	}
	pools[bits.Len(uint(n-1))].Put(&b)
}
