package dir_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// open opens the store in directory path until the test ends.
func open(t *testing.T, path string, o *dir.Options) *dir.Store {
	t.Helper()
	s, err := dir.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// put puts chunks and waits until they have their names.
func put(t *testing.T, s store.Store, chunks ...store.Chunk) {
	t.Helper()
	for _, c := range chunks {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Sync(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// checkHas fails the test unless s.Has and s.Get agree that c is there, or not.
func checkHas(t *testing.T, s store.Store, c store.Chunk, want bool) {
	t.Helper()
	if has, err := s.Has(t.Context(), c.ID); err != nil || has != want {
		t.Errorf("Has = %v, %v, want %v", has, err, want)
	}
	got, err := s.Get(t.Context(), c.ID)
	if !want {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Get of a missing chunk: %v", err)
		}
		return
	}
	if err == nil {
		_, err = got.Open(storetest.Digest, len(c.Data))
	}
	if err != nil {
		t.Errorf("Get: %v", err)
	}
}

// file returns the path of a file of chunk id in the store.
func file(path string, id chunker.ID, suffix string) string {
	return filepath.Join(path, id.String()[:4], id.String()+suffix)
}

// write writes a file, and the directories above it, and dates it age back.
func write(t *testing.T, name string, b []byte, age time.Duration) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o777)
	if err == nil {
		err = os.WriteFile(name, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	date(t, name, age)
}

// date makes a file look age old.
func date(t *testing.T, name string, age time.Duration) {
	t.Helper()
	if err := os.Chtimes(name, time.Time{}, time.Now().Add(-age)); err != nil {
		t.Fatal(err)
	}
}

// tree returns the paths of all files below path.
func tree(t *testing.T, path string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, err = filepath.Rel(path, name)
			all = append(all, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// zstd returns the compressed form of a plain chunk.
func zstd(t *testing.T, c store.Chunk) store.Chunk {
	t.Helper()
	e, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	return store.Chunk{ID: c.ID, Data: e.Encode(nil, c.Data), Codec: cacnk.Zstd}
}

func TestStore(t *testing.T) {
	for name, o := range map[string]*dir.Options{
		"default": nil,
		"plain":   {Create: true, Plain: true},
		"durable": {Create: true, Durable: true, Level: 1},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				path := t.TempDir()
				if o != nil && o.Create {
					path = filepath.Join(path, "deep", "store.castr")
				}
				return open(t, path, o)
			})
		})
	}
}

func TestOpen(t *testing.T) {
	path := t.TempDir()
	write(t, filepath.Join(path, "file"), nil, 0)
	for _, tt := range []struct {
		name string
		o    *dir.Options
		want error  // what the error wraps
		text string // and contains
	}{
		{"", nil, nil, ""},
		{"", &dir.Options{Create: true}, nil, ""},
		{"none", nil, fs.ErrNotExist, "open store"},
		{"none", &dir.Options{Create: true}, nil, ""},
		{"none/none", &dir.Options{Create: true}, nil, ""},
		{"file", nil, nil, "not a directory"},
		{"file", &dir.Options{Create: true}, nil, "not a directory"},
		{"file/below", &dir.Options{Create: true}, nil, "not a directory"},
	} {
		name := filepath.Join(path, filepath.FromSlash(tt.name))
		s, err := dir.Open(name, tt.o)
		if tt.text == "" {
			if err != nil || s.String() != name {
				t.Errorf("%q, %+v: %v, error %v", tt.name, tt.o, s, err)
			}
			continue
		}
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q, %+v: error %v, want one with %q and the path", tt.name, tt.o, err, tt.text)
		}
	}
	if exists(filepath.Join(path, "none")) {
		t.Error("Open creates the directory")
	}
}

// TestOpenLevel has a level that the encoder refuses: reading works, putting
// does not, and what was claimed is free again.
func TestOpenLevel(t *testing.T) {
	s := open(t, t.TempDir(), &dir.Options{Level: 99})
	c := storetest.Chunk(1, 100)
	for range 2 {
		if err := s.Put(t.Context(), c); err == nil || !strings.Contains(err.Error(), "compression level 99") {
			t.Errorf("Put: %v", err)
		}
		checkHas(t, s, c, false)
	}
	put(t, s, zstd(t, c))
	checkHas(t, s, c, true)
}

