package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testneed"
)

// command runs a program and fails the test if it does.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testneed.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop returns a block device of size bytes until the test ends.
func loop(t testing.TB, size int64) string {
	t.Helper()
	testneed.Root(t)
	testneed.Tool(t, "losetup")
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		testneed.Missing(t, "needs loop devices: %v", err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	dev := command(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { command(t, "losetup", "--detach", dev) })
	return dev
}

// mounted returns an empty file system of that type until the test ends.
func mounted(t testing.TB, fstype string) string {
	t.Helper()
	mkfs := testneed.Tool(t, "mkfs."+fstype)
	dev := loop(t, 512*mib)
	quiet := map[string][]string{"xfs": {"-q"}, "btrfs": {"-q"}, "ext4": {"-q", "-F"}}[fstype]
	command(t, mkfs, append(quiet, dev)...)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev, dir, fstype, 0, ""); err != nil {
		testneed.Missing(t, "needs %s in the kernel: mount: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// stored returns how many bytes a file takes on disk.
func stored(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

// sharedBytes returns how many bytes of a file share their storage with others,
// as FIEMAP tells.
func sharedBytes(t testing.TB, path string) (shared int64) {
	t.Helper()
	const (
		fiemap     = 0xc020660b // FS_IOC_FIEMAP
		syncFirst  = 1          // FIEMAP_FLAG_SYNC
		lastExtent = 1          // FIEMAP_EXTENT_LAST
		isShared   = 0x2000     // FIEMAP_EXTENT_SHARED
	)
	type extent struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
	var m struct {
		start, length                 uint64
		flags, mapped, count, reserve uint32
		extents                       [128]extent
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for last := false; !last; {
		m.length, m.flags, m.count = 1<<62, syncFirst, uint32(len(m.extents))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&m))); errno != 0 {
			t.Fatalf("FIEMAP: %v", errno)
		}
		last = m.mapped == 0
		for _, e := range m.extents[:m.mapped] {
			if e.flags&isShared != 0 {
				shared += int64(e.length)
			}
			last = e.flags&lastExtent != 0
			m.start = e.logical + e.length
		}
	}
	return shared
}

// Holes stay holes, and zeros become holes, in chunks of zeros as in chunks that
// hold some.
func TestSparse(t *testing.T) {
	const hole = 3*mib + 1234
	data := noise(1, 100*kib)
	content := slices.Concat(data, make([]byte, hole), data[:5], make([]byte, 20*kib), data[:50*kib], make([]byte, hole))
	full := bytes.Repeat([]byte("x"), len(content))
	most := int64(2*len(data)) + 256*kib // and what the file system needs for itself
	for _, p := range []chunker.Params{small, chunker.DefaultParams} {
		x := indexOf(t, content, p)
		for _, tt := range []struct {
			name    string
			old     []byte
			seed    bool
			inPlace bool
		}{
			{"fresh", nil, false, false},
			{"seed", nil, true, false},
			{"replaced", full, false, false},
			{"in place over data", full, false, true},
			{"in place over a short file", full[:1000], false, true},
			{"in place over a long file", slices.Concat(full, full), false, true},
		} {
			dir := t.TempDir()
			path := filepath.Join(dir, "dest")
			if tt.old != nil {
				write(t, dir, "dest", tt.old)
			}
			o := FileOptions{InPlace: tt.inPlace}
			if tt.seed {
				o.Seeds = []Seed{seed(t, dir, content, nil)}
			}
			stats, err := File(t.Context(), x, path, sourceOf(x, content), o)
			if err != nil {
				t.Fatal(err)
			}
			holds(t, path, content)
			whole(t, stats, x)
			if got := stored(t, path); got > most {
				t.Errorf("%v, %s: the file takes %d bytes of disk, want no more than %d", p, tt.name, got, most)
			}
			if stats.By[Zero].Bytes < hole && p == chunker.DefaultParams {
				t.Errorf("%v, %s: got %+v, want the hole to be zeros", p, tt.name, stats)
			}
		}
	}
}

// bytesRead returns how many bytes this process has read by system calls.
func bytesRead(t testing.TB) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		testneed.Missing(t, "needs /proc/self/io: %v", err)
	}
	if _, err := fmt.Sscanf(string(b), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Where everything has moved, planning reads the destination once.
func TestPlanReadsOnce(t *testing.T) {
	old := noise(1, 24*mib)
	for _, tt := range []struct {
		name string
		new  []byte
	}{
		{"the same", old},
		{"shifted", slices.Concat(noise(2, 100), old)},
		{"swapped halves", slices.Concat(old[len(old)/2:], old[:len(old)/2])},
		{"something else", noise(3, len(old))},
	} {
		x := indexOf(t, tt.new, chunker.DefaultParams)
		f := open(t, write(t, t.TempDir(), "dest", old))
		before := bytesRead(t)
		if _, err := NewPlan(t.Context(), x, &PlanOptions{Dest: &Dest{File: f, Size: int64(len(old))}}); err != nil {
			t.Fatal(err)
		}
		got := bytesRead(t) - before
		most := int64(len(old)) * 5 / 4
		if tt.name == "something else" {
			most *= 2 // nothing tells that it is not where the cuts do not show it
		}
		if got > most {
			t.Errorf("%s: read %d bytes of a destination of %d, want no more than %d", tt.name, got, len(old), most)
		}
	}
}

func TestDevice(t *testing.T) {
	const size = 8 * mib
	dev := loop(t, size)
	behind := noise(9, mib)
	r := rand.New(rand.NewSource(1))
	old := noise(1, size-len(behind))
	for n, how := range []func() []byte{
		func() []byte { return old },
		func() []byte { return slices.Concat(noise(2, 77), old[:len(old)-77]) }, // all shifts
		func() []byte { return slices.Concat(old[len(old)/2:], old[:len(old)/2]) },
		func() []byte { b := slices.Clone(old); clear(b[mib+123 : 5*mib+77]); return b },
		func() []byte { return old[:3*mib+5] },
		func() []byte { return noise(3, 3*mib+5) },
		func() []byte { return nil },
	} {
		new := how()
		if err := errors.Join(overwrite(dev, 0, old), overwrite(dev, int64(len(old)), behind)); err != nil {
			t.Fatal(err)
		}
		w := newWork(t, r, old, new, chunker.DefaultParams)
		w.o.Planned = func(p *Plan) {
			if n < 4 && p.Totals().Missing.Chunks > 8 {
				t.Errorf("%d: planned to fetch %d chunks, want next to none", n, p.Totals().Missing.Chunks)
			}
		}
		w.o.Planning = func(_, total int64) {
			if total > int64(len(new)) {
				t.Errorf("%d: planning looks at %d bytes, want those of the content, %d", n, total, len(new))
			}
		}
		_, stats, err := w.file(t.Context(), dev)
		if err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		whole(t, stats, w.newX)
		got, err := os.ReadFile(dev)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "device", got[:len(new)], new)
		same(t, "behind the content", got[len(new):], slices.Concat(old, behind)[len(new):])
	}
}

func TestDeviceTooSmall(t *testing.T) {
	dev := loop(t, mib)
	content := noise(1, mib+1)
	x := indexOf(t, content, chunker.DefaultParams)
	before, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = File(t.Context(), x, dev, sourceOf(x, content), FileOptions{})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(mib)) || !strings.Contains(err.Error(), fmt.Sprint(mib+1)) {
		t.Errorf("got error %v, want one with both sizes", err)
	}
	holds(t, dev, before)
}

