package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

type infoFlags struct {
	sources
	json bool
}

func newInfo(a *app) *cobra.Command {
	var f infoFlags
	cmd := &cobra.Command{
		Use:     "info [flags] INDEX",
		GroupID: groupInspect,
		Short:   "Say what an index holds and what extracting it would fetch",
		Long: `Say what INDEX holds: root, digest, sizes, numbers of chunks. With stores, a cache
or seeds also how much would be fetched, in bytes of content and, where the store
can tell, in bytes as they are stored.`,
		Example: `  castor info v2.caibx
  castor info -s /mnt/store.castr -c /var/cache/chunks.castr --seed disk.img v2.caibx`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), a, args[0]) },
	}
	f.addStores(cmd)
	f.addSeeds(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// infoReport is the JSON form of what info tells.
type infoReport struct {
	Index    string        `json:"index"`
	Root     string        `json:"root"`
	Digest   string        `json:"digest"`
	Features string        `json:"features"`
	Min      int           `json:"chunk_size_min"`
	Avg      int           `json:"chunk_size_avg"`
	Max      int           `json:"chunk_size_max"`
	Chunks   int           `json:"chunks"`
	Bytes    int64         `json:"bytes"`
	Unique   assemble.Part `json:"unique"`
	Zero     assemble.Part `json:"zero"`
	Seed     assemble.Part `json:"seed"`            // found in seeds
	Fetch    assemble.Part `json:"fetch"`           // distinct chunks that are in no seed
	Store    *storeReport  `json:"store,omitempty"` // about fetch, if there is a store
}

type storeReport struct {
	Cached  assemble.Part `json:"cached"`       // in the cache
	Remote  assemble.Part `json:"remote"`       // in a store
	Missing assemble.Part `json:"missing"`      // nowhere
	Unknown assemble.Part `json:"unknown"`      // in a store that cannot tell
	Stored  int64         `json:"stored_bytes"` // stored size of remote
}

func (f *infoFlags) run(ctx context.Context, a *app, loc string) error {
	x, err := a.index(loc)
	if err != nil {
		return err
	}
	src, err := f.open(a, loc, x)
	if err != nil {
		return err
	}
	defer f.close()
	seeds, err := f.openSeeds(a, f.seeds)
	if err != nil {
		return err
	}
	a.meter.Start("look", 0)
	p, err := assemble.NewPlan(ctx, x, &assemble.PlanOptions{Seeds: seeds, Progress: func(done, total int64) { a.meter.Update(done, total, nil) }})
	a.meter.End()
	if err != nil {
		return err
	}
	t := p.Totals()
	r := infoReport{
		Index: loc, Root: x.Root().String(), Digest: x.Digest().String(), Features: fmt.Sprintf("%#x", uint64(x.Features)),
		Min: x.Params.Min, Avg: x.Params.Avg, Max: x.Params.Max,
		Chunks: len(x.Entries), Bytes: x.Size(), Unique: t.Unique, Zero: t.By[assemble.Zero], Seed: t.By[assemble.Copy], Fetch: t.Missing,
	}
	if _, none := src.(absent); !none {
		if r.Store, err = f.ask(ctx, src, x, p); err != nil {
			return err
		}
	}
	if f.json {
		return json.NewEncoder(a.Stdout).Encode(r)
	}
	r.print(a)
	return nil
}

// ask asks the stores about every chunk to fetch.
func (f *infoFlags) ask(ctx context.Context, src store.Getter, x *index.Index, p *assemble.Plan) (*storeReport, error) {
	sizes := map[chunker.ID]int{}
	for i, e := range x.Entries {
		sizes[e.ID] = x.Len(i)
	}
	var ids []chunker.ID
	for id := range p.Missing() {
		ids = append(ids, id)
	}
	var r storeReport
	var mu sync.Mutex
	err := par.Each(ctx, 16, len(ids), func(ctx context.Context, i int) error {
		n, err := store.StoredSize(ctx, src, ids[i])
		mu.Lock()
		defer mu.Unlock()
		size := sizes[ids[i]]
		add := func(p *assemble.Part) { p.Chunks++; p.Bytes += int64(size) }
		switch {
		case store.Missing(err):
			add(&r.Missing)
		case err != nil:
			add(&r.Unknown)
		case n == 0 && f.hits != nil:
			add(&r.Cached)
		default:
			add(&r.Remote)
			r.Stored += n
		}
		return nil
	})
	return &r, err
}

func (r *infoReport) print(a *app) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.Stdout, "%-12s "+format+"\n", append([]any{name}, args...)...)
	}
	part := func(name string, p assemble.Part) {
		line(name, "%s in %s (%d bytes)", units.Size(p.Bytes), units.Chunks(p.Chunks), p.Bytes)
	}
	line("index", "%s", r.Index)
	line("root", "%s", r.Root)
	line("digest", "%s", r.Digest)
	line("chunk size", "%d:%d:%d", r.Min, r.Avg, r.Max)
	part("content", assemble.Part{Chunks: r.Chunks, Bytes: r.Bytes})
	part("unique", r.Unique)
	if r.Zero.Chunks > 0 {
		part("zeros", r.Zero)
	}
	if r.Seed.Chunks > 0 {
		part("in seeds", r.Seed)
	}
	part("to fetch", r.Fetch)
	if s := r.Store; s != nil {
		if s.Cached.Chunks > 0 {
			part("  cached", s.Cached)
		}
		part("  in stores", s.Remote)
		line("  stored", "%s (%d bytes)", units.Size(s.Stored), s.Stored)
		if s.Missing.Chunks > 0 {
			part("  missing", s.Missing)
		}
		if s.Unknown.Chunks > 0 {
			part("  not known", s.Unknown)
		}
	}
}
