package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
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
	err = tree.Compare(ctx, want, has, mask, func(c tree.Change) error {
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
