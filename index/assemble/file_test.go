package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// Ready is called when the content is whole and before it replaces a file, which it can
// prevent.
func TestReady(t *testing.T) {
	old, new := noise(1, 50*kib), noise(2, 60*kib)
	x := indexOf(t, new, small)
	for _, inPlace := range []bool{false, true} {
		for _, want := range []error{nil, errStop} {
			dir := t.TempDir()
			path := write(t, dir, "dest", old)
			calls := 0
			o := FileOptions{InPlace: inPlace, Ready: func() error {
				calls++
				if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, map[bool][]byte{false: old, true: new}[inPlace]) {
					t.Errorf("in place %v: the file is not what it should be yet", inPlace)
				}
				return want
			}}
			if _, err := File(t.Context(), x, path, sourceOf(x, new), o); err != want || calls != 1 {
				t.Errorf("in place %v: %d calls, error %v, want %v", inPlace, calls, err, want)
			}
			if b, err := os.ReadFile(path); err != nil || bytes.Equal(b, old) != (want != nil && !inPlace) {
				t.Errorf("in place %v, %v: the old file is there, or not", inPlace, want)
			}
		}
	}
}

// A destination that is right is not touched, and not a byte is asked for.
func TestUnchanged(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content []byte
	}{
		{"noise", noise(1, 100*kib)},
		{"with zeros", slices.Concat(noise(1, 10*kib), make([]byte, 100*kib), noise(2, 10*kib))},
		{"zeros", make([]byte, 100*kib)},
		{"zeros, whole chunks", make([]byte, 64*small.Max)},
		{"empty", nil},
	} {
		for _, inPlace := range []bool{false, true} {
			for _, explicit := range []bool{false, true} { // zeros are stored, not holes
				t.Run(fmt.Sprintf("%s/in place %v/explicit %v", tt.name, inPlace, explicit), func(t *testing.T) {
					dir := t.TempDir()
					path := write(t, dir, "dest", tt.content)
					if explicit {
						if err := os.WriteFile(path, tt.content, 0o666); err != nil {
							t.Fatal(err)
						}
					}
					past := time.Now().Add(-time.Hour)
					if err := os.Chtimes(path, past, past); err != nil {
						t.Fatal(err)
					}
					before := stampOf(t, path)
					x := indexOf(t, tt.content, small)
					var plan Totals
					o := FileOptions{InPlace: inPlace, Planned: func(p *Plan) { plan = p.Totals() }}
					stats, err := File(t.Context(), x, path, nil, o)
					if err != nil {
						t.Fatal(err)
					}
					before.untouched(t, path)
					leftovers(t, dir)
					want := Stats{}
					want.By[Keep] = Part{len(x.Entries), x.Size()}
					if stats != want || plan.By != want.By {
						t.Errorf("got %+v, planned %+v; want %+v", stats, plan, want)
					}
					plan = Totals{}
					o.DryRun = true
					if _, err := File(t.Context(), x, path, nil, o); err != nil || plan.By != want.By {
						t.Errorf("dry run: planned %+v, error %v; want %+v", plan, err, want)
					}
				})
			}
		}
	}
}

