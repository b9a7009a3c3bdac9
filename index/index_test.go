package index_test

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

// made returns an index of n chunks by the rule that testdata/castor/merkle.json
// states: the ID of entry i is the SHA-256 of i as 8 bytes, little-endian, and
// its length is 1 + 7919·i mod max.
func made(n int, h index.Header) *index.Index {
	x := &index.Index{Header: h}
	var end int64
	for i := range n {
		end += 1 + int64(7919*i%h.Params.Max)
		x.Entries = append(x.Entries, index.Entry{
			End: end,
			ID:  sha256.Sum256(binary.LittleEndian.AppendUint64(nil, uint64(i))),
		})
	}
	return x
}

// small is a header that leaves chunks of up to 256 bytes.
var small = blobHeader(chunker.BLAKE3, chunker.Params{Min: 16, Avg: 64, Max: 256})

func TestFeatures(t *testing.T) {
	for _, tt := range []struct {
		digest chunker.Digest
		want   index.Features
	}{
		{chunker.SHA512256, 0xb000000000000000},
		{chunker.SHA256, 0x9000000000000000},
		{chunker.BLAKE3, 0x9800000000000000},
	} {
		got := index.BlobFeatures(tt.digest)
		if got != tt.want {
			t.Errorf("BlobFeatures(%v) = %#x, want %#x", tt.digest, uint64(got), uint64(tt.want))
		}
		if got := got.Digest(); got != tt.digest {
			t.Errorf("BlobFeatures(%v).Digest() = %v", tt.digest, got)
		}
		for _, other := range chunker.Digests {
			if got, want := got.WithDigest(other), index.BlobFeatures(other); got != want {
				t.Errorf("%#x.WithDigest(%v) = %#x, want %#x", uint64(tt.want), other, uint64(got), uint64(want))
			}
		}
		const archive = 0x1ffeffe26 // flags that have nothing to do with it stay
		if got := (tt.want | archive).WithDigest(tt.digest); got != tt.want|archive {
			t.Errorf("WithDigest(%v) of %#x = %#x", tt.digest, uint64(tt.want|archive), uint64(got))
		}
	}
	if got, want := index.Features(0).Digest(), chunker.SHA256; got != want {
		t.Errorf("no flags: digest %v, want %v", got, want)
	}
}

func TestFind(t *testing.T) {
	x := &index.Index{Header: small, Entries: []index.Entry{{End: 10}, {End: 11}, {End: 200}}}
	for _, tt := range []struct {
		off  int64
		want int
	}{
		{0, 0}, {9, 0}, {10, 1}, {11, 2}, {199, 2}, {200, 3}, {201, 3}, {1 << 62, 3},
	} {
		if got := x.Find(tt.off); got != tt.want {
			t.Errorf("Find(%d) = %d, want %d", tt.off, got, tt.want)
		}
	}
	for i, want := range []struct {
		start int64
		len   int
	}{{0, 10}, {10, 1}, {11, 189}} {
		if got := x.Start(i); got != want.start {
			t.Errorf("Start(%d) = %d, want %d", i, got, want.start)
		}
		if got := x.Len(i); got != want.len {
			t.Errorf("Len(%d) = %d, want %d", i, got, want.len)
		}
	}
	if got, want := x.Start(3), int64(200); got != want || x.Size() != want {
		t.Errorf("Start(3) = %d, Size() = %d, want %d", got, x.Size(), want)
	}
	var empty index.Index
	if got := empty.Find(0); got != 0 || empty.Size() != 0 {
		t.Errorf("empty index: Find(0) = %d, Size() = %d, want 0 and 0", got, empty.Size())
	}
	x = made(1000, small)
	for i := range x.Entries {
		first, last := x.Start(i), x.Entries[i].End-1
		if got := x.Find(first); got != i {
			t.Errorf("Find(%d) = %d, want %d", first, got, i)
		}
		if got := x.Find(last); got != i {
			t.Errorf("Find(%d) = %d, want %d", last, got, i)
		}
	}
}

func TestCompare(t *testing.T) {
	// Each letter is a chunk, as long as its place in the alphabet says.
	of := func(chunks string) *index.Index {
		x := &index.Index{Header: small}
		var end int64
		for _, c := range []byte(chunks) {
			end += int64(c-'a') + 1
			x.Entries = append(x.Entries, index.Entry{End: end, ID: chunker.ID{c}})
		}
		return x
	}
	type share = index.Share
	for _, tt := range []struct {
		old, new string
		want     index.Difference
	}{
		{"", "", index.Difference{}},
		{"", "abab", index.Difference{Added: share{2, 3}}},
		{"abab", "", index.Difference{Removed: share{2, 3}}},
		{"abab", "bbaa", index.Difference{Shared: share{2, 3}}},
		{"abcc", "dcbb", index.Difference{Added: share{1, 4}, Removed: share{1, 1}, Shared: share{2, 5}}},
	} {
		if got := index.Compare(of(tt.old), of(tt.new)); got != tt.want {
			t.Errorf("Compare(%q, %q) = %+v, want %+v", tt.old, tt.new, got, tt.want)
		}
	}
}
