package treecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/build"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

const kib, mib = 1 << 10, 1 << 20

// small makes many chunks of little data.
var small = chunker.Params{Min: 256, Avg: 1024, Max: 4096}

const features = archive.SecTime | archive.NSecTime | archive.Permissions | archive.Symlinks | archive.XAttrs

func header(p chunker.Params, d chunker.Digest) index.Header {
	return index.Header{Features: index.Features(features.Normalize()).WithDigest(d), Params: p}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// later is a clock by which every file was touched long ago.
func later() time.Time { return time.Now().Add(time.Hour) }

// site is a tree with a cache.
type site struct {
	t      testing.TB
	dir    string // the tree
	path   string // the cache
	header index.Header
	pack   tree.PackOptions
	dst    store.Store
	now    func() time.Time

	// Of the last make:
	warnings []error
	problems []tree.Problem
}

func newSite(t testing.TB) *site {
	d := t.TempDir()
	s := &site{t: t, dir: d + "/tree", path: d + "/cache/x", header: header(small, chunker.BLAKE3), dst: &storetest.Memory{}, now: later}
	must(t, os.Mkdir(s.dir, 0o755))
	return s
}

func (s *site) root() *os.Root {
	root, err := os.OpenRoot(s.dir)
	must(s.t, err)
	s.t.Cleanup(func() { root.Close() })
	return root
}

// fill makes files of random content.
func (s *site) fill(dirs, files, most int) {
	r := rand.New(rand.NewPCG(3, 3))
	for d := range dirs {
		must(s.t, os.Mkdir(fmt.Sprintf("%s/d%d", s.dir, d), 0o755))
		for f := range files {
			must(s.t, os.WriteFile(fmt.Sprintf("%s/d%d/f%d", s.dir, d, f), noise(r, r.IntN(most)), 0o644))
		}
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// uncached returns the index that is made without a cache, and the archive.
func (s *site) uncached() ([]byte, []byte) {
	s.t.Helper()
	var data, out bytes.Buffer
	pack := s.pack
	pack.Problem, pack.Progress = nil, nil
	_, err := tree.Pack(s.t.Context(), s.root(), &data, archive.Features(s.header.Features), &pack)
	must(s.t, err)
	w, err := index.NewWriter(&out, s.header)
	must(s.t, err)
	_, err = build.File(s.t.Context(), w, nil, bytes.NewReader(data.Bytes()), int64(data.Len()), nil)
	must(s.t, err, w.Close())
	return out.Bytes(), data.Bytes()
}

// try makes the index with the cache.
func (s *site) try(ctx context.Context) ([]byte, build.Stats, error) {
	s.warnings, s.problems = nil, nil
	pack := s.pack
	pack.Problem = func(p tree.Problem) { s.problems = append(s.problems, p) }
	var out bytes.Buffer
	w, err := index.NewWriter(&out, s.header)
	must(s.t, err)
	stats, err := Build(ctx, w, s.dst, s.root(), s.path, &Options{Pack: &pack, Warn: func(err error) { s.warnings = append(s.warnings, err) }, now: s.now})
	if err != nil && w.Count() != 0 {
		s.t.Errorf("%d entries were written before the error %v", w.Count(), err)
	}
	if err == nil {
		err = w.Close()
	}
	return out.Bytes(), stats, err
}

// make makes the index with the cache and checks that it is the right one, and that
// the store has its chunks.
func (s *site) make() build.Stats {
	s.t.Helper()
	raw, stats, err := s.try(s.t.Context())
	must(s.t, err)
	want, data := s.uncached()
	if !bytes.Equal(raw, want) {
		s.t.Fatal("the index is not that of a make without a cache")
	}
	if s.dst == nil {
		return stats
	}
	x, err := index.Decode(bytes.NewReader(raw))
	must(s.t, err)
	for i, e := range x.Entries {
		c, err := s.dst.Get(s.t.Context(), e.ID)
		must(s.t, err)
		if b, err := c.Open(x.Digest(), x.Params.Max); err != nil || !bytes.Equal(b, data[x.Start(i):e.End]) {
			s.t.Fatalf("the store has entry %d wrong: %v", i, err)
		}
	}
	return stats
}

// quiet fails the test if the last make had warnings or problems.
func (s *site) quiet() {
	s.t.Helper()
	if len(s.warnings) > 0 || len(s.problems) > 0 {
		s.t.Errorf("warnings %v, problems %v", s.warnings, s.problems)
	}
}

// warned fails the test unless the last make had one warning.
func (s *site) warned(text string) {
	s.t.Helper()
	if len(s.warnings) != 1 || !strings.Contains(s.warnings[0].Error(), text) {
		s.t.Errorf("got warnings %v, want one with %q", s.warnings, text)
	}
}

// readByProcess returns how many bytes this process has read from files.
func readByProcess(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/io")
	must(t, err)
	var n int64
	_, err = fmt.Sscanf(string(b), "rchar: %d", &n)
	must(t, err)
	return n
}

// A tree that is as it was is not read.
func TestUnchanged(t *testing.T) {
	for _, p := range []chunker.Params{small, chunker.DefaultParams, {Min: 100, Avg: 100, Max: 100}, {Min: 1, Avg: 30, Max: 60}} {
		t.Run(p.String(), func(t *testing.T) {
			s := newSite(t)
			s.header = header(p, chunker.SHA256)
			s.fill(5, 40, 4*kib)
			if p.Max > 1000 {
				must(t, os.WriteFile(s.dir+"/large", noise(rand.New(rand.NewPCG(1, 1)), 5*mib), 0o644))
			}
			if stats := s.make(); stats.KnownBytes != 0 || stats.NewChunks == 0 {
				t.Errorf("the first make: %+v", stats)
			}
			s.quiet()
			before := readByProcess(t)
			_, stats, err := s.try(t.Context())
			must(t, err)
			fi, err := os.Stat(s.path)
			must(t, err)
			if read := readByProcess(t) - before; read > fi.Size()+100*kib {
				t.Errorf("the second make read %d bytes; the cache has %d", read, fi.Size())
			}
			if stats.KnownBytes != stats.Bytes || stats.NewChunks != 0 {
				t.Errorf("the second make: %+v, want everything known", stats)
			}
			if stats := s.make(); stats.KnownBytes != stats.Bytes {
				t.Errorf("the third make: %+v, want everything known", stats)
			}
			s.quiet()
		})
	}
}

// edits change a tree at random.
var edits = []func(e *editor, name string){
	func(e *editor, name string) { must(e.t, os.WriteFile(name, noise(e.r, e.r.IntN(20*kib)), 0o644)) },
	func(e *editor, name string) { // in the middle
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		must(e.t, err)
		_, err = f.WriteAt(noise(e.r, 100), e.r.Int64N(10*kib))
		must(e.t, err, f.Close())
	},
	func(e *editor, name string) { // append
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		must(e.t, err)
		_, err = f.Write(noise(e.r, 1+e.r.IntN(3*kib)))
		must(e.t, err, f.Close())
	},
	func(e *editor, name string) {
		fi, err := os.Stat(name)
		must(e.t, err, os.Truncate(name, e.r.Int64N(fi.Size()+1)))
	},
	func(e *editor, name string) { must(e.t, os.Rename(name, e.fresh())) },
	func(e *editor, name string) { must(e.t, os.Remove(name)) },
	func(e *editor, name string) { must(e.t, os.WriteFile(e.fresh(), noise(e.r, e.r.IntN(20*kib)), 0o644)) },
	func(e *editor, name string) { must(e.t, os.Chmod(name, 0o600|fs.FileMode(e.r.IntN(64)))) },
	func(e *editor, name string) { must(e.t, os.Link(name, e.fresh())) },
	func(e *editor, name string) { // other content, the same size and time
		fi, err := os.Stat(name)
		must(e.t, err, os.WriteFile(name, noise(e.r, int(fi.Size())), 0o644), os.Chtimes(name, fi.ModTime(), fi.ModTime()))
	},
	func(e *editor, name string) { must(e.t, os.Rename(filepath.Dir(name), e.fresh())) },
	func(e *editor, name string) { must(e.t, os.Symlink(name, e.fresh())) },
	func(e *editor, name string) { // another file with the content and all that can be set
		b, err := os.ReadFile(name)
		must(e.t, err)
		fi, err := os.Stat(name)
		must(e.t, err, os.WriteFile(name+".new", b, fi.Mode()), os.Chtimes(name+".new", fi.ModTime(), fi.ModTime()), os.Rename(name+".new", name))
	},
}

// editor edits a site.
type editor struct {
	*site
	r *rand.Rand
	n int
}

// fresh returns a name that is not in use.
func (e *editor) fresh() string {
	e.n++
	return fmt.Sprintf("%s/%c_%d", e.dir, 'a'+e.r.IntN(26), e.n)
}

// edit makes one change.
func (e *editor) edit() {
	var files []string
	must(e.t, filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Dir(path) != e.dir {
			files = append(files, path)
		}
		return err
	}))
	if len(files) < 10 {
		e.n++
		sub := fmt.Sprintf("%s/m%d", e.dir, e.n)
		must(e.t, os.Mkdir(sub, 0o755))
		for i := range 20 {
			must(e.t, os.WriteFile(fmt.Sprintf("%s/%d", sub, i), noise(e.r, e.r.IntN(8*kib)), 0o644))
		}
		return
	}
	edits[e.r.IntN(len(edits))](e, files[e.r.IntN(len(files))])
}

// After whatever changes, the index is that of a make without a cache, the store has
// every chunk, and most of what was not touched is not read.
func TestEdits(t *testing.T) {
	seeds, rounds := 6, 25
	if testing.Short() {
		seeds, rounds = 2, 15
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			s := newSite(t)
			e := &editor{site: s, r: rand.New(rand.NewPCG(uint64(seed), 9))}
			s.header = header([]chunker.Params{small, {Min: 64, Avg: 128, Max: 700}, chunker.DefaultParams, {Min: 500, Avg: 500, Max: 500}}[seed%4], chunker.Digests[seed%3])
			s.pack.HardLinks = seed%2 == 0
			s.fill(6, 30, 8*kib)
			s.make()
			var known, all int64
			for range rounds {
				time.Sleep(10 * time.Millisecond) // the clock of files ticks
				for range 1 + e.r.IntN(3) {
					e.edit()
				}
				if m := s.dst.(*storetest.Memory); e.r.IntN(4) == 0 {
					must(t, lose(m, e.r))
				}
				stats := s.make()
				s.quiet()
				known, all = known+stats.KnownBytes, all+stats.Bytes
			}
			if p := s.header.Params; p.Max < 64*kib && p.Min < p.Max && known < all/2 {
				t.Errorf("only %d of %d bytes were known", known, all)
			}
			if stats := s.make(); stats.KnownBytes != stats.Bytes {
				t.Errorf("the last make: %+v, want everything known", stats)
			}
		})
	}
}

