package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
)

type extractFlags struct {
	treeSource
	followFlags
	tree    treeExtract
	inPlace bool
	force   bool
	dryRun  bool
	noSync  bool
	workers int
	json    bool
	stats   bool
	ready   func() error // called when the content is whole, before it replaces a file; nil: nothing
}

func newExtract(a *app) *cobra.Command {
	var f extractFlags
	cmd := &cobra.Command{
		Use:     "extract [flags] INDEX DEST|- [PATH]",
		GroupID: groupGet,
		Short:   "Put a file or a tree back together, getting only what is missing",
		Long: `Make DEST, a file, a block device or - for stdout, hold the content of INDEX. What
DEST holds already and what the seeds hold is not got from a store. Every byte is
verified.

A file is replaced in one step once the new content is whole and on disk; until
then, and if anything fails, the old one stays. The new one has its permissions, and its
owner and group if castor may set them, but not its extended attributes. With
--in-place, and always on block devices, what is wrong is overwritten where it is; if
that is interrupted, run it again.

An INDEX of an archive (.caidx), or an archive (.catar), is a tree: DEST is a directory,
made if need be, which is brought up to date. Files that are right are kept; what the
archive does not have is only removed with --delete, after all else has gone well. With
PATH, that part of the tree becomes a child of DEST, and only what it takes is got. What
the system or the lack of a privilege does not let be restored, such as owners, is
reported and no error, unless --strict is given.

With --tar, DEST is a tar file (PAX) of the tree, or - for stdout. Extended attributes, ACLs
and labels are in it as GNU tar and star have them.

INDEX may be a multicast channel: mcast://INTERFACE/ROOT, or /NAME for a name that
castor cast --name or --share announces; --pubkey says who must have signed it. Then
chunks come from there too, and what does not come, from the stores given.

With --follow castor stays, and extracts each version of the name that is greater
than the last one; DEST.castor-version remembers that, so that it never goes back to
an older one, not even after a restart. What fails is logged and tried again, also a
command (--exec) that fails: it may run more than once for a version. SIGINT and
SIGTERM end it.`,
		Example: `  castor extract v2.caibx disk.img
  castor extract -s /mnt/store.castr -c /var/cache/chunks.castr v2.caibx disk.img
  castor extract --seed /dev/sda2 v2.caibx /dev/sdb2
  castor extract v2.caibx - | ssh host 'cat > disk.img'
  castor extract mcast://eth0/os/stable disk.img --pubkey release.key.pub
  castor extract --delete https://far.example/os.caidx /srv/root
  castor extract os.caidx . etc/ssh
  castor extract --tar os.caidx - | docker import - os
  castor extract --follow --exec 'systemctl restart app' mcast://eth0/app app.img`,
		Args: rangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if args[1] == "" {
				return usagef("DEST is empty")
			}
			isTree, err := f.isTree(args[0])
			if err != nil {
				return err
			}
			if isTree {
				return f.extractTree(cmd.Context(), a, args[0], args[1], pathIn(args, 2))
			}
			if len(args) == 3 && !location.IsMulticast(args[0]) {
				return usagef("%s is not the index of an archive: there is no %s in it", args[0], args[2])
			}
			if f.follow {
				return f.followName(cmd.Context(), a, args[0], args[1], pathIn(args, 2))
			}
			return f.run(cmd.Context(), a, args[0], args[1], pathIn(args, 2))
		},
	}
	f.addStores(cmd)
	f.addPubkey(cmd)
	f.addSeeds(cmd)
	f.addFollow(cmd)
	f.addTree(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&f.inPlace, "in-place", false, "update an existing file where it is (always so for block devices)")
	fl.BoolVar(&f.force, "force", false, "write to a block device that is in use")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be done and write nothing")
	fl.BoolVar(&f.noSync, "no-sync", false, "do not wait until everything has reached the disk")
	fl.IntVarP(&f.workers, "concurrency", "j", 0, "chunks to copy and get at the same time (default: as suits the stores)")
	fl.BoolVar(&f.stats, "print-stats", false, "print what was done")
	fl.BoolVar(&f.json, "json", false, "print what was done as JSON")
	return cmd
}

