package archive

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	goodbyeItemSize = 24
	goodbyeMinSize  = 16 + goodbyeItemSize // the header and the tail
)

// child is what a directory's table says about one of its nodes. The offsets are
// those in the archive.
type child struct {
	hash       uint64
	start, end int64 // from its FILENAME record to behind its last record
}

// sortChildren sorts by hash, and by offset where hashes are equal.
func sortChildren(s []child) {
	slices.SortFunc(s, func(a, b child) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.start, b.start)) })
}

// treeRank returns which of n sorted items is at place i of a table. A table is a
// binary search tree in which the children of place i are at 2i+1 and 2i+2: all
// levels are full but the last, which is filled from the left.
func treeRank(i, n int) int {
	rank := 0
	path := uint(i + 1)                        // below its top bit, from the root: 1 is right, 0 is left
	for b := bits.Len(path) - 2; b >= 0; b-- { // n is the size of the sub-tree
		left := leftSize(n)
		if path>>b&1 == 0 {
			n = left
		} else {
			rank += left + 1
			n -= left + 1
		}
	}
	return rank + leftSize(n)
}

// leftSize returns how many of n items are left of the root.
func leftSize(n int) int {
	h := bits.Len(uint(n)) - 1 // the last level, from 0
	if h == 0 {
		return 0
	}
	last := n - (1<<h - 1)
	half := 1 << (h - 1)
	return half - 1 + min(last, half)
}