// A run that was killed left part of the content in the temporary file: only the
// rest is fetched.
func TestResume(t *testing.T) {
	content := noise(1, 200*kib)
	x := indexOf(t, content, small)
	n := len(x.Entries)
	half := content[:x.Start(n/2)]
	fromHalf := make([]byte, len(content))
	copy(fromHalf[x.Start(n/2):], content[x.Start(n/2):])
	scattered := make([]byte, len(content))
	kept := 0
	for i := range n {
		if i%3 == 0 {
			copy(scattered[x.Start(i):x.Entries[i].End], content[x.Start(i):])
			kept++
		}
	}
	for _, tt := range []struct {
		name  string
		left  []byte
		fetch int // chunks
	}{
		{"nothing", nil, n},
		{"front, short file", half, n - n/2},
		{"front and a torn chunk", content[:x.Start(n/2)+10], n - n/2},
		{"front, holes behind", slices.Concat(half, make([]byte, len(content)-len(half))), n - n/2},
		{"back", fromHalf, n / 2},
		{"scattered", scattered, n - kept},
		{"everything", content, 0},
		{"everything, and more behind", slices.Concat(content, noise(2, 30*kib)), 0},
		{"garbage", noise(3, 250*kib), n},
		{"garbage over holes", slices.Concat(make([]byte, 100*kib), noise(3, 10*kib), make([]byte, 200*kib)), n},
		{"shifted", slices.Concat([]byte("x"), content), 1},
	} {
		for _, old := range [][]byte{nil, []byte("old")} {
			t.Run(fmt.Sprintf("%s/old %q", tt.name, old), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "dest")
				if old != nil {
					write(t, dir, "dest", old)
				}
				write(t, dir, temporary("dest"), tt.left)
				stats, err := File(t.Context(), x, path, sourceOf(x, content), FileOptions{NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				holds(t, path, content)
				leftovers(t, dir)
				whole(t, stats, x)
				if stats.Fetched.Chunks != tt.fetch {
					t.Errorf("fetched %d chunks, want %d", stats.Fetched.Chunks, tt.fetch)
				}
			})
		}
	}
}

// A seed changes after it was looked through: that costs a fetch of what is gone.
func TestSeedChanges(t *testing.T) {
	content := slices.Concat(noise(1, 50*kib), make([]byte, 20*kib), noise(2, 50*kib), []byte("a"), make([]byte, 10*kib), []byte("z"))
	x := indexOf(t, content, small)
	var dir string
	var path string // of the seed
	for _, tt := range []struct {
		name   string
		change func() error
		all    bool // gone
	}{
		{"overwritten in the middle", func() error { return overwrite(path, 30*kib, noise(3, 5*kib)) }, false},
		{"cut short", func() error { return os.Truncate(path, 40*kib) }, false},
		{"emptied", func() error { return os.Truncate(path, 0) }, true},
		{"all zero", func() error {
			return errors.Join(os.Truncate(path, 0), os.Truncate(path, int64(len(content))))
		}, true},
		{"rewritten", func() error { return overwrite(path, 0, noise(4, len(content))) }, true},
	} {
		for _, withIndex := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/index %v", tt.name, withIndex), func(t *testing.T) {
				dir = t.TempDir()
				s := seed(t, dir, content, nil)
				path = s.File.(*os.File).Name()
				if withIndex {
					s.Index = encoded(t, x)
				}
				changed := false
				dest := filepath.Join(dir, "dest")
				src := sourceOf(x, content)
				stats, err := File(t.Context(), x, dest, src, FileOptions{NoSync: true, Seeds: []Seed{s}, Planned: func(p *Plan) {
					changed = true
					if n := p.Totals().Missing.Chunks; n != 0 {
						t.Errorf("planned to fetch %d chunks, want none", n)
					}
					if err := tt.change(); err != nil {
						t.Fatal(err)
					}
				}})
				if err != nil || !changed {
					t.Fatalf("got error %v, seed changed %v", err, changed)
				}
				holds(t, dest, content)
				whole(t, stats, x)
				if stats.Changed == 0 || stats.Changed != stats.Fetched.Chunks {
					t.Errorf("got %+v, want as many chunks fetched as changed", stats)
				}
				if stats.By[Copy].Chunks > 0 == tt.all {
					t.Errorf("got %+v, everything gone: %v", stats, tt.all)
				}

				// Without a store that is an error and no file.
				s.Index = nil
				if _, err := File(t.Context(), x, dest+"2", nil, FileOptions{NoSync: true, Seeds: []Seed{s}}); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("without a store: got error %v, want %v", err, fs.ErrNotExist)
				}
				if _, err := os.Stat(dest + "2"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("without a store: got %v, want no file", err)
				}
				leftovers(t, dir)
			})
		}
	}
}

