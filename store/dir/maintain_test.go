package dir_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// none keeps no chunk.
func none(chunker.ID) bool { return false }

// TestSweep has what killed runs of castor, casync and desync leave behind.
func TestSweep(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	id, sub := c.ID.String(), c.ID.String()[:4]
	half := zstd(t, c).Data[:500]
	const old, young = 3 * time.Hour, time.Hour // Sweep is told two hours
	files := map[string]struct {
		age  time.Duration
		left string // "" if it goes
	}{
		sub + "/" + id + ".0123456789abcdef.tmp":               {old, ""},
		sub + "/" + id + ".1123456789abcdef.tmp":               {young, sub + "/" + id + ".1123456789abcdef.tmp"},
		sub + "/" + id + ".abc.tmp":                            {old, ""}, // casync's numbers have no leading zeros
		sub + "/.tmp-cacnk0123456789":                          {old, ""},
		sub + "/.tmp-cacnk9876543210":                          {young, sub + "/.tmp-cacnk9876543210"},
		"aaaa/aaaa.cacnk.0123456789abcdef.gone":                {old, ""},
		"aaaa/bbbb.cacnk.0123456789abcdef.gone":                {young, "aaaa/bbbb.cacnk"},
		"aaaa/cccc.0123456789abcdef.gone":                      {young, "aaaa/cccc"},
		"bbbb/" + "bbbb" + id[4:] + ".0123456789abcdef.tmp":    {old, ""}, // then its directory is empty
		sub + "/" + id + ".cacnk.bad":                          {old, sub + "/" + id + ".cacnk.bad"},
		sub + "/README":                                        {old, sub + "/README"},
		"x.tmp":                                                {old, "x.tmp"},
		"logs/x.tmp":                                           {old, "logs/x.tmp"},
		sub + "/" + id + ".cacnk":                              {old, sub + "/" + id + ".cacnk"},
		"cccc/" + "cccc" + id[4:]:                              {old, "cccc/" + "cccc" + id[4:]},
		"cccc/" + "cccc" + id[4:] + ".cacnk.castor-tmp":        {old, "cccc/" + "cccc" + id[4:] + ".cacnk.castor-tmp"},
		"cccc/" + "cccc" + id[4:] + ".cacnk.ffffffffffffffff":  {old, "cccc/" + "cccc" + id[4:] + ".cacnk.ffffffffffffffff"},
		"cccc/" + "cccc" + id[4:] + ".f.tmp":                   {young, "cccc/" + "cccc" + id[4:] + ".f.tmp"},
		"cccc/.tmp-cacnk":                                      {old, ""},
		"cccc/" + "cccc" + id[4:] + ".0000000000000000.gone.x": {old, "cccc/" + "cccc" + id[4:] + ".0000000000000000.gone.x"},
	}
	path := t.TempDir()
	var want []string
	gone := 0
	for name, f := range files {
		write(t, filepath.Join(path, filepath.FromSlash(name)), half, f.age)
		if f.left != "" {
			want = append(want, f.left)
		} else {
			gone++
		}
	}
	slices.Sort(want)
	for _, empty := range []string{"dddd", "logs2", "docs"} {
		if err := os.Mkdir(filepath.Join(path, empty), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, path, nil)
	since := time.Now().Add(-2 * time.Hour)
	before := tree(t, path)
	if n, err := s.Sweep(t.Context(), since, true); n != gone || err != nil {
		t.Errorf("dry run: %d, %v, want %d", n, err, gone)
	}
	if got := tree(t, path); !slices.Equal(got, before) {
		t.Errorf("after the dry run: files %q, want %q", got, before)
	}
	if n, err := s.Sweep(t.Context(), since, false); n != gone || err != nil {
		t.Errorf("Sweep = %d, %v, want %d", n, err, gone)
	}
	if got := tree(t, path); !slices.Equal(got, want) {
		t.Errorf("after Sweep: files\n%q, want\n%q", got, want)
	}
	for name, want := range map[string]bool{"bbbb": false, "dddd": false, "cccc": true, "logs2": true, "docs": true} {
		if got := exists(filepath.Join(path, name)); got != want {
			t.Errorf("directory %s exists: %v, want %v", name, got, want)
		}
	}
	if n, err := s.Sweep(t.Context(), since, false); n != 0 || err != nil {
		t.Errorf("second Sweep = %d, %v, want 0", n, err)
	}
}

// TestKilledPut simulates a make that was killed while it wrote a chunk.
func TestKilledPut(t *testing.T) {
	path := t.TempDir()
	c := storetest.Chunk(1, 5000)
	tmp := file(path, c.ID, ".0123456789abcdef.tmp")
	write(t, tmp, zstd(t, c).Data[:100], 0)
	s := open(t, path, &dir.Options{Durable: true})
	checkHas(t, s, c, false)
	put(t, s, c)
	checkHas(t, s, c, true)
	for _, tt := range []struct {
		since time.Duration
		want  int
	}{{-time.Hour, 0}, {time.Hour, 1}} {
		if n, err := s.Sweep(t.Context(), time.Now().Add(tt.since), false); n != tt.want || err != nil {
			t.Errorf("Sweep, since %v: %d, %v, want %d", tt.since, n, err, tt.want)
		}
	}
	if got := tree(t, path); len(got) != 1 {
		t.Errorf("files %q, want the chunk", got)
	}
	checkHas(t, s, c, true)
}

// TestHasRefreshes checks that asking for an old chunk counts as its use.
func TestHasRefreshes(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, nil)
	c := storetest.Chunk(1, 5000)
	put(t, s, c)
	name := file(path, c.ID, ".cacnk")
	for _, tt := range []struct {
		what string
		age  time.Duration
		use  func() error
		want bool // refreshed
	}{
		{"Has, old", 31 * time.Minute, func() error { _, err := s.Has(t.Context(), c.ID); return err }, true},
		{"Put, old", 100 * time.Hour, func() error { return s.Put(t.Context(), c) }, true},
		{"Has, young", 29 * time.Minute, func() error { _, err := s.Has(t.Context(), c.ID); return err }, false},
		{"Get, old", time.Hour, func() error { _, err := s.Get(t.Context(), c.ID); return err }, false},
		{"StoredSize, old", time.Hour, func() error { _, err := s.StoredSize(t.Context(), c.ID); return err }, false},
	} {
		date(t, name, tt.age)
		if err := tt.use(); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Since(fi.ModTime()) < time.Minute; got != tt.want {
			t.Errorf("%s: refreshed %v, want %v", tt.what, got, tt.want)
		}
	}
}

