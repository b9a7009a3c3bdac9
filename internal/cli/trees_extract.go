package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
)

// treeExtract are the flags of extract that are for trees.
type treeExtract struct {
	delete bool
	strict bool
	tar    bool
	out    io.Writer // the tar file that is written; nil for a directory
}

func (f *extractFlags) addTree(cmd *cobra.Command) {
	f.features.addMask(cmd, "of a tree, what is restored")
	t := &f.tree
	fl := cmd.Flags()
	fl.BoolVar(&t.delete, "delete", false, "of a tree: remove what the archive does not have, after all else has gone well; with PATH, only within that")
	fl.BoolVar(&t.strict, "strict", false, "of a tree: fail if something cannot be restored here, such as an owner without the privilege")
	fl.BoolVar(&f.features.hardLinks, "hard-links", false, "of a tree: restore hard links that make --hard-links has marked")
	fl.BoolVar(&t.tar, "tar", false, "of a tree: DEST is a tar file")
	addWhat(fl, &f.what)
}

// addWhat adds the flag that says what an index is of.
func addWhat(fl *pflag.FlagSet, what *string) {
	fl.StringVar(what, "what", "", "blob, archive or archive-index: what it is, in place of what the extension of the name says")
}

// isTree reports whether loc is to be taken for a tree, as far as its name tells.
func (f *extractFlags) isTree(loc string) (is bool, err error) {
	switch f.what {
	case "":
		is = isArchive(loc) || isArchiveIndex(loc)
	case whatBlob:
	case whatArchive, whatArchiveIndex:
		is = true
	default:
		return false, usagef("--what %q: want %s, %s or %s", f.what, whatBlob, whatArchive, whatArchiveIndex)
	}
	if f.tree.tar && !is && !location.IsMulticast(loc) {
		return false, usagef("--tar: %s is not the index of an archive, and no archive", loc)
	}
	return is, nil
}

// holdsTree reports whether x, which came from a multicast channel, is of a tree: the
// channel has no name that would tell.
func (f *extractFlags) holdsTree(loc string, x *index.Index) bool {
	return f.what == "" && location.IsMulticast(loc) && archive.Features(x.Features).Any(archive.All)
}

// unpackOptions returns the settings for restoring a tree.
func (f *extractFlags) unpackOptions(a *app, progress func(tree.UnpackStats)) (*tree.UnpackOptions, error) {
	mask, err := f.features.mask()
	if err != nil {
		return nil, err
	}
	o := &tree.UnpackOptions{
		Mask: mask, Delete: f.tree.delete, Strict: f.tree.strict, HardLinks: f.features.hardLinks,
		NoReflink: false, NoSync: f.noSync, Workers: f.workers, Progress: progress,
	}
	o.UIDShift, o.UIDRange = f.features.shift()
	for _, s := range f.seeds {
		if fi, err := os.Stat(s); err == nil && fi.IsDir() {
			o.Basis = append(o.Basis, s)
		}
	}
	told := 0
	o.Problem = func(p tree.Problem) {
		if told++; told <= maxProblems {
			a.log.Warn("not restored", "problem", p.Error())
		}
	}
	return o, nil
}

// maxProblems is how many problems are told one by one; then they are counted.
const maxProblems = 20

// extractTree puts a tree back together.
func (f *extractFlags) extractTree(ctx context.Context, a *app, loc, dest, sub string) error {
	if err := f.checkTree(loc, dest, sub); err != nil {
		return err
	}
	defer f.close()
	start := time.Now()
	o, err := f.unpackOptions(a, func(s tree.UnpackStats) {
		if a.meter.Due() {
			a.meter.Update(s.Bytes, 0, nil)
		}
	})
	if err != nil {
		return err
	}
	var out *location.IndexFile
	if f.tree.tar && !f.dryRun {
		if out, err = a.createTar(ctx, dest); err != nil {
			return err
		}
		defer out.Abort()
		f.tree.out = out
	}
	var stats tree.UnpackStats
	var by *assemble.Stats
	switch {
	case sub != "":
		stats, err = f.fromPart(ctx, a, loc, dest, sub, o)
	case f.isArchive(loc):
		stats, err = f.fromArchive(ctx, a, loc, dest, o)
	default:
		by = &assemble.Stats{}
		stats, *by, err = f.fromIndex(ctx, a, loc, dest, o)
	}
	a.meter.End()
	if stats.Problems > maxProblems {
		a.log.Warn("not restored: more of the same", "problems", stats.Problems)
	}
	if err == nil && out != nil {
		err = out.Commit(!f.noSync)
	}
	if err != nil {
		return fmt.Errorf("extract %s: %w", dest, err)
	}
	if !f.dryRun {
		f.reportTree(a, dest, stats, by, time.Since(start))
	}
	return nil
}

