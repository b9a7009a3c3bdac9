// Package treecache makes the index of a directory tree again without reading the
// files that are as they were.
//
//	tree.Scan → View → chunks that are known, from the cache of the last make
//	                 → build.File: what is not known, and what the store lacks
//
// The cache has a record of each chunk: its ID, and a fingerprint of what it is made
// of. That is the metadata in it, byte for byte, and for the content of files which
// they are, how large, and when they were last modified and touched
// ([tree.View.AppendIdentity]). Where a chunk begins and the fingerprint of what
// follows is that of a record, the chunk is known. So the index is the one that a make
// without a cache writes, and the store has all its chunks.
package treecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/store"
)

// racy is how long before a make a file must have been touched for the last time for
// its chunks to be remembered. It is the coarsest step in which file systems tell
// time, that of FAT.
const racy = 2 * time.Second

// attempts is how often a tree that changes while it is read is looked at. What an
// attempt has read is not read again by the next.
const attempts = 4

// Options are the settings of [Build].
type Options struct {
	Pack  *tree.PackOptions // nil means the defaults
	Build build.Options     // of which Known, Each and Hole are not used

	// Warn is told, if non-nil, that a cache is not used or cannot be written, and
	// why. That is no error: an index is made nevertheless.
	Warn func(error)

	now func() time.Time // for tests; nil means time.Now
}

// Build makes the index of the tree at root, whose features are those of w's header,
// as [build.File] does of the archive, with the cache that is or will be the file named
// path: see [Path]. Chunks that are known from it are not read, unless dst lacks them.
// The cache is replaced in the end; its directory is made if need be.
//
// A tree that changes while it is read is looked at again, a few times. After the first
// time, a file that has been written to is taken as it is read, and reported as
// [tree.Changed]. If files keep vanishing or being replaced, the error wraps
// [tree.ErrChanged], and nothing was appended to w; after other errors w may have to be
// thrown away. The memory is that of the View, some 100 bytes for each chunk, and as much
// for each record of the last make.
func Build(ctx context.Context, w *index.Writer, dst store.Store, root *os.Root, path string, o *Options) (build.Stats, error) {
	m := maker{header: w.Header(), dst: dst, root: root}
	if o != nil {
		m.o = *o
	}
	if m.o.Warn == nil {
		m.o.Warn = func(error) {}
	}
	if m.o.now == nil {
		m.o.now = time.Now
	}
	switch old, err := load(path, m.header); {
	case err == nil:
		m.old = old
	case !errors.Is(err, fs.ErrNotExist):
		m.o.Warn(fmt.Errorf("cache %s is ignored: %w", path, err))
	}
	stats, err := m.run(ctx)
	if err != nil {
		return stats, err
	}
	for i := range m.made {
		if err := w.Append(m.made[i].id, int(m.made[i].size)); err != nil {
			return stats, err
		}
	}
	if err := save(path, m.header, m.made); err != nil {
		m.o.Warn(fmt.Errorf("cache %s is not written: %w", path, err))
	}
	return stats, context.Cause(ctx)
}

// maker is one run of Build.
type maker struct {
	header index.Header
	dst    store.Store
	root   *os.Root
	o      Options

	old  []record // of the last make, and of attempts that failed
	made []record // of this attempt: every chunk of the index
}

// run makes the records of the tree as it is.
func (m *maker) run(ctx context.Context) (build.Stats, error) {
	var sum build.Stats
	for n := 1; ; n++ {
		stats, err := m.attempt(ctx, n > 1)
		stats.NewChunks += sum.NewChunks
		stats.NewBytes += sum.NewBytes
		stats.StoredBytes += sum.StoredBytes
		stats.Time += sum.Time
		sum = stats
		switch {
		case err == nil || n == attempts:
			return sum, err
		case errors.Is(err, tree.ErrChanged):
			m.old = append(m.made, m.old...)
		case errors.Is(err, build.ErrMistaken):
			// A file has changed and does not say so, or the records are forged: none is
			// to be trusted.
			m.o.Warn(fmt.Errorf("the cache is ignored: %w: did a file change behind the back of its file system?", err))
			m.old = nil
		default:
			return sum, err
		}
	}
}

// attempt looks at the tree and cuts what is not known.
func (m *maker) attempt(ctx context.Context, asRead bool) (build.Stats, error) {
	m.made = nil
	start := time.Now()
	var pack tree.PackOptions
	if m.o.Pack != nil {
		pack = *m.o.Pack
	}
	var problems []tree.Problem
	tell := pack.Problem
	pack.Problem = func(p tree.Problem) { problems = append(problems, p) }
	before := m.o.now().Add(-racy)
	v, _, err := tree.Scan(ctx, m.root, archive.Features(m.header.Features), &pack)
	if err != nil {
		return build.Stats{Time: time.Since(start)}, err
	}
	defer v.Close()
	var src io.ReaderAt = v
	var mu sync.Mutex // guards problems
	if asRead {
		src = v.AsRead(func(path string) {
			mu.Lock()
			defer mu.Unlock()
			problems = append(problems, tree.Problem{Path: path, What: tree.Changed, Err: tree.ErrChanged})
		})
	}
	met := len(problems)
	stats, err := m.cut(ctx, v, src, before)
	if errors.Is(err, build.ErrMistaken) && len(problems) > met {
		err = fmt.Errorf("%w: %w", tree.ErrChanged, err) // files were read as they are now
	}
	stats.Time = time.Since(start)
	if tell != nil && err == nil {
		for _, p := range problems {
			tell(p)
		}
	}
	return stats, err
}

// cut makes the records of what a View shows.
func (m *maker) cut(ctx context.Context, v *tree.View, src io.ReaderAt, before time.Time) (build.Stats, error) {
	// The entries wait in m.made until it is certain that this attempt is the last.
	w, err := index.NewWriter(io.Discard, m.header)
	if err != nil {
		return build.Stats{}, err
	}
	look, note := printer{view: v, before: before}, printer{view: v, before: before} // each for one goroutine
	o := m.o.Build
	o.Hole, o.Known = nil, nil
	if len(m.old) > 0 {
		known := table{records: m.old}
		o.Known = func(off int64) (build.Known, bool) { return known.find(&look, off) }
	}
	var off int64
	o.Each = func(e index.Entry, _ bool) {
		m.made = append(m.made, note.record(off, int(e.End-off), e.ID))
		off = e.End
	}
	return build.File(ctx, w, m.dst, src, v.Size(), &o)
}

// record returns the record of a chunk; it is not settled if it must not be known again.
func (p *printer) record(off int64, size int, id chunker.ID) record {
	r := record{size: uint32(size), id: id}
	var ok bool
	if r.start, ok = p.start(off); ok {
		r.print, r.settled = p.print(off, size)
	}
	return r
}
