package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
)

// ahead is how many nodes may be on the way between the goroutine that lists the
// directories and the one that encodes. With smallFile it bounds the memory for
// content that was read ahead, and it bounds the open files.
const ahead = 128

// ErrChanged says that a file is not what it was when it was looked at before.
var ErrChanged = errors.New("changed since it was looked at")

// errVanished says that there is nothing of that name and type any more.
var errVanished = fmt.Errorf("vanished: %w", fs.ErrNotExist)

var errOmitted = errors.New("it is what is being made")

// walker goes through a tree in the order of an archive. One goroutine lists
// directories, several look at what is in them, and one passes it on in order.
type walker struct {
	f     archive.Features
	o     PackOptions
	ids   *ids
	read  bool              // files are read
	visit func(*item) error // is given enter, leaf and leave, and owns none of it
	queue *par.Ordered[*item]

	ctx    context.Context // of this walk: any error ends it
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	open map[io.Closer]struct{} // guarded by mu: what the end of the walk closes

	// What follows is used by the goroutine that passes on.
	stats PackStats
}

type itemKind int

const (
	enter itemKind = iota
	leaf
	leave
	report // no node: a problem, or something that is left out
)

// item is a step of the walk.
type item struct {
	kind itemKind
	dir  *folder // entered, or where the leaf is
	name string  // "" is the root
	path string
	typ  uint32 // of a leaf, as its directory says

	node     *archive.Node
	status   status      // of a regular file
	data     []byte      // content of a small file, from bufpool
	file     *sourceFile // large file, open
	excluded bool
	problem  *Problem
	err      error // of a report: the walk ends here
}

// dirent is a name in a directory.
type dirent struct {
	name string
	typ  uint32 // a type of modes, or something else if the directory does not say
}

// knownType says whether typ is one of the types of modes.
func knownType(typ uint32) bool {
	switch typ {
	case archive.TypeFIFO, archive.TypeChar, archive.TypeDir, archive.TypeBlock, archive.TypeRegular, archive.TypeSymlink, archive.TypeSocket:
		return true
	}
	return false
}

