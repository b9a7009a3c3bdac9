package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/internal/blockdev"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/sparse"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

type makeFlags struct {
	store       string
	sizes       string
	digest      string
	digestGiven bool
	level       int
	plain       bool
	indexOnly   bool
	noSync      bool
	printStats  bool
	json        bool
	what        string
	tree        featureFlags
	tar         bool
	cacheDir    string
}

func newMake(a *app) *cobra.Command {
	var f makeFlags
	cmd := &cobra.Command{
		Use:     "make [flags] INDEX SOURCE|-",
		GroupID: groupMake,
		Short:   "Cut a file or a tree into a chunk store and write its index",
		Long: `Cut SOURCE, a file, a block device or - for stdin, into chunks, store those that
the store lacks, and write INDEX, or - for stdout.

An INDEX named .caidx is of a tree: SOURCE is a directory, which is cut as the archive that
casync makes of it, with all metadata that its file system has; --with and --without
select. INDEX.catar is that archive itself, without chunks. A file that changes while it
is read is read again; one that vanishes is left out and reported. INDEX and the store
are left out where they lie in the tree themselves.

With --tar, SOURCE is a tar file of the tree, or - for one on stdin, of GNU, PAX or older
form. A compressed one comes through a pipe. Its entries may be in any order: what is
read from a pipe is kept in a temporary file until the end. The files by which layers of
container images say what is removed (.wh.*) are files.

With --cache-dir, the next make of the same directory with the same options reads only the
files that were touched since. The index is the same as without, and the store is asked for
each chunk. Files that were touched within two seconds before a make are read again.

The index appears after all its chunks have reached the disk. A make that is
interrupted leaves no index, and the next one goes on from the chunks that it
stored.`,
		Example: `  castor make v1.caibx disk.img
  castor make -s s3+https://host/bucket/store s3+https://host/bucket/os.caidx /srv/root
  castor make --with unix --exclude '*.o' src.caidx src/
  zstdcat root.tar.zst | castor make --tar root.caidx -
  castor make -s /srv/store.castr --digest sha512-256 v1.caibx /dev/sda2
  zcat disk.img.gz | castor make --chunk-size 64K:256K:1M v1.caibx -`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.digestGiven = cmd.Flags().Changed("digest")
			if err := checkLevel(cmd, &f.level); err != nil {
				return err
			}
			return f.run(cmd.Context(), a, args[0], args[1])
		},
	}
	f.tree.add(cmd, "of a tree, what is stored")
	fl := cmd.Flags()
	fl.BoolVar(&f.tree.hardLinks, "hard-links", false, "of a tree: mark the names of files that have several, for extract --hard-links")
	fl.BoolVar(&f.tar, "tar", false, "SOURCE is a tar file, decompressed, of the tree")
	fl.StringVar(&f.cacheDir, "cache-dir", "", "of a tree: remember in `DIR` what was read, so that the next make reads only what was touched since")
	addWhat(fl, &f.what)
	addSink(fl, &f.store)
	fl.StringVar(&f.sizes, "chunk-size", "16K:64K:256K", "smallest, average and greatest chunk as MIN:AVG:MAX, or AVG for AVG/4:AVG:AVG*4")
	fl.StringVar(&f.digest, "digest", "blake3", "what names chunks: blake3, or for casync and desync sha512-256 or sha256")
	addLevel(fl, &f.level)
	fl.BoolVar(&f.plain, "uncompressed", false, "store chunks without compression")
	fl.BoolVar(&f.indexOnly, "index-only", false, "store no chunks")
	fl.BoolVar(&f.noSync, "no-sync", false, "do not wait until everything has reached the disk")
	fl.BoolVar(&f.printStats, "print-stats", false, "print what was done")
	fl.BoolVar(&f.json, "json", false, "print what was done as JSON")
	return cmd
}