// checkTree refuses what makes no sense with a tree.
func (f *extractFlags) checkTree(loc, dest, sub string) error {
	switch {
	case f.dryRun && sub != "":
		return usagef("--dry-run is for all of %s: castor list %s %s tells what there is of it", loc, loc, sub)
	case f.dryRun && f.tree.delete:
		return usagef("--dry-run does not tell what --delete removes: castor diff %s %s does", dest, loc)
	case f.follow:
		return usagef("--follow is for names on a multicast channel, not for %s", loc)
	case f.tree.tar:
		return f.checkTar(loc)
	case dest == "-":
		return usagef("a tree cannot be extracted to stdout: castor cat writes the archive, castor extract --tar a tar file")
	case f.inPlace, f.force:
		return usagef("--in-place and --force are for files and devices: a tree is always updated where it is")
	case f.dryRun && f.isArchive(loc):
		return usagef("--dry-run: %s has no chunks to plan with; castor diff tells what would change", loc)
	}
	return nil
}

func (f *extractFlags) fromArchive(ctx context.Context, a *app, loc, dest string, o *tree.UnpackOptions) (tree.UnpackStats, error) {
	r, err := a.places.OpenIndex(ctx, loc, a.Stdin)
	if err != nil {
		return tree.UnpackStats{}, err
	}
	defer r.Close()
	a.meter.Start("extract", 0)
	return f.unpack(ctx, archive.NewReader(cancelReader(ctx, r)), dest, o)
}

// fromPart extracts a part of an archive. Of an indexed one, it gets the chunks of that
// part alone.
func (f *extractFlags) fromPart(ctx context.Context, a *app, loc, dest, sub string, o *tree.UnpackOptions) (tree.UnpackStats, error) {
	tr, err := f.openTree(ctx, a, loc)
	if err != nil {
		return tree.UnpackStats{}, err
	}
	it, err := tr.Find(sub)
	if err != nil {
		return tree.UnpackStats{}, err
	}
	a.meter.Start("extract", 0)
	return f.unpack(ctx, tree.Part(tr.Features(), it), dest, o)
}

// fromIndex extracts an indexed archive. What the destination and the seeds have of it
// is not got from the stores.
func (f *extractFlags) fromIndex(ctx context.Context, a *app, loc, dest string, o *tree.UnpackOptions) (stats tree.UnpackStats, by assemble.Stats, err error) {
	x, err := f.treeIndex(a, loc)
	if err != nil {
		return stats, by, err
	}
	src, err := f.open(a, loc, x)
	if err != nil {
		return stats, by, err
	}
	seeds, old, err := f.treeSeeds(ctx, a, x, dest)
	if err != nil {
		return stats, by, err
	}
	a.meter.Start("look", 0)
	p, err := assemble.NewPlan(ctx, x, &assemble.PlanOptions{Seeds: seeds, Progress: func(done, total int64) { a.meter.Update(done, total, nil) }})
	a.meter.End()
	if err != nil {
		return stats, by, err
	}
	if f.dryRun {
		f.preview(a, p)
		return stats, by, nil
	}
	if i, ok := p.Whole(); ok && i == 0 && old != nil && f.leaves(old.stats) {
		if !f.noSync { // an earlier run may have been killed before it did
			err = tree.Sync(dest)
		}
		by.By[assemble.Keep] = assemble.Part{Chunks: len(x.Entries), Bytes: x.Size()}
		return tree.UnpackStats{Nodes: old.stats.Nodes, Files: old.stats.Files, Bytes: old.stats.Bytes, Kept: old.stats.Files, KeptSize: old.stats.Bytes}, by, err
	}
	if src, err = f.bring(a, x, p, src); err != nil {
		return stats, by, err
	}
	a.meter.Start("extract", x.Size())
	o.Progress = nil // that of the archive has a total
	if old != nil {
		o.Old, o.From = old.view, func(off, n int64) (int64, bool) { return p.Within(0, off, n) }
	}
	r := p.NewReader(ctx, 0, -1, src, &assemble.Options{Workers: f.streamWorkers(a, loc), Progress: f.extracting(a, x)})
	defer r.Close()
	stats, err = f.unpack(ctx, archive.NewReader(r), dest, o)
	return stats, r.Stats(), err
}

