package share

import (
	"io/fs"
	"syscall"
	"time"
)

// ctime returns when anything of a file last changed, which unlike the time of its
// content nobody can set.
func ctime(fi fs.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return time.Time{}
}
