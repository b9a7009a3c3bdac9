package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// folder is a Share of a temporary directory, and what it has told.
type folder struct {
	t     *testing.T
	dir   string
	share *Share
	files []File
	log   bytes.Buffer
}

func newFolder(t *testing.T, files map[string][]byte, paths ...string) *folder {
	t.Helper()
	tr := &folder{t: t, dir: t.TempDir()}
	for name, b := range files {
		tr.write(name, b)
	}
	if len(paths) == 0 {
		paths = []string{"."}
	}
	for i := range paths {
		paths[i] = filepath.Join(tr.dir, paths[i])
	}
	var err error
	tr.share, err = New(paths, &Options{Every: time.Nanosecond, Log: slog.New(slog.NewTextHandler(&tr.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func (tr *folder) path(name string) string { return filepath.Join(tr.dir, filepath.FromSlash(name)) }

func (tr *folder) write(name string, b []byte) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o777); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(tr.path(name), b, 0o666); err != nil {
		tr.t.Fatal(err)
	}
}

// scan scans and returns the names that are shared, and whether anything changed.
func (tr *folder) scan() (names []string, changed bool) {
	tr.t.Helper()
	if err := tr.share.Scan(tr.t.Context(), func(f []File) { tr.files, changed = f, true }); err != nil {
		tr.t.Fatal(err)
	}
	for _, f := range tr.files {
		names = append(names, f.Name)
	}
	return names, changed
}

func (tr *folder) file(name string) File {
	tr.t.Helper()
	for _, f := range tr.files {
		if f.Name == name {
			return f
		}
	}
	tr.t.Fatalf("%s is not shared", name)
	return File{}
}

// chunks returns what the store of f has of its index, and how many chunks it lacks.
func chunks(t *testing.T, f File) (b []byte, lacks int) {
	t.Helper()
	for i, e := range f.Index.Entries {
		c, err := f.Store.Get(t.Context(), e.ID)
		if err != nil {
			if !store.Missing(err) && !errors.Is(err, store.ErrDamaged) {
				t.Errorf("chunk %d: error %v is neither about a missing nor a damaged one", i, err)
			}
			lacks++
			b = append(b, make([]byte, f.Index.Len(i))...)
			continue
		}
		if chunker.BLAKE3.Sum(c.Data) != e.ID || len(c.Data) != f.Index.Len(i) {
			t.Errorf("chunk %d: wrong bytes", i)
		}
		b = append(b, c.Data...)
	}
	return b, lacks
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestShare(t *testing.T) {
	files := map[string][]byte{
		"a":             noise(1, 1<<20),
		"dir/b":         noise(2, 300000),
		"dir/.dot":      []byte("x"),
		"empty":         nil,
		"twice":         bytes.Repeat(noise(3, 200000), 5),
		"odd ?%\xff":    []byte("odd"),
		"os/disk.caibx": []byte("an index is a file like others"),
	}
	tr := newFolder(t, files)
	tr.write("x.castr/0000/chunk", []byte("no"))
	tr.write(".disk.castor-tmp", []byte("no"))
	if err := os.Symlink("a", tr.path("link")); err != nil {
		t.Skip(err)
	}
	if err := os.Symlink("dir", tr.path("linkdir")); err != nil {
		t.Fatal(err)
	}
	names, changed := tr.scan()
	var want []string
	for name := range files {
		want = append(want, name)
	}
	slices.Sort(want)
	if !changed || !slices.Equal(names, want) {
		t.Fatalf("shared %q, want %q", names, want)
	}
	for name, b := range files {
		f := tr.file(name)
		if f.Root != f.Index.Root() || f.Version == 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if got, lacks := chunks(t, f); lacks > 0 || !bytes.Equal(got, b) {
			t.Errorf("%s: %d chunks missing, or wrong", name, lacks)
		}
	}
	if _, changed := tr.scan(); changed {
		t.Error("nothing has changed, and it says so")
	}
	if tr.log.Len() > 0 {
		t.Errorf("logged %s", tr.log.String())
	}
	if _, err := tr.file("a").Store.Get(t.Context(), chunker.ID{1}); !store.Missing(err) {
		t.Errorf("a chunk that no file has: %v", err)
	}
}

func TestShareFile(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"sub/a": []byte("one"), "b": []byte("two")}, "sub/a", "b", "sub")
	if names, _ := tr.scan(); !slices.Equal(names, []string{"a", "b"}) {
		t.Fatalf("shared %q", names)
	}
	tr.scan()
	if n := strings.Count(tr.log.String(), "has the same name"); n != 1 {
		t.Errorf("told %d times that two files have one name, want once: %s", n, tr.log.String())
	}
}

// TestShareLink names a symbolic link, which is followed, also to another file later.
func TestShareLink(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"v1": []byte("one"), "v2": []byte("two"), "current": nil}, "current")
	for _, v := range []string{"v1", "v2"} {
		os.Remove(tr.path("current"))
		if err := os.Symlink(v, tr.path("current")); err != nil {
			t.Skip(err)
		}
		if names, changed := tr.scan(); !changed || !slices.Equal(names, []string{"current"}) {
			t.Fatalf("shared %q, changed: %v", names, changed)
		}
		b, _ := chunks(t, tr.file("current"))
		if want, _ := os.ReadFile(tr.path(v)); !bytes.Equal(b, want) {
			t.Errorf("got %q, want %q", b, want)
		}
	}
}

