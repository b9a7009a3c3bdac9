package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/castorsync/castor/internal/caformat"
)

// Sizes of reads. A read may cost a round trip, and the records of most nodes
// take a few hundred bytes.
const (
	readAhead     = 4 << 10
	readManyAhead = 64 << 10 // where the nodes to read lie close together

	minChild = headerSize + 2 + entryRecord // bytes of the least node with a name

	entryRecord = headerSize + 48
)

// Tree reads an archive in any order, through the tables of its directories. It
// reads what it is asked for and little more, and checks all that it reads, as a
// [Reader] does. It keeps no more than the root, and is safe for concurrent use
// if its ReaderAt is.
type Tree struct {
	ra   io.ReaderAt
	f    Features
	root *Item
}

// Item is a node in its place in a [Tree]. It is not to be changed.
type Item struct {
	Path string // with slashes; "" is the root
	Node *Node

	t     *Tree
	entry int64 // offset of the ENTRY record
	body  int64 // offset of the content, or of the first child
	end   int64 // offset behind the last record
	depth int   // nodes on the path, the root included
}

// OpenTree opens the archive in the first size bytes of ra. Besides the root's
// own records, it reads and checks only where the root's table is.
func OpenTree(ra io.ReaderAt, size int64) (*Tree, error) {
	t := &Tree{ra: ra}
	if size < 0 {
		return nil, fmt.Errorf("archive of %d bytes", size)
	}
	src := &section{window: &window{ra: ra, ahead: readAhead}, end: size, limit: size}
	n, err := readNode(src, &t.f, true)
	if err == nil && !n.IsDir() {
		err = formatError("the root is no directory, its mode is %#o", n.Mode)
	}
	t.root = &Item{Node: n, t: t, body: src.pos, end: size, depth: 1}
	if err != nil {
		return nil, t.root.fail(err)
	}
	if _, err := t.root.table(); err != nil {
		return nil, err
	}
	return t, nil
}

// Features returns the features of the archive.
func (t *Tree) Features() Features { return t.f }

// Root returns the root directory.
func (t *Tree) Root() *Item { return t.root }

// Find returns the node at a path with slashes; empty names and "." in it count
// for nothing. The error is an [fs.PathError], which wraps [fs.ErrNotExist] if
// there is no such node.
func (t *Tree) Find(path string) (*Item, error) {
	it := t.root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		var err error
		if it, err = it.Lookup(name); err != nil {
			return nil, err
		}
	}
	return it, nil
}

// Name returns the last name of the path.
func (it *Item) Name() string { return base(it.Path) }

// Range returns where the records of the node are in the archive, without its
// name: from its ENTRY to behind its last. Those of a directory are an archive of
// its own.
func (it *Item) Range() (start, end int64) { return it.entry, it.end }

// Records returns a reader of [Item.Range]. For a directory, [NewReader] reads it.
func (it *Item) Records() *io.SectionReader {
	return io.NewSectionReader(it.t.ra, it.entry, it.end-it.entry)
}

// Content returns a reader of a regular file's content; it is empty for other
// nodes.
func (it *Item) Content() *io.SectionReader {
	return io.NewSectionReader(it.t.ra, it.body, it.Node.Size)
}

// Lookup returns the node of that name in a directory. The error is an
// [fs.PathError], which wraps [fs.ErrNotExist] if there is none.
func (it *Item) Lookup(name string) (*Item, error) {
	found, err := it.lookup(name)
	if err == nil && found == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "look up", Path: join(it.Path, name), Err: err}
	}
	return found, nil
}

func (it *Item) lookup(name string) (*Item, error) {
	if !it.Node.IsDir() {
		return nil, errNotDir
	}
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	tb, err := it.table()
	if err != nil {
		return nil, err
	}
	return tb.find(0, name, nameHash(name), 0, math.MaxUint64)
}

var errNotDir = errors.New("not a directory")

// Children returns the nodes in a directory in the order of their names. It ends
// with the first error, if there is one.
func (it *Item) Children() iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		err := it.children(func(c *Item) bool { return yield(c, nil) })
		if err != nil {
			yield(nil, &fs.PathError{Op: "list", Path: cmp.Or(it.Path, "."), Err: err})
		}
	}
}