func TestDeviceInUse(t *testing.T) {
	content := noise(1, mib)
	x := indexOf(t, content, chunker.DefaultParams)
	src := sourceOf(x, content)
	t.Run("mounted", func(t *testing.T) {
		dir := mounted(t, "ext4")
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		dev := ""
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); f[1] == dir {
				dev = f[0]
			}
		}
		_, err = File(t.Context(), x, dev, src, FileOptions{})
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "--force") || !strings.Contains(err.Error(), dev) {
			t.Errorf("got error %v, want one that names %s and --force", err, dev)
		}
		if _, err := File(t.Context(), x, dev, src, FileOptions{DryRun: true}); err != nil {
			t.Errorf("dry run: %v", err)
		}
	})
	t.Run("forced", func(t *testing.T) {
		dev := loop(t, 2*mib)
		f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := File(t.Context(), x, dev, src, FileOptions{}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("got error %v, want %v", err, unix.EBUSY)
		}
		if _, err := File(t.Context(), x, dev, src, FileOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dev)
		if err != nil {
			t.Fatal(err)
		}
		same(t, dev, got[:len(content)], content)
	})
}

// A device is made zero without writing the zeros, wherever they begin.
func TestDeviceZeros(t *testing.T) {
	dev := loop(t, 4*mib)
	full := bytes.Repeat([]byte("x"), 4*mib)
	for _, s := range []span{{0, 4 * mib}, {1, mib}, {4096, mib + 1}, {100, 200}, {4000, 5000}, {4095, 3 * 4096}, {513, 4*mib - 1}, {5, 5}} {
		if err := overwrite(dev, 0, full); err != nil {
			t.Fatal(err)
		}
		r := &runner{dst: Target{File: open(t, dev), Fixed: true}}
		if err := r.makeZero(s.from, s.to); err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(full)
		clear(want[s.from:s.to])
		got, err := os.ReadFile(dev)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint(s), got, want)
		if r.noPunch.Load() {
			t.Errorf("%v: the zeros were written", s)
		}
	}
}