// lose removes some chunks, or all.
func lose(m *storetest.Memory, r *rand.Rand) error {
	var ids []chunker.ID
	if err := m.List(context.Background(), func(i store.Info) error { ids = append(ids, i.ID); return nil }); err != nil {
		return err
	}
	all := r.IntN(3) == 0
	for _, id := range ids {
		if all || r.IntN(10) == 0 {
			if _, err := m.Remove(context.Background(), id, time.Now().Add(time.Hour)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Chunks that the store has lost are read again, and no others.
func TestStoreLost(t *testing.T) {
	s := newSite(t)
	s.fill(5, 40, 4*kib)
	first := s.make()
	m := s.dst.(*storetest.Memory)
	var one chunker.ID
	must(t, m.List(t.Context(), func(i store.Info) error { one = i.ID; return nil }))
	if removed, err := m.Remove(t.Context(), one, later()); !removed || err != nil {
		t.Fatal(removed, err)
	}
	if stats := s.make(); stats.NewChunks != 1 || stats.Bytes-stats.KnownBytes > int64(small.Max) || stats.Bytes == stats.KnownBytes {
		t.Errorf("one chunk was lost: %+v", stats)
	}
	s.dst = &storetest.Memory{}
	if stats := s.make(); stats.NewChunks != first.NewChunks || stats.KnownBytes != 0 {
		t.Errorf("another store: %+v, want %d new chunks", stats, first.NewChunks)
	}
	s.dst = nil
	if stats := s.make(); stats.KnownBytes != stats.Bytes {
		t.Errorf("no store: %+v, want everything known", stats)
	}
	s.quiet()
}

// A make that reads nothing uses its chunks: garbage collection leaves them alone.
func TestUse(t *testing.T) {
	s := newSite(t)
	s.fill(2, 10, 4*kib)
	castr := t.TempDir() + "/s.castr"
	d, err := dir.Open(castr, &dir.Options{Create: true})
	must(t, err)
	s.dst = d
	s.make()
	old := time.Now().Add(-1000 * time.Hour)
	chunks := 0
	each := func(do func(path string) error) {
		must(t, filepath.WalkDir(castr, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".cacnk") {
				chunks++
				err = do(path)
			}
			return err
		}))
	}
	each(func(path string) error { return os.Chtimes(path, old, old) })
	_, _, err = s.try(t.Context())
	must(t, err)
	each(func(path string) error {
		if fi, err := os.Stat(path); err != nil || time.Since(fi.ModTime()) > time.Hour {
			t.Errorf("%s is not used: %v", path, err)
		}
		return nil
	})
	if chunks == 0 {
		t.Error("no chunks")
	}
}

// A file is remembered once it has not been touched for a while.
func TestRacy(t *testing.T) {
	s := newSite(t)
	must(t, os.WriteFile(s.dir+"/f", noise(rand.New(rand.NewPCG(1, 1)), 50*kib), 0o644))
	var touched time.Time
	for _, tt := range []struct {
		name  string
		mtime time.Duration // of the file, before it was touched
		after time.Duration // how long after that the makes are
		known bool
	}{
		{"at once", 0, 0, false},
		{"after less than a step", 0, racy - time.Millisecond, false},
		{"after a step", 0, racy + time.Second, true},
		{"old content, touched at once", time.Hour, 0, false},
		{"old content, touched", time.Hour, racy + time.Second, true},
		{"content of the future", -time.Hour, racy + time.Second, false},
	} {
		os.RemoveAll(s.path)
		now := time.Now()
		must(t, os.Chtimes(s.dir+"/f", now, now.Add(-tt.mtime)))
		touched = now
		s.now = func() time.Time { return touched.Add(tt.after) }
		s.make()
		if stats := s.make(); (stats.KnownBytes > 40*kib) != tt.known {
			t.Errorf("%s: %+v, want it known: %v", tt.name, stats, tt.known)
		}
	}
}

// A cache of other options is another one; if it is not, it is not used.
func TestOptions(t *testing.T) {
	a := header(small, chunker.BLAKE3)
	b := header(chunker.DefaultParams, chunker.BLAKE3)
	c := header(small, chunker.SHA256)
	d := a
	d.Features &^= index.Features(archive.XAttrs)
	paths := []string{
		Path("c", "/x", a, nil), Path("c", "/x", b, nil), Path("c", "/x", c, nil), Path("c", "/x", d, nil), Path("c", "/y", a, nil), Path("d", "/x", a, nil),
		Path("c", "/x", a, &tree.PackOptions{HardLinks: true}), Path("c", "/x", a, &tree.PackOptions{UIDShift: 1}), Path("c", "/x", a, &tree.PackOptions{UIDRange: 1}),
		Path("c", "/x", a, &tree.PackOptions{Exclude: []string{"a b"}}), Path("c", "/x", a, &tree.PackOptions{Exclude: []string{"a", "b"}}),
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(paths)))); n != len(paths) {
		t.Errorf("%d names for %d caches", n, len(paths))
	}
	s := newSite(t)
	s.fill(2, 10, 4*kib)
	for _, h := range []index.Header{a, b, c} {
		s.header = h
		if stats := s.make(); stats.KnownBytes != 0 {
			t.Errorf("%+v: %+v, want nothing known", h, stats)
		}
		if h != a {
			s.warned("other options")
		}
	}
	// Of other features, what is the same may be known.
	s.header = a
	s.make()
	s.header = d
	s.make()
	s.quiet()
}

