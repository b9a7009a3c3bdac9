//go:build unix

package cli

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Castor is killed at any moment, and run again: then all is as if nothing had
// been.
func TestKill(t *testing.T) {
	size := 24 << 20
	if raceDetector {
		size = 6 << 20 // all is slower
	}
	source, v1, v2 := versions(t, size)
	store, index1, index2 := filepath.Join(source, "store.castr"), filepath.Join(source, "v1.caibx"), filepath.Join(source, "v2.caibx")
	either := func(t *testing.T, dir string, old []byte) {
		switch b, err := os.ReadFile(filepath.Join(dir, "disk.img")); {
		case os.IsNotExist(err):
			if old != nil {
				t.Error("the old file is gone")
			}
		case err != nil:
			t.Error(err)
		case !bytes.Equal(b, v2) && !bytes.Equal(b, old):
			t.Errorf("the file is neither old nor new, but has %d bytes", len(b))
		}
	}
	atIndex := func(t *testing.T, dir string) {
		if _, err := os.Stat(filepath.Join(dir, "new.caibx")); err == nil {
			same(t, read(t, index2), dir, "new.caibx")
			ok(t, dir, "verify", "-s", "my.castr", "new.caibx")
		}
		clean(t, dir, "my.castr")
	}
	withOld := func(t *testing.T, dir string) { write(t, v1, dir, "disk.img") }
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, tt := range []struct {
		name   string
		rounds int
		setup  func(t *testing.T, dir string)
		args   []string
		killed func(t *testing.T, dir string) // what must hold then
		store  string                         // that it writes
		again  func(t *testing.T, dir string) // and after the second run
	}{
		{name: "make", rounds: 5, args: []string{"make", "-s", "my.castr", "--digest", "sha512-256", "new.caibx", filepath.Join(source, "v2.img")},
			killed: atIndex, store: "my.castr", again: atIndex},
		{name: "make of a second version", rounds: 5, args: []string{"make", "-s", "my.castr", "--digest", "sha512-256", "new.caibx", filepath.Join(source, "v2.img")},
			setup: func(t *testing.T, dir string) {
				ok(t, dir, "make", "-s", "my.castr", "--no-sync", "--digest", "sha512-256", "old.caibx", filepath.Join(source, "v1.img"))
			},
			killed: func(t *testing.T, dir string) {
				ok(t, dir, "verify", "-s", "my.castr", "old.caibx")
				atIndex(t, dir)
			}, store: "my.castr", again: atIndex},
		{name: "extract", rounds: 8, args: []string{"extract", "-s", store, index2, "disk.img"},
			killed: func(t *testing.T, dir string) { either(t, dir, nil) }},
		{name: "extract over the old version", rounds: 8, args: []string{"extract", "-s", store, index2, "disk.img"}, setup: withOld,
			killed: func(t *testing.T, dir string) { either(t, dir, v1) }},
		{name: "extract in place", rounds: 8, args: []string{"extract", "--in-place", "-s", store, index2, "disk.img"}, setup: withOld},
		{name: "extract with cache", rounds: 6, args: []string{"extract", "-c", "my.castr", "-s", store, index2, "disk.img"},
			killed: func(t *testing.T, dir string) { either(t, dir, nil); clean(t, dir, "my.castr") }, store: "my.castr",
			again: func(t *testing.T, dir string) {
				ok(t, dir, "extract", "-c", "my.castr", "-s", "my.castr", index2, "offline.img")
				same(t, v2, dir, "offline.img")
				clean(t, dir, "my.castr")
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			prepare := func() string {
				dir := t.TempDir()
				if tt.setup != nil {
					tt.setup(t, dir)
				}
				return dir
			}
			dir := prepare()
			begin := time.Now()
			ok(t, dir, tt.args...)
			whole := time.Since(begin)
			kills := 0
			n := rounds(tt.rounds)
			for range n {
				dir := prepare()
				c := command(dir, tt.args...)
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				// More often early than late, when it only waits for the disk.
				time.Sleep(time.Duration(float64(whole) * r.Float64() * r.Float64()))
				c.Process.Kill()
				c.Wait()
				if c.ProcessState.ExitCode() < 0 {
					kills++
				}
				if tt.killed != nil {
					tt.killed(t, dir)
				}
				ok(t, dir, tt.args...)
				if tt.again != nil {
					tt.again(t, dir)
				}
				if tt.args[0] == "extract" {
					same(t, v2, dir, "disk.img")
				}
				if tt.store != "" {
					ok(t, dir, "gc", "--yes", "--grace", "0", tt.store, index1, index2)
					tt.again(t, dir)
				}
				tidy(t, dir)
				if t.Failed() {
					return
				}
				os.RemoveAll(dir)
			}
			t.Logf("a run takes %v; %d of %d were killed on their way", whole, kills, n)
		})
	}
	tidy(t, source)
}