var reflinking = []string{"btrfs", "xfs"}

// Seeds share their storage with the destination as far as whole blocks go.
func TestReflink(t *testing.T) {
	for _, fstype := range reflinking {
		t.Run(fstype, func(t *testing.T) {
			dir := mounted(t, fstype)
			old := slices.Concat(noise(1, 20*mib), make([]byte, 3*mib), noise(2, mib+100))
			oldX := indexOf(t, old, chunker.DefaultParams)
			const block = 4096
			const hole = 256 * kib // of a chunk with data too, which counts as shared with that
			for _, tt := range []struct {
				name  string
				new   []byte
				least int64 // bytes that are shared
				most  int64
			}{
				{"the same", old, 21*mib - 32*kib, 21*mib + hole},
				{"an edit in the middle", slices.Concat(old[:10*mib], noise(3, 1000), old[10*mib+1000:]), 20 * mib, 21*mib + hole},
				{"blocks inserted", slices.Concat(noise(3, 10*block), old), 20 * mib, 21*mib + hole},
				{"halves swapped by blocks", slices.Concat(old[10*mib:20*mib], old[:10*mib]), 19 * mib, 20 * mib},
				{"a byte inserted", slices.Concat([]byte("x"), old), 0, 0},
				{"something else", noise(4, 5*mib), 0, 0},
			} {
				x := indexOf(t, tt.new, chunker.DefaultParams)
				for _, withIndex := range []bool{false, true} {
					for _, way := range []string{"fresh", "replace", "in place", "no reflink"} {
						if withIndex && way != "fresh" || testing.Short() && way == "replace" {
							continue
						}
						what := fmt.Sprintf("%s, index %v, %s", tt.name, withIndex, way)
						dest, seedName := filepath.Join(dir, "dest"), filepath.Join(dir, "seed")
						os.Remove(dest)
						write(t, dir, "seed", old)
						f := open(t, seedName)
						s := Seed{File: f, Size: int64(len(old))}
						if withIndex {
							s.Index = encoded(t, oldX)
						}
						if way != "fresh" {
							write(t, dir, "dest", noise(5, 10*mib))
						}
						o := FileOptions{Seeds: []Seed{s}, InPlace: way == "in place", NoSync: true}
						o.NoReflink = way == "no reflink"
						stats, err := File(t.Context(), x, dest, sourceOf(x, tt.new), o)
						if err != nil {
							t.Fatalf("%s: %v", what, err)
						}
						holds(t, dest, tt.new)
						whole(t, stats, x)
						least, most := tt.least, tt.most
						if o.NoReflink {
							least, most = 0, 0
						}
						if stats.Cloned < least || stats.Cloned > most {
							t.Errorf("%s: Cloned = %d, want %d to %d", what, stats.Cloned, least, most)
						}
						if got := sharedBytes(t, dest); got < stats.Cloned-hole || got > stats.Cloned {
							t.Errorf("%s: %d bytes of the file are shared, want about %d", what, got, stats.Cloned)
						}
						if stats.By[Zero].Bytes > 0 && way == "fresh" {
							if got, most := stored(t, dest), int64(len(tt.new))-2*mib; got > most {
								t.Errorf("%s: the file takes %d bytes of disk, want the hole to stay, so %d at most", what, got, most)
							}
						}
						f.Close()
					}
				}
			}
		})
	}
}

