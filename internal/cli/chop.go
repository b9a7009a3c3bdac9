package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

func newChop(a *app) *cobra.Command {
	var name string
	level := 0
	cmd := &cobra.Command{
		Use:     "chop [flags] INDEX FILE",
		GroupID: groupMake,
		Short:   "Store the chunks of a file as an existing index cuts them",
		Long: `Store the chunks of FILE where INDEX cuts them, to complete a store for an index
that was made elsewhere. FILE must be what INDEX describes.`,
		Example: "  castor chop -s /srv/store.castr v1.caibx disk.img",
		Args:    exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkLevel(cmd, &level); err != nil {
				return err
			}
			loc := name
			if loc == "" {
				loc = a.storeFor(args[0])
			}
			dst, err := a.places.Store(a.ctx, loc, &location.StoreOptions{Create: true, Level: level, Durable: true})
			if err != nil {
				return err
			}
			defer dst.Close()
			return chop(cmd.Context(), a, dst, args[0], args[1])
		},
	}
	addSink(cmd.Flags(), &name)
	addLevel(cmd.Flags(), &level)
	return cmd
}

func chop(ctx context.Context, a *app, dst store.Store, loc, file string) error {
	x, err := a.index(loc)
	if err != nil {
		return err
	}
	f, err := a.open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	a.meter.Start("chop", x.Size())
	defer a.meter.End()
	var mu sync.Mutex // guards done and added
	var done int64
	added := 0
	err = par.Each(ctx, runtime.GOMAXPROCS(0), len(x.Entries), func(ctx context.Context, i int) error {
		b := bufpool.Get(x.Len(i))
		defer bufpool.Put(b)
		id := x.Entries[i].ID
		_, err := f.ReadAt(b, x.Start(i))
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF || x.Digest().Sum(b) != id {
			return &mismatchError{fmt.Sprintf("%s is not what %s describes: chunk %v at offset %d differs", file, loc, id, x.Start(i))}
		}
		did, err := store.Add(ctx, dst, store.Chunk{ID: id, Data: b})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if did.New {
			added++
		}
		done += int64(len(b))
		a.meter.Update(done, x.Size(), nil)
		return nil
	})
	if err == nil {
		err = store.Sync(ctx, dst)
	}
	if err != nil {
		return err
	}
	a.meter.End()
	a.say("%s: %s of %s were new", dst, units.Count(added), units.Chunks(len(x.Entries)))
	return nil
}