// TestLost removes the directory of an open store: without Create it does not
// come back.
func TestLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	c := storetest.Chunk(1, 100)
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Put into a store that is gone: %v", err)
	}
	if err := s.List(t.Context(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("List of a store that is gone: %v", err)
	}
	if exists(path) {
		t.Error("Put creates a directory without Create")
	}
	put(t, open(t, path, &dir.Options{Create: true}), c)
	checkHas(t, s, c, true)
}

func TestLayout(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	id := c.ID.String()
	gzip := store.Chunk{ID: c.ID, Data: []byte("\x1f\x8bas it is"), Codec: cacnk.Gzip}
	for _, tt := range []struct {
		name  string
		o     dir.Options
		c     store.Chunk
		file  string
		begin string
	}{
		{"default", dir.Options{}, c, id + ".cacnk", "\x28\xb5\x2f\xfd"},
		{"durable", dir.Options{Durable: true}, c, id + ".cacnk", "\x28\xb5\x2f\xfd"},
		{"compressed", dir.Options{}, zstd(t, c), id + ".cacnk", string(zstd(t, c).Data)},
		{"gzip", dir.Options{}, gzip, id + ".cacnk", "\x1f\x8bas it is"},
		{"plain", dir.Options{Plain: true}, c, id, string(c.Data)},
		{"plain, but compressed", dir.Options{Plain: true}, zstd(t, c), id + ".cacnk", string(zstd(t, c).Data)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := t.TempDir()
			s := open(t, path, &tt.o)
			put(t, s, tt.c)
			if got, want := tree(t, path), []string{id[:4] + "/" + tt.file}; !slices.Equal(got, want) {
				t.Fatalf("files %q, want %q", got, want)
			}
			name := filepath.Join(path, id[:4], tt.file)
			b, err := os.ReadFile(name)
			if err != nil || !strings.HasPrefix(string(b), tt.begin) {
				t.Errorf("content begins with %x, error %v, want %x", b[:min(len(b), 10)], err, tt.begin[:4])
			}
			if got, err := s.Get(t.Context(), c.ID); err != nil || got.Loc != name {
				t.Errorf("Get: Loc %q, error %v, want %q", got.Loc, err, name)
			}
		})
	}
}

// TestForms reads stores that casync wrote, and what was uncompressed from them.
func TestForms(t *testing.T) {
	stores, err := filepath.Glob(filepath.Join("..", "..", "testdata", "casync", "store", "*.castr"))
	if err != nil || len(stores) == 0 {
		t.Fatalf("no store: %v", err)
	}
	mixed := t.TempDir()
	for i, path := range stores {
		s := open(t, path, nil)
		n, _, err := store.Check(t.Context(), s, 2, func(id chunker.ID, err error) error { return err }, nil)
		if err != nil || n == 0 {
			t.Errorf("%s: %d chunks, error %v", path, n, err)
		}
		err = s.List(t.Context(), func(info store.Info) error {
			c, err := s.Get(t.Context(), info.ID)
			if err != nil {
				return err
			}
			if i%2 == 0 {
				digest := chunker.SHA512256
				if strings.HasPrefix(filepath.Base(path), "sha256-") {
					digest = chunker.SHA256
				}
				plain, err := c.Open(digest, chunker.MaxSize)
				write(t, file(mixed, info.ID, ""), plain, 0)
				return err
			}
			write(t, file(mixed, info.ID, ".cacnk"), c.Data, 0)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	s := open(t, mixed, nil)
	listed := 0
	err = s.List(t.Context(), func(store.Info) error { listed++; return nil })
	n, _, cerr := store.Check(t.Context(), s, 2, func(id chunker.ID, err error) error { return err }, nil)
	if err != nil || cerr != nil || n < 30 || n != listed {
		t.Errorf("plain and compressed chunks in one store: listed %d, checked %d, errors %v, %v", listed, n, err, cerr)
	}
}

// TestBothForms has a chunk plain and compressed: it counts as one.
func TestBothForms(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, nil)
	c := storetest.Chunk(1, 5000)
	both := func() {
		write(t, file(path, c.ID, ""), c.Data, 2*time.Hour)
		write(t, file(path, c.ID, ".cacnk"), zstd(t, c).Data, 2*time.Hour)
	}
	both()
	n := 0
	if err := s.List(t.Context(), func(store.Info) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("List finds %d chunks, error %v, want 1", n, err)
	}
	checkHas(t, s, c, true)
	if removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(-time.Hour)); removed || err != nil {
		t.Errorf("Remove of a chunk just used = %v, %v", removed, err)
	}
	checkHas(t, s, c, true)
	both()
	if removed, err := s.Remove(t.Context(), c.ID, time.Now().Add(-time.Hour)); !removed || err != nil {
		t.Errorf("Remove = %v, %v", removed, err)
	}
	checkHas(t, s, c, false)
	both()
	if err := s.Replace(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, path); len(got) != 1 || !strings.HasSuffix(got[0], ".cacnk") {
		t.Errorf("after Replace: files %q, want the compressed one", got)
	}
}

// TestDamagedFiles reads chunk files that are not what they should be.
func TestDamagedFiles(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	z := zstd(t, c).Data
	for name, b := range map[string][]byte{
		"empty":         {},
		"one byte":      {0x28},
		"torn":          z[:len(z)/2],
		"longer":        append(bytes.Clone(z), 0),
		"zeros":         make([]byte, len(z)), // what a power failure may leave
		"uncompressed":  c.Data,
		"another chunk": zstd(t, storetest.Chunk(2, 5000)).Data,
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s := open(t, path, nil)
			write(t, file(path, c.ID, ".cacnk"), b, 0)
			got, err := s.Get(t.Context(), c.ID)
			if err == nil {
				_, err = got.Open(storetest.Digest, 5000)
			}
			if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), file(path, c.ID, ".cacnk")) {
				t.Errorf("Get and Open: %v, want an error that names the file and wraps store.ErrDamaged", err)
			}
			if err := s.Replace(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			checkHas(t, s, c, true)
		})
	}
}