// What a seed shares is verified where it has come to lie. If it is wrong, its
// bytes must not shine through where the right chunk has zeros, which a fresh
// file gets for nothing.
func TestReflinkChangedSeed(t *testing.T) {
	// Noise around zeros of some blocks: no chunk is all zero.
	var content []byte
	for i := range 64 {
		content = append(content, noise(int64(i), 20*kib+i)...)
		content = append(content, make([]byte, 20*kib)...)
	}
	x := indexOf(t, content, chunker.DefaultParams)
	for _, fstype := range reflinking {
		t.Run(fstype, func(t *testing.T) {
			dir := mounted(t, fstype)
			for _, tt := range []struct {
				name   string
				change func(path string) error
			}{
				{"all of it", func(path string) error { return overwrite(path, 0, bytes.Repeat([]byte("x"), len(content))) }},
				{"some of it", func(path string) error { return overwrite(path, mib, bytes.Repeat([]byte("x"), mib)) }},
				{"a block here and there", func(path string) (err error) {
					for off := 25 * kib; off < len(content); off += 40 * kib {
						err = errors.Join(err, overwrite(path, int64(off), bytes.Repeat([]byte("x"), 4*kib)))
					}
					return err
				}},
				{"cut short", func(path string) error { return os.Truncate(path, mib) }},
			} {
				for _, way := range []string{"fresh", "in place"} {
					dest := filepath.Join(dir, "dest")
					os.Remove(dest)
					if way == "in place" {
						write(t, dir, "dest", bytes.Repeat([]byte("y"), len(content)))
					}
					path := write(t, dir, "seed", content)
					s := Seed{File: open(t, path), Size: int64(len(content))}
					stats, err := File(t.Context(), x, dest, sourceOf(x, content), FileOptions{
						Seeds: []Seed{s}, InPlace: way == "in place", NoSync: true,
						Planned: func(*Plan) {
							if err := tt.change(path); err != nil {
								t.Fatal(err)
							}
						},
					})
					if err != nil {
						t.Fatal(err)
					}
					holds(t, dest, content)
					whole(t, stats, x)
					if stats.Changed == 0 || stats.Fetched.Chunks != stats.Changed {
						t.Errorf("%s, %s: got %+v, want as many chunks fetched as changed", tt.name, way, stats)
					}
				}
			}
		})
	}
}

// The property test once more, where storage is shared.
func TestReflinkAssemble(t *testing.T) {
	for _, fstype := range reflinking {
		t.Run(fstype, func(t *testing.T) {
			dir := mounted(t, fstype)
			seeds := 6
			if testing.Short() {
				seeds = 1
			}
			for n := range seeds {
				r := rand.New(rand.NewSource(int64(n)))
				old := version(r, 4*mib)
				new, how := edited(r, old)
				if n%2 == 0 { // blocks that stay aligned
					at := r.Intn(len(old)/4096) * 4096
					new, how = slices.Concat(old[at:], noise(7, 8192), old[:at], noise(8, 8192)), "rotated by blocks"
				}
				for _, way := range ways {
					sub, err := os.MkdirTemp(dir, "")
					if err != nil {
						t.Fatal(err)
					}
					w := newWork(t, r, old, new, chunker.Params{Min: 1 * kib, Avg: 4 * kib, Max: 16 * kib})
					path, stats, err := way.run(t, t.Context(), sub, w)
					if err != nil {
						t.Fatalf("%s, %s: %v", how, way.name, err)
					}
					holds(t, path, new)
					leftovers(t, sub)
					whole(t, stats, w.newX)
				}
			}
		})
	}
}

