package httpstore

import (
	"strings"

	"github.com/castorsync/castor/chunker"
)

// form is how a chunk is asked for.
type form uint8

const (
	compressed form = iota // zstd, gzip or xz
	plain
)

// suffixes of the names of chunks, by form.
var suffixes = [2]string{".cacnk", ""}

// maxStored returns the greatest length of a chunk in any form, if plain it has
// up to limit bytes.
func maxStored(limit int) int64 { return int64(limit) + int64(limit)>>8 + 1024 }

// chunkPath returns the path of a chunk below the store.
func chunkPath(id chunker.ID, f form) string {
	hex := id.String()
	return hex[:4] + "/" + hex + suffixes[f]
}

// defaultStore is the name of the store that an index has beside it.
const defaultStore = "default.castr"

// inStore returns the path of a resource without that of the store: the chunks are
// those of the default store in every directory, so that an index that is served
// needs no word about where its chunks are.
func inStore(path string) string {
	if at := strings.LastIndex(path, defaultStore+"/"); at == 0 || at > 0 && path[at-1] == '/' {
		return path[at+len(defaultStore)+1:]
	}
	return path
}

// parseChunkPath is the reverse of chunkPath, and takes nothing else.
func parseChunkPath(path string) (id chunker.ID, f form, ok bool) {
	hex, found := strings.CutSuffix(path, suffixes[compressed])
	if !found {
		f = plain
	}
	const prefix = 4 + 1
	if len(hex) != prefix+2*len(id) {
		return id, f, false
	}
	id, err := chunker.ParseID(hex[prefix:])
	return id, f, err == nil && chunkPath(id, f) == path
}
