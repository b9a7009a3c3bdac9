package index

import "github.com/castorsync/castor/chunker"

// Share is a number of distinct chunks and the bytes of content in them.
type Share struct {
	Chunks int   `json:"chunks"`
	Bytes  int64 `json:"bytes"`
}

// Difference says which distinct chunks two indexes have.
type Difference struct {
	Added   Share `json:"added"`   // only the new one has
	Removed Share `json:"removed"` // only the old one has
	Shared  Share `json:"shared"`  // both have
}

// Compare compares the chunks of two indexes, which must use the same digest
// for anything to be shared.
func Compare(old, new *Index) (d Difference) {
	const inOld, inNew = 1, 2
	seen := make(map[chunker.ID]uint8, len(old.Entries))
	for _, e := range old.Entries {
		seen[e.ID] = inOld
	}
	for i, e := range new.Entries {
		was := seen[e.ID]
		if was&inNew != 0 {
			continue
		}
		seen[e.ID] = was | inNew
		if was&inOld != 0 {
			d.Shared.add(new.Len(i))
		} else {
			d.Added.add(new.Len(i))
		}
	}
	for i, e := range old.Entries {
		if seen[e.ID] == inOld {
			d.Removed.add(old.Len(i))
			seen[e.ID] = 0 // once
		}
	}
	return d
}

func (s *Share) add(n int) {
	s.Chunks++
	s.Bytes += int64(n)
}