// TestHugeFile has a chunk file that no chunk needs. It is sparse.
func TestHugeFile(t *testing.T) {
	path := t.TempDir()
	c := storetest.Chunk(1, 10)
	for _, suffix := range []string{"", ".cacnk"} {
		name := file(path, c.ID, suffix)
		write(t, name, nil, 0)
		if err := os.Truncate(name, 1<<30); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, path, nil).Get(t.Context(), c.ID); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("file of 1 GiB: %v", err)
		}
	}
}

// TestEmptyFile has what a power failure leaves where chunks are written without
// a sync: it counts as absent, and Put replaces it.
func TestEmptyFile(t *testing.T) {
	for _, suffix := range []string{"", ".cacnk"} {
		path := t.TempDir()
		s := open(t, path, &dir.Options{Plain: suffix == ""})
		c := storetest.Chunk(1, 5000)
		write(t, file(path, c.ID, suffix), nil, 0)
		if has, err := s.Has(t.Context(), c.ID); has || err != nil {
			t.Errorf("%q: Has = %v, %v, want false", suffix, has, err)
		}
		if _, err := s.StoredSize(t.Context(), c.ID); !store.Missing(err) {
			t.Errorf("%q: StoredSize: %v", suffix, err)
		}
		if got, err := s.Add(t.Context(), c); err != nil || !got.New {
			t.Errorf("%q: Add = %+v, %v", suffix, got, err)
		}
		checkHas(t, s, c, true)
		if got := tree(t, path); len(got) != 1 {
			t.Errorf("%q: files %q, want one", suffix, got)
		}
	}
}

// TestEmptyBeside has an empty file beside the chunk in its other form, which is
// the one that counts.
func TestEmptyBeside(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	for suffix, b := range map[string][]byte{"": c.Data, ".cacnk": zstd(t, c).Data} {
		path := t.TempDir()
		s := open(t, path, nil)
		for _, empty := range []string{"", ".cacnk"} {
			write(t, file(path, c.ID, empty), nil, 0)
		}
		write(t, file(path, c.ID, suffix), b, 0)
		checkHas(t, s, c, true)
		if n, err := s.StoredSize(t.Context(), c.ID); n != int64(len(b)) || err != nil {
			t.Errorf("%q: StoredSize = %d, %v, want %d", suffix, n, err, len(b))
		}
	}
}

