package tarfile

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/castorsync/castor/archive"
)

// ImportOptions are the settings of [Import]. The zero value and nil mean the defaults.
type ImportOptions struct {
	// HardLinks marks the names of files with several, as package tree does. The
	// features must have XAttrs.
	HardLinks bool

	// LookupUser and LookupGroup return the number of a name in an ACL for which the
	// tar has none. Without, or if there is none, that ACL is left out and reported.
	LookupUser, LookupGroup func(name string) (id uint32, ok bool)

	// MaxMemory bounds the memory for names and metadata, in bytes; 0 means 2 GiB,
	// enough for three million nodes.
	MaxMemory int64

	// Problem is told of what is not in the archive as the tar has it.
	Problem func(Problem)
}

const defaultMemory = 2 << 30

// maxSparse is the greatest size in bytes of a sparse file: what ext4 can have. A tar of
// a few bytes can claim any, and the archive has all of it.
const maxSparse = 16 << 40

// ImportStats says what [Import] has done.
type ImportStats struct {
	Entries  int   // of the tar
	Nodes    int   // of the archive
	Files    int   // regular ones
	Bytes    int64 // their content
	Linked   int   // hard links in the tar
	Implied  int   // directories that were not in the tar
	Excluded int   // nodes of types that the features do not have
	Size     int64 // of the archive, in bytes
	Problems int
}

// Import writes the tar file r to w as an archive with the features f, which are
// normalized first. What they do not keep is dropped.
//
// Nothing is written before all of r has been read, since an archive is sorted. If r is
// an [io.ReaderAt] and an [io.Seeker] that can seek, contents are then read from it once
// more; it must not change meanwhile. Otherwise they are kept in a temporary file, as
// those of sparse files always are. Names and metadata are kept in memory.
//
// Each hard link gets the content of what it is a link to. After an error, what was
// written is no archive.
func Import(ctx context.Context, r io.Reader, w io.Writer, f archive.Features, o *ImportOptions) (ImportStats, error) {
	if o == nil {
		o = &ImportOptions{}
	}
	f = f.Normalize()
	if o.HardLinks && !f.Has(archive.XAttrs) {
		return ImportStats{}, errors.New("hard links take the feature xattrs")
	}
	aw, err := archive.NewWriter(w, f)
	if err != nil {
		return ImportStats{}, err
	}
	m := &importer{
		ctx: ctx, f: f, o: *o, w: aw,
		users:  owners{f: f, lookup: o.LookupUser, known: map[string]uint32{}},
		groups: owners{f: f, lookup: o.LookupGroup, known: map[string]uint32{}},
		root:   &place{},
	}
	if m.o.MaxMemory <= 0 {
		m.o.MaxMemory = defaultMemory
	}
	defer m.spool.close()
	err = m.read(r)
	if err == nil {
		err = m.write()
	}
	return m.stats, err
}

// importer is one run of Import.
type importer struct {
	ctx           context.Context
	f             archive.Features
	o             ImportOptions
	w             *archive.Writer
	users, groups owners

	tape  *io.SectionReader // the tar, if it can be read at any place
	spool spool
	root  *place
	held  int64 // bytes of memory, some
	stats ImportStats
}

func (m *importer) tell(p Problem) {
	m.stats.Problems++
	if m.o.Problem != nil {
		m.o.Problem(p)
	}
}

// read reads the tar to its end.
func (m *importer) read(r io.Reader) error {
	in := &counter{r: &contextReader{m.ctx, r}}
	var src io.Reader = in
	if m.tape = section(r); m.tape != nil {
		src = m.tape
	}
	tr := tar.NewReader(src)
	for {
		if m.ctx.Err() != nil {
			return context.Cause(m.ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return m.unreadable(err)
		}
		if err := m.entry(tr, h); err != nil {
			return fmt.Errorf("tar entry %d, %s: %w", m.stats.Entries, show(h.Name), err)
		}
	}
	if m.tape == nil {
		if in.n == 0 {
			return errors.New("tar: it is empty, and has not even an end")
		}
		// Whoever writes this is to come to its end.
		if _, err := io.Copy(io.Discard, in); err != nil {
			return fmt.Errorf("tar: %w", err)
		}
	}
	if m.root.file == nil {
		m.root.file = m.imply(0)
	}
	return m.spool.seal()
}

// unreadable returns the error for what is no entry.
func (m *importer) unreadable(err error) error {
	switch {
	case m.ctx.Err() != nil:
		return context.Cause(m.ctx)
	case errors.Is(err, tar.ErrHeader) && m.stats.Entries == 0:
		return fmt.Errorf("not a tar file: if it is compressed, decompress it through a pipe: %w", err)
	}
	return fmt.Errorf("tar, behind entry %d: %w", m.stats.Entries, err)
}

// section returns the rest of r if that can be read at any place, else nil.
func section(r io.Reader) *io.SectionReader {
	f, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	end, err := f.Seek(0, io.SeekEnd)
	if _, berr := f.Seek(at, io.SeekStart); err != nil || berr != nil || end <= at {
		return nil // a pipe, or a device without an end
	}
	return io.NewSectionReader(f, at, end-at)
}

// entry takes an entry of the tar into the tree.
func (m *importer) entry(tr *tar.Reader, h *tar.Header) error {
	m.stats.Entries++
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return checkGlobal(h.PAXRecords)
	case typeVolume:
		return nil
	}
	typ, err := nodeType(h.Typeflag)
	if err != nil {
		return err
	}
	names, err := split(h.Name)
	if err != nil {
		return err
	}
	if typ == 0 {
		return m.link(names, h)
	}
	n, err := m.node(strings.Join(names, "/"), h, typ)
	if err != nil {
		return err
	}
	if m.root.file == nil {
		m.root.file = m.imply(n.MTime)
	}
	f := &file{Node: *n}
	if err := m.content(tr, h, f); err != nil {
		return err
	}
	return m.put(names, f)
}