// An image of 4 GiB of zeros costs next to nothing, nor does a seed with as many:
// desync takes 17 s and 4.2 GB for it.
func TestReflinkZeros(t *testing.T) {
	const size = 4 * gib
	zero := make([]byte, chunker.DefaultParams.Max)
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.SHA512256), Params: chunker.DefaultParams}}
	id := x.Digest().Sum(zero)
	for end := int64(len(zero)); end <= size; end += int64(len(zero)) {
		x.Entries = append(x.Entries, index.Entry{End: end, ID: id})
	}
	for _, fstype := range append(slices.Clone(reflinking), "ext4") {
		t.Run(fstype, func(t *testing.T) {
			dir := mounted(t, fstype)
			dest := filepath.Join(dir, "dest")
			hole := write(t, dir, "hole", nil)
			if err := os.Truncate(hole, size); err != nil {
				t.Fatal(err)
			}
			s := Seed{File: open(t, hole), Size: size, Index: encoded(t, x)}
			start := time.Now()
			for _, tt := range []struct {
				name string
				o    FileOptions
			}{
				{"fresh", FileOptions{}},
				{"again", FileOptions{}},
				{"in place", FileOptions{InPlace: true}},
				{"fresh, seed with index", FileOptions{Seeds: []Seed{s}}},
				{"fresh, seed", FileOptions{Seeds: []Seed{{File: s.File, Size: s.Size}}}},
			} {
				if strings.HasPrefix(tt.name, "fresh") {
					os.Remove(dest)
				}
				stats, err := File(t.Context(), x, dest, nil, tt.o)
				if err != nil {
					t.Fatal(err)
				}
				whole(t, stats, x)
				if fi, err := os.Stat(dest); err != nil || fi.Size() != size {
					t.Errorf("%s: got %v, %v, want %d bytes", tt.name, fi, err, int64(size))
				}
				if got := stored(t, dest); got > 64*kib {
					t.Errorf("%s: the file takes %d bytes of disk, want next to none", tt.name, got)
				}
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v, want next to nothing", d)
			}
		})
	}
}

// Many equal chunks are planned and written in linear time, with sharing and
// without: desync compares each with each.
func TestManyEqualChunks(t *testing.T) {
	count := 200_000
	if testing.Short() {
		count = 20_000
	}
	block := noise(1, 64)
	p := chunker.Params{Min: len(block), Avg: len(block), Max: len(block)}
	content := bytes.Repeat(block, count)
	x := indexOf(t, content, p)
	dirs := map[string]func(t *testing.T) string{"temp": func(t *testing.T) string { return t.TempDir() }}
	for _, fstype := range reflinking {
		dirs[fstype] = func(t *testing.T) string { return mounted(t, fstype) }
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			dir := dir(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := seed(t, dir, content, nil)
			defer s.File.(*os.File).Close()
			for _, tt := range []struct {
				name string
				dest []byte
				o    FileOptions
			}{
				{"seed", nil, FileOptions{Seeds: []Seed{s}}},
				{"seed with index", nil, FileOptions{Seeds: []Seed{{File: s.File, Size: s.Size, Index: encoded(t, x)}}}},
				{"in place, shifted", append([]byte("x"), content...), FileOptions{InPlace: true}},
				{"in place, one there", block, FileOptions{InPlace: true}},
				{"in place, half of them there", append(noise(2, len(content)/2), content...), FileOptions{InPlace: true}},
			} {
				dest := filepath.Join(dir, "dest")
				os.Remove(dest)
				if tt.dest != nil {
					write(t, dir, "dest", tt.dest)
				}
				tt.o.NoSync = true
				stats, err := File(ctx, x, dest, sourceOf(x, content), tt.o)
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
				holds(t, dest, content)
				whole(t, stats, x)
			}
		})
	}
}
