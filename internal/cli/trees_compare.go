package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/internal/units"
)

// shownPath returns a path in a tree as it is printed.
func shownPath(path string) string {
	if path == "" {
		return "."
	}
	return archive.Escape(path)
}

// changeLine returns the line that tells of a change.
func changeLine(c tree.Change) string {
	line := fmt.Sprintf("%-8s %s", c.Kind, shownPath(c.Path))
	if len(c.What) > 0 {
		line += ": " + strings.Join(c.What, ", ")
	}
	return line
}

// changeReport is the JSON form of a change.
type changeReport struct {
	tree.Change
	RawPath []byte `json:"path_base64,omitempty"` // if path is not UTF-8
}

// verifyTree checks that a directory holds the tree of an archive.
func (t *treeSource) verifyTree(ctx context.Context, a *app, loc, dir string) error {
	if fi, err := os.Stat(dir); err != nil {
		return err
	} else if !fi.IsDir() {
		return usagef("%s: want a directory, as %s is of a tree", dir, loc)
	}
	want, err := t.openTree(ctx, a, loc)
	if err != nil {
		return err
	}
	// What was left out of the archive is left out here as well.
	v, _, err := t.openView(ctx, a, dir, want.Features()&tree.Available)
	if err != nil {
		return err
	}
	has, err := treeOf(dir)(archive.OpenTree(v, v.Size()))
	if err != nil {
		return err
	}
	mask, err := t.features.mask()
	if err != nil {
		return err
	}
	changes := 0
	w := bufio.NewWriter(a.Stdout)
	defer w.Flush()
	a.meter.Start("verify", v.Size())
	own := madeIn{dir: dir, made: t.made(a, loc)}
	err = tree.Compare(ctx, want, has, mask, func(c tree.Change) error {
		if own.explains(c) {
			return nil
		}
		changes++
		_, err := fmt.Fprintln(w, changeLine(c))
		return err
	})
	a.meter.End()
	if err != nil {
		return fmt.Errorf("verify %s: %w", dir, err)
	}
	if changes > 0 {
		return &mismatchError{fmt.Sprintf("%s: %s nodes differ from %s", dir, units.Count(changes), loc)}
	}
	a.say("%s: matches", dir)
	return nil
}

// made returns what a make of loc has left out of its tree: the file itself, and the
// stores of its chunks.
func (t *treeSource) made(a *app, loc string) (paths []string) {
	for _, name := range append(t.named(a, loc), loc) {
		paths = append(paths, onDisk(name)...)
	}
	return paths
}

// madeIn tells which changes in a directory come from what a make has put there.
type madeIn struct {
	dir    string
	made   []string // paths
	inside string   // the last of made that was met, with a slash
}

// explains reports whether c is one of them: a node that the make has left out, or the time
// of the directory that it is in.
func (m *madeIn) explains(c tree.Change) bool {
	switch {
	case c.Kind == tree.Added && m.inside != "" && strings.HasPrefix(c.Path, m.inside):
		return true
	case c.Kind == tree.Added && m.is(c.Path):
		m.inside = c.Path + "/"
		return true
	case c.Kind == tree.Metadata && slices.Equal(c.What, []string{"time"}):
		return slices.ContainsFunc(m.made, func(made string) bool { return m.is(path.Join(c.Path, filepath.Base(made))) })
	}
	return false
}

// is reports whether the node at a path is one that was made.
func (m *madeIn) is(path string) bool {
	fi, err := os.Lstat(filepath.Join(m.dir, filepath.FromSlash(path)))
	return err == nil && slices.ContainsFunc(m.made, func(made string) bool {
		it, err := os.Lstat(made)
		return err == nil && os.SameFile(fi, it)
	})
}

// diffTrees prints what differs between two trees.
func (t *treeSource) diffTrees(ctx context.Context, a *app, old, new string, asJSON bool) error {
	x, err := t.openTree(ctx, a, old)
	if err != nil {
		return err
	}
	y, err := t.openTree(ctx, a, new)
	if err != nil {
		return err
	}
	mask, err := t.features.mask()
	if err != nil {
		return err
	}
	counts := map[tree.Kind]int{}
	w := bufio.NewWriter(a.Stdout)
	defer w.Flush()
	enc := json.NewEncoder(w)
	err = tree.Compare(ctx, x, y, mask, func(c tree.Change) error {
		counts[c.Kind]++
		if asJSON {
			return enc.Encode(changeReport{c, rawText(c.Path)})
		}
		_, err := fmt.Fprintln(w, changeLine(c))
		return err
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return fmt.Errorf("diff %s %s: %w", old, new, err)
	}
	a.say("%s added, %s removed, %s changed, %s with other metadata", units.Count(counts[tree.Added]),
		units.Count(counts[tree.Removed]), units.Count(counts[tree.Modified]), units.Count(counts[tree.Metadata]))
	return nil
}
