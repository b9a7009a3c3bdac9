package share

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
)

// treeFeatures is what an archive of a shared tree keeps: all that make does.
var treeFeatures = (archive.All&tree.Available | archive.ExcludeNoDump | archive.ExcludeFile | archive.BLAKE3).Normalize()

// sharedTree is a directory that is shared as one archive.
type sharedTree struct {
	file            // its place is that of view
	dir  string     // as it was named
	view *tree.View // nil: it could not be indexed
}

// lookTree takes in a tree as it is now. It reports whether that changes what is shared.
func (s *Share) lookTree(ctx context.Context, t *sharedTree) bool {
	stale := t.content != nil && t.content.wrong(t.place)
	if time.Now().Before(t.retry) {
		return false
	}
	v, err := scanTree(ctx, t.dir)
	if err == nil && t.view != nil && !stale && v.Same(t.view) {
		v.Close()
		return false
	}
	var x *index.Index
	if err == nil {
		x, err = s.indexTree(ctx, v)
		if err != nil {
			v.Close()
		}
	}
	if ctx.Err() != nil {
		if err == nil {
			v.Close()
		}
		return false
	}
	had := t.content
	if err != nil {
		s.warn(t.dir, err)
		s.backOff(&t.file)
		s.leaveTree(t)
		return had != nil
	}
	t.failures, t.retry = 0, time.Time{}
	delete(s.warned, t.dir)
	root := x.Root()
	c := s.contents[root]
	if c == nil {
		c = newContent(x, root, s.damaged)
		s.contents[root] = c
	}
	at := place{view: v, name: t.name, rel: t.dir}
	c.add(at) // before it leaves the old view: it may be the same content
	s.leaveTree(t)
	t.view, t.place, t.content = v, at, c
	if had == c {
		return false
	}
	t.state.modified = time.Now()
	t.version = s.o.Version(max(t.version, s.removed), t.state.modified)
	return true
}

// leaveTree forgets the content of t. Who still reads from it meets an error.
func (s *Share) leaveTree(t *sharedTree) {
	s.leave(&t.file)
	if t.view != nil {
		t.view.Close()
		t.view = nil
	}
}

func scanTree(ctx context.Context, dir string) (*tree.View, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	v, _, err := tree.Scan(ctx, root, treeFeatures, nil)
	return v, err
}

// indexTree indexes a tree. A file that changes meanwhile is an error.
func (s *Share) indexTree(ctx context.Context, v *tree.View) (*index.Index, error) {
	h := index.Header{Features: index.Features(treeFeatures), Params: s.o.Params}
	w, err := index.NewWriter(io.Discard, h)
	if err != nil {
		return nil, err
	}
	x := &index.Index{Header: h}
	o := &build.Options{Workers: s.o.Workers, Each: func(e index.Entry, _ bool) { x.Entries = append(x.Entries, e) }}
	_, err = build.File(ctx, w, nil, v, v.Size(), o)
	if errors.Is(err, tree.ErrChanged) {
		err = errBusy
	}
	x.Entries = slices.Clip(slices.Clone(x.Entries))
	return x, err
}

// treeName returns the name of a shared tree: the last element of its path.
func treeName(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	return cmp.Or(filepath.Base(abs), dir), err
}
