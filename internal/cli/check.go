package cli

import (
	"context"
	"errors"
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
		Long: `Read and verify every chunk of STORE, and list those that are damaged or cannot be
read. With --repair they are replaced from the stores given with -s; a damaged one that
none of them has is moved aside, so that the next make stores it anew. The exit code is 0
only if in the end nothing damaged or missing is left behind.`,
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
	var n checkCounts
	a.meter.Start("check", 0)
	chunks, bytes, err := store.Check(ctx, s, a.workersFor(loc), func(id chunker.ID, err error) error {
		fmt.Fprintln(a.Stdout, err)
		damaged := errors.Is(err, store.ErrDamaged)
		n.add(damaged)
		if !f.repair {
			return nil
		}
		done, err := n.repair(ctx, s, others, id, damaged)
		if err != nil || done == "" {
			return err
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
	switch {
	case n.damaged+n.unread > n.replaced:
		return n.err(loc, chunks)
	case chunks == 0:
		a.log.Warn("there is no chunk in it: is it a store?", "store", loc)
	default:
		a.say("%s: %s chunks are right, %s; %d replaced", loc, units.Count(chunks), units.Size(bytes), n.replaced)
	}
	return nil
}

// checkCounts are the chunks of which something is wrong.
type checkCounts struct{ damaged, unread, replaced, aside int }

func (n *checkCounts) add(damaged bool) {
	if damaged {
		n.damaged++
	} else {
		n.unread++
	}
}

// err says what is left behind.
func (n *checkCounts) err(loc string, chunks int) error {
	text := fmt.Sprintf("%s: %d of %d chunks are damaged", loc, n.damaged, chunks)
	if n.unread > 0 {
		text += fmt.Sprintf(", %d could not be read", n.unread)
	}
	text += fmt.Sprintf(", %d replaced", n.replaced)
	if n.aside > 0 {
		text += fmt.Sprintf(", %d moved aside: make or chop stores them anew", n.aside)
	}
	if n.damaged == 0 { // nothing is known of the content
		return errors.New(text)
	}
	return &mismatchError{text}
}

// repair replaces a chunk from the others. If none of them has it right and it is
// damaged, it is moved aside; what only cannot be read may be right, and stays. It returns
// what was done.
func (n *checkCounts) repair(ctx context.Context, s store.Store, others []store.Getter, id chunker.ID, damaged bool) (done string, err error) {
	for _, o := range others {
		for _, d := range chunker.Digests {
			c, err := o.Get(ctx, id)
			if err != nil {
				break
			}
			if c, err = c.Verify(d, chunker.MaxSize); err == nil {
				n.replaced++
				return "replaced", store.Replace(ctx, s, c)
			}
		}
	}
	if !damaged {
		return "", nil
	}
	aside, ok := s.(store.SetAsider)
	if !ok {
		return "", fmt.Errorf("chunk %v is damaged, none of the stores given has it right, and this store cannot set it aside", id)
	}
	where, err := aside.SetAside(ctx, id)
	n.aside++
	return "moved to " + where, err
}