func (it *Item) children(yield func(*Item) bool) error {
	if !it.Node.IsDir() {
		return errNotDir
	}
	tb, err := it.table()
	if err != nil {
		return err
	}
	list, err := tb.all()
	if err != nil {
		return err
	}
	w := window{ra: it.t.ra, ahead: readAhead}
	if (tb.at-it.body)/int64(max(len(list), 1)) < readAhead { // small nodes: the next ones are in the same read
		w.ahead = readManyAhead
	}
	last := ""
	for _, c := range list {
		child, err := it.read(&w, c)
		if err != nil {
			return err
		}
		name := child.Name()
		if name <= last {
			return child.fail(formatError("comes after %q, that is not the order of names", last))
		}
		last = name
		if !yield(child) {
			return nil
		}
	}
	return nil
}

// All returns the node and, if it is a directory, everything in it, each
// directory before its children. It ends with the first error, if there is one.
func (it *Item) All() iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) { it.all(yield) }
}

func (it *Item) all(yield func(*Item, error) bool) bool {
	if !yield(it, nil) {
		return false
	}
	if !it.Node.IsDir() {
		return true
	}
	for c, err := range it.Children() {
		if err != nil {
			yield(nil, err)
			return false
		}
		if !c.all(yield) {
			return false
		}
	}
	return true
}

// read reads the node c of the directory.
func (it *Item) read(w *window, c child) (*Item, error) {
	child := &Item{Path: it.Path, t: it.t, depth: it.depth + 1, end: c.end}
	src := &section{window: w, pos: c.start, end: c.end, limit: it.end}
	name, err := filename(src)
	if err != nil {
		return nil, it.fail(err)
	}
	child.Path, child.entry = join(it.Path, name), src.pos
	if h := nameHash(name); h != c.hash {
		return nil, child.fail(formatError("hash of the name is %#x, but %#x in the table", h, c.hash))
	}
	if child.depth > MaxDepth {
		return nil, child.fail(formatError("more than %d nodes deep", MaxDepth))
	}
	f := it.t.f
	if child.Node, err = readNode(src, &f, false); err != nil {
		return nil, child.fail(err)
	}
	child.body = src.pos
	if err := child.checkEnd(); err != nil {
		return nil, child.fail(err)
	}
	return child, nil
}

// checkEnd compares where the node ends by its records, as far as they have been
// read, and by its directory's table.
func (it *Item) checkEnd() error {
	left := it.end - it.body
	if it.Node.IsDir() && left >= goodbyeMinSize || !it.Node.IsDir() && left == it.Node.Size {
		return nil
	}
	return formatError("the table says that the node ends at offset %d", it.end)
}

// fail adds to an error which node it is about.
func (it *Item) fail(err error) error {
	return fmt.Errorf("archive %s at offset %d: %w", show(it.Path), it.entry, err)
}

// table is the table of a directory.
type table struct {
	dir *Item
	at  int64 // offset of the GOODBYE record
	n   int
	w   window
}

// table reads the end of the table of a directory, and all of a small one.
func (it *Item) table() (*table, error) {
	tb, err := it.readTable()
	if err != nil {
		return nil, it.fail(err)
	}
	return tb, nil
}

func (it *Item) readTable() (*table, error) {
	tb := &table{dir: it, w: window{ra: it.t.ra, ahead: readAhead}}
	start := max(it.body, it.end-readAhead)
	if it.end-it.body < goodbyeMinSize {
		return nil, formatError("ends within its table: truncated?")
	}
	b, err := tb.w.bytes(start, int(it.end-start), it.end)
	if err != nil {
		return nil, err
	}
	tail := b[len(b)-goodbyeItemSize:]
	size := word(tail, 1)
	if word(tail, 2) != caformat.GoodbyeTail || size < goodbyeMinSize || size > uint64(it.end-it.body) ||
		(size-goodbyeMinSize)%goodbyeItemSize != 0 {
		return nil, formatError("does not end as a directory does")
	}
	tb.at = it.end - int64(size)
	if entry := word(tail, 0); entry != uint64(tb.at-it.entry) {
		return nil, formatError("table says that the directory begins %d bytes before it, but it does %d", entry, tb.at-it.entry)
	}
	n := (size - goodbyeMinSize) / goodbyeItemSize
	if n > MaxChildren || n > uint64(tb.at-it.body)/minChild || n == 0 && tb.at != it.body {
		return nil, formatError("table of %d nodes for %d bytes", n, tb.at-it.body)
	}
	tb.n = int(n)
	b, err = tb.w.bytes(tb.at, headerSize, it.end)
	if err != nil {
		return nil, err
	}
	if word(b, 0) != size || word(b, 1) != caformat.Goodbye {
		return nil, formatError("no table where the end of the directory says that it begins")
	}
	return tb, nil
}

