package httpstore

import (
	"strings"

	"github.com/castorsync/castor/store/cacnk"
)

// form is how a chunk is asked for.
type form = cacnk.Form

const (
	compressed = cacnk.Compressed
	plain      = cacnk.Plain
)

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
