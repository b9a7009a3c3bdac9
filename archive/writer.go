package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/castorsync/castor/internal/caformat"
)

// MaxChildren is the greatest number of nodes in one directory. It bounds the
// memory for the tables, 24 bytes for each.
const MaxChildren = 1 << 24

// Writer writes an archive as the tree is walked: Enter the root; then, for each
// directory, Add its nodes and Enter its directories in the order of their names'
// bytes; Leave it; Close. For the same calls it writes the same bytes as casync.
// Its memory is bounded by the children of the directories that are open.
//
// After an error, which names the path, the Writer only returns that error: what
// it has written is no archive. It is not safe for concurrent use.
type Writer struct {
	w     *bufio.Writer
	f     Features
	open  []openDir
	off   int64  // of the next byte in the archive
	buf   []byte // reused
	state writerState
	err   error // sticky; set through fail
}

type writerState int

const (
	noRoot writerState = iota
	inRoot
	complete
)

// openDir is a directory whose GOODBYE record has not come.
type openDir struct {
	path     string // "" is the root
	start    int64  // of its FILENAME record, or of the archive
	entry    int64  // of its ENTRY record
	last     string // name of the latest child
	children []child
}

// NewWriter returns a Writer of an archive with the features f, which must be
// normalized. It buffers what it writes.
func NewWriter(w io.Writer, f Features) (*Writer, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	return &Writer{w: bufio.NewWriterSize(w, 128<<10), f: f}, nil
}

// Features returns what was given to [NewWriter].
func (w *Writer) Features() Features { return w.f }

// Offset returns the offset in the archive of the next byte: after Enter and Add,
// that behind the node.
func (w *Writer) Offset() int64 { return w.off }

// Enter begins a directory. The first one is the root, whose name is "". The node
// must be as [Features.Strip] leaves it.
func (w *Writer) Enter(name string, n *Node) error {
	if w.err != nil {
		return w.err
	}
	start := w.off
	p := w.path(name)
	if !n.IsDir() {
		return w.fail(p, fmt.Errorf("mode %#o is not that of a directory", n.Mode))
	}
	if err := w.head(name, n); err != nil {
		return w.fail(p, err)
	}
	entry := start
	if name != "" {
		entry += headerSize + int64(len(name)) + 1
	}
	w.open = append(w.open, openDir{path: p, start: start, entry: entry})
	w.state = inRoot
	return nil
}

// Add writes a node that is no directory, with its content if it is a regular
// file: content must yield n.Size bytes, and is not read any further; it may be
// nil if that is 0. The node must be as [Features.Strip] leaves it.
func (w *Writer) Add(name string, n *Node, content io.Reader) error {
	return w.leaf(name, n, func() error { return w.payload(n.Size, content) })
}

// leaf writes a node that is no directory, whose content is written by body.
func (w *Writer) leaf(name string, n *Node, body func() error) error {
	if w.err != nil {
		return w.err
	}
	start := w.off
	p := w.path(name)
	if n.IsDir() || len(w.open) == 0 {
		return w.fail(p, errors.New("a directory, or no directory to be in"))
	}
	if err := w.head(name, n); err != nil {
		return w.fail(p, err)
	}
	if err := body(); err != nil {
		return w.fail(p, err)
	}
	w.addChild(name, start)
	return nil
}

func (w *Writer) payload(size int64, content io.Reader) error {
	if size == 0 {
		return nil
	}
	if content == nil {
		return fmt.Errorf("no content, want %d bytes", size)
	}
	done, err := io.CopyN(w.w, content, size)
	w.off += done
	if err == io.EOF {
		return fmt.Errorf("content ends after %d of %d bytes: %w", done, size, io.ErrUnexpectedEOF)
	}
	return err
}

