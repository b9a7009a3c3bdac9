package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/units"
)

type catFlags struct {
	sources
	offset string
	length string
}

func newCat(a *app) *cobra.Command {
	var f catFlags
	cmd := &cobra.Command{
		Use:     "cat [flags] INDEX",
		GroupID: groupGet,
		Short:   "Write the content of an index, or a part of it, to stdout",
		Example: `  castor cat v1.caibx | sha256sum
  castor cat --offset 1M --length 512 v1.caibx | xxd`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), a, args[0]) },
	}
	f.addStores(cmd)
	f.addPubkey(cmd)
	f.addSeeds(cmd)
	cmd.Flags().StringVar(&f.offset, "offset", "0", "where to begin, in bytes")
	cmd.Flags().StringVar(&f.length, "length", "", "how much to write, in bytes (default: to the end)")
	return cmd
}

func (f *catFlags) run(ctx context.Context, a *app, loc string) error {
	off, err := units.ParseSize(f.offset)
	if err != nil {
		return usagef("--offset: %w", err)
	}
	n := int64(-1)
	if f.length != "" {
		if n, err = units.ParseSize(f.length); err != nil {
			return usagef("--length: %w", err)
		}
	}
	defer f.close()
	x, err := f.index(a, loc)
	if err != nil {
		return err
	}
	if off > x.Size() {
		return usagef("--offset %d is behind the end: %s has %d bytes", off, loc, x.Size())
	}
	src, err := f.open(a, loc, x)
	if err != nil {
		return err
	}
	seeds, err := f.openSeeds(a)
	if err != nil {
		return err
	}
	p, err := assemble.NewPlan(ctx, x, &assemble.PlanOptions{Seeds: seeds})
	if err != nil {
		return err
	}
	if src, err = f.bring(a, x, p, src); err != nil {
		return fmt.Errorf("cat %s: %w", loc, err)
	}
	total := x.Size() - off
	if n >= 0 {
		total = min(total, n)
	}
	a.meter.Start("cat", total)
	_, err = p.Stream(ctx, a.Stdout, off, n, src, &assemble.Options{Progress: func(s assemble.Stats) { a.meter.Update(s.Done(), total, nil) }})
	a.meter.End()
	if err != nil {
		return fmt.Errorf("cat %s: %w", loc, err)
	}
	return nil
}
