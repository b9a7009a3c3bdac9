package tree

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/bufpool"
)

// Source is an archive, or a part of one, as it is read from its beginning: what
// [archive.Reader] is. A root whose Node is zero leaves the destination's own
// metadata alone, see [Part].
type Source interface {
	Next() (archive.Entry, error)
	Read(p []byte) (int, error)
	Features() archive.Features
}

// UnpackOptions are the settings of [Unpack]. The zero value and nil mean the
// defaults.
type UnpackOptions struct {
	// Mask is which of the archive's features are restored; 0 means all.
	Mask archive.Features

	// Delete removes what the archive does not have from the directories that it
	// has, after everything else has gone well. Without it, a directory where the
	// archive has something else is an error.
	Delete bool
	// Strict makes it an error if something cannot be restored here, such as an
	// owner without the privilege.
	Strict bool
	// HardLinks restores the hard links that [PackOptions].HardLinks has marked.
	// Otherwise each name is a file of its own.
	HardLinks bool

	// UIDShift is added to the numbers of users and groups, modulo UIDRange if that
	// is not 0.
	UIDShift, UIDRange uint32

	// Basis are directories that hold similar trees: a file of the same path there
	// may share its storage, where the file system can.
	Basis     []string
	NoReflink bool

	// Old is the destination as it was before, and From returns where in that the n
	// bytes of the archive at off are, if they are known to be there. A file that is
	// there with its metadata and content, and was not touched since, is kept without
	// being read.
	Old  *View
	From func(off, n int64) (at int64, ok bool)

	NoSync  bool // do not wait until everything has reached the disk
	Workers int  // goroutines that write files; 0 means four for each CPU

	// Problem is told of what could not be restored, from one goroutine at a time.
	Problem func(Problem)
	// Progress is called after each node and each part of a large file, from one
	// goroutine at a time.
	Progress func(UnpackStats)
}

