package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/units"
)

type catFlags struct {
	treeSource
	offset string
	length string
}

func newCat(a *app) *cobra.Command {
	var f catFlags
	cmd := &cobra.Command{
		Use:     "cat [flags] INDEX [PATH]",
		GroupID: groupGet,
		Short:   "Write the content of an index, or a part of it, to stdout",
		Long: `Write what INDEX describes to stdout, or the part of it that --offset and --length say.
With PATH, write the file of that path in a tree: INDEX is the index of an archive
(.caidx), an archive (.catar) or a directory. Only what it takes is got.`,
		Example: `  castor cat v1.caibx | sha256sum
  castor cat --offset 1M --length 512 v1.caibx | xxd
  castor cat os.caidx etc/os-release`,
		Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			off, n, err := f.section()
			if err != nil {
				return err
			}
			defer f.close()
			if len(args) == 1 && isArchive(args[0]) {
				return usagef("%s is an archive: name the file in it that is to be written", args[0])
			}
			if len(args) == 2 {
				return f.file(cmd.Context(), a, args[0], pathIn(args, 1), off, n)
			}
			return f.run(cmd.Context(), a, args[0], off, n)
		},
	}
	f.add(cmd)
	f.addPubkey(cmd)
	f.addSeeds(cmd)
	cmd.Flags().StringVar(&f.offset, "offset", "0", "where to begin, in bytes")
	cmd.Flags().StringVar(&f.length, "length", "", "how much to write, in bytes (default: to the end)")
	return cmd
}

// section returns which part is wanted; n is -1 for all behind off.
func (f *catFlags) section() (off, n int64, err error) {
	if off, err = units.ParseSize(f.offset); err != nil {
		return 0, 0, usagef("--offset: %w", err)
	}
	if f.length == "" {
		return off, -1, nil
	}
	if n, err = units.ParseSize(f.length); err != nil {
		return 0, 0, usagef("--length: %w", err)
	}
	return off, n, nil
}

// file writes a file of a tree.
func (f *catFlags) file(ctx context.Context, a *app, loc, path string, off, n int64) error {
	t, err := f.openTree(ctx, a, loc)
	if err != nil {
		return err
	}
	it, err := t.Find(path)
	if err != nil {
		return fmt.Errorf("%s: %w", loc, err)
	}
	if !it.Node.IsRegular() {
		return fmt.Errorf("%s: %s is a %s, not a file", loc, shownPath(it.Path), nodeType(it.Node))
	}
	if off > it.Node.Size {
		return usagef("--offset %d is behind the end: %s has %d bytes", off, it.Path, it.Node.Size)
	}
	if n < 0 || n > it.Node.Size-off {
		n = it.Node.Size - off
	}
	a.meter.Start("cat", n)
	defer a.meter.End()
	c := &counter{w: a.Stdout, told: func(done int64) { a.meter.Update(done, n, nil) }}
	r := cancelReader(ctx, io.NewSectionReader(it.Content(), off, n))
	if _, err := io.CopyBuffer(c, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("cat %s: %s: %w", loc, it.Path, err)
	}
	return nil
}

func (f *catFlags) run(ctx context.Context, a *app, loc string, off, n int64) error {
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
	seeds, err := f.openSeeds(a, f.seeds)
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
	_, err = p.Stream(ctx, a.Stdout, off, n, src, &assemble.Options{Workers: f.workers(a, loc), Progress: func(s assemble.Stats) { a.meter.Update(s.Done(), total, nil) }})
	a.meter.End()
	if err != nil {
		return fmt.Errorf("cat %s: %w", loc, err)
	}
	return nil
}
