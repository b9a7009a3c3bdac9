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

// maxViewFiles is how many files a View keeps open.
const maxViewFiles = 64

// View is a tree as the archive that [Pack] would make of it: what comes between
// the contents of files is in memory, the contents are read from the files. A file
// that has changed since gives [ErrChanged] where it is read. It is safe for
// concurrent use.
type View struct {
	root    *os.Root
	size    int64
	between []byte    // everything but contents, in order
	places  []content // ascending

	mu     sync.Mutex
	open   map[int]*viewFile // by index in places; guarded by mu
	clock  int64             // counts uses; guarded by mu
	closed bool              // guarded by mu
}

// content is the content of a file in the archive.
type content struct {
	off    int64 // in the archive
	before int   // bytes of View.between that come before
	dir    string
	name   string
	status status
}

// viewFile is a file that a View has opened.
type viewFile struct {
	*sourceFile
	users int   // who is reading from it
	used  int64 // when it was last used, see View.clock
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
// Bytes. The memory is some 250 bytes for each node. The View has its own hold on
// root.
func Scan(ctx context.Context, root *os.Root, f archive.Features, o *PackOptions) (*View, PackStats, error) {
	v := &View{open: map[int]*viewFile{}}
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
	if err := s.w.AddHead(it.name, it.node); err != nil {
		return err
	}
	if size := it.node.Size; size > 0 {
		s.view.places = append(s.view.places, content{
			off:    s.w.Offset() - size,
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

// Close closes all files. Reads that are under way fail.
func (v *View) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	for i, f := range v.open {
		if f.users == 0 {
			f.Close()
			delete(v.open, i)
		}
	}
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

// ReadAt implements [io.ReaderAt]. What it returns with an error that is not io.EOF
// is not to be used.
func (v *View) ReadAt(b []byte, off int64) (done int, err error) {
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
func (v *View) readPart(b []byte, off int64, i int) (int, error) {
	if i < 0 {
		return copy(b, v.between[off:v.betweenEnd(0)]), nil
	}
	c := &v.places[i]
	if off -= c.off; off < c.status.size {
		n := int(min(int64(len(b)), c.status.size-off))
		if err := v.readFile(b[:n], off, i); err != nil {
			return 0, fmt.Errorf("%s: %w", shown(inPath(c.dir, c.name)), err)
		}
		return n, nil
	}
	from := c.before + int(off-c.status.size)
	return copy(b, v.between[from:v.betweenEnd(i+1)]), nil
}

// betweenEnd returns where what comes before content i ends.
func (v *View) betweenEnd(i int) int {
	if i < len(v.places) {
		return v.places[i].before
	}
	return len(v.between)
}

// readFile fills b from a file, unless that has changed.
func (v *View) readFile(b []byte, off int64, i int) error {
	f, err := v.acquire(i)
	if err != nil {
		return err
	}
	defer v.release(i, f)
	if _, err := f.ReadAt(b, off); err == io.EOF {
		return ErrChanged
	} else if err != nil {
		return err
	}
	return v.check(f.sourceFile, i)
}

// check returns an error if f is not content i as it was.
func (v *View) check(f *sourceFile, i int) error {
	now, err := f.status()
	if err == nil && !now.same(v.places[i].status) {
		return ErrChanged
	}
	return err
}

// acquire returns content i's file, open.
func (v *View) acquire(i int) (*viewFile, error) {
	if f := v.known(i); f != nil {
		return f, nil
	}
	file, err := v.openFile(inPath(v.places[i].dir, v.places[i].name))
	if err != nil {
		return nil, err
	}
	if err := v.check(file, i); err != nil {
		file.Close()
		return nil, err
	}
	return v.add(i, file)
}

func (v *View) openFile(name string) (*sourceFile, error) {
	fi, err := v.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && !fi.Mode().IsRegular():
		return nil, ErrChanged
	case err != nil:
		return nil, err
	}
	return openSource(v.root, name)
}

// known returns content i's file if it is open, with one more user.
func (v *View) known(i int) *viewFile {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.open[i]
	if f != nil && !v.closed {
		v.use(f)
		return f
	}
	return nil
}

func (v *View) use(f *viewFile) {
	v.clock++
	f.used = v.clock
	f.users++
}

// add takes over file, which somebody else may have opened meanwhile as well.
func (v *View) add(i int, file *sourceFile) (*viewFile, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		file.Close()
		return nil, fs.ErrClosed
	}
	f := v.open[i]
	if f != nil {
		file.Close()
	} else {
		f = &viewFile{sourceFile: file}
		v.open[i] = f
	}
	v.use(f)
	v.evict()
	return f, nil
}

// evict closes the file that has not been used for longest, if there are too many.
func (v *View) evict() {
	if len(v.open) <= maxViewFiles {
		return
	}
	oldest := -1
	for i, f := range v.open {
		if f.users == 0 && (oldest < 0 || f.used < v.open[oldest].used) {
			oldest = i
		}
	}
	if oldest >= 0 {
		v.open[oldest].Close()
		delete(v.open, oldest)
	}
}

// release says that f is not read from any more.
func (v *View) release(i int, f *viewFile) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f.users--
	if v.closed && f.users == 0 {
		f.Close()
		delete(v.open, i)
	}
}
