//go:build !linux

package share

import (
	"io/fs"
	"time"
)

func ctime(fs.FileInfo) time.Time { return time.Time{} }