// A cache that is damaged, at whatever byte, is not used, and the next one is right.
func TestDamaged(t *testing.T) {
	s := newSite(t)
	must(t, os.WriteFile(s.dir+"/f", noise(rand.New(rand.NewPCG(1, 1)), 10*kib), 0o644))
	s.header.Params = chunker.Params{Min: 4096, Avg: 8192, Max: 16384}
	s.make()
	good, err := os.ReadFile(s.path)
	must(t, err)
	damage := func(name string, b []byte) {
		must(t, os.WriteFile(s.path, b, 0o600))
		if stats := s.make(); stats.KnownBytes != 0 {
			t.Errorf("%s: %+v, want nothing known", name, stats)
		}
		if len(s.warnings) != 1 || !strings.Contains(s.warnings[0].Error(), s.path) {
			t.Errorf("%s: warnings %v", name, s.warnings)
		}
		if b, err := os.ReadFile(s.path); err != nil || !bytes.Equal(b, good) {
			t.Fatalf("%s: the next cache is another: %v", name, err)
		}
	}
	step := 1
	if testing.Short() {
		step = 7
	}
	for i := 0; i < len(good); i += step {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		damage(fmt.Sprint("byte ", i), b)
	}
	for n := 0; n < len(good); n += 11 {
		damage(fmt.Sprint(n, " bytes"), good[:n])
	}
	damage("more", append(bytes.Clone(good), 0))
}

