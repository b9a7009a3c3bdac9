package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

type checkFlags struct {
	repair bool
	stores []string
}

func newCheck(a *app) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:     "check [flags] STORE",
		GroupID: groupMaintain,
		Short:   "Check every chunk of a store",
		Long: `Read and verify every chunk of STORE, and list those that are damaged. With
--repair they are replaced from the stores given with -s, or else moved aside, so
that the next make stores them anew. The exit code is 0 only if in the end nothing
damaged or missing is left behind.`,
		Example: `  castor check /srv/store.castr
  castor check --repair -s /mnt/mirror.castr /srv/store.castr`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), a, args[0]) },
	}
	cmd.Flags().BoolVar(&f.repair, "repair", false, "replace damaged chunks, or move them aside")
	cmd.Flags().StringArrayVarP(&f.stores, "store", "s", nil, "store to replace damaged chunks from; may be given several times")
	return cmd
}

func (f *checkFlags) run(ctx context.Context, a *app, loc string) error {
	if len(f.stores) > 0 && !f.repair {
		return usagef("-s is for --repair: damaged chunks are replaced from there")
	}
	s, err := a.places.Store(ctx, loc, &location.StoreOptions{Durable: true})
	if err != nil {
		return err
	}
	defer s.Close()
	var others []store.Getter
	for _, name := range f.stores {
		o, err := a.places.Source(ctx, name, chunker.MaxSize)
		if err != nil {
			return err
		}
		defer o.Close()
		others = append(others, o)
	}
	bad, lost := 0, 0
	a.meter.Start("check", 0)
	chunks, bytes, err := store.Check(ctx, s, a.workersFor(loc), func(id chunker.ID, err error) error {
		bad++
		fmt.Fprintln(a.Stdout, err)
		if !f.repair {
			lost++
			return nil
		}
		done, err := repair(ctx, s, others, id)
		if err != nil {
			return err
		}
		if done == "" {
			done = "replaced"
		} else {
			lost++
			done = "moved to " + done
		}
		_, err = fmt.Fprintf(a.Stdout, "chunk %v: %s\n", id, done)
		return err
	}, func(_ int, bytes int64) { a.meter.Update(bytes, 0, nil) })
	a.meter.End()
	if err == nil {
		err = store.Sync(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", loc, err)
	}
	if lost > 0 {
		return &mismatchError{fmt.Sprintf("%s: %d of %d chunks are damaged, %d replaced", loc, bad, chunks, bad-lost)}
	}
	a.say("%s: %s chunks are right, %s; %d replaced", loc, units.Count(chunks), units.Size(bytes), bad)
	return nil
}

// repair replaces a damaged chunk from the others, or else moves it aside and
// returns where to.
func repair(ctx context.Context, s store.Store, others []store.Getter, id chunker.ID) (string, error) {
	for _, o := range others {
		for _, d := range chunker.Digests {
			c, err := o.Get(ctx, id)
			if err != nil {
				break
			}
			if c, err = c.Verify(d, chunker.MaxSize); err == nil {
				return "", store.Replace(ctx, s, c)
			}
		}
	}
	aside, ok := s.(store.SetAsider)
	if !ok {
		return "", fmt.Errorf("chunk %v is damaged, none of the stores given has it right, and this store cannot set it aside", id)
	}
	return aside.SetAside(ctx, id)
}