// head writes the records of a node that come before its content.
func (w *Writer) head(name string, n *Node) error {
	w.buf = w.buf[:0]
	if err := w.place(name); err != nil {
		return err
	}
	if err := w.f.check(n); err != nil {
		return err
	}
	w.buf = appendText(w.buf, caformat.Filename, name)
	w.buf = w.f.appendNode(w.buf, n)
	if len(w.buf) > maxHead {
		return fmt.Errorf("attributes of %d bytes, more than %d", len(w.buf), maxHead)
	}
	if n.Size > MaxSize-w.off-int64(len(w.buf)) {
		return errors.New("the archive is larger than 2^63 bytes")
	}
	return w.write(w.buf)
}

// place checks that a node of that name may come here.
func (w *Writer) place(name string) error {
	switch {
	case w.state == complete:
		return errors.New("the root has been left")
	case w.state == noRoot && name != "":
		return fmt.Errorf("the root has a name, %q", name)
	case w.state == noRoot:
		return nil
	case len(w.open) == MaxDepth:
		return fmt.Errorf("more than %d nodes deep", MaxDepth)
	}
	if err := checkName(name); err != nil {
		return err
	}
	d := &w.open[len(w.open)-1]
	switch {
	case len(d.children) == MaxChildren:
		return fmt.Errorf("more than %d nodes in a directory", MaxChildren)
	case name == d.last:
		return errors.New("a second node of this name")
	case name < d.last:
		return fmt.Errorf("comes after %q, that is not the order of names", d.last)
	}
	d.last = name
	return nil
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.off += int64(n)
	return err
}

func (w *Writer) addChild(name string, start int64) {
	d := &w.open[len(w.open)-1]
	d.children = append(d.children, child{hash: nameHash(name), start: start, end: w.off})
}

// Leave ends the directory that was entered last.
func (w *Writer) Leave() error {
	if w.err != nil {
		return w.err
	}
	if len(w.open) == 0 {
		return w.fail("", errors.New("leave: no directory is open"))
	}
	d := w.open[len(w.open)-1]
	if err := w.goodbye(&d); err != nil {
		return w.fail(d.path, err)
	}
	w.open[len(w.open)-1] = openDir{}
	w.open = w.open[:len(w.open)-1]
	if len(w.open) == 0 {
		w.state = complete
		return nil
	}
	w.addChild(base(d.path), d.start)
	return nil
}

// goodbye writes the table of d.
func (w *Writer) goodbye(d *openDir) error {
	sortChildren(d.children)
	at := w.off
	n := len(d.children)
	size := goodbyeMinSize + n*goodbyeItemSize
	w.buf = appendHeader(w.buf[:0], caformat.Goodbye, size-headerSize)
	for i := range n {
		c := d.children[treeRank(i, n)]
		w.buf = appendGoodbyeItem(w.buf, uint64(at-c.start), uint64(c.end-c.start), c.hash)
		if len(w.buf) > 32<<10 {
			if err := w.write(w.buf); err != nil {
				return err
			}
			w.buf = w.buf[:0]
		}
	}
	w.buf = appendGoodbyeItem(w.buf, uint64(at-d.entry), uint64(size), caformat.GoodbyeTail)
	return w.write(w.buf)
}

// Close flushes a complete archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.state != complete {
		return w.fail("", errors.New("close: the root has not been left"))
	}
	if err := w.w.Flush(); err != nil {
		return w.fail("", err)
	}
	w.err = errors.New("archive writer is closed")
	return nil
}

func (w *Writer) path(name string) string {
	if len(w.open) == 0 || name == "" {
		return name
	}
	return join(w.open[len(w.open)-1].path, name)
}

func (w *Writer) fail(path string, err error) error {
	w.err = fmt.Errorf("archive %s: %w", show(path), err)
	return w.err
}

// join returns the path of a name in a directory; "" is the root.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// base returns the last name of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// show returns how errors name a path.
func show(path string) string {
	if path == "" {
		return "root"
	}
	return fmt.Sprintf("%.1024q", path)
}
