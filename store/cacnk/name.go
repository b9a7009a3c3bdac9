package cacnk

import (
	"strings"

	"github.com/castorsync/castor/chunker"
)

// Form is one of the two forms in which a chunk lies in a store, and so which of its
// two names it has there.
type Form uint8

// The forms.
const (
	Compressed Form = iota // zstd, gzip or xz
	Plain
)

// suffixes of the names of chunks, by form.
var suffixes = [2]string{".cacnk", ""}

// MaxStored returns the greatest length of a chunk in any form, in bytes, if plain it
// has up to limit bytes.
func MaxStored(limit int) int64 { return int64(limit) + int64(limit)>>8 + 1024 }

// Name returns the name of a chunk in a store: its path with slashes.
func Name(id chunker.ID, f Form) string {
	hex := id.String()
	return hex[:4] + "/" + hex + suffixes[f]
}

// ParseName is the reverse of [Name], and takes nothing else.
func ParseName(name string) (id chunker.ID, f Form, ok bool) {
	hex, found := strings.CutSuffix(name, suffixes[Compressed])
	if !found {
		f = Plain
	}
	const prefix = 4 + 1
	if len(hex) != prefix+2*len(id) {
		return id, f, false
	}
	id, err := chunker.ParseID(hex[prefix:])
	return id, f, err == nil && Name(id, f) == name
}