// Problem is something that the file system or the lack of a privilege does not
// allow to be restored as the archive has it.
type Problem struct {
	Path string // in the tree
	What string // "owner", "time", …
	Err  error
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %s: %v", shown(p.Path), p.What, p.Err) }
func (p *Problem) Unwrap() error { return p.Err }

// UnpackStats says what [Unpack] has done.
type UnpackStats struct {
	Nodes    int   `json:"nodes"`
	Files    int   `json:"files"`         // regular ones
	Bytes    int64 `json:"bytes"`         // their content
	Kept     int   `json:"kept"`          // files whose content was right
	KeptSize int64 `json:"kept_bytes"`    // their content
	Shared   int64 `json:"shared_bytes"`  // content that shares the storage of another file
	Linked   int   `json:"linked"`        // names that are hard links of others
	Removed  int   `json:"removed"`       // names removed, each with all below it
	Problems int   `json:"problem_count"` // what could not be restored
}

// smallFile is the size in bytes up to which a file's content is read into memory
// at once; larger ones are passed on in blocks of it.
const smallFile = 256 << 10

// Unpack makes the directory dest, which it creates if need be, hold the tree of
// an archive. What is there already and equal is kept; each file appears with all
// its content and metadata or not at all. Nothing outside dest is ever touched,
// whatever the archive says and whoever changes dest meanwhile: a file with other
// names is not changed but replaced, unless it is to have them. Two runs for the same
// directory exclude each other, and one after a run that was killed completes it.
//
// What the system does not allow to be restored is a [Problem] and no error,
// unless o.Strict is set.
func Unpack(ctx context.Context, src Source, dest string, o *UnpackOptions) (UnpackStats, error) {
	u := &unpacker{src: src, links: map[string]*link{}, jobs: make(chan []*job)}
	if o != nil {
		u.o = *o
	}
	if u.o.Workers <= 0 {
		u.o.Workers = 4 * runtime.GOMAXPROCS(0)
	}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	defer u.cancel(nil)
	defer u.close()
	err := u.run(dest)
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stats, err
}

// unpacker is one run of Unpack. A goroutine reads the archive and makes the
// directories; others write what is in them.
type unpacker struct {
	o      UnpackOptions
	src    Source
	ctx    context.Context
	cancel context.CancelCauseFunc

	top     *directory
	basis   []*os.Root
	mask    archive.Features // what is restored
	fs      fileSystem       // what is known of the destination's
	jobs    chan []*job
	batch   []*job // not submitted yet; the reader's
	batched int    // bytes of their content
	workers sync.WaitGroup
	owners  owners

	links map[string]*link // the reader's

	mu    sync.Mutex // guards what follows
	stats UnpackStats
	late  []*directory // finished when the whole archive has been read, in this order
}

// link is the first file of a group of hard links.
type link struct {
	dir, name string
	done      chan struct{} // closed when it is there, or is not going to be
	ok        bool          // it is there; valid when done is closed
}

// job is a node that is not a directory.
type job struct {
	dir    *directory
	name   string
	path   string
	node   *archive.Node
	data   []byte      // content of a small file, from bufpool
	blocks chan []byte // content of a large one, buffers of bufpool; closed at its end
	group  *link       // that it is a hard link of
	first  bool        // it is the first one of the group
}

func (u *unpacker) run(dest string) error {
	if err := u.openTop(dest); err != nil {
		return err
	}
	for range u.o.Workers {
		u.workers.Go(func() {
			for batch := range u.jobs {
				u.work(batch)
			}
		})
	}
	err := u.read()
	close(u.jobs)
	if err != nil {
		u.cancel(err)
	}
	u.workers.Wait()
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	if err := u.finishLate(); err != nil {
		return err
	}
	if !u.o.NoSync {
		return syncTree(u.top.destDir)
	}
	return nil
}

// Sync waits until a directory that a run without the wait may have left has reached
// the disk, with all that is on its file system.
func Sync(dest string) error {
	d, err := openDest(dest)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncTree(d)
}

func (u *unpacker) work(batch []*job) {
	for _, j := range batch {
		if u.ctx.Err() == nil {
			if err := u.do(j); err != nil {
				u.cancel(err)
			}
		}
		u.drop(j)
	}
}

// openTop opens the destination and locks it.
func (u *unpacker) openTop(dest string) error {
	if err := os.Mkdir(dest, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := openDest(dest)
	if err != nil {
		return err
	}
	u.top = &directory{destDir: d}
	if err := lock(d); err != nil {
		return fmt.Errorf("%s: another extraction is under way: %w", dest, err)
	}
	u.fs = examine(d)
	for _, name := range u.o.Basis {
		r, err := os.OpenRoot(name)
		if err != nil {
			return err
		}
		u.basis = append(u.basis, r)
	}
	return nil
}

func (u *unpacker) close() {
	for _, r := range u.basis {
		r.Close()
	}
	if u.top != nil {
		u.top.close()
	}
}

// read reads the archive, makes its directories and submits the rest.
func (u *unpacker) read() (err error) {
	var open []*directory
	defer func() {
		if err != nil {
			u.cancel(err)
		}
		for _, j := range u.batch {
			u.drop(j)
		}
		for _, d := range open {
			u.release(d)
		}
	}()
	for {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		e, err := u.src.Next()
		if err == io.EOF {
			if len(open) > 0 {
				return io.ErrUnexpectedEOF
			}
			return u.submit()
		}
		if err != nil {
			return err
		}
		name := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
		switch {
		case e.Node == nil:
			d := open[len(open)-1]
			open = open[:len(open)-1]
			u.release(d)
		case len(open) == 0:
			if err := u.begin(e.Node); err != nil {
				return err
			}
			open = append(open, u.top)
		case e.Node.IsDir():
			d, err := u.enter(open[len(open)-1], name, e)
			if err != nil {
				return fmt.Errorf("%s: %w", shown(e.Path), err)
			}
			open = append(open, d)
		case u.mask.Stores(e.Node.Mode):
			if err := u.take(open[len(open)-1], name, e); err != nil {
				return err
			}
		default: // what is there of this name stays
			delete(open[len(open)-1].old, name)
		}
	}
}

// begin takes the root of the archive.
func (u *unpacker) begin(n *archive.Node) error {
	u.mask = u.src.Features()
	if u.o.Mask != 0 {
		u.mask = u.mask.Replay(u.o.Mask)
	}
	if n.Mode != 0 {
		u.top.node = n
	}
	u.top.refs.Store(1)
	return u.look(u.top)
}

// What is submitted at once: enough that handing it over costs little, and that
// workers are mostly busy in different directories.
const (
	batchNodes = 32
	batchBytes = 1 << 20
)

// submit hands the batch to the workers.
func (u *unpacker) submit() error {
	if len(u.batch) == 0 {
		return nil
	}
	select {
	case u.jobs <- u.batch:
		u.batch, u.batched = nil, 0
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

// take adds a node to the batch, and passes the content of a large file on.
func (u *unpacker) take(d *directory, name string, e archive.Entry) error {
	j := &job{dir: d, name: name, path: e.Path, node: e.Node}
	delete(d.old, name)
	group, ok := takeLinkGroup(e.Node)
	if !ok && u.untouched(d, name, e) {
		size := e.Node.Size // of what is passed over
		u.add(UnpackStats{Nodes: 1, Files: 1, Bytes: size, Kept: 1, KeptSize: size})
		return nil
	}
	if ok && u.o.HardLinks && e.Node.IsRegular() && len(group) <= maxLinkPath {
		if j.group = u.links[group]; j.group == nil {
			j.group, j.first = &link{dir: d.path, name: name, done: make(chan struct{})}, true
			u.links[group] = j.group
		}
	}
	if e.Node.Size > smallFile {
		j.blocks = make(chan []byte, 4)
	} else if e.Node.Size > 0 {
		j.data = bufpool.Get(int(e.Node.Size))
		if err := u.fill(j.data); err != nil {
			bufpool.Put(j.data)
			return err
		}
	}
	d.refs.Add(1)
	u.batch = append(u.batch, j)
	u.batched += len(j.data)
	if j.blocks != nil {
		return u.stream(j)
	}
	if len(u.batch) < batchNodes && u.batched < batchBytes {
		return nil
	}
	return u.submit()
}

// fill reads len(b) bytes of content.
func (u *unpacker) fill(b []byte) error {
	_, err := io.ReadFull(u.src, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// stream submits the batch, of which j is the last, and passes its content on.
func (u *unpacker) stream(j *job) (err error) {
	defer func() {
		if err != nil {
			u.cancel(err) // before the end of the blocks looks like the end of the file
		}
		close(j.blocks)
	}()
	if err := u.submit(); err != nil {
		return err
	}
	for left := j.node.Size; left > 0; {
		b := bufpool.Get(int(min(left, smallFile)))
		if err := u.fill(b); err != nil {
			bufpool.Put(b)
			return err
		}
		left -= int64(len(b))
		select {
		case j.blocks <- b:
		case <-u.ctx.Done():
			bufpool.Put(b)
			return context.Cause(u.ctx)
		}
	}
	return nil
}

// drop ends a job: it gives back what is left of its content.
func (u *unpacker) drop(j *job) {
	if j.blocks != nil {
		for b := range j.blocks {
			bufpool.Put(b)
		}
	}
	bufpool.Put(j.data)
	if j.first {
		close(j.group.done)
	}
	u.release(j.dir)
}

// each calls f for the blocks of j's content and their offsets, and counts them. It
// returns the error of f, or the cause of the end of the run.
func (u *unpacker) each(j *job, f func(b []byte, off int64) error) error {
	if j.blocks == nil {
		if len(j.data) == 0 {
			return nil
		}
		u.add(UnpackStats{Bytes: j.node.Size})
		return f(j.data, 0)
	}
	off := int64(0)
	for b := range j.blocks {
		err := f(b, off)
		n := int64(len(b))
		bufpool.Put(b)
		if err != nil {
			return err
		}
		off += n
		u.add(UnpackStats{Bytes: n})
	}
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	return nil
}

// do makes a node that is no directory.
func (u *unpacker) do(j *job) error {
	var err error
	done := UnpackStats{Nodes: 1}
	if j.node.IsRegular() {
		done.Files = 1
		err = u.file(j, &done)
	} else {
		err = u.special(j)
	}
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown(j.path), err)
	}
	if j.first {
		j.group.ok = true
	}
	u.add(done)
	return nil
}

// add adds to the statistics.
func (u *unpacker) add(s UnpackStats) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats.Nodes += s.Nodes
	u.stats.Files += s.Files
	u.stats.Bytes += s.Bytes
	u.stats.Kept += s.Kept
	u.stats.KeptSize += s.KeptSize
	u.stats.Shared += s.Shared
	u.stats.Linked += s.Linked
	u.stats.Removed += s.Removed
	if u.o.Progress != nil {
		u.o.Progress(u.stats)
	}
}

// problem notes that something could not be restored. It returns an error if that
// is to end the run: if the user is strict, or err is nothing that the system
// cannot do or the user may not.
func (u *unpacker) problem(path, what string, err error) error {
	if err == nil {
		return nil
	}
	if u.o.Strict || !tolerable(err) {
		return fmt.Errorf("%s: %w", what, err) // who calls adds the path
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats.Problems++
	if u.o.Problem != nil {
		u.o.Problem(Problem{Path: path, What: what, Err: err})
	}
	return nil
}

// tempName returns a name for a file on its way. Its length does not depend on the
// name that the file will have, which may be as long as names can be.
func tempName() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	return tempPrefix + hex.EncodeToString(b[:]) + tempSuffix
}

const tempPrefix, tempSuffix = ".castor-", ".tmp"

// isTemp reports whether tempName made name.
func isTemp(name string) bool {
	digits, ok := strings.CutPrefix(name, tempPrefix)
	digits, ok2 := strings.CutSuffix(digits, tempSuffix)
	return ok && ok2 && len(digits) == 16 && strings.Trim(digits, "0123456789abcdef") == ""
}

// shown returns how messages name a path in the tree.
func shown(path string) string {
	if path == "" {
		return "."
	}
	return archive.Printable(path)
}