// A cache that is no file of ours is not used; nor is one that cannot be written an
// error.
func TestForeign(t *testing.T) {
	s := newSite(t)
	s.fill(2, 10, 4*kib)
	s.make()
	must(t, os.Chmod(s.path, 0o622))
	if stats := s.make(); stats.KnownBytes != 0 {
		t.Errorf("others may write: %+v", stats)
	}
	s.warned("others may write")
	if os.Geteuid() == 0 {
		must(t, os.Chown(s.path, 12345, -1))
		if stats := s.make(); stats.KnownBytes != 0 {
			t.Errorf("another user's: %+v", stats)
		}
		s.warned("another user")
	}
	must(t, os.Remove(s.path), os.Mkdir(s.path, 0o755))
	s.make()
	if len(s.warnings) != 2 {
		t.Errorf("a directory: warnings %v", s.warnings)
	}
	s.path = s.dir + "/d1/f1/cache"
	s.make()
	if len(s.warnings) != 2 {
		t.Errorf("no directory: warnings %v", s.warnings)
	}
}

// What a cache says wrong is found out where it is read; then nothing of it is believed.
func TestMistaken(t *testing.T) {
	s := newSite(t)
	s.fill(2, 20, 4*kib)
	s.make()
	records, err := load(s.path, s.header)
	must(t, err)
	records[len(records)/2].id[0] ^= 1
	must(t, save(s.path, s.header, records))
	s.make()
	s.warned("the cache is ignored")
	if stats := s.make(); stats.KnownBytes != stats.Bytes {
		t.Errorf("afterwards: %+v, want everything known", stats)
	}
}