// TestSymlink has what casync writes for a chunk that a remote store lacks: a
// link to /dev/null under the plain name. No link counts as a chunk.
func TestSymlink(t *testing.T) {
	c := storetest.Chunk(1, 5000)
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, c.Data, 0)
	for _, target := range []string{"/dev/null", outside, "/none"} {
		for _, suffix := range []string{"", ".cacnk"} {
			path := t.TempDir()
			s := open(t, path, nil)
			name := file(path, c.ID, suffix)
			write(t, name, nil, 0)
			os.Remove(name)
			if err := os.Symlink(target, name); err != nil { // as on Windows
				t.Skip(err)
			}
			checkHas(t, s, c, false)
			if _, err := s.StoredSize(t.Context(), c.ID); !store.Missing(err) {
				t.Errorf("%s: StoredSize: %v", target, err)
			}
			err := s.List(t.Context(), func(i store.Info) error { return errors.New("listed") })
			if err != nil {
				t.Errorf("%s: List: %v", target, err)
			}
			put(t, s, c)
			checkHas(t, s, c, true)
		}
	}
	if b, err := os.ReadFile(outside); err != nil || !bytes.Equal(b, c.Data) {
		t.Errorf("the target of a link has changed: %v", err)
	}
}

// TestTwoStores has two stores on one directory, as two processes would be, put
// the same chunks from many goroutines.
func TestTwoStores(t *testing.T) {
	for name, o := range map[string]dir.Options{"": {Create: true}, "durable": {Create: true, Durable: true}} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			stores := []*dir.Store{open(t, path, &o), open(t, path, &o)}
			const n, workers = 50, 8
			chunk := func(i int) store.Chunk { return storetest.Chunk(uint64(i), 1+100*i) }
			added := make([]int, len(stores)*workers)
			err := par.Each(t.Context(), workers, len(added), func(ctx context.Context, w int) error {
				s := stores[w%len(stores)]
				for i := range n {
					a, err := s.Add(ctx, chunk((i+w)%n))
					if err != nil {
						return err
					}
					if a.New {
						added[w]++
					}
				}
				if err := s.Sync(ctx); err != nil {
					return err
				}
				for i := range n {
					c, err := s.Get(ctx, chunk(i).ID)
					if err == nil {
						_, err = c.Open(storetest.Digest, 5000)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range stores {
				sum := 0
				for w := i; w < len(added); w += len(stores) {
					sum += added[w]
				}
				if sum > n {
					t.Errorf("one store says %d times that one of %d chunks was new", sum, n)
				}
			}
			if got := tree(t, path); len(got) != n {
				t.Errorf("%d files, want %d: %q", len(got), n, got)
			}
		})
	}
}

// TestNew has many goroutines add the same chunk: it is new for one.
func TestNew(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	for i := range 50 {
		c := storetest.Chunk(uint64(i), 5000)
		isNew := make([]bool, 4)
		err := par.Each(t.Context(), len(isNew), len(isNew), func(ctx context.Context, i int) error {
			a, err := s.Add(ctx, c)
			isNew[i] = a.New
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(slices.DeleteFunc(isNew, func(b bool) bool { return !b })); n != 1 {
			t.Fatalf("chunk new for %d goroutines, want 1", n)
		}
	}
}

func TestListIgnoresJunk(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, nil)
	c, other := storetest.Chunk(1, 100), storetest.Chunk(2, 100)
	put(t, s, c)
	id, sub := c.ID.String(), c.ID.String()[:4]
	digits := other.ID.String() // begins with digits, so that its directory has no case
	for seed := uint64(3); strings.Trim(digits[:4], "0123456789") != ""; seed++ {
		digits = storetest.Chunk(seed, 100).ID.String()
	}
	if err := os.MkdirAll(filepath.Join(path, sub, id), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"README",
		id,
		id + ".cacnk",
		"lost+found/" + id + ".cacnk",
		sub + "/" + other.ID.String() + ".cacnk", // in the wrong directory
		digits[:4] + "/" + strings.ToUpper(digits) + ".cacnk",
		"abc/x",
		"ABCD/x",
		sub + "/.hidden",
		sub + "/" + id[:63] + ".cacnk",
		sub + "/" + id + "0.cacnk",
		sub + "/" + id + ".cacnk.cacnk",
		sub + "/" + id + ".xz",
		sub + "/" + id + ".bad",
		sub + "/" + id + ".cacnk.bad",
		sub + "/" + id + ".0123456789abcdef.tmp",
		sub + "/" + id + ".cacnk.0123456789abcdef.gone",
		sub + "/.tmp-cacnk123456",
	} {
		write(t, filepath.Join(path, filepath.FromSlash(name)), []byte("junk"), 0)
	}
	var got []store.Info
	err := s.List(t.Context(), func(i store.Info) error { got = append(got, i); return nil })
	if err != nil || len(got) != 1 || got[0].ID != c.ID {
		t.Errorf("List finds %v, error %v, want one chunk", got, err)
	}
}

// TestSetAside sets aside a chunk that is there in one form, and in both.
func TestSetAside(t *testing.T) {
	c := storetest.Chunk(1, 100)
	for _, suffixes := range [][]string{{""}, {".cacnk"}, {"", ".cacnk"}} {
		path := t.TempDir()
		s := open(t, path, nil)
		for _, suffix := range suffixes {
			write(t, file(path, c.ID, suffix), []byte("damaged"), 0)
		}
		want := file(path, c.ID, suffixes[len(suffixes)-1]+".bad")
		if got, err := s.SetAside(t.Context(), c.ID); err != nil || got != want || !exists(got) {
			t.Errorf("%q: SetAside = %q, %v, want %q", suffixes, got, err, want)
		}
		checkHas(t, s, c, false)
		if n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour), false); n != 0 || err != nil {
			t.Errorf("%q: Sweep of chunks set aside = %d, %v", suffixes, n, err)
		}
		if got := tree(t, path); len(got) != len(suffixes) {
			t.Errorf("%q: files %q are left", suffixes, got)
		}
	}
}