// check returns what the flags say that is to be made, unless they contradict each other.
func (f *makeFlags) check(a *app, indexLoc string) (p chunker.Params, digest chunker.Digest, kind string, err error) {
	if p, err = parseParams(f.sizes); err != nil {
		return p, digest, kind, err
	}
	if p.Avg < smallChunks {
		a.log.Warn("chunks that small cost more than they save: each takes 40 bytes of the index and a file", "average", p.Avg)
	}
	if digest, err = chunker.ParseDigest(f.digest); err != nil {
		return p, digest, kind, &usageError{err}
	}
	kind, err = f.kind(indexLoc)
	switch {
	case err != nil:
	case f.tar && kind == whatBlob:
		err = usagef("--tar: name the index of the tree .caidx, or .catar for an archive without chunks")
	case f.cacheDir != "" && (kind != whatArchiveIndex || f.tar):
		err = usagef("--cache-dir is for the index of a directory: name it .caidx")
	}
	return p, digest, kind, err
}

func (f *makeFlags) run(ctx context.Context, a *app, indexLoc, from string) error {
	p, digest, kind, err := f.check(a, indexLoc)
	if err != nil {
		return err
	}
	if kind == whatArchive {
		return f.makeArchive(ctx, a, indexLoc, from, digest)
	}
	dst, err := f.openStore(a, indexLoc)
	if err != nil {
		return err
	}
	var put store.Store // nil, as opposed to a SinkStore that is
	if dst != nil {
		defer dst.Close()
		put = dst
	}
	header := index.Header{Features: index.BlobFeatures(digest), Params: p}
	var src *source
	if kind == whatArchiveIndex {
		src, header.Features, err = f.openDirectory(a, from, digest)
	} else {
		src, err = openSource(ctx, a, from)
	}
	if err != nil {
		return err
	}
	defer src.close()
	out, err := a.places.CreateIndex(ctx, indexLoc, a.Stdout)
	if err != nil {
		return err
	}
	defer out.Abort()
	f.tree.omit = out.Paths()
	if dst != nil {
		f.tree.omit = append(f.tree.omit, onDisk(f.sinkFor(a, indexLoc))...)
	}
	w, err := index.NewWriter(out, header)
	if err != nil {
		return err
	}
	a.meter.Start("make", src.size)
	if a.Getenv("GOMEMLIMIT") == "" && !f.tar && f.cacheDir == "" { // which have the tree in memory
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(makeHeapLimit))
	}
	stats, err := src.build(ctx, w, put, &build.Options{
		Puts:     a.places.Concurrency(f.sinkFor(a, indexLoc)),
		Progress: func(s build.Stats) { a.meter.Update(s.Bytes, src.size, nil) },
	})
	a.meter.End()
	if errors.Is(err, io.ErrUnexpectedEOF) && src.pack == nil {
		err = errors.New("it became shorter while it was read")
	}
	if err != nil {
		return fmt.Errorf("make %s from %s: %w", indexLoc, from, err)
	}
	if err := w.Close(); err != nil {
		return err
	}
	if stats.Time > longMake && dst != nil && indexLoc != "-" {
		if err := stillThere(ctx, dst, io.NewSectionReader(out, 0, math.MaxInt64)); err != nil {
			return fmt.Errorf("make %s: %w", indexLoc, err)
		}
	}
	if err := out.Commit(!f.noSync); err != nil {
		return err
	}
	f.report(a, indexLoc, w, stats)
	return nil
}

// smallChunks is the average size in bytes below which chunks are most likely a mistake.
const smallChunks = 1 << 10

// makeHeapLimit keeps make below 256 MiB with chunks of up to 32 MiB, by more work
// for the garbage collector where chunks are large. Only make's chunks count, whose
// number is bounded.
const makeHeapLimit = 200 << 20

// longMake is the time after which a make looks whether a garbage collection has
// removed chunks that it stored or found, for want of an index that needs them.
const longMake = time.Hour

// stillThere checks that the store has every chunk of an index.
func stillThere(ctx context.Context, s store.Store, r io.Reader) error {
	ir, err := index.NewReader(r)
	if err != nil {
		return err
	}
	return ir.Each(func(e index.Entry) error {
		has, err := s.Has(ctx, e.ID)
		if err == nil && !has {
			err = fmt.Errorf("chunk %v was collected as garbage meanwhile: run make again, and gc with a grace period longer than a make takes", e.ID)
		}
		return err
	})
}