// busy is a store that has a tree changed when the first chunks come.
type busy struct {
	*storetest.Memory
	puts   atomic.Int64
	change func(n int64)
}

func (b *busy) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	if n := b.puts.Add(1); b.change != nil {
		b.change(n)
	}
	return b.Memory.Add(ctx, c)
}

// A tree that changes between the look at it and the reading is looked at again, and what
// has been read of it is not read again.
func TestChanging(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *site, look int)
		err    error
		what   []string // problems
	}{
		{"written once", func(s *site, look int) {
			if look == 1 {
				must(s.t, os.WriteFile(s.dir+"/z", []byte("something else"), 0o644))
			}
		}, nil, nil},
		{"removed", func(s *site, _ int) { os.Remove(s.dir + "/z") }, nil, nil},
		{"shorter twice", func(s *site, look int) {
			if look <= 2 {
				must(s.t, os.Truncate(s.dir+"/z", int64(100-look)))
			}
		}, nil, nil},
		{"written all the time", func(s *site, look int) {
			f, err := os.OpenFile(s.dir+"/z", os.O_WRONLY|os.O_APPEND, 0)
			must(s.t, err)
			_, err = fmt.Fprintln(f, look)
			must(s.t, err, f.Close())
		}, nil, []string{tree.Changed}},
		{"replaced all the time", func(s *site, look int) {
			name := fmt.Sprintf("%s.%d", s.dir, look)
			must(s.t, os.WriteFile(name, noise(rand.New(rand.NewPCG(1, uint64(look))), 5*kib), 0o644), os.Rename(name, s.dir+"/z"))
		}, tree.ErrChanged, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.header = header(chunker.Params{Min: 16 * kib, Avg: 32 * kib, Max: 64 * kib}, chunker.BLAKE3)
			must(t, os.WriteFile(s.dir+"/a", noise(rand.New(rand.NewPCG(1, 1)), 3*mib), 0o644), os.WriteFile(s.dir+"/z", noise(rand.New(rand.NewPCG(2, 1)), 5*kib), 0o644))
			looks := 0
			s.pack.Progress = func(stats tree.PackStats) {
				if stats.Files == 2 && stats.Nodes == 3 { // z was just looked at
					looks++
					tt.change(s, looks)
				}
			}
			raw, stats, err := s.try(t.Context())
			if !errors.Is(err, tt.err) || len(s.warnings) > 0 {
				t.Fatalf("got %v, %v, want %v", err, s.warnings, tt.err)
			}
			if err != nil {
				return
			}
			var what []string
			for _, p := range s.problems {
				what = append(what, p.What)
			}
			if !slices.Equal(what, tt.what) {
				t.Errorf("problems %v, want %v", s.problems, tt.what)
			}
			if want, _ := s.uncached(); tt.what == nil && !bytes.Equal(raw, want) {
				t.Error("the index is not that of the tree as it is now")
			}
			// What was read at the first look, but for the last MiB, is not read again, and
			// none of it is stored again.
			if stats.NewBytes < 3*mib || stats.NewBytes > 3*mib+200*kib || stats.KnownBytes < 2*mib-200*kib {
				t.Errorf("%+v, want that little is read twice", stats)
			}
			checkArchive(t, raw, s.dst)
			s.pack.Progress = nil
			if s.make(); len(s.warnings) > 0 {
				t.Errorf("afterwards: %v", s.warnings)
			}
		})
	}
}

