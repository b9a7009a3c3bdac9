// Package bufpool lends byte buffers by size, so that moving chunks makes no
// garbage.
package bufpool

import (
	"math/bits"
	"sync"
)

// Buffers of up to 1 MiB have a power of two as capacity, greater ones whole MiB.
// largest is the capacity up to which they are kept, in bytes: holding on to greater
// ones would cost more memory than making them costs time.
const (
	mib     = 1 << 20
	largest = 8 * mib
)

var (
	powers [21]sync.Pool              // powers[i] holds buffers of capacity 1<<i
	whole  [largest/mib + 1]sync.Pool // whole[i] those of i MiB
)

// pool returns the pool for buffers of at least n bytes, and their capacity; no pool
// if they are not kept.
func pool(n int) (*sync.Pool, int) {
	switch {
	case n <= mib:
		class := bits.Len(uint(max(n, 1) - 1))
		return &powers[class], 1 << class
	case n <= largest:
		class := (n + mib - 1) / mib
		return &whole[class], class * mib
	}
	return nil, n
}

// Get returns a buffer of length n with undefined content.
func Get(n int) []byte {
	p, size := pool(n)
	if p != nil {
		if b, ok := p.Get().(*[]byte); ok {
			return (*b)[:n]
		}
	}
	return make([]byte, n, size)
}

// Put takes back a buffer that Get returned, at any length, or nil. The caller
// must not use it afterwards, nor pass any other.
func Put(b []byte) {
	if cap(b) == 0 {
		return
	}
	if p, size := pool(cap(b)); p != nil && size == cap(b) {
		p.Put(&b)
	}
}