func (f *extractFlags) run(ctx context.Context, a *app, indexLoc, dest, sub string) error {
	start := time.Now()
	if f.workers < 0 {
		return usagef("--concurrency %d: want 1 or more", f.workers)
	}
	defer f.close()
	x, err := f.index(a, indexLoc)
	if err != nil {
		return err
	}
	switch {
	case f.holdsTree(indexLoc, x):
		f.x = x
		return f.extractTree(ctx, a, indexLoc, dest, sub)
	case sub != "" || f.tree.tar:
		return usagef("%s is not the index of an archive", indexLoc)
	}
	if sameFile(indexLoc, dest) {
		return usagef("%s is the index: it is not replaced by its content", dest)
	}
	src, err := f.open(a, indexLoc, x)
	if err != nil {
		return err
	}
	seeds, err := f.openSeeds(a, f.seeds)
	if err != nil {
		return err
	}
	workers := f.workers
	if workers == 0 {
		workers = f.sources.workers(a, indexLoc)
	}
	o := assemble.FileOptions{
		Options: assemble.Options{Workers: workers, Progress: f.extracting(a, x)},
		Seeds:   seeds, InPlace: f.inPlace, Force: f.force, NoSync: f.noSync, DryRun: f.dryRun, Ready: f.ready,
	}
	a.meter.Start("look", 0)
	o.Planning = func(done, total int64) { a.meter.Update(done, total, nil) }
	o.Planned = func(p *assemble.Plan) {
		a.meter.End()
		if f.dryRun {
			f.preview(a, p)
			return
		}
		a.meter.Start("extract", x.Size())
	}
	var stats assemble.Stats
	if stream, w, werr := f.stream(a, dest); werr != nil {
		return werr
	} else if stream {
		defer w.Close()
		stats, err = f.toStream(ctx, x, w, o, func(p *assemble.Plan) (assemble.Stats, error) {
			src, err := f.bring(a, x, p, src)
			if err != nil {
				return assemble.Stats{}, err
			}
			return p.Stream(ctx, w, 0, -1, src, &o.Options)
		})
	} else {
		stats, err = assemble.File(ctx, x, dest, src, o)
	}
	a.meter.Update(stats.Done(), x.Size(), f.addProgress(bySource(stats)))
	a.meter.End()
	if err != nil {
		if _, serr := os.Stat(filepath.Dir(dest)); errors.Is(serr, fs.ErrNotExist) {
			err = errors.New("its directory does not exist")
		}
		if pe, ok := errors.AsType[*fs.PathError](err); ok && error(pe) == err && pe.Path == dest {
			err = pe.Err // what is said twice
		}
		return fmt.Errorf("extract %s: %w", dest, err)
	}
	if !f.dryRun {
		f.report(a, dest, x, stats, time.Since(start))
	}
	return nil
}

// sameFile reports whether two names are of one file.
func sameFile(a, b string) bool {
	ai, aerr := os.Stat(a)
	bi, berr := os.Stat(b)
	return aerr == nil && berr == nil && os.SameFile(ai, bi)
}

// stream reports whether dest is something to be written in order, and opens it.
func (f *extractFlags) stream(a *app, dest string) (bool, *streamOutput, error) {
	if dest == "-" {
		return true, &streamOutput{Writer: a.Stdout}, nil
	}
	fi, err := os.Stat(dest)
	if err != nil || fi.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice) == 0 {
		return false, nil, nil // assemble.File tells what is wrong
	}
	file, err := await(a.ctx, func() (*os.File, error) { return os.OpenFile(dest, os.O_WRONLY, 0) })
	if err != nil {
		return true, nil, err
	}
	return true, &streamOutput{Writer: cancelWriter(a.ctx, file), file: file}, nil
}

func (f *extractFlags) toStream(ctx context.Context, x *index.Index, w *streamOutput, o assemble.FileOptions, run func(*assemble.Plan) (assemble.Stats, error)) (assemble.Stats, error) {
	p, err := assemble.NewPlan(ctx, x, &assemble.PlanOptions{Seeds: o.Seeds, Progress: o.Planning})
	if err != nil {
		return assemble.Stats{}, err
	}
	o.Planned(p)
	if o.DryRun {
		return assemble.Stats{}, nil
	}
	return run(p)
}

