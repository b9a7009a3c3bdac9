// Package bitset is a fixed-size set of small integers, a bit each.
package bitset

import (
	"math/bits"
	"sync/atomic"
)

// Set holds integers from 0 to the length it was made with. Different
// goroutines may use it at the same time.
type Set []atomic.Uint64

// New returns an empty set for integers below n.
func New(n int) Set { return make(Set, (n+63)/64) }

// Add puts i into the set.
func (s Set) Add(i int) { s[i>>6].Or(1 << (i & 63)) }

// Remove takes i out of the set.
func (s Set) Remove(i int) { s[i>>6].And(^(1 << (i & 63))) }

// Has reports whether i is in the set.
func (s Set) Has(i int) bool { return s[i>>6].Load()>>(i&63)&1 != 0 }

// Count returns how many integers are in the set.
func (s Set) Count() (n int) {
	for i := range s {
		n += bits.OnesCount64(s[i].Load())
	}
	return n
}
