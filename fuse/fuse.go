// Package fuse mounts the content of an index as a file, and an archive as the
// tree of files that it is. Mounts are read-only.
//
// What is mounted never changes, so the kernel keeps all it is told: names,
// metadata and content are asked for once, as long as it has memory for them. Reads
// run in parallel. One that fails is an input/output error for whoever read, and
// is tried again with the next read.
//
// Mounting works on Linux, on machines with words of 64 bits.
package fuse

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/castorsync/castor/archive"
)

// StatsAttr is the extended attribute of a mount's root that holds its statistics as
// JSON, with spaces at the end. It is not in the list of attributes.
const StatsAttr = "user.castor.stats"

// FS is what can be mounted.
type FS struct {
	content io.ReaderAt
	size    int64         // of content, in bytes
	tree    *archive.Tree // in content; nil for a file
	name    string        // of the file
	time    time.Time     // of the file
}

// File returns a file system of one file in the root. Content is read by several
// goroutines at once; if it has a method ReadAtContext, as [blob.Blob] has, reads end
// when their readers are killed.
//
// [blob.Blob]: https://pkg.go.dev/github.com/castorsync/castor/index/blob#Blob
func File(name string, content io.ReaderAt, size int64, modified time.Time) *FS {
	return &FS{content: content, size: size, name: name, time: modified}
}

// Tree returns the file system of an archive. Of its content the same is true as with
// File. Nodes have the offset of their ENTRY record as inode number, and the root
// has 1.
func Tree(t *archive.Tree) *FS {
	content, _, size := t.Root().Records().Outer()
	return &FS{content: content, size: size, tree: t}
}

// Options are the settings of FS.Mount. The zero value and nil mean the defaults.
type Options struct {
	Source     string // what df and /proc/self/mounts say is mounted; "" means castor
	AllowOther bool   // other users than the one who mounts may use it, as far as modes allow
	// Flags are flags of mount(8): see KnownFlag. Without any, set-id bits have no effect
	// and devices cannot be opened.
	Flags []string
	Log   *slog.Logger // of failed reads, each chunk once a minute; may be nil
	// Whole, if non-nil, has all the content of a File, and the kernel is to read it by
	// itself. What it reads there nobody verifies. That takes root, and a kernel and a
	// file system of Whole that can; where the kernel refuses, the log says so, and reads
	// are answered as without it.
	Whole *os.File
	// Stats, if non-nil, returns what StatsAttr holds besides the mount's own; it is
	// encoded as JSON.
	Stats func(Stats) any
}

// Stats says what a mount has done so far.
type Stats struct {
	Reads       int64 `json:"reads"`       // read requests of the kernel
	ReadBytes   int64 `json:"read_bytes"`  // that they got
	Lookups     int64 `json:"lookups"`     // of names in directories
	Listed      int64 `json:"listed"`      // nodes in listings of directories
	Failed      int64 `json:"failed"`      // requests that ended with an error of the content
	Interrupted int64 `json:"interrupted"` // that ended because of a signal to whoever made them
	Passthrough bool  `json:"passthrough"` // the kernel reads by itself, and asks for nothing of this
}

// ErrBusy is wrapped by the error about a mount that cannot be unmounted because files
// in it are in use.
var ErrBusy = errors.New("in use")

// ErrNotMounted is wrapped by the error about a directory where castor has mounted
// nothing.
var ErrNotMounted = errors.New("castor has mounted nothing there")

// KnownFlag reports whether a word is one of the flags that Options has.
func KnownFlag(flag string) bool {
	_, ok := flags[flag]
	return ok
}

// sourceName returns s as a name for the table of mounts that needs no quoting
// anywhere, whoever chose it: in options a comma would end it, and a backslash quote.
func sourceName(s string) string {
	if s == "" {
		return "castor"
	}
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == ',' || r == '\\' {
			return '_'
		}
		return r
	}, s)
	return s[:min(len(s), 255)]
}
