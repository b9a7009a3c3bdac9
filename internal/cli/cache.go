package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
)

func newCache(a *app) *cobra.Command {
	var f sources
	cmd := &cobra.Command{
		Use:     "cache [flags] -c CACHE INDEX…",
		GroupID: groupGet,
		Short:   "Fill a cache with the chunks of indexes, without writing a file",
		Example: "  castor cache -s /mnt/store.castr -c /var/cache/chunks.castr v1.caibx v2.caibx",
		Args:    minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.cache == "" {
				return usagef("cache: name the cache to fill with -c")
			}
			for _, loc := range args {
				if err := fillCache(cmd.Context(), a, f, loc); err != nil {
					return fmt.Errorf("cache %s: %w", loc, err)
				}
			}
			return nil
		},
	}
	f.addStores(cmd)
	f.addPubkey(cmd)
	return cmd
}

func fillCache(ctx context.Context, a *app, f sources, loc string) error {
	from := sources{stores: f.stores, key: f.key, pubkey: f.pubkey}
	defer from.close()
	x, err := from.index(a, loc)
	if err != nil {
		return err
	}
	src, err := from.open(a, loc, x)
	if err != nil {
		return err
	}
	dst, err := location.Store(f.cache, &dir.Options{Create: true, Durable: true})
	if err != nil {
		return err
	}
	defer dst.Close()
	ids, size := distinct(x)
	a.meter.Start("cache", size)
	avg := size / int64(max(len(ids), 1))
	sum, err := store.Copy(ctx, dst, src, ids, x.Digest(), x.Params.Max, 4*runtime.GOMAXPROCS(0), func(c store.Copied) {
		a.meter.Update(int64(c.Present+c.Copied)*avg, size, nil)
	})
	if err == nil {
		a.meter.Update(size, size, nil) // the average was near it
	}
	a.meter.End()
	if err != nil {
		return err
	}
	a.say("%s: %s chunks copied (%s), %s present", loc, units.Count(sum.Copied), units.Size(sum.Bytes), units.Count(sum.Present))
	return nil
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
