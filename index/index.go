// Package index is the table of contents of a blob or an archive: which chunks,
// in which order, make it up. It reads and writes casync's .caibx and .caidx
// files, which share one format, and names an index by the Merkle root of its
// entries.
package index

import (
	"errors"
	"fmt"
	"sort"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/caformat"
)

// ErrFormat is wrapped by every error about the content of an index, as opposed
// to one about reading it.
var ErrFormat = errors.New("not a valid index")

// Features are the flags in an index's header: the digest of its chunks, and
// for an archive what it holds.
type Features uint64

// BlobFeatures returns the flags that casync gives to an index of a blob, with
// the digest d.
func BlobFeatures(d chunker.Digest) Features {
	return Features(caformat.ExcludeNoDump | caformat.ExcludeFile).WithDigest(d)
}

// WithDigest returns f with the digest replaced by d.
func (f Features) WithDigest(d chunker.Digest) Features {
	f &^= caformat.SHA512256 | caformat.BLAKE3
	switch d {
	case chunker.BLAKE3:
		f |= caformat.BLAKE3
	case chunker.SHA512256:
		f |= caformat.SHA512256
	}
	return f
}

// Digest returns the digest that names the index's chunks.
func (f Features) Digest() chunker.Digest {
	switch {
	case f&caformat.BLAKE3 != 0:
		return chunker.BLAKE3
	case f&caformat.SHA512256 != 0:
		return chunker.SHA512256
	}
	return chunker.SHA256
}

func (f Features) validate() error {
	const both = caformat.BLAKE3 | caformat.SHA512256
	if unknown := f &^ caformat.Known; unknown != 0 {
		return fmt.Errorf("%w: unknown feature flags %#x: made by a newer program?", ErrFormat, uint64(unknown))
	}
	if f&both == both {
		return fmt.Errorf("%w: feature flags %#x name two digests", ErrFormat, uint64(f))
	}
	return nil
}

// Header is what an index says of all its chunks.
type Header struct {
	Features Features
	Params   chunker.Params
}

func (h Header) validate() error {
	if err := h.Features.validate(); err != nil {
		return err
	}
	if err := h.Params.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

// Entry is one chunk in its place.
type Entry struct {
	End int64 // offset of the first byte behind the chunk
	ID  chunker.ID
}

// Index is a whole index in memory, at 40 bytes a chunk.
type Index struct {
	Header
	Entries []Entry
}

// Size returns the length of the indexed content in bytes.
func (x *Index) Size() int64 { return x.Start(len(x.Entries)) }

// Start returns the offset of entry i; for i = len(x.Entries) it is the size of
// the content.
func (x *Index) Start(i int) int64 {
	if i == 0 {
		return 0
	}
	return x.Entries[i-1].End
}

// Len returns the length of entry i in bytes.
func (x *Index) Len(i int) int { return int(x.Entries[i].End - x.Start(i)) }

// Find returns the number of the entry that holds the byte at off, or
// len(x.Entries) if off is at or beyond the end.
func (x *Index) Find(off int64) int {
	return sort.Search(len(x.Entries), func(i int) bool { return x.Entries[i].End > off })
}

// Digest returns the digest that names the index's chunks.
func (x *Index) Digest() chunker.Digest { return x.Features.Digest() }
