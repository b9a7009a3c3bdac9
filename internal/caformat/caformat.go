// Package caformat holds the numbers of casync's formats, which index and
// archive share: record types and feature flags. All integers of the formats
// are 64 bits wide and little-endian.
package caformat

// Record types and markers of an index.
const (
	Index     = 0x96824d9c7b129ff9
	Table     = 0xe75b9e112f17417d
	TableTail = 0x4b4f050e5549ecd1
)

// Feature flags. Those of casync are a promise to keep; the range that casync
// leaves free below them is where castor's additions go, so that casync and
// its relatives refuse what they cannot read.
const (
	// Selectable is the mask of the flags that choose what an archive holds.
	Selectable = 1<<33 - 1

	// BLAKE3 says that chunks are named by BLAKE3-256. It is castor's addition,
	// and SHA512256 is clear beside it.
	BLAKE3 = 1 << 59

	ExcludeFile      = 1 << 60 // .caexclude files were honoured
	SHA512256        = 1 << 61 // chunks are named by SHA-512/256; clear means SHA-256
	ExcludeSubmounts = 1 << 62 // other file systems were left out
	ExcludeNoDump    = 1 << 63 // files marked nodump were left out

	// Known is the mask of all flags that castor understands.
	Known = Selectable | BLAKE3 | ExcludeFile | SHA512256 | ExcludeSubmounts | ExcludeNoDump
)