// addSink adds the flag for the one store that takes chunks.
func addSink(fl *pflag.FlagSet, name *string) {
	fl.VarP((*sink)(name), "store", "s", "store to put chunks into, created if need be (default: $CASTOR_STORE, else default.castr beside the index)")
}

// sink is a flag that may be given once.
type sink string

func (s *sink) String() string { return string(*s) }
func (s *sink) Type() string   { return "string" }

func (s *sink) Set(v string) error {
	if *s != "" {
		return errors.New("chunks are put into one store")
	}
	*s = sink(v)
	return nil
}

func (f *makeFlags) openStore(a *app, indexLoc string) (location.SinkStore, error) {
	if f.indexOnly {
		if f.store != "" {
			return nil, usagef("--index-only stores no chunks: drop it, or drop --store")
		}
		return nil, nil
	}
	return a.places.Store(a.ctx, f.sinkFor(a, indexLoc), &location.StoreOptions{Create: true, Level: f.level, Plain: f.plain, Durable: !f.noSync})
}

// sinkFor returns the store that takes the chunks of the index at loc.
func (f *makeFlags) sinkFor(a *app, loc string) string {
	if f.store != "" {
		return f.store
	}
	return a.storeFor(loc)
}

// onDisk returns the path of a store or an index, links followed; none if it is on a server.
func onDisk(loc string) []string {
	if loc == "-" || location.KindOf(loc) != location.Directory {
		return nil
	}
	if real, err := filepath.EvalSymlinks(loc); err == nil { // a link to it is a node of its own
		loc = real
	}
	if abs, err := filepath.Abs(loc); err == nil { // which has a name at its end
		loc = abs
	}
	return []string{loc}
}

// addLevel adds the flag for the compression level.
func addLevel(fl *pflag.FlagSet, level *int) {
	fl.IntVar(level, "compression-level", cacnk.DefaultLevel, "zstd level from 1 (fast) to 22 (small); one that is configured for the store is stronger than the default")
}

// checkLevel checks the compression level. One that was not given is 0: the store has
// its own.
func checkLevel(cmd *cobra.Command, level *int) error {
	if !cmd.Flags().Changed("compression-level") {
		*level = 0
		return nil
	}
	if *level < 1 || *level > 22 {
		return usagef("--compression-level %d: want 1 to 22", *level)
	}
	return nil
}

// makeReport is the JSON form of what make did.
type makeReport struct {
	Index       string  `json:"index"`
	Root        string  `json:"root"`
	Digest      string  `json:"digest"`
	Chunks      int     `json:"chunks"`
	Bytes       int64   `json:"bytes"`
	NewChunks   int     `json:"new_chunks"`
	NewBytes    int64   `json:"new_bytes"`
	StoredBytes int64   `json:"stored_bytes"`          // compressed size of the new chunks
	KnownBytes  int64   `json:"known_bytes,omitempty"` // not read, being known from --cache-dir
	HoleBytes   int64   `json:"hole_bytes"`            // not read, being holes
	DedupRatio  float64 `json:"dedup_ratio"`           // bytes / new_bytes; 0 if nothing was new
	Seconds     float64 `json:"seconds"`
}