// clean ends the test if a store that may not exist yet has a damaged chunk.
func clean(t *testing.T, dir, store string) {
	t.Helper()
	if o := castor(t, dir, "check", store); o.code != 0 && o.code != exitNotFound {
		t.Fatalf("check: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// Several processes make into one store, and to one index, at the same time.
func TestMakesAtOnce(t *testing.T) {
	source, _, _ := versions(t, 8<<20)
	for range rounds(3) {
		dir := t.TempDir()
		var wg sync.WaitGroup
		for _, args := range [][]string{{"a.caibx", "v1.img"}, {"b.caibx", "v2.img"}, {"c.caibx", "v1.img"}, {"c.caibx", "v1.img"}} {
			wg.Go(func() {
				if o := castor(t, dir, "make", "-s", "store.castr", "--digest", "sha512-256", args[0], filepath.Join(source, args[1])); o.code != 0 {
					t.Errorf("make %s: exit code %d, want 0\n%s", args[0], o.code, o.stderr)
				}
			})
		}
		wg.Wait()
		for name, want := range map[string]string{"a.caibx": "v1.caibx", "b.caibx": "v2.caibx", "c.caibx": "v1.caibx"} {
			same(t, read(t, source, want), dir, name)
			ok(t, dir, "verify", "-s", "store.castr", name)
		}
		ok(t, dir, "check", "store.castr")
		tidy(t, dir)
	}
}

// Several processes extract to one name, and fill one cache, at the same time.
func TestExtractsAtOnce(t *testing.T) {
	source, v1, v2 := versions(t, 8<<20)
	for range rounds(3) {
		dir := t.TempDir()
		write(t, v1, dir, "disk.img")
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				o := castor(t, dir, "extract", "-c", "cache.castr", "-s", filepath.Join(source, "store.castr"), filepath.Join(source, "v2.caibx"), "disk.img")
				if o.code != 0 {
					t.Errorf("exit code %d, want 0\n%s", o.code, o.stderr)
				}
			})
		}
		wg.Wait()
		same(t, v2, dir, "disk.img")
		ok(t, dir, "check", "cache.castr")
		tidy(t, dir)
	}
}

// gc runs again and again while a make finds chunks in the store that are old
// and that no index needs so far.
func TestCollectBesideMake(t *testing.T) {
	source, _, _ := versions(t, 8<<20)
	for range rounds(5) {
		dir := t.TempDir()
		write(t, []byte("other"), dir, "other")
		ok(t, dir, "make", "-s", "store.castr", "other.caibx", "other")
		ok(t, dir, "make", "-s", "store.castr", "--no-sync", "--digest", "sha512-256", "v1.caibx", filepath.Join(source, "v1.img"))
		age(t, filepath.Join(dir, "store.castr"), 3*time.Hour)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		collected := 0
		wg.Go(func() {
			for {
				o := castor(t, dir, "gc", "--yes", "--grace", "1h", "store.castr", "other.caibx")
				if o.code != 0 {
					t.Errorf("gc: exit code %d, want 0\n%s", o.code, o.stderr)
				}
				if !strings.Contains(o.stderr, "removed 0 chunks") {
					collected++
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		ok(t, dir, "make", "-s", "store.castr", "--digest", "sha512-256", "v2.caibx", filepath.Join(source, "v2.img"))
		close(stop)
		wg.Wait()
		same(t, read(t, source, "v2.caibx"), dir, "v2.caibx")
		ok(t, dir, "verify", "-s", "store.castr", "v2.caibx")
		ok(t, dir, "check", "store.castr")
		ok(t, dir, "gc", "--yes", "--grace", "0", "store.castr", "other.caibx", "v2.caibx")
		ok(t, dir, "verify", "-s", "store.castr", "v2.caibx")
		tidy(t, dir)
		t.Logf("%d runs of gc removed something", collected)
	}
}

// age makes every file below dir older by d.
func age(t *testing.T, dir string, d time.Duration) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chtimes(path, time.Time{}, time.Now().Add(-d))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rounds returns n, or 1 for a short test.
func rounds(n int) int {
	if testing.Short() {
		return 1
	}
	return n
}
