package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/castorsync/castor/archive"
)

// How many files, and directories that have them, a View keeps open.
const (
	maxViewFiles = 64
	maxViewDirs  = 16
)

// View is a tree as the archive that [Pack] would make of it: what comes between
// the contents of files is in memory, the contents are read from the files. A file
// that has changed since gives [ErrChanged] where it is read. It is safe for
// concurrent use.
type View struct {
	root    *os.Root
	size    int64
	between []byte    // everything but contents, in order
	places  []content // ascending

	files *keeper[int, *sourceFile]   // by index in places
	dirs  *keeper[string, *sourceDir] // by path

	mu      sync.Mutex
	touched map[int]bool // by index in places: files that are not untouched, and whether that was told; guarded by mu
}

// content is the content of a file in the archive.
type content struct {
	off    int64 // in the archive
	head   int   // bytes from the node's ENTRY record to off
	before int   // bytes of View.between that come before
	dir    string
	name   string
	status status
}

var _ io.ReaderAt = (*View)(nil)

// Place is where a byte of an archive is in a tree.
type Place struct {
	Path   string // of the file, slash-separated
	Offset int64  // in the file
	Size   int64  // of the content from there on
}

// Scan returns the tree at root as a [View]. No content is read. The features and
// options are as those of [Pack]; the statistics tell the size of all contents as
// Bytes. The memory is some 260 bytes for each node. The View has its own hold on
// root.
func Scan(ctx context.Context, root *os.Root, f archive.Features, o *PackOptions) (*View, PackStats, error) {
	v := &View{
		files:   newKeeper[int, *sourceFile](maxViewFiles),
		dirs:    newKeeper[string, *sourceDir](maxViewDirs),
		touched: map[int]bool{},
	}
	s := &scanner{view: v}
	if err := s.init(f, o, (*recorder)(v)); err != nil {
		return nil, PackStats{}, err
	}
	s.walker.visit = s.add
	err := s.run(ctx, root)
	if err == nil {
		v.root, err = root.OpenRoot(".")
	}
	if err != nil {
		return nil, s.walker.stats, err
	}
	v.size = s.walker.stats.Size
	return v, s.walker.stats, nil
}

// scanner is one run of Scan.
type scanner struct {
	packer
	view *View
}

// add adds a node to the view.
func (s *scanner) add(it *item) error {
	if it.kind != leaf {
		return s.packer.add(it)
	}
	s.mark(it)
	entry, err := s.w.AddHead(it.name, it.node)
	if err != nil {
		return err
	}
	if size := it.node.Size; size > 0 {
		s.view.places = append(s.view.places, content{
			off:    s.w.Offset() - size,
			head:   int(s.w.Offset() - size - entry),
			before: len(s.view.between),
			dir:    it.dir.path,
			name:   it.name,
			status: it.status,
		})
		s.walker.stats.Bytes += size
	}
	return nil
}

// recorder is a View that takes what comes between the contents.
type recorder View

func (r *recorder) Write(b []byte) (int, error) {
	r.between = append(r.between, b...)
	return len(b), nil
}

// Size returns the size of the archive in bytes.
func (v *View) Size() int64 { return v.size }

// Close closes all files. Reads that are under way may fail.
func (v *View) Close() error {
	v.files.Close()
	v.dirs.Close()
	return v.root.Close()
}

// last returns the index of the last content that begins at off or before, -1 if
// there is none.
func (v *View) last(off int64) int {
	i, found := slices.BinarySearchFunc(v.places, off, func(c content, off int64) int {
		switch {
		case c.off < off:
			return -1
		case c.off > off:
			return 1
		}
		return 0
	})
	if found {
		return i
	}
	return i - 1
}

// Locate returns where in the tree the byte at off is, and false if it belongs to
// no file's content.
func (v *View) Locate(off int64) (Place, bool) {
	i := v.last(off)
	if off < 0 || i < 0 {
		return Place{}, false
	}
	c := &v.places[i]
	if off -= c.off; off >= c.status.size {
		return Place{}, false
	}
	return Place{inPath(c.dir, c.name), off, c.status.size - off}, true
}

// Held returns what follows off in memory: all up to the next content, and nothing
// within one.
func (v *View) Held(off int64) []byte {
	i := v.last(off)
	if off < 0 || off >= v.size || i >= 0 && off-v.places[i].off < v.places[i].status.size {
		return nil
	}
	from, end := v.betweenRange(off, i)
	return v.between[from:end]
}

// file returns the file whose ENTRY record is at off, if it has content, and how many
// bytes there are from there to the end of that; nil if there is no such file.
func (v *View) file(off int64) (*content, int64) {
	i := v.last(off) + 1
	if i == len(v.places) || v.places[i].off-int64(v.places[i].head) != off {
		return nil, 0
	}
	return &v.places[i], int64(v.places[i].head) + v.places[i].status.size
}

