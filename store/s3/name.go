package s3

import "github.com/castorsync/castor/store/cacnk"

// form is how a chunk is stored.
type form = cacnk.Form

const (
	compressed = cacnk.Compressed
	plain      = cacnk.Plain
)

// aside ends the names of damaged chunks that are out of the way.
const aside = ".bad"

// contentType returns what an object that holds a chunk is called.
func contentType(f form) string {
	if f == plain {
		return "application/octet-stream"
	}
	return "application/zstd" // as desync says
}
