package s3

import (
	"strings"

	"github.com/castorsync/castor/chunker"
)

// form is how a chunk is stored.
type form uint8

const (
	compressed form = iota // zstd, gzip or xz
	plain
)

// suffixes of the names of chunks, by form.
var suffixes = [2]string{".cacnk", ""}

// aside ends the names of damaged chunks that are out of the way.
const aside = ".bad"

func (f form) contentType() string {
	if f == plain {
		return "application/octet-stream"
	}
	return "application/zstd" // as desync says
}

// maxStored returns the greatest length of a chunk in any form, if plain it has
// up to limit bytes.
func maxStored(limit int) int64 { return int64(limit) + int64(limit)>>8 + 1024 }

// chunkName returns the name of a chunk below the store.
func chunkName(id chunker.ID, f form) string {
	hex := id.String()
	return hex[:4] + "/" + hex + suffixes[f]
}

// parseChunkName is the reverse of chunkName, and takes nothing else.
func parseChunkName(name string) (id chunker.ID, f form, ok bool) {
	hex, found := strings.CutSuffix(name, suffixes[compressed])
	if !found {
		f = plain
	}
	const prefix = 4 + 1
	if len(hex) != prefix+2*len(id) {
		return id, f, false
	}
	id, err := chunker.ParseID(hex[prefix:])
	return id, f, err == nil && chunkName(id, f) == name
}
