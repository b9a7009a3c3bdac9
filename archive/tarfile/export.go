package tarfile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/archive"
)

// Source is an archive, or a part of one, as it is read from its beginning: what
// [archive.Reader] is. A root that is empty but for being a directory is not written.
type Source interface {
	Next() (archive.Entry, error)
	Read(p []byte) (int, error)
	Features() archive.Features
}

// ExportOptions are the settings of [Export]. The zero value and nil mean the defaults.
type ExportOptions struct {
	// Mask is which of the archive's features are written; 0 means all.
	Mask archive.Features
	// Problem is told of what has no place in a tar.
	Problem func(Problem)
}

// ExportStats says what [Export] has written.
type ExportStats struct {
	Entries  int   // all of them
	Files    int   // regular ones with their content
	Bytes    int64 // their content
	Linked   int   // hard links
	Problems int
}

// Export writes the archive src to w as a tar file in the format PAX. Names begin with
// "./". Of files that are marked as one, as package tree does for hard links, the first
// is written with its content, the others as links to it. After an error, what was
// written is no tar file.
func Export(ctx context.Context, src Source, w io.Writer, o *ExportOptions) (ExportStats, error) {
	if o == nil {
		o = &ExportOptions{}
	}
	buffer := bufio.NewWriterSize(w, 128<<10)
	e := &exporter{ctx: ctx, src: src, o: *o, w: tar.NewWriter(buffer), links: map[string]*exported{}}
	err := e.run()
	if err == nil {
		err = e.w.Close()
	}
	if err == nil {
		err = buffer.Flush()
	}
	return e.stats, err
}

// exporter is one run of Export.
type exporter struct {
	ctx   context.Context
	src   Source
	o     ExportOptions
	w     *tar.Writer
	f     archive.Features // of what is written
	links map[string]*exported
	held  int // bytes of links, some
	stats ExportStats
}

// exported is the first name of a file that has several.
type exported struct {
	path string
	node *archive.Node
	sum  []byte
}

// maxLinks bounds the memory for the names of files that have several, in bytes. Files
// that do not fit are written as files of their own.
const maxLinks = 128 << 20

func (e *exporter) run() error {
	for {
		if e.ctx.Err() != nil {
			return context.Cause(e.ctx)
		}
		it, err := e.src.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if it.Node == nil {
			continue
		}
		if e.f = e.src.Features(); e.o.Mask != 0 {
			e.f = e.f.Replay(e.o.Mask)
		}
		if err := e.add(it.Path, it.Node); err != nil {
			return fmt.Errorf("tar %s: %w", show(it.Path), err)
		}
	}
}

func (e *exporter) add(path string, n *archive.Node) error {
	if path == "" && n.Equal(&archive.Node{Mode: archive.TypeDir}) {
		return nil // the root of a part, of which nothing is said
	}
	group := takeMark(n)
	e.f.Strip(n)
	switch {
	case !e.f.Stores(n.Mode):
		return nil
	case n.Type() == archive.TypeSocket:
		e.tell(Problem{path, "socket", errLeftOut})
		return nil
	case n.Flags != 0 || n.ProjectID != 0:
		e.tell(Problem{path, "attributes", errLeftOut})
	}
	h, err := headerOf(path, n, e.f)
	if err != nil {
		return err
	}
	first := e.links[group]
	if group != "" && first != nil && first.node.Equal(n) {
		return e.link(h, first)
	}
	if err := e.w.WriteHeader(h); err != nil {
		return err
	}
	e.stats.Entries++
	if !n.IsRegular() {
		return nil
	}
	e.stats.Files++
	if group == "" || first != nil || !e.hold(group, path, n) {
		return e.content(n.Size, e.w)
	}
	sum := blake3.New()
	if err := e.content(n.Size, io.MultiWriter(e.w, sum)); err != nil {
		return err
	}
	e.links[group] = &exported{path: path, node: n, sum: sum.Sum(nil)}
	return nil
}

// takeMark removes the mark of a hard link from a regular file, and returns it.
func takeMark(n *archive.Node) (group string) {
	for i, x := range n.XAttrs {
		if x.Name == archive.HardLinkXAttr {
			if n.IsRegular() {
				group = string(x.Value)
			}
			n.XAttrs = append(n.XAttrs[:i:i], n.XAttrs[i+1:]...)
			return group
		}
	}
	return ""
}

// hold says whether there is memory for one more file with several names.
func (e *exporter) hold(group, path string, n *archive.Node) bool {
	size := len(group) + len(path) + cost(n)
	if e.held+size > maxLinks {
		return false
	}
	e.held += size
	return true
}

// link writes one more name of a file, whose content is read all the same.
func (e *exporter) link(h *tar.Header, first *exported) error {
	var sum hash.Hash = blake3.New()
	if err := e.content(h.Size, sum); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), first.sum) {
		return fmt.Errorf("is marked as another name of %s, but has other content", show(first.path))
	}
	h.Typeflag, h.Linkname, h.Size = tar.TypeLink, "./"+first.path, 0
	e.stats.Entries++
	e.stats.Linked++
	e.stats.Bytes -= first.node.Size
	return e.w.WriteHeader(h)
}

// content copies the content of the current file.
func (e *exporter) content(size int64, w io.Writer) error {
	n, err := io.CopyN(w, &contextReader{e.ctx, e.src}, size)
	e.stats.Bytes += n
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (e *exporter) tell(p Problem) {
	e.stats.Problems++
	if e.o.Problem != nil {
		e.o.Problem(p)
	}
}

// contextReader is a reader that ends with a context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}