// TestDurable looks at the directory while chunks wait in the batch.
func TestDurable(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, &dir.Options{Durable: true})
	var chunks []store.Chunk
	for i := range 20 {
		chunks = append(chunks, storetest.Chunk(uint64(i), 1000))
		if a, err := s.Add(t.Context(), chunks[i]); err != nil || !a.New {
			t.Fatalf("Add = %+v, %v", a, err)
		}
	}
	other := open(t, path, nil) // as another process
	for _, name := range tree(t, path) {
		if !strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s has its name before it is durable", name)
		}
	}
	for _, c := range chunks {
		checkHas(t, other, c, false)
		if has, err := s.Has(t.Context(), c.ID); err != nil || !has {
			t.Errorf("Has of a chunk in the batch = %v, %v, want true", has, err)
		}
		if a, err := s.Add(t.Context(), c); err != nil || a.New {
			t.Errorf("Add of a chunk in the batch = %+v, %v", a, err)
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		checkHas(t, other, c, true)
	}
	if got := tree(t, path); len(got) != len(chunks) {
		t.Errorf("%d files, want %d: %q", len(got), len(chunks), got)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Errorf("Sync of nothing: %v", err)
	}
}

// TestDurableFull puts more than a batch: it is published without a Sync.
func TestDurableFull(t *testing.T) {
	if testing.Short() {
		t.Skip("5000 chunks take a while")
	}
	path := t.TempDir()
	s := open(t, path, &dir.Options{Durable: true})
	const n = 5000
	chunk := func(i int) store.Chunk { return storetest.Chunk(uint64(i), 10) }
	err := par.Each(t.Context(), 4, n, func(ctx context.Context, i int) error { return s.Put(ctx, chunk(i)) })
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	for deadline := time.Now().Add(time.Minute); published < 4096 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		published = 0
		for _, name := range tree(t, path) {
			if strings.HasSuffix(name, ".cacnk") {
				published++
			}
		}
	}
	if published < 4096 || published == n {
		t.Errorf("%d of %d chunks published without a Sync", published, n)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if has, err := s.Has(t.Context(), chunk(i).ID); !has || err != nil {
			t.Fatalf("chunk %d: Has = %v, %v", i, has, err)
		}
	}
}