// checkArchive reads the archive of an index.
func checkArchive(t *testing.T, raw []byte, src store.Getter) {
	t.Helper()
	x, err := index.Decode(bytes.NewReader(raw))
	must(t, err)
	var data []byte
	for _, e := range x.Entries {
		c, err := src.Get(t.Context(), e.ID)
		must(t, err)
		b, err := c.Open(x.Digest(), x.Params.Max)
		must(t, err)
		data = append(data, b...)
	}
	r := archive.NewReader(bytes.NewReader(data))
	for {
		if _, err := r.Next(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A make that ends early leaves the cache as it was, and nothing appended.
func TestCancel(t *testing.T) {
	s := newSite(t)
	s.fill(2, 40, 4*kib)
	b := &busy{Memory: &storetest.Memory{}}
	s.dst = b
	s.make()
	before, err := os.ReadFile(s.path)
	must(t, err)
	must(t, os.WriteFile(s.dir+"/d0/new", noise(rand.New(rand.NewPCG(5, 5)), 100*kib), 0o644))
	cause := errors.New("enough")
	for at := int64(1); at < 30; at += 4 {
		ctx, cancel := context.WithCancelCause(t.Context())
		b.Memory = &storetest.Memory{}
		b.puts.Store(0)
		b.change = func(n int64) {
			if n == at {
				cancel(cause)
			}
		}
		if _, _, err := s.try(ctx); !errors.Is(err, cause) {
			t.Errorf("cancelled at chunk %d: got %v", at, err)
		}
		after, err := os.ReadFile(s.path)
		must(t, err)
		if !bytes.Equal(after, before) {
			t.Errorf("cancelled at chunk %d: the cache is another", at)
		}
	}
	b.change = nil
	s.make()
	s.quiet()
	left, err := filepath.Glob(filepath.Dir(s.path) + "/.*")
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// BenchmarkBuild makes the index of a tree that is as it was, beside the scan that this
// takes.
func BenchmarkBuild(b *testing.B) {
	s := newSite(b)
	s.header = header(chunker.DefaultParams, chunker.BLAKE3)
	d, err := dir.Open(b.TempDir()+"/s.castr", &dir.Options{Create: true})
	must(b, err)
	s.dst = d
	s.fill(100, 100, 8*kib)
	root := s.root()
	run := func(b *testing.B) {
		w, err := index.NewWriter(io.Discard, s.header)
		must(b, err)
		_, err = Build(b.Context(), w, s.dst, root, s.path, &Options{now: later})
		must(b, err)
	}
	run(b)
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			v, _, err := tree.Scan(b.Context(), root, archive.Features(s.header.Features), nil)
			must(b, err, v.Close())
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			run(b)
		}
	})
	b.Run("uncached", func(b *testing.B) {
		for b.Loop() {
			os.Remove(s.path)
			run(b)
		}
	})
}