func TestShareErrors(t *testing.T) {
	if _, err := New([]string{filepath.Join(t.TempDir(), "absent")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	tr := newFolder(t, map[string][]byte{"a": []byte("x")})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := tr.share.Scan(ctx, func([]File) { t.Error("called") }); err != cause {
		t.Errorf("got %v, want the cause", err)
	}
	if err := tr.share.Run(ctx, nil, func([]File) { t.Error("called") }); err != cause {
		t.Errorf("got %v, want the cause", err)
	}
}

// TestChanges changes a file in all ways. What was indexed before must then be right
// or lacking, and what is indexed then is what is there.
func TestChanges(t *testing.T) {
	old := noise(1, 1<<20)
	patched := bytes.Clone(old)
	copy(patched[500000:], "patched")
	for _, tt := range []struct {
		name   string
		change func(tr *folder) []byte // returns what is there then; nil if the file is not
		keeps  bool                    // some of what was indexed before
	}{
		{"replaced", func(tr *folder) []byte {
			b := noise(2, 1<<20)
			tr.write("new", b)
			os.Rename(tr.path("new"), tr.path("f"))
			return b
		}, false},
		{"patched in place", func(tr *folder) []byte {
			tr.write("f", patched)
			return patched
		}, true},
		{"cut off", func(tr *folder) []byte {
			os.Truncate(tr.path("f"), 400000)
			return old[:400000]
		}, true},
		{"longer", func(tr *folder) []byte {
			b := append(bytes.Clone(old), noise(3, 1000)...)
			tr.write("f", b)
			return b
		}, true},
		{"removed", func(tr *folder) []byte { os.Remove(tr.path("f")); return nil }, false},
		{"a directory", func(tr *folder) []byte {
			os.Remove(tr.path("f"))
			tr.write("f/g", []byte("x"))
			return nil
		}, false},
		{"a link out of it", func(tr *folder) []byte {
			outside := filepath.Join(tr.t.TempDir(), "outside")
			os.WriteFile(outside, old, 0o666)
			os.Remove(tr.path("f"))
			os.Symlink(outside, tr.path("f"))
			return nil
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := newFolder(t, map[string][]byte{"f": old})
			tr.scan()
			before := tr.file("f")
			now := tt.change(tr)
			// The chunks of what was: right, or not there.
			_, lacks := chunks(t, before)
			if all := len(before.Index.Entries); tt.keeps == (lacks == all) {
				t.Errorf("%d of %d chunks are not there any more", lacks, all)
			}
			_, changed := tr.scan()
			if !changed {
				t.Fatal("not noticed")
			}
			if now == nil {
				if slices.ContainsFunc(tr.files, func(f File) bool { return f.Name == "f" }) {
					t.Error("still shared")
				}
				return
			}
			f := tr.file("f")
			if f.Version <= before.Version || f.Root == before.Root {
				t.Errorf("version %d after %d, root %v after %v", f.Version, before.Version, f.Root, before.Root)
			}
			if b, lacks := chunks(t, f); lacks > 0 || !bytes.Equal(b, now) {
				t.Errorf("%d chunks missing, or wrong", lacks)
			}
		})
	}
}

// TestOlder replaces a file by one that is older, which is a new version all the same,
// and so is a file that was removed and comes back.
func TestOlder(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"f": []byte("new")})
	tr.scan()
	last := tr.file("f").Version
	for _, text := range []string{"older", "old"} {
		os.Remove(tr.path("f"))
		if text == "old" {
			tr.scan()
		}
		tr.write("f", []byte(text))
		past := time.Now().Add(-time.Hour)
		if err := os.Chtimes(tr.path("f"), past, past); err != nil {
			t.Fatal(err)
		}
		tr.scan()
		if v := tr.file("f").Version; v <= last {
			t.Errorf("%s: version %d after %d", text, v, last)
		} else {
			last = v
		}
	}
}