// ReadAt implements [io.ReaderAt]. What it returns with an error that is not io.EOF
// is not to be used.
func (v *View) ReadAt(b []byte, off int64) (done int, err error) {
	return viewReader{View: v}.ReadAt(b, off)
}

// AsRead returns the archive with files that have changed as they are when they are
// read, which is how [Pack] treats them. It calls changed once for the path of each,
// one at a time. A file that is gone, replaced by another or shorter than it was gives
// [ErrChanged] nevertheless. The reader is as safe for concurrent use as v.
func (v *View) AsRead(changed func(path string)) io.ReaderAt { return viewReader{v, changed} }

// viewReader is a View as somebody reads it.
type viewReader struct {
	*View
	changed func(path string) // is told of files that have changed; nil: they are an error
}

func (v viewReader) ReadAt(b []byte, off int64) (done int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	i := v.last(off)
	for done < len(b) && off < v.size {
		n, err := v.readPart(b[done:], off, i)
		done += n
		if err != nil {
			return done, err
		}
		if off += int64(n); i+1 < len(v.places) && off >= v.places[i+1].off {
			i++
		}
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

// readPart reads from one content or from what follows it; i is the last content
// that begins at off or before.
func (v viewReader) readPart(b []byte, off int64, i int) (int, error) {
	if i >= 0 {
		c := &v.places[i]
		if at := off - c.off; at < c.status.size {
			n := int(min(int64(len(b)), c.status.size-at))
			if err := v.readFile(b[:n], at, i); err != nil {
				return 0, fmt.Errorf("%s: %w", shown(inPath(c.dir, c.name)), err)
			}
			return n, nil
		}
	}
	from, end := v.betweenRange(off, i)
	return copy(b, v.between[from:end]), nil
}

// betweenRange returns where in View.between the bytes from off to the next content
// are; i is the last content that begins at off or before, and ends there or before.
func (v *View) betweenRange(off int64, i int) (from, end int) {
	if i < 0 {
		return int(off), v.betweenEnd(0)
	}
	c := &v.places[i]
	return c.before + int(off-c.off-c.status.size), v.betweenEnd(i + 1)
}

// betweenEnd returns where what comes before content i ends.
func (v *View) betweenEnd(i int) int {
	if i < len(v.places) {
		return v.places[i].before
	}
	return len(v.between)
}

// readFile fills b from a file, unless that has changed. A file is kept open if there
// is more to be read of it.
func (v viewReader) readFile(b []byte, off int64, i int) error {
	f := v.files.known(i)
	if f == nil {
		it, err := v.openFile(i)
		if err != nil {
			return err
		}
		if int64(len(b)) == v.places[i].status.size {
			defer it.Close()
			return v.fill(b, off, i, it)
		}
		if f, err = v.files.add(i, it); err != nil {
			return err
		}
	}
	defer v.files.release(i, f)
	return v.fill(b, off, i, f.it)
}

// fill fills b from f, if that is content i's file as it was.
func (v viewReader) fill(b []byte, off int64, i int, f *sourceFile) error {
	if _, err := f.ReadAt(b, off); err == io.EOF {
		return ErrChanged
	} else if err != nil {
		return err
	}
	now, err := f.status()
	if err != nil {
		return err
	}
	return v.check(now, i)
}

// check returns an error if a file that is now so is not content i as it was.
func (v viewReader) check(now status, i int) error {
	was := v.places[i].status
	switch {
	case now.untouched(was):
		return nil
	case now.same(was):
		v.touch(i, nil)
		return nil
	case v.changed != nil && now.fileID == was.fileID && now.size >= was.size:
		v.touch(i, v.changed)
		return nil
	}
	return ErrChanged
}

// touch takes down that content i's file was touched, and tells it once.
func (v *View) touch(i int, tell func(path string)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	told := v.touched[i]
	v.touched[i] = told || tell != nil
	if tell != nil && !told {
		tell(inPath(v.places[i].dir, v.places[i].name))
	}
}

// openFile opens content i's file.
func (v viewReader) openFile(i int) (*sourceFile, error) {
	c := &v.places[i]
	dir, err := v.dirs.acquire(c.dir, func() (*sourceDir, error) { return openSourceDir(v.root, c.dir) })
	if err == nil {
		defer v.dirs.release(c.dir, dir)
		var file *sourceFile
		var now status
		if file, now, err = dir.it.openFile(c.name); err == nil {
			if err = v.check(now, i); err == nil {
				return file, nil
			}
			file.Close()
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = ErrChanged
	}
	return nil, err
}
