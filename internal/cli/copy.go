package cli

import (
	"context"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

type copyFlags struct {
	sources
	dest    string
	indexes string
	workers int
	noSync  bool
}

func newCopy(a *app) *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:     "copy [flags] -d STORE INDEX…",
		GroupID: groupGet,
		Short:   "Copy the chunks of indexes from stores to another store",
		Long: `Copy the chunks of each INDEX to the store given with -d: those that it lacks, and no
others of the stores they come from. Each is verified on its way.

With --indexes the index is copied as well, once all its chunks are there, under its
own name to that directory: so a version is published whole or not at all. Where casync is on
the other side of an ssh:// URL, chunks can only be put together with their index.`,
		Example: `  castor copy -s /srv/store.castr -d s3+https://host/bucket/store v2.caibx
  castor copy -s https://far.example/default.castr -d ./default.castr --indexes . https://far.example/v2.caibx
  castor copy -d sftp://host/srv/default.castr --indexes sftp://host/srv v1.caibx v2.caibx`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.dest == "":
				return usagef("copy: name the store to copy to with -d")
			case f.workers < 0:
				return usagef("--concurrency %d: want 1 or more", f.workers)
			}
			for _, loc := range args {
				if err := f.run(cmd.Context(), a, loc); err != nil {
					return fmt.Errorf("copy %s: %w", loc, err)
				}
			}
			return nil
		},
	}
	f.addStores(cmd)
	f.addPubkey(cmd)
	fl := cmd.Flags()
	fl.VarP((*sink)(&f.dest), "destination", "d", "store to copy to, created if need be")
	fl.StringVar(&f.indexes, "indexes", "", "directory to copy the indexes to, a path or a URL")
	fl.IntVarP(&f.workers, "concurrency", "j", 0, "chunks to copy at the same time (default: as suits the stores)")
	fl.BoolVar(&f.noSync, "no-sync", false, "do not wait until everything has reached the disk")
	return cmd
}

func (f *copyFlags) run(ctx context.Context, a *app, loc string) error {
	from := sources{stores: f.stores, cache: f.cache, key: f.key, pubkey: f.pubkey}
	defer from.close()
	x, err := from.index(a, loc)
	if err != nil {
		return err
	}
	name := ""
	if f.indexes != "" {
		if name, err = inDirectory(f.indexes, loc); err != nil {
			return err
		}
	}
	src, err := from.open(a, loc, x)
	if err != nil {
		return err
	}
	if location.KindOf(f.dest) == location.Casync && location.KindOf(name) == location.Casync {
		return f.push(ctx, a, loc, name, x, src)
	}
	dst, err := a.places.Store(ctx, f.dest, &location.StoreOptions{Create: true, Durable: !f.noSync, MaxChunk: x.Params.Max})
	if err != nil {
		return err
	}
	defer dst.Close()
	workers := f.workers
	if workers == 0 {
		workers = max(from.workers(a, loc), a.workersFor(f.dest))
	}
	sum, err := copyChunks(ctx, a, "copy", dst, src, x, workers)
	if err != nil {
		return err
	}
	if f.indexes != "" {
		if err := copyIndex(ctx, a, x, name, !f.noSync); err != nil {
			return err
		}
	}
	a.say("%s: %s copied (%s), %s present", loc, units.Chunks(sum.Copied), units.Size(sum.Bytes), units.Count(sum.Present))
	return nil
}

// push copies index and chunks at once, which casync on the other side can take as well.
func (f *copyFlags) push(ctx context.Context, a *app, loc, name string, x *index.Index, src store.Getter) error {
	a.meter.Start("push", 0)
	sum, err := a.places.Push(ctx, name, f.dest, x, index.EncodedSize(len(x.Entries)), src)
	a.meter.End()
	if err != nil {
		return err
	}
	a.say("%s: %s pushed (%s)", loc, units.Chunks(sum.Chunks), units.Size(sum.Bytes))
	return nil
}

// copyChunks copies the chunks of x, and shows how far it is.
func copyChunks(ctx context.Context, a *app, what string, dst store.Store, src store.Getter, x *index.Index, workers int) (store.Copied, error) {
	ids, size := distinct(x)
	a.meter.Start(what, size)
	defer a.meter.End()
	avg := size / int64(max(len(ids), 1))
	sum, err := store.Copy(ctx, dst, src, ids, x.Digest(), x.Params.Max, workers, func(c store.Copied) {
		a.meter.Update(int64(c.Present+c.Copied)*avg, size, nil)
	})
	if err == nil {
		a.meter.Update(size, size, nil) // the average was near it
	}
	return sum, err
}

// copyIndex writes x to loc.
func copyIndex(ctx context.Context, a *app, x *index.Index, loc string, sync bool) error {
	out, err := a.places.CreateIndex(ctx, loc, a.Stdout)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := io.Copy(out, io.NewSectionReader(x, 0, index.EncodedSize(len(x.Entries)))); err != nil {
		return err
	}
	return out.Commit(sync)
}

// inDirectory returns where in the directory dir, a path or a URL, the index from loc is
// to be. What comes from a multicast channel by its root has no name but that.
func inDirectory(dir, loc string) (string, error) {
	at, _, _ := strings.Cut(loc, "?")
	name := path.Base(filepath.ToSlash(at))
	switch {
	case loc == "-":
		return "", usagef("--indexes: the index on stdin has no name")
	case location.IsMulticast(loc):
		if _, err := chunker.ParseID(name); err == nil || !isIndex(name) {
			name += ".caibx"
		}
	}
	if location.KindOf(dir) == location.Directory {
		return filepath.Join(dir, name), nil
	}
	at, query, hasQuery := strings.Cut(dir, "?")
	at = strings.TrimRight(at, "/") + "/" + name
	if hasQuery {
		at += "?" + query
	}
	return at, nil
}

// distinct returns the distinct chunks of x in order, and the bytes of content
// in them.
func distinct(x *index.Index) (ids []chunker.ID, size int64) {
	seen := make(map[chunker.ID]struct{}, len(x.Entries))
	for i, e := range x.Entries {
		if _, ok := seen[e.ID]; !ok {
			seen[e.ID] = struct{}{}
			ids = append(ids, e.ID)
			size += int64(x.Len(i))
		}
	}
	return ids, size
}