// item returns what is at place i.
func (tb *table) item(i int) (child, error) {
	b, err := tb.w.bytes(tb.at+headerSize+goodbyeItemSize*int64(i), goodbyeItemSize, tb.dir.end)
	if err != nil {
		return child{}, tb.dir.fail(err)
	}
	back, size := word(b, 0), word(b, 1)
	if back > uint64(tb.at-tb.dir.body) || size > back || size < minChild {
		return child{}, tb.dir.fail(formatError("table, place %d: no node is %d bytes before it and has %d", i, back, size))
	}
	start := tb.at - int64(back)
	return child{hash: word(b, 2), start: start, end: start + int64(size)}, nil
}

// find returns the node of a name from the sub-tree at place i, where all hashes
// must be from lo to hi; nil if there is none. Different names may have the same
// hash, and then are on either side.
func (tb *table) find(i int, name string, hash, lo, hi uint64) (*Item, error) {
	if i >= tb.n {
		return nil, nil
	}
	c, err := tb.item(i)
	if err != nil {
		return nil, err
	}
	if c.hash < lo || c.hash > hi {
		return nil, tb.dir.fail(formatError("table, place %d: hash is not in order", i))
	}
	if c.hash == hash {
		it, err := tb.dir.read(&window{ra: tb.w.ra, ahead: readAhead}, c)
		if err != nil || it.Name() == name {
			return it, err
		}
	}
	if hash <= c.hash {
		if it, err := tb.find(2*i+1, name, hash, lo, c.hash); it != nil || err != nil {
			return it, err
		}
	}
	if hash >= c.hash {
		return tb.find(2*i+2, name, hash, c.hash, hi)
	}
	return nil, nil
}

// all returns all of the table in the order of the archive. The nodes follow each
// other from the first to the table.
func (tb *table) all() ([]child, error) {
	tb.w.ahead = readManyAhead
	list := make([]child, 0, min(tb.n, 1<<16))
	for i := range tb.n {
		c, err := tb.item(i)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	if err := checkSearchTree(list); err != nil {
		return nil, tb.dir.fail(err)
	}
	slices.SortFunc(list, func(a, b child) int { return cmp.Compare(a.start, b.start) })
	at := tb.dir.body
	for _, c := range list {
		if c.start != at {
			return nil, tb.dir.fail(formatError("table does not name the node at offset %d", at))
		}
		at = c.end
	}
	if at != tb.at {
		return nil, tb.dir.fail(formatError("table does not name the node at offset %d", at))
	}
	return list, nil
}

// checkSearchTree says whether a table is sorted as it should be.
func checkSearchTree(list []child) error {
	var last *child
	var walk func(i int) error
	walk = func(i int) error {
		if i >= len(list) {
			return nil
		}
		if err := walk(2*i + 1); err != nil {
			return err
		}
		c := &list[i]
		if last != nil && (c.hash < last.hash || c.hash == last.hash && c.start <= last.start) {
			return formatError("table, place %d: hash is not in order", i)
		}
		last = c
		return walk(2*i + 2)
	}
	return walk(0)
}

// window is a part of an archive in memory.
type window struct {
	ra    io.ReaderAt
	ahead int // bytes to read at least, if there are so many
	off   int64
	b     []byte
}

// bytes returns n bytes at off, valid until the next call. It reads nothing at or
// behind limit.
func (w *window) bytes(off int64, n int, limit int64) ([]byte, error) {
	if off < w.off || off+int64(n) > w.off+int64(len(w.b)) {
		if err := w.read(off, int(min(limit-off, int64(max(n, w.ahead))))); err != nil {
			return nil, err
		}
		if n > len(w.b) {
			return nil, formatError("ends at offset %d: truncated?", w.off+int64(len(w.b)))
		}
	}
	at := int(off - w.off)
	return w.b[at : at+n], nil
}

func (w *window) read(off int64, n int) error {
	w.off = off
	w.b = slices.Grow(w.b[:0], n)[:n]
	got, err := w.ra.ReadAt(w.b, off)
	if got == n || err == io.EOF {
		err = nil
	}
	w.b = w.b[:got]
	return err
}

// section is a source of the bytes from pos to end, which reads ahead up to
// limit.
type section struct {
	*window
	pos, end, limit int64
}

func (s *section) peek(n int) ([]byte, error) {
	switch {
	case s.pos >= s.end:
		return nil, io.EOF
	case int64(n) > s.end-s.pos:
		return nil, io.ErrUnexpectedEOF
	}
	return s.bytes(s.pos, n, s.limit)
}

func (s *section) discard(n int) { s.pos += int64(n) }
