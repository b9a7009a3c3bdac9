package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/archive/treecache"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/store"
)

// buildFunc makes an index as [build.File] does.
type buildFunc func(context.Context, *index.Writer, store.Store, *build.Options) (build.Stats, error)

// withCache returns how the index of the directory of that name is made with the cache
// of the flags.
func (f *makeFlags) withCache(a *app, name string, root *os.Root) buildFunc {
	return func(ctx context.Context, w *index.Writer, dst store.Store, o *build.Options) (build.Stats, error) {
		path, err := filepath.Abs(name)
		if err != nil {
			return build.Stats{}, err
		}
		pack := f.tree.packOptions(a)
		pack.Progress = nil // the chunks tell
		stats, err := treecache.Build(ctx, w, dst, root, treecache.Path(f.cacheDir, path, w.Header(), pack), &treecache.Options{
			Pack:  pack,
			Build: *o,
			Warn:  func(err error) { a.log.Warn("read without the cache", "reason", err.Error()) },
		})
		if errors.Is(err, tree.ErrChanged) {
			a.log.Warn("made without the cache, because the tree keeps changing", "reason", err.Error())
		}
		return stats, err
	}
}
