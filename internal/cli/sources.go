package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/blockdev"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
)

// sources are the flags that say where chunks come from.
type sources struct {
	stores []string
	cache  string
	seeds  []string
	key    string
	pubkey string

	channel  *mcast.Source   // that the index comes from; nil: none
	channels []*mcast.Source // all
	closers  []io.Closer
	hits     *store.Cache // nil without a cache
}

func (s *sources) addStores(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&s.stores, "store", "s", nil, "store to get chunks from; may be given several times, and they are asked in order (default: $CASTOR_STORE, else default.castr beside the index)")
	cmd.Flags().StringVarP(&s.cache, "cache", "c", "", "local store that is asked first, and filled with what comes from the others")
	cmd.Flags().StringVar(&s.key, "key", "", "file with the network key of a multicast channel, see castor cast keygen")
}

func (s *sources) addPubkey(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.pubkey, "pubkey", "", "public key, or a file with it, that must have signed the name that INDEX is on a multicast channel, see castor cast signkey")
}

// index reads the index at loc, which may be a multicast channel.
func (s *sources) index(a *app, loc string) (*index.Index, error) {
	if !location.IsMulticast(loc) {
		if s.pubkey != "" {
			return nil, usagef("--pubkey: %s is not a name on a multicast channel, and has no signature", loc)
		}
		return a.index(loc)
	}
	m, err := location.ParseMulticast(loc)
	if err != nil {
		return nil, &usageError{err}
	}
	if m.Root == (chunker.ID{}) && m.Name == "" {
		return nil, usagef("%s: name the root of the index, as castor root prints it, or its name behind the interface", loc)
	}
	if m.Name == "" && s.pubkey != "" {
		return nil, usagef("--pubkey: %s is no name; a root needs no signature", loc)
	}
	signer, err := readPublic(s.pubkey)
	if err != nil {
		return nil, err
	}
	if s.channel, err = s.multicast(a, m, m.Root); err != nil {
		return nil, err
	}
	a.meter.Start("index", 0)
	var x *index.Index
	if m.Name != "" {
		var n wire.Name
		n, err = mcast.Resolve(a.ctx, s.channel.Links, m.Name, signer, &s.channel.Options)
		s.channel.Root = n.Root
	}
	if err == nil {
		x, err = s.channel.ReceiveIndex(a.ctx)
	}
	a.meter.End()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", loc, err)
	}
	return x, nil
}

// multicast opens the channel of root. It is closed with the sources.
func (s *sources) multicast(a *app, m location.Multicast, root chunker.ID) (*mcast.Source, error) {
	key, err := readKey(s.key)
	if err != nil {
		return nil, err
	}
	c, err := m.Source(root, key)
	if err != nil {
		return nil, err
	}
	c.Options.Log = a.log
	s.closers = append(s.closers, c)
	s.channels = append(s.channels, c)
	return c, nil
}

// bring lets channels bring what a plan lacks, and returns where it can be got in order
// then: what comes by multicast comes in none, and a stream needs one. It goes into the
// cache, or without one into a store that is removed at the end.
func (s *sources) bring(a *app, x *index.Index, p *assemble.Plan, src store.Getter) (store.Getter, error) {
	if len(s.channels) == 0 {
		return src, nil
	}
	if s.hits != nil { // it leaves out what it has
		return src, store.Deliver(a.ctx, src, p.Lacks, discard{})
	}
	tmp, err := os.MkdirTemp("", "castor-stream-")
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, removal(tmp))
	local, err := a.places.Store(a.ctx, tmp, &location.StoreOptions{Plain: true})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, local)
	want := func(id chunker.ID) bool {
		if !p.Lacks(id) {
			return false
		}
		has, err := local.Has(a.ctx, id)
		return err != nil || !has
	}
	return s.union(a, x, local, src), store.Deliver(a.ctx, src, want, local)
}

// removal is a directory that is removed when it is closed.
type removal string

func (r removal) Close() error { return os.RemoveAll(string(r)) }

// discard is a sink for what is wanted elsewhere.
type discard struct{}

func (discard) Put(context.Context, store.Chunk) error { return nil }

// multicastResult adds up what came by multicast.
func (s *sources) multicastResult() (p assemble.Part) {
	for _, c := range s.channels {
		r := c.Result()
		p.Chunks += r.Chunks
		p.Bytes += r.Bytes
	}
	return p
}