// inPath returns the path of a name in a directory; "" is the root.
func inPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// walk walks the tree at root.
func (w *walker) walk(ctx context.Context, root *os.Root) error {
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	defer w.cancel(nil)
	w.open = map[io.Closer]struct{}{}
	rules, err := w.rules()
	if err != nil {
		return err
	}
	defer w.closeAll()
	top, err := w.openTop(root)
	if err != nil {
		return err
	}
	workers := w.o.Workers
	if workers <= 0 {
		workers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	w.queue = par.NewOrdered(w.ctx, workers, ahead, w.work, w.pass)
	if err := w.scan(top, "", rules); err != nil {
		w.queue.Submit(&item{kind: report, err: err}) // has no effect if the error is the queue's own
	}
	return w.queue.Wait()
}

// rules returns the patterns of the options.
func (w *walker) rules() ([]rule, error) {
	var rules []rule
	for _, s := range w.o.Exclude {
		r, err := parseRule(s)
		if err != nil {
			return nil, fmt.Errorf("exclude: %w", err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// scan submits the directory d, which it releases, and all below it.
func (w *walker) scan(d *folder, name string, rules []rule) error {
	defer d.release()
	entries, rules, err := w.list(d, rules)
	if err != nil {
		return w.missing(d.path, err)
	}
	d.refs.Add(1)
	if err := w.queue.Submit(&item{kind: enter, dir: d, name: name, path: d.path}); err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.child(d, e, rules); err != nil {
			return err
		}
	}
	return w.queue.Submit(&item{kind: leave, path: d.path})
}

// list returns what is in d, in order, and the rules that hold there.
func (w *walker) list(d *folder, rules []rule) ([]dirent, []rule, error) {
	if d.pseudo() {
		return nil, nil, nil
	}
	entries, err := d.list()
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	if !w.f.Has(archive.ExcludeFile) || !slices.ContainsFunc(entries, func(e dirent) bool { return e.name == excludeFile }) {
		return entries, rules, nil
	}
	text, err := d.readFile(excludeFile, maxExcludeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return entries, rules, nil
	}
	var more []rule
	if err == nil {
		more, err = parseRules(string(text))
	}
	if err != nil {
		// Without its patterns the archive would have what nobody wants in it.
		return nil, nil, &fatalError{fmt.Errorf("%s: %w", shown(inPath(d.path, excludeFile)), err)}
	}
	return entries, append(slices.Clip(rules), more...), nil
}

// fatalError ends the walk even if it is to keep going.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

// child submits a node in d, and what is below it.
func (w *walker) child(d *folder, e dirent, rules []rule) error {
	name := inPath(d.path, e.name)
	if !knownType(e.typ) {
		typ, err := d.typeOf(e.name)
		if err != nil {
			return w.missing(name, err)
		}
		e.typ = typ
	}
	isDir := e.typ == archive.TypeDir
	out, inside := exclude(rules, e.name, isDir)
	if out || !w.f.Stores(e.typ) {
		return w.queue.Submit(&item{kind: report, excluded: true})
	}
	if w.omits(d, e.name) {
		return w.queue.Submit(&item{kind: report, excluded: true, problem: &Problem{name, Omitted, errOmitted}})
	}
	if isDir {
		sub, err := w.openFolder(d, e.name)
		switch {
		case err != nil:
			return w.missing(name, err)
		case sub == nil:
			return w.queue.Submit(&item{kind: report, excluded: true})
		}
		return w.scan(sub, e.name, inside)
	}
	d.refs.Add(1)
	return w.queue.Submit(&item{kind: leaf, dir: d, name: e.name, path: name, typ: e.typ})
}

// omits reports whether a node in d is one that is to be left out.
func (w *walker) omits(d *folder, name string) bool {
	return slices.ContainsFunc(w.o.Omit, func(path string) bool {
		if filepath.Base(path) != name {
			return false
		}
		is, err := d.lstat(name)
		omitted, oerr := os.Lstat(path)
		return err == nil && oerr == nil && os.SameFile(is, omitted)
	})
}

// missing reports a node that has vanished or cannot be read. It returns an error
// if the walk cannot go on.
func (w *walker) missing(path string, err error) error {
	p, err := w.tolerate(path, err)
	if err != nil {
		return err
	}
	return w.queue.Submit(&item{kind: report, problem: p})
}

// tolerate returns as what a node is reported that could not be read, or an error
// if the walk cannot go on without it.
func (w *walker) tolerate(path string, err error) (*Problem, error) {
	if _, fatal := errors.AsType[*fatalError](err); fatal {
		return nil, err
	}
	vanished := errors.Is(err, fs.ErrNotExist)
	if path == "" || !vanished && !w.o.KeepGoing {
		return nil, fmt.Errorf("%s: %w", shown(path), err)
	}
	if vanished {
		return &Problem{path, Vanished, err}, nil
	}
	return &Problem{path, Unreadable, err}, nil
}

// work looks at a node. It runs on several goroutines.
func (w *walker) work(_ context.Context, ip **item) (err error) {
	it := *ip
	switch it.kind {
	case enter:
		if it.node, err = it.dir.node(w); err != nil {
			err = fmt.Errorf("%s: %w", shown(it.path), err)
		}
		it.dir.release()
	case leaf:
		err = w.look(it)
		it.dir.release()
	case report:
		err = it.err
	}
	if err != nil {
		w.cancel(err)
	}
	return err
}

// look looks at a node that is no directory.
func (w *walker) look(it *item) error {
	err := it.dir.look(w, it)
	if err != nil && errors.Is(err, ErrChanged) {
		err = w.again(it)
	}
	if err == nil {
		return nil
	}
	p, err := w.tolerate(it.path, err)
	it.kind, it.problem = report, p
	return err
}

// again looks at a file that changed under the first look. One that has changed
// once more is taken as it was read, and reported.
func (w *walker) again(it *item) error {
	it.drop()
	err := it.dir.look(w, it)
	if changed, ok := errors.AsType[*changedError](err); ok && changed.whole {
		it.problem = &Problem{it.path, Changed, ErrChanged}
		return nil
	}
	return err
}

// changedError says that a file changed while it was read.
type changedError struct{ whole bool } // as many bytes as it should have had were read

func (e *changedError) Error() string {
	if e.whole {
		return "changed while it was read"
	}
	return "became shorter while it was read"
}
func (e *changedError) Unwrap() error { return ErrChanged }

// load reads the content of a regular file, or gets ready to if it is a large one.
// It takes over file. If the file changed, its content stays loaded nevertheless.
func (w *walker) load(it *item, file *sourceFile) error {
	size := it.node.Size
	if !w.read || size == 0 {
		return file.Close()
	}
	if size > smallFile {
		file.announce(size)
		it.file = file
		w.keep(file)
		return nil
	}
	defer file.Close()
	it.data = bufpool.Get(int(size))
	n, err := io.ReadFull(io.NewSectionReader(file, 0, size), it.data)
	if err != nil && n < len(it.data) {
		it.drop()
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return &changedError{}
		}
		return err
	}
	if now, err := file.status(); err != nil {
		return err
	} else if !now.same(it.status) {
		return &changedError{whole: true}
	}
	return nil
}

// drop gives back the memory of a small file.
func (it *item) drop() {
	if it.data != nil {
		bufpool.Put(it.data)
		it.data = nil
	}
}

// pass passes a node on.
func (w *walker) pass(ip **item) error {
	it := *ip
	defer it.drop()
	if it.excluded {
		w.stats.Excluded++
	}
	if p := it.problem; p != nil {
		w.tell(*p)
	}
	if it.kind == report || it.excluded {
		return nil
	}
	if it.node != nil {
		w.f.Strip(it.node)
	}
	if err := w.visit(it); err != nil {
		return err
	}
	w.count(it)
	return nil
}

// tell takes down a problem.
func (w *walker) tell(p Problem) {
	switch p.What {
	case Vanished:
		w.stats.Vanished++
	case Unreadable:
		w.stats.Unreadable++
	case Changed:
		w.stats.Changed++
	}
	if w.o.Problem != nil {
		w.o.Problem(p)
	}
}

func (w *walker) count(it *item) {
	switch it.kind {
	case leave:
		return
	case enter:
		w.stats.Dirs++
	default:
		if it.node.IsRegular() {
			w.stats.Files++
		}
	}
	w.stats.Nodes++
	if w.o.Progress != nil {
		w.o.Progress(w.stats)
	}
}

// keep has c closed at the end of the walk, if nobody does before.
func (w *walker) keep(c io.Closer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[c] = struct{}{}
}

// close closes what was kept.
func (w *walker) close(c io.Closer) {
	w.mu.Lock()
	_, open := w.open[c]
	delete(w.open, c)
	w.mu.Unlock()
	if open {
		c.Close() // only read from
	}
}

func (w *walker) closeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		c.Close()
	}
	clear(w.open)
}

// refs counts who needs an open directory.
type refs struct {
	atomic.Int32
}
