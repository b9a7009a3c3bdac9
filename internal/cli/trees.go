package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/index/blob"
	"github.com/castorsync/castor/internal/location"
)

// extension returns the extension of the file that a path or URL names.
func extension(loc string) string {
	if location.KindOf(loc) == location.Directory {
		return filepath.Ext(loc)
	}
	if u, err := url.Parse(loc); err == nil {
		return path.Ext(u.Path)
	}
	return path.Ext(loc)
}

// isArchive reports whether loc is, by its name, an archive as it is.
func isArchive(loc string) bool { return extension(loc) == ".catar" }

// isArchiveIndex reports whether loc is, by its name, the index of an archive.
func isArchiveIndex(loc string) bool { return extension(loc) == ".caidx" }

// isTree reports whether loc has a tree of files: an archive, the index of one, or a
// directory.
func isTree(loc string) bool {
	if isArchive(loc) || isArchiveIndex(loc) {
		return true
	}
	fi, err := os.Stat(loc)
	return err == nil && fi.IsDir()
}

// treeSource are the flags of commands that look into a tree.
type treeSource struct {
	sources
	features  featureFlags
	dirDigest chunker.Digest // that names the chunks of a directory
	what      string         // as --what says it, "" for what the name says
	x         *index.Index   // of the tree, if it has been read
}

func (t *treeSource) add(cmd *cobra.Command) {
	t.addStores(cmd)
	t.features.add(cmd, "of a directory, what is looked at")
}

// openTree opens an archive, the index of one, or a directory for looking into it.
// What it opens is closed with the sources.
func (t *treeSource) openTree(ctx context.Context, a *app, loc string) (*archive.Tree, error) {
	switch {
	case t.isArchive(loc):
		f, err := t.openArchive(ctx, a, loc)
		if err != nil {
			return nil, err
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		return treeOf(loc)(archive.OpenTree(f, size))
	case t.x != nil || t.what == whatArchiveIndex || t.what == "" && (isArchiveIndex(loc) || location.IsMulticast(loc)):
		x, err := t.treeIndex(a, loc)
		if err != nil {
			return nil, err
		}
		src, err := t.open(a, loc, x)
		if err != nil {
			return nil, err
		}
		if len(t.channels) > 0 { // which cannot be asked for single chunks
			p, err := assemble.NewPlan(ctx, x, nil)
			if err != nil {
				return nil, err
			}
			if src, err = t.bring(a, x, p, src); err != nil {
				return nil, fmt.Errorf("%s: %w", loc, err)
			}
		}
		b := blob.New(x, src, nil)
		t.closers = append(t.closers, b)
		return treeOf(loc)(archive.OpenTree(b, b.Size()))
	}
	if loc == "-" || location.KindOf(loc) != location.Directory {
		return nil, usagef("%s: want a name ending in .catar or .caidx", loc)
	}
	fi, err := os.Stat(loc)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, usagef("%s: want a directory, or a name ending in .catar or .caidx", loc)
	}
	f, err := t.features.parse()
	if err != nil {
		return nil, err
	}
	v, _, err := t.openView(ctx, a, loc, (f | digestFeature(t.dirDigest)).Normalize())
	if err != nil {
		return nil, err
	}
	return treeOf(loc)(archive.OpenTree(v, v.Size()))
}

// isArchive reports whether loc is to be taken for an archive as it is.
func (t *treeSource) isArchive(loc string) bool {
	return t.what == whatArchive || t.what == "" && isArchive(loc)
}

// treeIndex reads the index of a tree.
func (t *treeSource) treeIndex(a *app, loc string) (*index.Index, error) {
	if t.x != nil {
		return t.x, nil
	}
	return t.index(a, loc)
}

// openView returns the directory at loc as an archive with the features f, and what is
// in it.
func (t *treeSource) openView(ctx context.Context, a *app, loc string, f archive.Features) (*tree.View, tree.PackStats, error) {
	root, err := os.OpenRoot(loc)
	if err != nil {
		return nil, tree.PackStats{}, err
	}
	defer root.Close()
	a.meter.Start("look", 0)
	v, stats, err := tree.Scan(ctx, root, f, t.features.packOptions(a))
	a.meter.End()
	if err != nil {
		return nil, stats, fmt.Errorf("%s: %w", loc, err)
	}
	t.closers = append(t.closers, v)
	return v, stats, nil
}

// openArchive opens a .catar file. One from elsewhere is kept in a temporary file
// without a name.
func (t *treeSource) openArchive(ctx context.Context, a *app, loc string) (*os.File, error) {
	if location.KindOf(loc) == location.Directory {
		f, err := os.Open(loc)
		if err == nil {
			t.closers = append(t.closers, f)
		}
		return f, err
	}
	r, err := a.places.OpenIndex(ctx, loc, a.Stdin)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.CreateTemp("", "castor-archive-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	t.closers = append(t.closers, f)
	if _, err := io.Copy(f, cancelReader(ctx, r)); err != nil {
		return nil, fmt.Errorf("%s: %w", loc, err)
	}
	return f, nil
}

// treeOf returns a function that says of an error which archive it is about.
func treeOf(loc string) func(*archive.Tree, error) (*archive.Tree, error) {
	return func(t *archive.Tree, err error) (*archive.Tree, error) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", loc, err)
		}
		return t, nil
	}
}

// pathIn returns the path of a node in a tree as users write it, without a slash at
// its beginning or end.
func pathIn(args []string, i int) string {
	if len(args) <= i {
		return ""
	}
	return strings.Trim(path.Clean("/"+filepath.ToSlash(args[i])), "/")
}
