package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

func newVerify(a *app) *cobra.Command {
	var f treeSource
	cmd := &cobra.Command{
		Use:     "verify [flags] INDEX [FILE|DIRECTORY]",
		GroupID: groupInspect,
		Short:   "Check that a file or tree matches an index, or that stores hold all its chunks",
		Long: `With FILE, check that its content is that of INDEX. Without, check that the stores
have every chunk of INDEX and that it is right.

With DIRECTORY, check that it holds the tree of INDEX, the index of an archive (.caidx)
or an archive (.catar): nodes, metadata and content. --with and --without select what
counts.

What is wrong is listed on stdout, a line each.`,
		Example: `  castor verify v1.caibx disk.img
  castor verify -s /srv/store.castr v1.caibx
  castor verify os.caidx /srv/root`,
		Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer f.close()
			if isArchive(args[0]) && len(args) < 2 {
				return usagef("%s: an archive has no chunks: name the directory to compare it with", args[0])
			}
			if len(args) == 2 && (isArchive(args[0]) || isArchiveIndex(args[0])) {
				return f.verifyTree(cmd.Context(), a, args[0], args[1])
			}
			x, err := a.index(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return verifyFile(cmd.Context(), a, x, args[1])
			}
			return verifyStores(cmd.Context(), a, &f.sources, x, args[0])
		},
	}
	f.add(cmd)
	return cmd
}

func verifyFile(ctx context.Context, a *app, x *index.Index, name string) error {
	f, err := a.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	bad := 0
	a.meter.Start("verify", x.Size())
	err = assemble.Verify(ctx, x, f, size, func(i int) error {
		bad++
		_, err := fmt.Fprintf(a.Stdout, "differs: %v at offset %d, %d bytes\n", x.Entries[i].ID, x.Start(i), x.Len(i))
		return err
	}, func(done, total int64) { a.meter.Update(done, total, nil) })
	a.meter.End()
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case bad > 0:
		return &mismatchError{fmt.Sprintf("%s: %d of %d chunks differ", name, bad, len(x.Entries))}
	case fi.Mode().IsRegular() && size > x.Size():
		return &mismatchError{fmt.Sprintf("%s: %d bytes, the index has %d", name, size, x.Size())}
	}
	a.say("%s: matches, %s in %s", name, units.Size(x.Size()), units.Chunks(len(x.Entries)))
	return nil
}

func verifyStores(ctx context.Context, a *app, f *sources, x *index.Index, loc string) error {
	src, err := f.open(a, loc, x)
	if err != nil {
		return err
	}
	if none, ok := src.(absent); ok {
		return none.err
	}
	ids, size := distinct(x)
	a.meter.Start("verify", size)
	var mu sync.Mutex // guards the following and the output
	missing, damaged, unread := 0, 0, 0
	done := int64(0)
	err = par.Each(ctx, f.workers(a, loc), len(ids), func(ctx context.Context, i int) error {
		c, err := src.Get(ctx, ids[i])
		var b []byte
		if err == nil {
			b, err = c.Open(x.Digest(), x.Params.Max)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		done += int64(len(b))
		a.meter.Update(done, size, nil)
		c.Release()
		switch {
		case err == nil:
			return nil
		case store.Missing(err):
			missing++
		case errors.Is(err, store.ErrDamaged):
			damaged++
		default:
			unread++
		}
		_, err = fmt.Fprintln(a.Stdout, err)
		return err
	})
	a.meter.End()
	switch {
	case err != nil:
		return err
	case missing > 0:
		return &incompleteError{fmt.Sprintf("%s: %d of %d chunks are missing, %d damaged", loc, missing, len(ids), damaged)}
	case unread > 0:
		return fmt.Errorf("%s: %d of %d chunks could not be read, %d damaged", loc, unread, len(ids), damaged)
	case damaged > 0:
		return &mismatchError{fmt.Sprintf("%s: %d of %d chunks are damaged", loc, damaged, len(ids))}
	}
	a.say("%s: all %s chunks are there and right, %s", loc, units.Count(len(ids)), units.Size(size))
	return nil
}