// checkGlobal refuses defaults for all entries that would have to be obeyed. Most
// global headers are comments.
func checkGlobal(records map[string]string) error {
	for k := range records {
		switch k {
		case "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", keyAccess, keyDefault, keySELinux:
			return fmt.Errorf("a global header with %s is not supported", k)
		}
	}
	return nil
}

// link gives what is at the target of a hard link one more name.
func (m *importer) link(names []string, h *tar.Header) error {
	target, err := split(h.Linkname)
	if err != nil {
		return fmt.Errorf("link to %s: %w", show(h.Linkname), err)
	}
	m.stats.Linked++
	switch p := m.find(target); {
	case len(target) == 0, p == nil:
		return fmt.Errorf("link to %s, which does not come before", show(h.Linkname))
	case p.IsDir():
		return fmt.Errorf("link to %s, which is a directory", show(h.Linkname))
	case slices.Equal(names, target):
		return nil
	default:
		p.linked = true
		return m.put(names, p.file)
	}
}

// content notes where the content of a file is, or spools it.
func (m *importer) content(tr *tar.Reader, h *tar.Header, f *file) (err error) {
	if !f.IsRegular() || f.Size == 0 {
		return nil
	}
	sparse := isSparse(h)
	switch {
	case sparse && f.Size > maxSparse:
		return fmt.Errorf("sparse file of %d bytes, more than %d", f.Size, int64(maxSparse))
	case m.tape == nil || sparse:
		f.spooled = true
		f.off, err = m.spool.add(m.ctx, tr, f.Size)
		return err
	}
	f.off, err = m.tape.Seek(0, io.SeekCurrent)
	return err
}

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, keySparse) {
			return true
		}
	}
	return false
}

// write writes the tree.
func (m *importer) write() error {
	if m.o.HardLinks {
		m.countNames("", m.root)
	}
	if err := m.emit("", m.root); err != nil {
		return err
	}
	if err := m.w.Close(); err != nil {
		return err
	}
	m.stats.Size = m.w.Offset()
	return nil
}

// sorted returns the names in a directory in the order of an archive.
func (p *place) sorted() []string { return slices.Sorted(maps.Keys(p.in)) }

// countNames counts the names of the files that have had several.
func (m *importer) countNames(path string, p *place) {
	if p.linked {
		if p.names++; p.names == 1 {
			p.first = path
		}
	}
	for _, name := range p.sorted() {
		m.countNames(join(path, name), p.in[name])
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// emit writes a node and what is in it.
func (m *importer) emit(name string, p *place) error {
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	if !m.f.Stores(p.Mode) {
		m.stats.Excluded++
		return nil
	}
	m.stats.Nodes++
	if !p.IsDir() {
		return m.emitFile(name, p.file)
	}
	if err := m.w.Enter(name, &p.Node); err != nil {
		return err
	}
	for _, name := range p.sorted() {
		if err := m.emit(name, p.in[name]); err != nil {
			return err
		}
	}
	return m.w.Leave()
}

func (m *importer) emitFile(name string, f *file) error {
	n := f.Node
	if n.IsRegular() {
		m.stats.Files++
		m.stats.Bytes += n.Size
		if f.names > 1 && len(f.first) <= maxLinkPath {
			n.XAttrs = append(slices.Clip(n.XAttrs), archive.XAttr{Name: archive.HardLinkXAttr, Value: []byte(f.first)})
			m.f.Strip(&n)
		}
	}
	var from io.ReaderAt = m.tape
	if f.spooled {
		from = &m.spool
	}
	return m.w.Add(name, &n, &contextReader{m.ctx, io.NewSectionReader(from, f.off, n.Size)})
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}