// TestUnnoticed changes a file so that neither size nor times tell. Then the first
// chunk that is asked for does.
func TestUnnoticed(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"f": noise(1, 1<<20)})
	tr.scan()
	before := tr.file("f")
	fi, err := os.Stat(tr.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	b := noise(2, 1<<20)
	tr.write("f", b)
	if err := os.Chtimes(tr.path("f"), fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if fi, err = os.Stat(tr.path("f")); err != nil {
		t.Fatal(err)
	}
	tr.share.files["f"].state = stateOf(fi) // a clock that is not fine enough
	if _, changed := tr.scan(); changed {
		t.Fatal("noticed, which this test is not about")
	}
	ctx, cancel := context.WithCancel(t.Context())
	tr.share.o.Every = time.Hour
	got := make(chan []File, 1)
	ended := make(chan error, 1)
	go func() { ended <- tr.share.Run(ctx, nil, func(f []File) { got <- f }) }()
	if _, lacks := chunks(t, before); lacks != len(before.Index.Entries) {
		t.Errorf("%d of %d chunks lack", lacks, len(before.Index.Entries))
	}
	select {
	case tr.files = <-got:
	case <-time.After(20 * time.Second):
		t.Fatal("not noticed")
	}
	if now, _ := chunks(t, tr.file("f")); !bytes.Equal(now, b) {
		t.Error("wrong bytes")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestEqualFiles has two equal files: one is enough to have the chunks.
func TestEqualFiles(t *testing.T) {
	b := noise(1, 1<<20)
	tr := newFolder(t, map[string][]byte{"f": b, "g": b})
	tr.scan()
	f := tr.file("f")
	if f.Index != tr.file("g").Index {
		t.Error("two indexes")
	}
	for _, name := range []string{"f", "g"} {
		os.Remove(tr.path(name))
		if name == "g" {
			tr.write("f", b)
		}
		if _, changed := tr.scan(); !changed {
			t.Error("not noticed")
		}
		if got, lacks := chunks(t, f); lacks > 0 || !bytes.Equal(got, b) {
			t.Errorf("%d chunks missing, or wrong", lacks)
		}
	}
}

// TestGrowing indexes a file that is written all the time: it is not shared before it
// rests.
func TestGrowing(t *testing.T) {
	tr := newFolder(t, map[string][]byte{"f": noise(1, 32<<20)})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(tr.path("f"), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for {
			select {
			case <-stop:
				return
			default:
				f.Write([]byte("more"))
			}
		}
	}()
	time.Sleep(10 * time.Millisecond)
	if names, _ := tr.scan(); len(names) > 0 {
		t.Errorf("shared %q", names)
	}
	tr.scan()
	close(stop)
	<-done
	if n := strings.Count(tr.log.String(), errBusy.Error()); n != 1 {
		t.Errorf("told %d times, want once: %s", n, tr.log.String())
	}
	tr.share.files["f"].retry = time.Time{}
	if names, _ := tr.scan(); len(names) != 1 {
		t.Fatalf("shared %q", names)
	}
	want, _ := os.ReadFile(tr.path("f"))
	if b, _ := chunks(t, tr.file("f")); !bytes.Equal(b, want) {
		t.Error("wrong bytes")
	}
}

// TestMany adds and removes files at random.
func TestMany(t *testing.T) {
	tr := newFolder(t, nil)
	r := rand.New(rand.NewPCG(1, 1))
	have := map[string][]byte{}
	for range 30 {
		for range 5 {
			name := fmt.Sprintf("%d/%d", r.IntN(3), r.IntN(10))
			if r.IntN(3) == 0 {
				os.Remove(tr.path(name))
				delete(have, name)
				continue
			}
			b := noise(byte(r.IntN(20)), r.IntN(100000))
			tr.write(name, b)
			have[name] = b
		}
		tr.scan()
		if len(tr.files) != len(have) {
			t.Fatalf("%d files, want %d", len(tr.files), len(have))
		}
		for _, f := range tr.files {
			if b, _ := chunks(t, f); !bytes.Equal(b, have[f.Name]) {
				t.Fatalf("%s: wrong", f.Name)
			}
		}
	}
	roots := map[chunker.ID]bool{}
	for _, f := range tr.files {
		roots[f.Root] = true
	}
	if len(tr.share.contents) != len(roots) {
		t.Errorf("%d contents are kept, want %d", len(tr.share.contents), len(roots))
	}
}

// TestRoot sees that the index is the one that others make of the same bytes.
func TestRoot(t *testing.T) {
	b := noise(1, 1<<20)
	tr := newFolder(t, map[string][]byte{"f": b})
	tr.scan()
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
	r := chunker.NewReader(bytes.NewReader(b), x.Params)
	for at := int64(0); ; {
		c, err := r.Next()
		if err != nil {
			break
		}
		at += int64(len(c))
		x.Entries = append(x.Entries, index.Entry{End: at, ID: chunker.BLAKE3.Sum(c)})
	}
	if got := tr.file("f").Root; got != x.Root() {
		t.Errorf("got root %v, want %v", got, x.Root())
	}
}
