package cli

import (
	"bufio"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/units"
)

func newChunks(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "chunks [flags] INDEX",
		GroupID: groupInspect,
		Short:   "List the chunks of an index: ID, offset and size, a line each",
		Example: "  castor chunks v1.caibx | sort -u -k1,1 | wc -l",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ir, done, err := a.indexReader(args[0])
			if err != nil {
				return err
			}
			defer done()
			w := bufio.NewWriter(a.Stdout)
			defer w.Flush()
			enc := json.NewEncoder(w)
			start := int64(0)
			return eachEntry(a, args[0], ir, func(e index.Entry) error {
				off, size := start, e.End-start
				start = e.End
				if asJSON {
					return enc.Encode(struct {
						ID     string `json:"id"`
						Offset int64  `json:"offset"`
						Size   int64  `json:"size"`
					}{e.ID.String(), off, size})
				}
				_, err := fmt.Fprintf(w, "%v %d %d\n", e.ID, off, size)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

func newRootCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "root INDEX",
		GroupID: groupInspect,
		Short:   "Print the Merkle root of an index, which names it",
		Example: "  castor root v1.caibx",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			ir, done, err := a.indexReader(args[0])
			if err != nil {
				return err
			}
			defer done()
			var h index.RootHasher
			size := int64(0)
			err = eachEntry(a, args[0], ir, func(e index.Entry) error {
				h.Add(e)
				size = e.End
				return nil
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Stdout, h.Root(ir.Header(), size))
			return err
		},
	}
}

func newDiff(a *app) *cobra.Command {
	var asJSON, chunks bool
	var t treeSource
	cmd := &cobra.Command{
		Use:     "diff [flags] OLD NEW",
		GroupID: groupInspect,
		Short:   "Say what differs between two trees, or which chunks two indexes share",
		Long: `Of two trees, which are archives (.catar), indexes of such (.caidx) or directories in
any mix, list the nodes that were added, removed or changed, or of which only the
metadata differs, a line each. --with and --without select what counts. Files of
equal size are compared by their content.

Of two indexes of files (.caibx), and with --chunks of any two, say how many distinct
chunks and bytes NEW adds to OLD, which it no longer has, and which both have. What is
added is what an update fetches.`,
		Example: `  castor diff v1.caibx v2.caibx
  castor diff v1.caidx /srv/root
  castor diff --chunks v1.caidx v2.caidx`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer t.close()
			if !chunks && (isTree(args[0]) || isTree(args[1])) {
				return t.diffTrees(cmd.Context(), a, args[0], args[1], asJSON)
			}
			old, err := a.index(args[0])
			if err != nil {
				return err
			}
			new, err := a.index(args[1])
			if err != nil {
				return err
			}
			if old.Digest() != new.Digest() {
				return fmt.Errorf("cannot compare: %s names chunks by %v, %s by %v", args[0], old.Digest(), args[1], new.Digest())
			}
			d := index.Compare(old, new)
			if asJSON {
				return json.NewEncoder(a.Stdout).Encode(d)
			}
			for _, l := range []struct {
				name string
				s    index.Share
			}{{"added", d.Added}, {"removed", d.Removed}, {"shared", d.Shared}} {
				fmt.Fprintf(a.Stdout, "%-8s %s in %s (%d bytes)\n", l.name, units.Size(l.s.Bytes), units.Chunks(l.s.Chunks), l.s.Bytes)
			}
			return nil
		},
	}
	t.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON; of trees, an object a line")
	cmd.Flags().BoolVar(&chunks, "chunks", false, "compare the chunks of indexes of trees")
	return cmd
}
