// Package share offers files as they are on disk: files or trees go in, and an
// index, a version and a source of chunks for each file come out, again whenever one
// has changed. Nothing is copied: chunks are read from the files, and verified, so
// that a file that has changed since it was indexed gives damaged chunks and never
// wrong ones. What is kept is 44 bytes a chunk.
package share

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/internal/sparse"
	"github.com/castorsync/castor/store"
)

// Options are the settings of a [Share]. The zero value and nil mean the defaults.
type Options struct {
	Every   time.Duration  // between scans, at least; 0: 5 s
	Params  chunker.Params // of new indexes; zero: the default ones
	Workers int            // 0 means one for each CPU
	Log     *slog.Logger   // may be nil

	// Trees are directories that are shared as one archive each, whose name is the last
	// element.
	Trees []string

	// Version returns the version of content that was modified at that time, if the
	// version before was last, 0 for none.
	Version func(last uint64, modified time.Time) uint64
}

// File is a file that is shared.
type File struct {
	Name     string // slash-separated
	Path     string // for messages
	Index    *index.Index
	Root     chunker.ID
	Version  uint64 // grows with every change
	Modified time.Time
	Store    store.Getter // has its chunks
}

// Share watches files and trees. Its methods must not be called concurrently.
type Share struct {
	o        Options
	paths    []string
	trees    []*sharedTree
	files    map[string]*file // by name
	contents map[chunker.ID]*content
	removed  uint64            // the greatest version of a file that is gone
	warned   map[string]string // by path: what was said of it, and is not repeated
	damaged  chan struct{}     // somebody has met a chunk that is wrong
}

// file is what is known of a file.
type file struct {
	place
	state   state
	content *content // nil: it could not be indexed
	version uint64

	failures int       // to index it, in a row
	retry    time.Time // not before
}

// state is what tells whether a file has changed.
type state struct {
	size     int64
	modified time.Time
	info     fs.FileInfo // for its identity
}

func (s state) same(t state) bool {
	return s.info != nil && t.info != nil && s.size == t.size && s.modified.Equal(t.modified) &&
		ctime(s.info).Equal(ctime(t.info)) && os.SameFile(s.info, t.info)
}

func stateOf(fi fs.FileInfo) state { return state{fi.Size(), fi.ModTime(), fi} }

// New returns a Share of paths, each a file, whose name is the last element, or a
// directory, of which every regular file below has its path from there as its name.
// Symbolic links below a directory are not followed; stores (*.castr) and castor's
// temporary files are passed over.
func New(paths []string, o *Options) (*Share, error) {
	s := &Share{paths: paths, files: map[string]*file{}, contents: map[chunker.ID]*content{}, warned: map[string]string{}, damaged: make(chan struct{}, 1)}
	if o != nil {
		s.o = *o
	}
	if s.o.Every <= 0 {
		s.o.Every = 5 * time.Second
	}
	if s.o.Params == (chunker.Params{}) {
		s.o.Params = chunker.DefaultParams
	}
	if s.o.Log == nil {
		s.o.Log = slog.New(slog.DiscardHandler)
	}
	if s.o.Version == nil {
		s.o.Version = func(last uint64, modified time.Time) uint64 {
			return max(last+1, uint64(max(modified.UnixNano(), 0)))
		}
	}
	for _, p := range paths {
		fi, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !fi.IsDir() && !fi.Mode().IsRegular() {
			return nil, &fs.PathError{Op: "share", Path: p, Err: errors.New("is neither a file nor a directory")}
		}
	}
	for _, p := range s.o.Trees {
		fi, err := os.Stat(p)
		if err == nil && !fi.IsDir() {
			err = &fs.PathError{Op: "share", Path: p, Err: errors.New("is not a directory")}
		}
		if err != nil {
			return nil, err
		}
		name, err := treeName(p)
		if err != nil {
			return nil, err
		}
		s.trees = append(s.trees, &sharedTree{dir: p, file: file{place: place{rel: p, name: name}}})
	}
	return s, nil
}

// These are the constants of scanning.
const (
	scanShare = 10 // a scan begins this many times as long after the last one as that took
	tellEvery = time.Second
	retryMost = 5 * time.Minute
	settle    = 250 * time.Millisecond // after a chunk was wrong, before looking again
)