// addProgress adds to from how far multicast is: packets and groups, not bytes.
func (s *sources) addProgress(from map[string]int64) map[string]int64 {
	for _, c := range s.channels {
		p := c.Progress()
		for name, v := range map[string]int64{
			"multicast_groups": int64(p.Joined), "multicast_window": int64(p.Window), "multicast_packets": p.Packets,
			"multicast_lost": p.Lost, "multicast_lap": int64(p.Lap), "multicast_listeners": int64(p.Hosts),
		} {
			from[name] += v
		}
	}
	return from
}

// readKey reads a network key; no name means no key.
func readKey(name string) (*wire.Key, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("key %w", err)
	}
	if len(b) != wire.KeySize {
		return nil, fmt.Errorf("key %s: %d bytes, want %d", name, len(b), wire.KeySize)
	}
	return (*wire.Key)(b), nil
}

func (s *sources) addSeeds(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.seeds, "seed", nil, "file or block device that has similar content, its index, or a directory of such files; may be given several times")
}

// storeFor returns the store to use for the index at loc if none is named.
func (a *app) storeFor(loc string) string {
	if s := a.Getenv("CASTOR_STORE"); s != "" {
		return s
	}
	return location.DefaultStore(loc)
}

// open opens the stores and the cache for the index x at loc. If no store is
// named and there is none in the usual place, that is an error only when it is
// asked for a chunk, because seeds may do.
func (s *sources) open(a *app, loc string, x *index.Index) (store.Getter, error) {
	src, err := s.openStores(a, loc, x)
	if err != nil || s.cache == "" {
		return src, err
	}
	local, err := a.openCache(s.cache, false)
	if err != nil {
		return nil, err
	}
	s.hits = &store.Cache{Local: local, Source: src, Verifier: store.VerifyWith(x.Digest(), x.Params.Max), Log: a.log}
	return s.hits, nil
}

func (s *sources) openStores(a *app, loc string, x *index.Index) (store.Getter, error) {
	named := s.stores
	if env := a.Getenv("CASTOR_STORE"); len(named) == 0 && env != "" {
		named = []string{env}
	}
	var all []store.Getter
	if s.channel != nil {
		s.channel.Alone = len(named) == 0
		all = append(all, s.channel)
		if len(named) == 0 {
			return s.union(a, x, all...), nil
		}
	}
	if len(named) == 0 {
		d, err := a.places.Source(a.ctx, location.DefaultStore(loc), x.Params.Max)
		if _, missing := errors.AsType[*location.NotFoundError](err); missing {
			return absent{err}, nil
		}
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, d)
		return s.union(a, x, d), nil
	}
	for _, name := range named {
		if location.IsMulticast(name) {
			c, err := s.join(a, name, x)
			if err != nil {
				return nil, err
			}
			c.Alone = len(named) == 1 && s.channel == nil
			all = append(all, c)
			continue
		}
		d, err := a.places.Source(a.ctx, name, x.Params.Max)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, d)
		all = append(all, d)
	}
	return s.union(a, x, all...), nil
}

// workers returns how many chunks are best got at once for the index at loc.
func (s *sources) workers(a *app, loc string) int {
	return a.workersFor(s.named(a, loc)...)
}

// named returns the stores to ask.
func (s *sources) named(a *app, loc string) []string {
	if len(s.stores) > 0 {
		return s.stores
	}
	return []string{a.storeFor(loc)}
}

// workersFor returns how many requests at once are best for stores.
func (a *app) workersFor(stores ...string) int {
	n := 4 * runtime.GOMAXPROCS(0)
	for _, loc := range stores {
		n = max(n, a.places.Concurrency(loc))
	}
	return n
}

// openCache opens the local store that is a cache.
func (a *app) openCache(name string, durable bool) (location.SinkStore, error) {
	if location.KindOf(name) != location.Directory {
		return nil, usagef("--cache %s: a cache is a directory", name)
	}
	return a.places.Store(a.ctx, name, &location.StoreOptions{Create: true, Durable: durable})
}

