package archive

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/castorsync/castor/internal/caformat"
)

// Reader reads an archive from its beginning to its end. It checks everything:
// the records and their order, names and theirs, the tables of directories, and
// that nothing follows. It is safe on any input; its memory is bounded by the
// children of the directories that are open, as far as they have been read. It is
// not safe for concurrent use.
type Reader struct {
	src  streamSource
	f    Features
	open []openDir
	cur  string // path of the latest entry
	left int64  // bytes of the current file that have not been read
	done bool   // the root has been left
	err  error  // sticky; set by Next and Read
}

// Entry is what a [Reader] comes upon: a node, or the end of a directory.
type Entry struct {
	Path   string // with slashes; "" is the root
	Node   *Node  // nil at the end of a directory
	Offset int64  // of the node's ENTRY record in the archive
}

// Skipper is what a reader may be that passes over bytes at less cost than reading
// them. Skip passes over n bytes, or fewer at the end, and returns how many.
type Skipper interface {
	Skip(n int64) (int64, error)
}

// NewReader returns a Reader of an archive. It may read ahead of what it has
// returned. If r is a [Skipper], content that is not read is skipped.
func NewReader(r io.Reader) *Reader {
	s, _ := r.(Skipper)
	// A record that is looked at as a whole must fit.
	return &Reader{src: streamSource{r: bufio.NewReaderSize(r, 128<<10), under: s}}
}

// Features returns the features of the archive. They are known after the first
// Next.
func (r *Reader) Features() Features { return r.f }

// Offset returns the offset in the archive of the next byte: after Next, that of
// a file's content, and behind what Next returned otherwise.
func (r *Reader) Offset() int64 { return r.src.off }

// Next returns the next node, or the end of the directory that is open. The root
// is the first and, ending, the last. Then comes io.EOF if nothing follows the
// archive. What is left of a file's content is skipped. The node is the caller's.
func (r *Reader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
		if err != io.EOF {
			r.err = fmt.Errorf("archive %s at offset %d: %w", show(r.cur), r.src.off, err)
		}
		return Entry{}, r.err
	}
	return e, nil
}

func (r *Reader) next() (Entry, error) {
	if err := r.skip(); err != nil {
		return Entry{}, err
	}
	switch {
	case r.done:
		return Entry{}, r.end()
	case len(r.open) == 0:
		return r.root()
	}
	r.endFile()
	_, typ, err := header(&r.src)
	if err != nil {
		return Entry{}, err
	}
	if typ == caformat.Goodbye {
		return r.leave()
	}
	return r.child()
}

// end returns io.EOF if nothing follows the root.
func (r *Reader) end() error {
	if _, err := r.src.peek(1); err != nil {
		return err
	}
	return formatError("more data behind the root directory")
}

// skip passes over what is left of a file.
func (r *Reader) skip() error {
	n, err := r.src.skip(r.left)
	r.left -= n
	if err == nil && r.left > 0 {
		err = io.EOF
	}
	if err == io.EOF {
		return r.truncated()
	}
	return err
}

func (r *Reader) truncated() error {
	return formatError("ends %d bytes before the end of a file: truncated?", r.left)
}

func (r *Reader) root() (Entry, error) {
	n, err := readNode(&r.src, &r.f, true)
	if err != nil {
		return Entry{}, err
	}
	if !n.IsDir() {
		return Entry{}, formatError("the root is no directory, its mode is %#o", n.Mode)
	}
	r.open = append(r.open, openDir{})
	return Entry{Node: n}, nil
}

func (r *Reader) child() (Entry, error) {
	d := &r.open[len(r.open)-1]
	r.cur = d.path
	start := r.src.off
	name, err := filename(&r.src)
	if err != nil {
		return Entry{}, err
	}
	r.cur = join(d.path, name)
	switch {
	case name <= d.last:
		return Entry{}, formatError("comes after %q, that is not the order of names", d.last)
	case len(r.open) == MaxDepth:
		return Entry{}, formatError("more than %d nodes deep", MaxDepth)
	case len(d.children) == MaxChildren:
		return Entry{}, formatError("more than %d nodes in a directory", MaxChildren)
	}
	d.last = name
	entry := r.src.off
	n, err := readNode(&r.src, &r.f, false)
	if err != nil {
		return Entry{}, err
	}
	if n.Size > math.MaxInt64-r.src.off {
		return Entry{}, formatError("file of %d bytes", n.Size)
	}
	if n.IsDir() {
		r.open = append(r.open, openDir{path: r.cur, start: start, entry: entry})
	} else {
		// Its end becomes known when the content has been read.
		d.children = append(d.children, child{hash: nameHash(name), start: start})
		r.left = n.Size
	}
	return Entry{Path: r.cur, Node: n, Offset: entry}, nil
}