// extracting returns a function that shows how far an extraction has come.
func (f *extractFlags) extracting(a *app, x *index.Index) func(assemble.Stats) {
	return func(s assemble.Stats) {
		if a.meter.Due() {
			a.meter.Update(s.Done(), x.Size(), f.addProgress(bySource(s)))
		}
	}
}

// bySource returns the bytes of content by where they came from.
func bySource(s assemble.Stats) map[string]int64 {
	from := map[string]int64{}
	for i, part := range s.By {
		from[assemble.Source(i).String()] = part.Bytes
	}
	return from
}

// extractReport is the JSON form of what extract did.
type extractReport struct {
	Dest    string                   `json:"dest"`
	Chunks  int                      `json:"chunks"`
	Bytes   int64                    `json:"bytes"`
	From    map[string]assemble.Part `json:"from"`    // by where the content came from
	Fetched assemble.Part            `json:"fetched"` // distinct chunks from stores and cache
	Cached  assemble.Part            `json:"cached"`  // of those, from the cache
	Cast    assemble.Part            `json:"multicast"`
	Cloned  int64                    `json:"cloned_bytes"`
	Changed int                      `json:"seed_chunks_changed"`
	Seconds float64                  `json:"seconds"`
}

func (f *extractFlags) report(a *app, dest string, x *index.Index, s assemble.Stats, d time.Duration) {
	r := extractReport{
		Dest: dest, Chunks: len(x.Entries), Bytes: x.Size(), From: map[string]assemble.Part{},
		Fetched: s.Fetched, Cast: f.multicastResult(), Cloned: s.Cloned, Changed: s.Changed, Seconds: d.Seconds(),
	}
	for i, part := range s.By {
		r.From[assemble.Source(i).String()] = part
	}
	if f.hits != nil {
		chunks, bytes := f.hits.Hits()
		r.Cached = assemble.Part{Chunks: int(chunks), Bytes: bytes}
	}
	out := a.Stdout
	if dest == "-" {
		out = a.Stderr // the content is on stdout
	}
	switch {
	case f.json:
		json.NewEncoder(out).Encode(r)
	case f.stats:
		fmt.Fprintf(out, "chunks        %d\nbytes         %d\n", r.Chunks, r.Bytes)
		for i := range s.By {
			fmt.Fprintf(out, "%-13s %d\n", assemble.Source(i), s.By[i].Bytes)
		}
		fmt.Fprintf(out, "cached        %d\nmulticast     %d\ncloned        %d\nseed changed  %d\nseconds       %.3f\n", r.Cached.Bytes, r.Cast.Bytes, r.Cloned, r.Changed, r.Seconds)
	default:
		a.say("%s: %s in %s: %s", dest, units.Size(x.Size()), units.Duration(d), sourceLine(s.By))
	}
}

// sourceLine says where content comes from: "1.20 GiB kept, 96.0 MiB fetched".
func sourceLine(by [len(assemble.Stats{}.By)]assemble.Part) string {
	names := []struct {
		s    assemble.Source
		word string
	}{
		{assemble.Keep, "kept"}, {assemble.Zero, "zeros"}, {assemble.Move, "moved"}, {assemble.Copy, "from seeds"}, {assemble.Fetch, "fetched"},
	}
	line := ""
	for _, n := range names {
		if b := by[n.s].Bytes; b > 0 {
			if line != "" {
				line += ", "
			}
			line += units.Size(b) + " " + n.word
		}
	}
	if line == "" {
		return "nothing to do"
	}
	return line
}

// preview says what a plan would do.
func (f *extractFlags) preview(a *app, p *assemble.Plan) {
	t := p.Totals()
	if f.json {
		from := map[string]assemble.Part{}
		for i, part := range t.By {
			from[assemble.Source(i).String()] = part
		}
		json.NewEncoder(a.Stdout).Encode(map[string]any{"bytes": p.Index.Size(), "from": from, "fetch": t.Missing})
		return
	}
	fmt.Fprintf(a.Stdout, "%s: %s; %s in %s chunks to fetch\n", units.Size(p.Index.Size()), sourceLine(t.By),
		units.Size(t.Missing.Bytes), units.Count(t.Missing.Chunks))
}