func overwrite(path string, off int64, b []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	return errors.Join(err, f.Close())
}

// A seed's index is believed only as far as its bytes bear it out.
func TestSeedIndexLies(t *testing.T) {
	content, other := noise(1, 50*kib), noise(2, 80*kib)
	x := indexOf(t, content, small)
	for _, tt := range []struct {
		name  string
		seed  []byte
		index *index.Index
		fetch int
	}{
		{"index of something else", content, indexOf(t, other, small), len(x.Entries)},
		{"content of something else", other, x, len(x.Entries)},
		{"content shorter than the index", content[:x.Start(10)], x, len(x.Entries) - 10},
		{"no content", nil, x, len(x.Entries)},
		{"other chunk sizes: not used", content, indexOf(t, content, chunker.DefaultParams), 0},
	} {
		dir := t.TempDir()
		dest := filepath.Join(dir, "dest")
		stats, err := File(t.Context(), x, dest, sourceOf(x, content), FileOptions{NoSync: true, Seeds: []Seed{seed(t, dir, tt.seed, tt.index)}})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		holds(t, dest, content)
		whole(t, stats, x)
		if stats.Fetched.Chunks != tt.fetch {
			t.Errorf("%s: fetched %d chunks, want %d", tt.name, stats.Fetched.Chunks, tt.fetch)
		}

		p, err := NewPlan(t.Context(), x, &PlanOptions{Seeds: []Seed{seed(t, dir, tt.seed, tt.index)}})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		stats, err = p.Stream(t.Context(), &out, 0, -1, sourceOf(x, content), nil)
		if err != nil {
			t.Fatalf("%s, stream: %v", tt.name, err)
		}
		same(t, tt.name+", stream", out.Bytes(), content)
		whole(t, stats, x)
		if stats.Fetched.Chunks != tt.fetch {
			t.Errorf("%s, stream: fetched %d chunks, want %d", tt.name, stats.Fetched.Chunks, tt.fetch)
		}
	}
}

// A seed that cannot be read is passed over.
func TestSeedUnreadable(t *testing.T) {
	content := noise(1, 50*kib)
	x := indexOf(t, content, small)
	dir := t.TempDir()
	closed := seed(t, dir, content, nil)
	closed.File.(*os.File).Close()
	good := seed(t, dir, content, nil)
	dest := filepath.Join(dir, "dest")
	stats, err := File(t.Context(), x, dest, nil, FileOptions{NoSync: true, Seeds: []Seed{closed, good}})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, dest, content)
	whole(t, stats, x)
}

// The error about a missing chunk says where it is needed, and is one about a
// file that does not exist.
func TestMissing(t *testing.T) {
	content := noise(1, 64*256)
	x := indexOf(t, content, fixed)
	copy(content[20*256:], content[:256]) // entry 20 is the same as entry 0
	x = indexOf(t, content, fixed)
	for _, tt := range []struct {
		name   string
		dest   []byte
		lacks  int // entry
		src    func() store.Getter
		offset int64
	}{
		{"no store", nil, 0, func() store.Getter { return nil }, 0},
		{"no store, some kept", content[:10*256], 10, func() store.Getter { return nil }, 10 * 256},
		{"store lacks one", nil, 7, func() store.Getter { return sourceOf(x, content) }, 7 * 256},
	} {
		for _, inPlace := range []bool{false, true} {
			dir := t.TempDir()
			path := filepath.Join(dir, "dest")
			if tt.dest != nil {
				write(t, dir, "dest", tt.dest)
			}
			src := tt.src()
			if s, ok := src.(*source); ok {
				delete(s.chunks, x.Entries[tt.lacks].ID)
			}
			_, err := File(t.Context(), x, path, src, FileOptions{InPlace: inPlace, NoSync: true, Options: Options{Workers: 1}})
			me, ok := errors.AsType[*MissingError](err)
			if !ok || !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("%s: got error %v, want a MissingError that wraps %v", tt.name, err, fs.ErrNotExist)
			}
			if me.Offset != tt.offset {
				t.Errorf("%s: Offset = %d, want %d: %v", tt.name, me.Offset, tt.offset, err)
			}
			leftovers(t, dir)
		}
	}

	// A chunk that has a place where it is needed and one where it is not: kept
	// in the destination, and gone before it could be moved.
	path := write(t, t.TempDir(), "dest", content[:256])
	lone := &index.Index{Header: x.Header, Entries: []index.Entry{x.Entries[0], {End: 512, ID: x.Entries[0].ID}}}
	_, err := File(t.Context(), lone, path, nil, FileOptions{InPlace: true, NoSync: true, Planned: func(p *Plan) {
		if err := overwrite(path, 0, []byte("changed")); err != nil {
			t.Fatal(err)
		}
	}})
	if me, ok := errors.AsType[*MissingError](err); !ok || me.Offset != 256 {
		t.Errorf("got error %v, want a MissingError at offset 256", err)
	}
}