func (f *makeFlags) report(a *app, loc string, w *index.Writer, s build.Stats) {
	out := a.Stdout
	if loc == "-" {
		out = a.Stderr // the index is on stdout
	}
	r := makeReport{
		Index: loc, Root: w.Root().String(), Digest: w.Header().Features.Digest().String(),
		Chunks: s.Chunks, Bytes: s.Bytes, NewChunks: s.NewChunks, NewBytes: s.NewBytes, StoredBytes: s.StoredBytes, KnownBytes: s.KnownBytes,
		HoleBytes: s.ZeroBytes, DedupRatio: s.Ratio(), Seconds: s.Time.Seconds(),
	}
	switch {
	case f.json:
		json.NewEncoder(out).Encode(r)
	case f.printStats:
		fmt.Fprintf(out, "root         %s\nchunks       %d\nbytes        %d\nnew chunks   %d\nnew bytes    %d\nstored bytes %d\nhole bytes   %d\ndedup ratio  %.2f\nseconds      %.3f\n",
			r.Root, r.Chunks, r.Bytes, r.NewChunks, r.NewBytes, r.StoredBytes, r.HoleBytes, r.DedupRatio, r.Seconds)
	case f.indexOnly:
		a.say("%s: %s in %s, %s", loc, units.Size(s.Bytes), units.Chunks(s.Chunks), units.Duration(s.Time))
	default:
		a.say("%s: %s in %s, %s new (%s, %s stored), %s", loc, units.Size(s.Bytes), units.Chunks(s.Chunks),
			units.Count(s.NewChunks), units.Size(s.NewBytes), units.Size(s.StoredBytes), units.Duration(s.Time))
	}
}

// parseParams reads MIN:AVG:MAX or AVG.
func parseParams(s string) (chunker.Params, error) {
	var sizes []int
	for part := range strings.SplitSeq(s, ":") {
		n, err := units.ParseSize(part)
		if err != nil {
			return chunker.Params{}, &usageError{err}
		}
		sizes = append(sizes, int(min(n, chunker.MaxSize+1)))
	}
	var p chunker.Params
	switch len(sizes) {
	case 1:
		p = chunker.ParamsFor(sizes[0])
	case 3:
		p = chunker.Params{Min: sizes[0], Avg: sizes[1], Max: sizes[2]}
	default:
		return p, usagef("--chunk-size %q: want MIN:AVG:MAX or AVG", s)
	}
	if err := p.Validate(); err != nil {
		return p, &usageError{err}
	}
	return p, nil
}

// source is what make reads.
type source struct {
	file *os.File  // if it can be read at any place
	r    io.Reader // if not
	size int64     // 0 if not known

	pack   func(context.Context, io.Writer) error // writes it, if it is made of a tree
	cached buildFunc                              // makes the index with a cache, or tree.ErrChanged; nil if none is asked for
	closer io.Closer                              // may be nil
}

func openSource(ctx context.Context, a *app, name string) (*source, error) {
	if name == "-" {
		if f, ok := a.Stdin.(*os.File); ok {
			if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
				// From where stdin stands, as a pipe would be read.
				if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == 0 {
					return &source{file: f, size: fi.Size()}, nil
				}
			}
		}
		return &source{r: cancelReader(ctx, a.Stdin)}, nil
	}
	f, err := a.open(name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	switch mode := fi.Mode(); {
	case mode.IsDir():
		f.Close()
		return nil, usagef("%s is a directory: name the index .caidx, or .catar for an archive without chunks", name)
	case mode.IsRegular(), blockdev.Is(mode):
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil { // as of what the kernel makes up: it has no size, and is read to its end
			return &source{r: cancelReader(ctx, f), closer: f}, nil
		}
		return &source{file: f, size: size}, nil
	}
	return &source{r: cancelReader(ctx, f), file: nil}, nil
}

func (s *source) build(ctx context.Context, w *index.Writer, dst store.Store, o *build.Options) (build.Stats, error) {
	if s.cached != nil {
		if stats, err := s.cached(ctx, w, dst, o); !errors.Is(err, tree.ErrChanged) {
			return stats, err
		}
	}
	if s.pack != nil {
		return s.buildPacked(ctx, w, dst, o)
	}
	if s.file == nil {
		return build.Stream(ctx, w, dst, s.r, o)
	}
	o.Hole = func(off, n int64) bool { return sparse.Hole(s.file, off, n) }
	return build.File(ctx, w, dst, s.file, s.size, o)
}

func (s *source) close() {
	if s.file != nil {
		s.file.Close()
	}
	if s.closer != nil {
		s.closer.Close()
	}
}