func (f *extractFlags) streamWorkers(a *app, loc string) int {
	if f.workers != 0 {
		return f.workers
	}
	return f.sources.workers(a, loc)
}

// leaves reports whether there is nothing to do in a destination that, as an archive, is
// what is to be extracted. What an archive leaves out is not looked at, but --delete
// removes it.
func (f *extractFlags) leaves(old tree.PackStats) bool {
	return !f.tree.tar && (!f.tree.delete || old.Excluded == 0) && old.Vanished+old.Unreadable+old.Changed == 0
}

// treeSeeds returns the old tree in the destination, and what is in it unless it is nil,
// and the seeds that are named: a directory is a tree, anything else what it is for a
// file.
func (f *extractFlags) treeSeeds(ctx context.Context, a *app, x *index.Index, dest string) (seeds []assemble.Seed, old *oldTree, err error) {
	features := archive.Features(x.Features) & tree.Available
	if entries, err := os.ReadDir(dest); err == nil && len(entries) > 0 {
		if v, stats, err := f.openView(ctx, a, dest, features); err != nil {
			a.log.Warn("old tree passed over", "error", err)
		} else {
			old = &oldTree{v, stats}
			seeds = append(seeds, assemble.Seed{File: v, Size: v.Size(), Held: v.Held})
		}
	}
	var files []string
	for _, s := range f.seeds {
		if fi, err := os.Stat(s); err != nil || !fi.IsDir() {
			files = append(files, s)
			continue
		}
		v, _, err := f.openView(ctx, a, s, features)
		if err != nil {
			return nil, nil, fmt.Errorf("seed %w", err)
		}
		seeds = append(seeds, assemble.Seed{File: v, Size: v.Size()})
	}
	more, err := f.openSeeds(a, files)
	return append(seeds, more...), old, err
}

// oldTree is what was in the destination.
type oldTree struct {
	view  *tree.View
	stats tree.PackStats
}

// treeReport is the JSON form of what extract did with a tree.
type treeReport struct {
	Dest string `json:"dest"`
	tree.UnpackStats
	From    map[string]assemble.Part `json:"from,omitempty"` // of the archive, by where it came from
	Seconds float64                  `json:"seconds"`
}

func (f *extractFlags) reportTree(a *app, dest string, s tree.UnpackStats, by *assemble.Stats, d time.Duration) {
	r := treeReport{Dest: dest, UnpackStats: s, Seconds: d.Seconds()}
	if by != nil {
		r.From = map[string]assemble.Part{}
		for i, part := range by.By {
			r.From[assemble.Source(i).String()] = part
		}
	}
	w := a.Stdout
	if dest == "-" {
		w = a.Stderr // the tar file is on stdout
	}
	switch {
	case f.json:
		json.NewEncoder(w).Encode(r)
	case f.stats:
		fmt.Fprintf(w, "nodes         %d\nfiles         %d\nbytes         %d\nkept          %d\nkept bytes    %d\nshared bytes  %d\nlinked        %d\nremoved       %d\nproblems      %d\nseconds       %.3f\n",
			s.Nodes, s.Files, s.Bytes, s.Kept, s.KeptSize, s.Shared, s.Linked, s.Removed, s.Problems, r.Seconds)
	case f.tree.tar:
		a.say("%s", tarLine(dest, s, d))
	default:
		line := fmt.Sprintf("%s files kept", units.Count(s.Kept))
		if s.Removed > 0 {
			line += fmt.Sprintf(", %s removed", units.Count(s.Removed))
		}
		if s.Problems > 0 {
			line += fmt.Sprintf(", %s problems", units.Count(s.Problems))
		}
		from := ""
		if by != nil {
			from = ": " + sourceLine(by.By)
		}
		a.say("%s: %s nodes, %s in %s files, %s; %s%s", dest, units.Count(s.Nodes), units.Size(s.Bytes), units.Count(s.Files), units.Duration(d), line, from)
	}
}