// Entries that give one chunk two lengths cannot be assembled: writing it by the
// one or by the other would spill into what is next to it, or leave a gap.
func TestLengthsDiffer(t *testing.T) {
	a, b := noise(1, 100), noise(2, 60)
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: small}}
	id, other := x.Digest().Sum(a), x.Digest().Sum(b)
	for _, entries := range [][]index.Entry{
		{{End: 100, ID: id}, {End: 160, ID: other}, {End: 210, ID: id}, {End: 270, ID: other}},
		{{End: 100, ID: id}, {End: 300, ID: id}, {End: 360, ID: other}},
	} {
		x.Entries = entries
		src := &source{chunks: map[chunker.ID][]byte{id: a, other: b}, got: map[chunker.ID]bool{}}
		dir := t.TempDir()
		path := filepath.Join(dir, "dest")
		if _, err := File(t.Context(), x, path, src, FileOptions{NoSync: true}); !errors.Is(err, index.ErrFormat) {
			t.Errorf("got error %v, want %v", err, index.ErrFormat)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("got files %q, want none", got)
		}
	}
}

// An entry with the wrong length is an error when its chunk comes.
func TestLengthWrong(t *testing.T) {
	a := noise(1, 100)
	for _, n := range []int64{60, 99, 101, 200} {
		x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: small}}
		x.Entries = []index.Entry{{End: n, ID: x.Digest().Sum(a)}}
		src := &source{chunks: map[chunker.ID][]byte{x.Entries[0].ID: a}, got: map[chunker.ID]bool{}}
		dir := t.TempDir()
		o := FileOptions{NoSync: true, Seeds: []Seed{seed(t, dir, a, nil), seed(t, dir, a, x)}}
		if _, err := File(t.Context(), x, filepath.Join(dir, "dest"), src, o); !errors.Is(err, index.ErrFormat) || errors.Is(err, store.ErrDamaged) {
			t.Errorf("entry of %d bytes: got error %v, want %v", n, err, index.ErrFormat)
		}
		p, err := NewPlan(t.Context(), x, &PlanOptions{Seeds: o.Seeds})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Stream(t.Context(), io.Discard, 0, -1, src, nil); !errors.Is(err, index.ErrFormat) || errors.Is(err, store.ErrDamaged) {
			t.Errorf("entry of %d bytes, stream: got error %v, want %v", n, err, index.ErrFormat)
		}
	}
}