// endFile notes where the latest child ends, if it is no directory.
func (r *Reader) endFile() {
	d := &r.open[len(r.open)-1]
	if n := len(d.children); n > 0 && d.children[n-1].end == 0 {
		d.children[n-1].end = r.src.off
	}
}

func (r *Reader) leave() (Entry, error) {
	d := r.open[len(r.open)-1]
	r.cur = d.path
	if err := r.goodbye(&d); err != nil {
		return Entry{}, err
	}
	r.open[len(r.open)-1] = openDir{}
	r.open = r.open[:len(r.open)-1]
	if len(r.open) == 0 {
		r.done = true
	} else {
		p := &r.open[len(r.open)-1]
		p.children = append(p.children, child{hash: nameHash(base(d.path)), start: d.start, end: r.src.off})
	}
	return Entry{Path: d.path, Offset: d.entry}, nil
}

// goodbye reads the table of d and compares it with what has been read of d.
func (r *Reader) goodbye(d *openDir) error {
	at := r.src.off
	size, _, err := header(&r.src)
	if err != nil {
		return err
	}
	n := len(d.children)
	if want := goodbyeMinSize + n*goodbyeItemSize; size != uint64(want) {
		return formatError("table of %d bytes for %d nodes, want %d", size, n, want)
	}
	r.src.discard(headerSize)
	sortChildren(d.children)
	for i := range n {
		c := d.children[treeRank(i, n)]
		err := r.goodbyeItem([3]uint64{uint64(at - c.start), uint64(c.end - c.start), c.hash})
		if err != nil {
			return fmt.Errorf("table, place %d: %w", i, err)
		}
	}
	err = r.goodbyeItem([3]uint64{uint64(at - d.entry), size, caformat.GoodbyeTail})
	if err != nil {
		return fmt.Errorf("table, tail: %w", err)
	}
	return nil
}

func (r *Reader) goodbyeItem(want [3]uint64) error {
	b, err := peek(&r.src, goodbyeItemSize, "the table of a directory")
	if err != nil {
		return err
	}
	if got := [3]uint64{word(b, 0), word(b, 1), word(b, 2)}; got != want {
		return formatError("%#x, want %#x", got, want)
	}
	r.src.discard(goodbyeItemSize)
	return nil
}

// Read reads from the content of the file that Next returned, which has
// Node.Size bytes.
func (r *Reader) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > r.left {
		b = b[:r.left]
	}
	n, err := r.src.Read(b)
	r.left -= int64(n)
	if err == io.EOF {
		err = r.truncated()
	}
	if err != nil {
		r.err = fmt.Errorf("archive %s at offset %d: %w", show(r.cur), r.src.off, err)
	}
	return n, r.err
}

// streamSource is a stream.
type streamSource struct {
	r     *bufio.Reader
	under Skipper // what r reads from, if it can skip
	off   int64
}

// skip passes over n bytes, or fewer at the end or with an error.
func (s *streamSource) skip(n int64) (done int64, err error) {
	if s.under != nil {
		done = min(n, int64(s.r.Buffered()))
		s.r.Discard(int(done))
		if done < n {
			var more int64
			more, err = s.under.Skip(n - done)
			done += more
		}
	}
	for s.under == nil && done < n && err == nil {
		var more int
		more, err = s.r.Discard(int(min(n-done, 1<<30)))
		done += int64(more)
	}
	s.off += done
	return done, err
}

func (s *streamSource) peek(n int) ([]byte, error) {
	b, err := s.r.Peek(n)
	if err == io.EOF && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (s *streamSource) discard(n int) {
	n, _ = s.r.Discard(n)
	s.off += int64(n)
}

func (s *streamSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.off += int64(n)
	return n, err
}