// TestRemoveKilled has the states in which a killed Remove leaves a chunk.
func TestRemoveKilled(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for _, tt := range []struct {
		name string
		age  time.Duration // of the file that is leaving
		back bool          // a make has put the chunk again
		want bool          // the store has it after Sweep
	}{
		{"before the second look", 3 * time.Hour, false, false},
		{"used just before", 0, false, true},
		{"put again", 3 * time.Hour, true, true},
		{"used just before and put again", 0, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := t.TempDir()
			s := open(t, path, nil)
			write(t, file(path, c.ID, ".cacnk.0123456789abcdef.gone"), zstd(t, c).Data, tt.age)
			checkHas(t, s, c, false)
			if tt.back {
				put(t, s, c)
			}
			if _, err := s.Sweep(t.Context(), time.Now().Add(-2*time.Hour), false); err != nil {
				t.Fatal(err)
			}
			checkHas(t, s, c, tt.want)
			if got := len(tree(t, path)); got > 1 {
				t.Errorf("%d files are left", got)
			}
		})
	}
}

// TestRemoveRace has makes use an old chunk while collections remove it: what a
// make was told about the chunk must hold when all are done. Each has a store of
// its own, as processes do.
func TestRemoveRace(t *testing.T) {
	rounds := 2000
	if testing.Short() {
		rounds = 200
	}
	const old = 2 * time.Hour
	kept, collected := 0, 0
	for i := range rounds {
		path := t.TempDir()
		c := storetest.Chunk(uint64(i), 50)
		name := file(path, c.ID, ".cacnk")
		write(t, name, zstd(t, c).Data, old)
		since := time.Now().Add(-old / 2)
		var mu sync.Mutex // guards what follows
		has, removed := false, 0
		errs := map[string]error{}
		var wg sync.WaitGroup
		start := make(chan struct{})
		run := func(what string, f func(s *dir.Store) error) {
			s := open(t, path, nil)
			wg.Go(func() {
				<-start
				if err := f(s); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs[what] = err
				}
			})
		}
		for m := range 1 + i%2 {
			run(fmt.Sprint("make ", m), func(s *dir.Store) error {
				h, err := s.Has(t.Context(), c.ID)
				mu.Lock()
				defer mu.Unlock()
				has = has || h
				return err
			})
		}
		for g := range 1 + i/2%2 {
			run(fmt.Sprint("gc ", g), func(s *dir.Store) error {
				r, err := s.Remove(t.Context(), c.ID, since)
				mu.Lock()
				defer mu.Unlock()
				if r {
					removed++
				}
				return err
			})
		}
		if i/4%2 == 1 {
			run("sweep", func(s *dir.Store) error {
				_, err := s.Sweep(t.Context(), since, false)
				return err
			})
		}
		close(start)
		wg.Wait()
		if len(errs) > 0 {
			t.Fatalf("round %d: errors %v", i, errs)
		}
		left := exists(name)
		if has && !left {
			t.Fatalf("round %d: Has was true, and the chunk is gone; removed %d times", i, removed)
		}
		if removed > 1 || removed > 0 && left {
			t.Fatalf("round %d: removed %d times, and left: %v", i, removed, left)
		}
		if got := tree(t, path); len(got) > 1 {
			t.Fatalf("round %d: files %q", i, got)
		}
		if left {
			kept++
		} else {
			collected++
		}
	}
	t.Logf("kept %d times, collected %d times", kept, collected)
}