func TestDryRun(t *testing.T) {
	old, new := noise(1, 50*kib), noise(2, 60*kib)
	x := indexOf(t, new, small)
	for _, inPlace := range []bool{false, true} {
		dir := t.TempDir()
		path := write(t, dir, "dest", old)
		before := stampOf(t, path)
		planned := 0
		o := FileOptions{InPlace: inPlace, DryRun: true, Planned: func(p *Plan) { planned = p.Totals().Missing.Chunks }}
		if _, err := File(t.Context(), x, path, nil, o); err != nil {
			t.Fatal(err)
		}
		if planned != len(x.Entries) {
			t.Errorf("planned to fetch %d chunks, want %d", planned, len(x.Entries))
		}
		before.untouched(t, path)
		leftovers(t, dir)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errStop)
		for _, path := range []string{path, filepath.Join(dir, "new")} {
			if _, err := File(ctx, x, path, nil, o); !errors.Is(err, errStop) {
				t.Errorf("cancelled: got error %v, want %v", err, errStop)
			}
		}
	}
}

func TestNotAFile(t *testing.T) {
	x := indexOf(t, noise(1, 5*kib), small)
	dir := t.TempDir()
	for _, path := range []string{dir, os.DevNull, filepath.Join(dir, "no", "such", "dir"), filepath.Join(write(t, dir, "file", nil), "below")} {
		before := names(t, dir)
		if _, err := File(t.Context(), x, path, nil, FileOptions{}); err == nil {
			t.Errorf("%s: got no error", path)
		}
		if got := names(t, dir); !slices.Equal(got, before) {
			t.Errorf("%s: got files %q, want %q", path, got, before)
		}
	}
}

// cancelling are the runs that TestCancel cancels.
var cancelling = []struct {
	name    string
	inPlace bool
	dest    func(w *work) []byte // nil: there is none
	seeds   bool
}{
	{"fresh", false, func(*work) []byte { return nil }, false},
	{"seed", false, func(*work) []byte { return nil }, true},
	{"replace", false, func(w *work) []byte { return w.old }, false},
	{"replace with seed", false, func(w *work) []byte { return w.part }, true},
	{"replace what is right", false, func(w *work) []byte { return w.new }, false},
	{"in place", true, func(w *work) []byte { return w.old }, false},
	{"in place over a part", true, func(w *work) []byte { return w.part }, true},
}

// steps are where a run can be cancelled. Each makes the options of a run call
// step.
var steps = []struct {
	name string
	set  func(w *work, step func())
}{
	{"Planning", func(w *work, step func()) { w.o.Planning = func(int64, int64) { step() } }},
	{"Planned", func(w *work, step func()) { w.o.Planned = func(*Plan) { step() } }},
	{"Progress", func(w *work, step func()) { w.o.Progress = func(Stats) { step() } }},
	{"Get", func(w *work, step func()) {
		w.src.(*source).fault = func(_ int, c store.Chunk) (store.Chunk, error) { step(); return c, nil }
	}},
}

// A run that is cancelled at any step ends with the cause, and what is to be
// replaced stays as it is: desync's extract exits with 0 and renames a file of
// holes over it (B1).
func TestCancel(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	old := slices.Concat(noise(1, 15*kib), make([]byte, 5*kib), noise(2, 5*kib))
	new := slices.Concat(noise(3, 300), old[:12*kib], make([]byte, 10*kib), noise(4, 10*kib), old[12*kib:])
	for _, c := range cancelling {
		for _, s := range steps {
			t.Run(c.name+"/"+s.name, func(t *testing.T) {
				// As often as a run without a cancel goes through the step.
				most := cancelOne(t, r, old, new, c.inPlace, c.dest, c.seeds, s.set, -1)
				every := 1
				if testing.Short() {
					every = max(1, most/10)
				}
				for k := 0; k <= most; k += every {
					cancelOne(t, r, old, new, c.inPlace, c.dest, c.seeds, s.set, k)
				}
			})
		}
	}
}