// Run scans again and again until ctx ends, at once when rescan says so, and returns
// the cause. It calls changed with all files when they are not what they were.
func (s *Share) Run(ctx context.Context, rescan <-chan struct{}, changed func([]File)) error {
	for {
		begin := time.Now()
		if err := s.Scan(ctx, changed); err != nil {
			return err
		}
		timer := time.NewTimer(max(s.o.Every, scanShare*time.Since(begin)))
		select {
		case <-timer.C:
		case <-rescan:
		case <-s.damaged:
			settled := time.NewTimer(settle)
			select {
			case <-settled.C:
			case <-ctx.Done():
			}
			settled.Stop()
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Scan looks at all paths once and indexes what is new or has changed. It calls
// changed if anything did, now and then, after each tree, and at the end. It returns the cause if ctx
// ends; a file that cannot be read is logged and passed over.
func (s *Share) Scan(ctx context.Context, changed func([]File)) error {
	seen := map[string]bool{}
	dirty, told := false, time.Now()
	tell := func() {
		if dirty {
			changed(s.list())
			dirty, told = false, time.Now()
		}
	}
	for _, p := range s.paths {
		err := walk(ctx, p, s.warn, func(pl place, fi fs.FileInfo) {
			if f := s.files[pl.name]; f != nil && f.place != pl && seen[pl.name] {
				s.warn(pl.path(), fmt.Errorf("%s has the same name", f.path()))
				return
			}
			seen[pl.name] = true
			if s.look(ctx, pl, stateOf(fi)) {
				dirty = true
			}
			if time.Since(told) > tellEvery {
				tell()
			}
		})
		if err != nil {
			return err
		}
	}
	for _, t := range s.trees {
		if s.lookTree(ctx, t) {
			dirty = true
			tell() // the next one may take long
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	for name, f := range s.files {
		if !seen[name] {
			dirty = dirty || f.content != nil
			s.leave(f)
			s.removed = max(s.removed, f.version)
			delete(s.files, name)
			delete(s.warned, f.path())
		}
	}
	tell()
	return nil
}

// warn says why a path is not shared, once.
func (s *Share) warn(path string, err error) {
	if s.warned[path] != err.Error() {
		s.warned[path] = err.Error()
		s.o.Log.Warn("not shared", "path", path, "error", err)
	}
}

// look takes in a file as it is now. It reports whether that changes what is shared.
func (s *Share) look(ctx context.Context, pl place, now state) bool {
	f := s.files[pl.name]
	if f == nil {
		f = &file{place: pl}
		s.files[pl.name] = f
	}
	if f.place != pl { // another path has the same name, and the first one is gone
		s.leave(f)
		f.place, f.state = pl, state{}
	}
	stale := f.content != nil && f.content.wrong(pl)
	if f.state.same(now) && !stale || time.Now().Before(f.retry) {
		return false
	}
	x, at, err := s.index(ctx, pl)
	if ctx.Err() != nil {
		return false
	}
	had := f.content
	if err != nil {
		s.warn(pl.path(), err)
		s.backOff(f)
		s.leave(f) // what is there now is not what was announced
		f.state = state{}
		return had != nil
	}
	if stale && f.state.same(at) { // its time has not told that it had changed
		s.backOff(f)
	} else {
		f.failures, f.retry = 0, time.Time{}
	}
	f.state = at
	delete(s.warned, pl.path())
	root := x.Root()
	if had != nil && had.root == root {
		had.right(pl)
		return false
	}
	s.leave(f)
	f.version = s.o.Version(max(f.version, s.removed), at.modified)
	if f.content = s.contents[root]; f.content == nil {
		f.content = newContent(x, root, s.damaged)
		s.contents[root] = f.content
	}
	f.content.add(pl)
	return true
}

// backOff has a file left alone for a while, longer each time in a row.
func (s *Share) backOff(f *file) {
	f.failures++
	f.retry = time.Now().Add(min(s.o.Every<<min(f.failures-1, 16), retryMost))
}

// leave forgets the content of f.
func (s *Share) leave(f *file) {
	if f.content != nil && f.content.remove(f.place) {
		delete(s.contents, f.content.root)
	}
	f.content = nil
}

// list returns what is shared, in order of the names.
func (s *Share) list() []File {
	var all []File
	add := func(f *file) {
		if c := f.content; c != nil {
			all = append(all, File{
				Name: f.name, Path: f.path(), Index: c.index, Root: c.root, Version: f.version, Modified: f.state.modified, Store: c,
			})
		}
	}
	for _, f := range s.files {
		add(f)
	}
	for _, t := range s.trees {
		if f := s.files[t.name]; f != nil {
			s.warn(t.dir, fmt.Errorf("%s has the same name", f.path()))
			continue
		}
		add(&t.file)
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// errBusy says that a file is being written.
var errBusy = errors.New("it changes while it is read; it is shared once it rests")

// index indexes a file and returns in which state it is.
func (s *Share) index(ctx context.Context, pl place) (*index.Index, state, error) {
	f, err := pl.open()
	if err != nil {
		return nil, state{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, state{}, err
	}
	before := stateOf(fi)
	h := index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: s.o.Params}
	w, err := index.NewWriter(io.Discard, h)
	if err != nil {
		return nil, state{}, err
	}
	x := &index.Index{Header: h}
	o := &build.Options{Workers: s.o.Workers, Hole: func(off, n int64) bool { return sparse.Hole(f, off, n) }}
	o.Each = func(e index.Entry, _ bool) { x.Entries = append(x.Entries, e) }
	_, err = build.File(ctx, w, nil, f, before.size, o)
	if ctx.Err() != nil {
		return nil, state{}, context.Cause(ctx)
	}
	if fi, serr := f.Stat(); serr != nil || !stateOf(fi).same(before) {
		return nil, state{}, cmp.Or(serr, errBusy)
	}
	if fi, serr := pl.stat(); serr != nil || !stateOf(fi).same(before) {
		return nil, state{}, cmp.Or(serr, errBusy)
	}
	if err != nil {
		return nil, state{}, err
	}
	x.Entries = slices.Clip(slices.Clone(x.Entries))
	return x, before, nil
}

// place is where a file is.
type place struct {
	dir  string // opened anew each time, links followed; "" for a path that is a file
	rel  string // below dir, or the path; slash-separated
	name string
	view *tree.View // of a tree that is shared as one
}

func (p place) path() string { return filepath.Join(p.dir, filepath.FromSlash(p.rel)) }

// open opens the file if it is a regular one. It leads nowhere outside of dir.
func (p place) open() (*os.File, error) {
	var f *os.File
	var err error
	if p.dir == "" {
		f, err = os.OpenFile(p.rel, os.O_RDONLY|nonblock, 0)
	} else {
		var d *os.Root
		if d, err = os.OpenRoot(p.dir); err != nil {
			return nil, err
		}
		defer d.Close()
		f, err = d.OpenFile(filepath.FromSlash(p.rel), os.O_RDONLY|nonblock, 0)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// stat is open without reading.
func (p place) stat() (fs.FileInfo, error) {
	if p.dir == "" {
		return os.Stat(p.rel)
	}
	return os.Lstat(p.path())
}

// excluded reports whether something below a shared directory is not shared.
func excluded(name string, dir bool) bool {
	return dir && strings.HasSuffix(name, ".castr") || strings.Contains(name, ".castor-tmp")
}

// walk calls each for the regular files of a path.
func walk(ctx context.Context, root string, warn func(path string, err error), each func(place, fs.FileInfo)) error {
	fi, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist): // for now
		return context.Cause(ctx)
	case err != nil:
		warn(root, err)
		return context.Cause(ctx)
	case fi.Mode().IsRegular():
		each(place{rel: root, name: path.Base(filepath.ToSlash(filepath.Clean(root)))}, fi)
		return context.Cause(ctx)
	}
	return fs.WalkDir(os.DirFS(root), ".", func(rel string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			warn(filepath.Join(root, rel), err)
		case rel != "." && excluded(path.Base(rel), d.IsDir()):
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.Type().IsRegular():
			if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
				each(place{dir: root, rel: rel, name: rel}, fi)
			}
		}
		return nil
	})
}