// join opens the channel of x on the interface that a URL names.
func (s *sources) join(a *app, loc string, x *index.Index) (*mcast.Source, error) {
	m, err := location.ParseMulticast(loc)
	if err != nil {
		return nil, &usageError{err}
	}
	root := x.Root()
	if m.Name != "" || m.Root != (chunker.ID{}) && m.Root != root {
		return nil, usagef("%s: as a store, it is the channel of the index, %v", loc, root)
	}
	c, err := s.multicast(a, m, root)
	if err != nil {
		return nil, err
	}
	c.Index = x
	return c, nil
}

func (s *sources) union(a *app, x *index.Index, sources ...store.Getter) *store.Union {
	return &store.Union{Sources: sources, Verifier: store.VerifyWith(x.Digest(), x.Params.Max), Log: a.log}
}

// absent stands for the default store where there is none.
type absent struct{ err error }

func (a absent) Get(context.Context, chunker.ID) (store.Chunk, error) { return store.Chunk{}, a.err }

func (a absent) StoredSize(context.Context, chunker.ID) (int64, error) { return 0, a.err }

// openSeeds opens the seeds of these names. The caller calls close at the end.
func (s *sources) openSeeds(a *app, names []string) ([]assemble.Seed, error) {
	var seeds []assemble.Seed
	for _, name := range names {
		fi, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("seed %w", err)
		}
		if !fi.IsDir() {
			if !fi.Mode().IsRegular() && !blockdev.Is(fi.Mode()) {
				return nil, fmt.Errorf("seed %s: is neither a file nor a block device", name)
			}
			seed, err := s.openSeed(name)
			if err != nil {
				return nil, fmt.Errorf("seed %w", err)
			}
			seeds = append(seeds, seed)
			continue
		}
		err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			if err != nil && path != name {
				a.log.Warn("seed passed over", "error", err)
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() && strings.HasSuffix(path, ".castr") {
				return fs.SkipDir // a store is no seed
			}
			if !d.Type().IsRegular() || isIndex(path) {
				return nil
			}
			seed, err := s.openSeed(path)
			if err != nil {
				a.log.Warn("seed passed over", "error", err)
				return nil
			}
			seeds = append(seeds, seed)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("seed %w", err)
		}
	}
	return seeds, nil
}

func isIndex(path string) bool {
	return strings.HasSuffix(path, ".caibx") || strings.HasSuffix(path, ".caidx")
}

// openSeed opens a seed by the name of its file or of its index. An index lies
// beside its file and is named like it, with .caibx in addition or in place of
// the extension.
func (s *sources) openSeed(name string) (assemble.Seed, error) {
	file, idx := name, ""
	if isIndex(name) {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		for _, f := range append([]string{base}, siblings(base)...) {
			if fi, err := os.Stat(f); err == nil && !fi.IsDir() && !isIndex(f) {
				file, idx = f, name
				break
			}
		}
		if idx == "" {
			return assemble.Seed{}, fmt.Errorf("%s: no file beside this index that it could be of", name)
		}
	} else {
		for _, i := range []string{name + ".caibx", strings.TrimSuffix(name, filepath.Ext(name)) + ".caibx"} {
			if _, err := os.Stat(i); err == nil {
				idx = i
				break
			}
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return assemble.Seed{}, err
	}
	s.closers = append(s.closers, f)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return assemble.Seed{}, err
	}
	seed := assemble.Seed{File: f, Size: size}
	if idx != "" {
		// An index that cannot be read, or is of something else, only means that
		// the file is chunked.
		if x, err := os.Open(idx); err == nil {
			s.closers = append(s.closers, x)
			if n, err := indexed(x); err == nil && n == size {
				seed.Index = x
			}
		}
	}
	return seed, nil
}

// indexed returns the number of bytes that an index describes.
func indexed(r io.Reader) (size int64, err error) {
	ir, err := index.NewReader(r)
	if err != nil {
		return 0, err
	}
	err = ir.Each(func(e index.Entry) error {
		size = e.End
		return nil
	})
	return size, err
}

// siblings returns the files that have base's name and some extension.
func siblings(base string) []string {
	var names []string
	entries, _ := os.ReadDir(filepath.Dir(base))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(base)+".") {
			names = append(names, filepath.Join(filepath.Dir(base), e.Name()))
		}
	}
	return names
}

func (s *sources) close() {
	for _, c := range s.closers {
		c.Close()
	}
	s.closers = nil
}
