package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/castorsync/castor/archive"
)

// PackOptions are the settings of [Pack] and [Scan]. The zero value and nil mean
// the defaults.
type PackOptions struct {
	// Exclude are patterns of what is left out, each as a line of a .caexclude file
	// in the root would have it.
	Exclude []string

	// Omit are paths in the file system of what is left out, and reported: what is made of a
	// tree may lie in it. They need not exist yet, and links in them are not followed at
	// the end.
	Omit []string

	// UIDShift is subtracted from the numbers of users and groups, which are then
	// taken modulo UIDRange if that is not 0. Names are those of the numbers in the
	// file system. A number below UIDShift is an error.
	UIDShift, UIDRange uint32

	// HardLinks marks regular files with several names, so that [Unpack] can
	// restore them as such. The features must have XAttrs. Other programs extract
	// such an archive as if each name were a file of its own.
	HardLinks bool

	// KeepGoing leaves out and reports what cannot be read. Otherwise that is an
	// error. What vanishes under the walk is left out and reported in any case.
	KeepGoing bool

	Workers int // goroutines that look at files; 0 means two for each CPU, at least four

	// Problem is told of what is not in the archive as it should be, from one
	// goroutine at a time.
	Problem func(Problem)
	// Progress is called after each node, and now and then within large files,
	// from one goroutine at a time.
	Progress func(PackStats)
}

// What a [Problem] of [Pack] says of a node.
const (
	Vanished   = "vanished"   // left out: it was gone when its turn came
	Unreadable = "unreadable" // left out: see [PackOptions].KeepGoing
	Changed    = "changed"    // stored as it was read, while somebody changed it
	Omitted    = "left out"   // being one of [PackOptions].Omit
)

// PackStats says what [Pack] or [Scan] has met.
type PackStats struct {
	Nodes      int   `json:"nodes"`
	Dirs       int   `json:"dirs"`
	Files      int   `json:"files"`    // regular ones
	Bytes      int64 `json:"bytes"`    // their content
	Size       int64 `json:"size"`     // of the archive, in bytes
	Excluded   int   `json:"excluded"` // left out on purpose; what is below is not counted
	Vanished   int   `json:"vanished"` // this and those below: see the problems of these names
	Unreadable int   `json:"unreadable"`
	Changed    int   `json:"changed"`
}

// Pack writes the tree at root to w as an archive with the features f, which are
// normalized first and must be [Available]. The same tree under the same features
// gives the same bytes as casync. The features of exclusion are obeyed: with
// ExcludeNoDump, ExcludeSubmounts and ExcludeFile, nodes with the attribute nodump,
// mount points, and what .caexclude files name is left out. So are nodes whose type
// is not among the features. File systems that the kernel makes up, such as /proc,
// are empty directories. Nothing outside root is read, and no symbolic link
// followed.
//
// Files are read ahead of w on several goroutines. A file that changes meanwhile is
// read again once. What it grows by after that is left out; if it is shorter than
// it was, that is an error, since the archive has promised its size already. After
// an error, what was written is no archive.
func Pack(ctx context.Context, root *os.Root, w io.Writer, f archive.Features, o *PackOptions) (PackStats, error) {
	p := &packer{}
	if err := p.init(f, o, w); err != nil {
		return PackStats{}, err
	}
	p.walker.read = true
	p.walker.visit = p.add
	err := p.run(ctx, root)
	return p.walker.stats, err
}

// packer is one run of Pack or Scan.
type packer struct {
	walker walker
	w      *archive.Writer
	links  linkMarker
}

func (p *packer) init(f archive.Features, o *PackOptions, w io.Writer) (err error) {
	f = f.Normalize()
	if o == nil {
		o = &PackOptions{}
	}
	if rest := f &^ Available; rest != 0 {
		return fmt.Errorf("features %v cannot be read on this system", rest)
	}
	if o.HardLinks && !f.Has(archive.XAttrs) {
		return errors.New("hard links take the feature xattrs")
	}
	if p.w, err = archive.NewWriter(w, f); err != nil {
		return err
	}
	p.walker.f, p.walker.o, p.walker.ids = f, *o, newIDs(f, o)
	if o.HardLinks {
		p.links = linkMarker{}
	}
	return nil
}

func (p *packer) run(ctx context.Context, root *os.Root) error {
	if err := p.walker.walk(ctx, root); err != nil {
		return err
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	p.walker.stats.Size = p.w.Offset()
	return nil
}

// add writes a node to the archive.
func (p *packer) add(it *item) error {
	switch it.kind {
	case enter:
		return p.w.Enter(it.name, it.node)
	case leave:
		return p.w.Leave()
	}
	p.mark(it)
	if it.file != nil {
		return p.addLarge(it)
	}
	if err := p.w.Add(it.name, it.node, bytes.NewReader(it.data)); err != nil {
		return err
	}
	p.walker.stats.Bytes += it.node.Size
	return nil
}

func (p *packer) mark(it *item) {
	if p.links != nil && it.node.IsRegular() {
		p.links.mark(it.path, it.node, it.status.fileID, it.status.names)
	}
}

// addLarge streams a file.
func (p *packer) addLarge(it *item) error {
	defer p.walker.close(it.file)
	r := newPrefetcher(p.walker.ctx, it.file, it.node.Size)
	defer r.close()
	r.progress = func(n int) {
		p.walker.stats.Bytes += int64(n)
		if f := p.walker.o.Progress; f != nil {
			f(p.walker.stats)
		}
	}
	if err := p.w.Add(it.name, it.node, r); err != nil {
		return err
	}
	if now, err := it.file.status(); err != nil || !now.same(it.status) {
		p.walker.tell(Problem{it.path, Changed, ErrChanged})
	}
	return nil
}