// cancelOne cancels a run at step k, 0 being before it begins, and returns how
// many steps there were.
func cancelOne(t *testing.T, r *rand.Rand, old, new []byte, inPlace bool, dest func(*work) []byte, seeds bool, set func(*work, func()), k int) (n int) {
	t.Helper()
	dir := t.TempDir()
	w := newWork(t, r, old, new, small)
	w.o.InPlace = inPlace
	path := filepath.Join(dir, "dest")
	var before stamp
	b := dest(w)
	if b != nil {
		write(t, dir, "dest", b)
		before = stampOf(t, path)
	}
	if seeds {
		w.o.Seeds = []Seed{seed(t, dir, w.old, nil)}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if k == 0 {
		cancel(errStop)
	}
	steps := make(chan struct{}, 1<<16) // counts; steps of different kinds come from different goroutines
	set(w, func() {
		steps <- struct{}{}
		if len(steps) == k {
			cancel(errStop)
		}
	})
	_, _, err := w.file(ctx, path)
	if n = len(steps); k < 0 || k > n {
		if err != nil {
			t.Fatalf("not cancelled: %v", err)
		}
		holds(t, path, new)
		return n
	}
	if !errors.Is(err, errStop) {
		t.Fatalf("cancelled at step %d: got error %v, want %v", k, err, errStop)
	}
	leftovers(t, dir)
	switch {
	case inPlace: // a mixture, which the next run completes
		if _, err := File(t.Context(), w.newX, path, sourceOf(w.newX, new), FileOptions{InPlace: true, NoSync: true}); err != nil {
			t.Fatal(err)
		}
		holds(t, path, new)
	case b != nil:
		before.untouched(t, path)
	default:
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cancelled at step %d: got %v, want no file", k, err)
		}
	}
	return n
}

// A stream that is cancelled has got the front of the content and nothing else.
func TestCancelStream(t *testing.T) {
	content := slices.Concat(noise(1, 10*kib), make([]byte, 10*kib), noise(2, 10*kib))
	x := indexOf(t, content, small)
	p, err := NewPlan(t.Context(), x, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := 0; k <= len(x.Entries); k++ {
		for _, where := range []string{"Get", "Write", "Progress"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			if k == 0 {
				cancel(errStop)
			}
			stop := func(n int) {
				if n == k {
					cancel(errStop)
				}
			}
			src := sourceOf(x, content)
			var out output
			progress := 0
			o := &Options{}
			switch where {
			case "Get":
				if k > len(src.chunks)-1 { // zeros are not got
					cancel(nil)
					continue
				}
				src.fault = func(n int, c store.Chunk) (store.Chunk, error) { stop(n); return c, nil }
			case "Write":
				out.wrote = func(n int) error { stop(n); return nil }
			case "Progress":
				o.Progress = func(Stats) { progress++; stop(progress) }
			}
			_, err := p.Stream(ctx, &out, 0, -1, src, o)
			if !errors.Is(err, errStop) {
				t.Fatalf("%s, step %d: got error %v, want %v", where, k, err, errStop)
			}
			if !bytes.HasPrefix(content, out.Bytes()) {
				t.Fatalf("%s, step %d: got %d bytes that are not the front of the content", where, k, out.Len())
			}
			cancel(nil)
		}
	}
}

// output is a Writer that tells of each Write.
type output struct {
	bytes.Buffer
	n     int
	wrote func(n int) error
}

func (o *output) Write(b []byte) (int, error) {
	o.n++
	if o.wrote != nil {
		if err := o.wrote(o.n); err != nil {
			return 0, err
		}
	}
	return o.Buffer.Write(b)
}

func TestStreamWriteError(t *testing.T) {
	content := noise(1, 20*kib)
	x := indexOf(t, content, small)
	p, err := NewPlan(t.Context(), x, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= len(x.Entries); k++ {
		out := output{wrote: func(n int) error {
			if n == k {
				return errTest
			}
			return nil
		}}
		if _, err := p.Stream(t.Context(), &out, 0, -1, sourceOf(x, content), nil); !errors.Is(err, errTest) {
			t.Errorf("write %d fails: got error %v, want %v", k, err, errTest)
		}
	}
}
