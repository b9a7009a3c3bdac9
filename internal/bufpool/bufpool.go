// Package bufpool lends byte buffers by size, so that moving chunks makes no
// garbage.
package bufpool

import (
	"math/bits"
	"sync"
)

// pools[i] holds buffers of capacity 1<<i.
var pools [32]sync.Pool

// Get returns a buffer of length n with undefined content.
func Get(n int) []byte {
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
	if n == 0 || n&(n-1) != 0 {
		return
	}
	pools[bits.Len(uint(n-1))].Put(&b)
}