// TestAddRace has makes put a chunk that collections remove: after Add, whether
// the chunk was new or not, it is there.
func TestAddRace(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	for i := range rounds {
		path := t.TempDir()
		c := storetest.Chunk(uint64(i), 50)
		name := file(path, c.ID, ".cacnk")
		write(t, name, zstd(t, c).Data, 2*time.Hour)
		since := time.Now().Add(-time.Hour)
		var wg sync.WaitGroup
		for range 2 {
			make, gc := open(t, path, nil), open(t, path, nil)
			wg.Go(func() {
				if _, err := make.Add(t.Context(), c); err != nil {
					t.Errorf("Add: %v", err)
				}
			})
			wg.Go(func() {
				if _, err := store.GC(t.Context(), gc, none, store.GCOptions{Since: since}); err != nil {
					t.Errorf("GC: %v", err)
				}
			})
		}
		wg.Wait()
		if checkHas(t, open(t, path, nil), c, true); t.Failed() {
			t.Fatalf("in round %d", i)
		}
	}
}

// TestGCWhilePutting collects all the time while chunks are put. Those are
// young, and their directories come and go.
func TestGCWhilePutting(t *testing.T) {
	path := t.TempDir()
	var junk []string
	for i := range 50 {
		c := storetest.Chunk(uint64(1000+i), 10)
		junk = append(junk, file(path, c.ID, ".cacnk"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 2 {
		s := open(t, path, nil)
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, name := range junk {
					os.MkdirAll(filepath.Dir(name), 0o777)
					os.WriteFile(name, []byte("x"), 0o666)
					os.Chtimes(name, time.Time{}, time.Now().Add(-2*time.Hour))
				}
				if _, err := store.GC(t.Context(), s, none, store.GCOptions{Since: time.Now().Add(-time.Hour)}); err != nil {
					t.Errorf("GC: %v", err)
				}
			}
		})
	}
	s := open(t, path, &dir.Options{Durable: true})
	for i := range 300 {
		c := storetest.Chunk(uint64(i), 100)
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatalf("Put: %v", err)
		}
		if i%50 == 49 {
			put(t, s)
		}
	}
	cancel()
	wg.Wait()
	for i := range 300 {
		checkHas(t, s, storetest.Chunk(uint64(i), 100), true)
	}
}
