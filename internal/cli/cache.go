package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/units"
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
	dst, err := a.openCache(f.cache, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	sum, err := copyChunks(ctx, a, "cache", dst, src, x, from.workers(a, loc))
	if err != nil {
		return err
	}
	a.say("%s: %s copied (%s), %s present", loc, units.Chunks(sum.Copied), units.Size(sum.Bytes), units.Count(sum.Present))
	return nil
}
