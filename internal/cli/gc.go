package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

type gcFlags struct {
	dryRun bool
	yes    bool
	grace  time.Duration
}

func newGC(a *app) *cobra.Command {
	var f gcFlags
	cmd := &cobra.Command{
		Use:     "gc [flags] STORE INDEX…",
		GroupID: groupMaintain,
		Short:   "Remove the chunks of a store that no index needs",
		Long: `Remove from STORE every chunk that none of the given indexes needs, and what killed
runs left behind. Name all the indexes that matter: the chunks of any other are
lost. A name that ends with a slash stands for all indexes right in that directory, or
behind that prefix of a bucket: the files whose names end in .caibx or .caidx.

A chunk that was stored or used within the grace period stays, so that a make that
runs at the same time is safe: keep the period longer than any make takes, and
above an hour. If STORE has no chunk that the indexes need, but others, they are of another
store, and nothing is removed.`,
		Example: `  castor gc --dry-run /srv/store.castr /srv/*.caibx
  castor gc --yes --grace 7d /srv/store.castr /srv/*.caibx
  castor gc s3+https://host/bucket/default.castr s3+https://host/bucket/`,
		Args: minArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), a, args[0], args[1:]) },
	}
	cmd.Flags().BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be removed and remove nothing")
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	f.grace = 24 * time.Hour
	cmd.Flags().Var((*span)(&f.grace), "grace", "leave chunks alone that were stored or used within this time: 36h, 7d, 2w")
	return cmd
}

// span is a flag for a time that people count in hours, days or weeks.
type span time.Duration

func (s *span) String() string { return time.Duration(*s).String() }
func (s *span) Type() string   { return "duration" }

func (s *span) Set(text string) error {
	d, err := units.ParseDuration(text)
	*s = span(d)
	return err
}

func (f *gcFlags) run(ctx context.Context, a *app, loc string, indexes []string) error {
	if len(indexes) == 0 {
		return usagef("gc: no index given, so every chunk would go; to delete a store, delete its directory")
	}
	if f.grace < 0 {
		return usagef("--grace %v: want 0 or more", f.grace)
	}
	s, err := a.places.Store(ctx, loc, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if indexes, err = a.allIndexes(ctx, indexes); err != nil {
		return err
	}
	keep := map[chunker.ID]struct{}{}
	for _, name := range indexes {
		if err := addChunks(a, keep, name); err != nil {
			return err // with one index unread, its chunks would go
		}
	}
	o := store.GCOptions{Since: time.Now().Add(-f.grace), DryRun: f.dryRun, Workers: a.workersFor(loc)}
	o.Confirm = func(would store.GCStats) error { return f.confirm(a, loc, would) }
	stats, err := store.GC(ctx, s, func(id chunker.ID) bool { _, ok := keep[id]; return ok }, o)
	if usage, ok := errors.AsType[*usageError](err); ok {
		return usage
	}
	if err != nil {
		return fmt.Errorf("gc %s: %w", loc, err)
	}
	verb := "removed"
	if f.dryRun {
		verb = "would remove"
	}
	a.say("%s: %s %s (%s) and %s left-over files; needed: %s; unneeded and younger than %v: %s", loc, verb,
		units.Chunks(stats.Removed), units.Size(stats.RemovedBytes), units.Count(stats.Swept), units.Chunks(stats.Kept), f.grace, units.Chunks(stats.Young))
	return nil
}

// confirm returns an error unless what is told may be removed.
func (f *gcFlags) confirm(a *app, loc string, would store.GCStats) error {
	switch {
	case would.Kept == 0 && would.Removed > 0:
		return usagef("%s has no chunk that these indexes need, so all %s of it would go: they are of another store; to delete a store, delete its directory", loc, units.Count(would.Removed))
	case f.dryRun, f.yes:
		return nil
	}
	return a.confirm("remove %s (%s) of %s?", units.Chunks(would.Removed), units.Size(would.RemovedBytes), loc)
}

// allIndexes returns indexes with those in the place of each directory that it has.
func (a *app) allIndexes(ctx context.Context, names []string) (all []string, err error) {
	for _, name := range names {
		if !strings.HasSuffix(name, "/") {
			all = append(all, name)
			continue
		}
		before := len(all)
		err := a.places.ListIndexes(ctx, name, func(i location.IndexInfo) error {
			all = append(all, i.Loc)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(all) == before {
			return nil, usagef("%s has no index: nothing would be kept for it", name)
		}
	}
	return all, nil
}

// addChunks adds the chunks of the index at loc to the set.
func addChunks(a *app, set map[chunker.ID]struct{}, loc string) error {
	ir, done, err := a.indexReader(loc)
	if err != nil {
		return err
	}
	defer done()
	return eachEntry(a, loc, ir, func(e index.Entry) error {
		set[e.ID] = struct{}{}
		return nil
	})
}

// confirm asks a question on the terminal. Without one the answer is no.
func (a *app) confirm(format string, args ...any) error {
	in, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usagef("nobody to ask: give --yes to do it or --dry-run to see what it would do")
	}
	fmt.Fprintf(a.Stderr, format+" [y/N] ", args...)
	line, _ := bufio.NewReader(cancelReader(a.ctx, in)).ReadString('\n')
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		return fmt.Errorf("nothing removed")
	}
	return nil
}