func TestDurableClose(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, &dir.Options{Durable: true})
	first, second := storetest.Chunk(1, 1000), storetest.Chunk(2, 1000)
	put(t, s, first)
	if err := s.Put(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if got := tree(t, path); len(got) != 1 {
		t.Errorf("files %q, want the one that was synced", got)
	}
	checkHas(t, open(t, path, nil), first, true)
}

// TestDurableSticky has a chunk that cannot get its name: every Sync, Put and
// Close from then on says so, as an index must not be written.
func TestDurableSticky(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, &dir.Options{Durable: true})
	bad, good := storetest.Chunk(1, 1000), storetest.Chunk(2, 1000)
	if err := os.MkdirAll(filepath.Join(file(path, bad.ID, ".cacnk"), "in the way"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []store.Chunk{bad, good} {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	first := s.Sync(t.Context())
	if e, ok := errors.AsType[*store.Error](first); !ok || e.ID != bad.ID {
		t.Fatalf("Sync: %v, want an error about chunk %v", first, bad.ID)
	}
	if err := s.Sync(t.Context()); err != first {
		t.Errorf("Sync again: %v, want %v", err, first)
	}
	if err := s.Put(t.Context(), storetest.Chunk(3, 1000)); err != first {
		t.Errorf("Put: %v, want %v", err, first)
	}
	if err := s.Close(); err != first {
		t.Errorf("Close: %v, want %v", err, first)
	}
	for _, name := range tree(t, path) {
		if strings.HasSuffix(name, ".tmp") {
			t.Errorf("%s is left", name)
		}
	}
	checkHas(t, open(t, path, nil), bad, false)
}

// TestPutFails has a chunk that cannot be written; then the obstacle goes away.
func TestPutFails(t *testing.T) {
	for _, durable := range []bool{false, true} {
		path := t.TempDir()
		s := open(t, path, &dir.Options{Durable: durable})
		c := storetest.Chunk(1, 1000)
		obstacle := filepath.Dir(file(path, c.ID, ""))
		write(t, obstacle, nil, 0)
		err := s.Put(t.Context(), c)
		if e, ok := errors.AsType[*store.Error](err); !ok || e.ID != c.ID {
			t.Errorf("Put where a file is in the way: %v", err)
		}
		if err := os.Remove(obstacle); err != nil {
			t.Fatal(err)
		}
		put(t, s, c)
		checkHas(t, s, c, true)
	}
}

// TestSyncAmongPuts has a Sync return although others put chunks all the while: it waits
// for two batches at most, that which is on its way and the next.
func TestSyncAmongPuts(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "s.castr"), &dir.Options{Create: true, Durable: true, Plain: true})
	const batch = 4096
	var wg sync.WaitGroup
	var n, end atomic.Uint64
	end.Store(1 << 20)
	for range 4 {
		wg.Go(func() {
			for n.Load() < end.Load() {
				if err := s.Put(t.Context(), storetest.Chunk(n.Add(1), 20)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	for range 10 {
		before := n.Load()
		end.Store(before + 3*batch)
		if err := s.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if n.Load() >= end.Load() {
			t.Errorf("Sync returns when nobody puts any more, after %d chunks", n.Load()-before)
			break
		}
	}
	end.Store(0)
	wg.Wait()
}

// TestSyncFails has chunks that cannot get their names. Everybody is told for a while, and
// the store works again when what was in the way is gone.
func TestSyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := t.TempDir()
		s, err := dir.Open(path, &dir.Options{Durable: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		a, b := storetest.Chunk(1, 1000), storetest.Chunk(2, 1000)
		if err := s.Put(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		written, err := filepath.Glob(filepath.Join(path, "*", "*.tmp"))
		if err != nil || len(written) != 1 {
			t.Fatalf("%q, %v", written, err)
		}
		if err := os.Remove(written[0]); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(t.Context()); err == nil {
			t.Error("Sync of a chunk that cannot get its name succeeds")
		}
		if err := s.Sync(t.Context()); err == nil {
			t.Error("somebody else is not told")
		}
		time.Sleep(2 * time.Minute)
		for _, c := range []store.Chunk{a, b} {
			if err := errors.Join(s.Put(t.Context(), c), s.Sync(t.Context())); err != nil {
				t.Error(err)
			}
			if _, err := s.Get(t.Context(), c.ID); err != nil {
				t.Error(err)
			}
		}
	})
}
