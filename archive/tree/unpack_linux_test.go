package tree

import (
	"bytes"
	"context"

	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/testneed"
)

// unpack unpacks an archive, and checks that the problems are counted.
func unpack(t testing.TB, data []byte, dest string, o *UnpackOptions) (UnpackStats, []Problem) {
	t.Helper()
	stats, problems, err := tryUnpack(t, data, dest, o)
	if err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	return stats, problems
}

func tryUnpack(t testing.TB, data []byte, dest string, o *UnpackOptions) (UnpackStats, []Problem, error) {
	t.Helper()
	c := UnpackOptions{NoSync: true}
	if o != nil {
		c = *o
		c.NoSync = true
	}
	var problems []Problem
	c.Problem = func(p Problem) { problems = append(problems, p) }
	before := openFiles(t)
	stats, err := Unpack(t.Context(), archive.NewReader(bytes.NewReader(data)), dest, &c)
	if stats.Problems != len(problems) {
		t.Errorf("stats say %d problems, there were %d", stats.Problems, len(problems))
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d files are open, %d were before", n, before)
	}
	noTemps(t, dest)
	return stats, problems, err
}

// noTemps checks that no temporary file was left.
func noTemps(t testing.TB, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if isTemp(filepath.Base(path)) {
			t.Errorf("left: %s", path)
		}
		return nil
	})
}

// mutable removes what keeps a test's directory from being removed.
func mutable(t testing.TB, dir string) string {
	t.Helper()
	t.Cleanup(func() { exec.Command("chattr", "-R", "-i", "-a", dir).Run() })
	return dir
}

func archives(t testing.TB, pattern string, least int) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("../../testdata/casync", pattern))
	must(t, err)
	if len(names) < least {
		t.Fatalf("%s: %d files", pattern, len(names))
	}
	return names
}

func featuresOf(t testing.TB, data []byte) archive.Features {
	t.Helper()
	r := archive.NewReader(bytes.NewReader(data))
	_, err := r.Next()
	must(t, err)
	return r.Features()
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// TestUnpackVectors unpacks what casync has packed, twice, and packs it again.
func TestUnpackVectors(t *testing.T) {
	testneed.Root(t)
	testneed.Tool(t, "chattr")
	for _, name := range archives(t, "catar/*.catar", 30) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			data := read(t, name)
			dest := mutable(t, filepath.Join(t.TempDir(), "x"))
			f := featuresOf(t, data)
			for i, what := range []string{"fresh", "again"} {
				stats, problems := unpack(t, data, dest, nil)
				for _, p := range problems {
					// What this file system does not have.
					if !slices.Contains([]string{"project id", "subvolume", "read-only subvolume", "FAT attributes"}, p.What) {
						t.Errorf("%s: %v", what, &p)
					}
				}
				if i == 1 && stats.Kept != stats.Files {
					t.Errorf("%d of %d files were kept", stats.Kept, stats.Files)
				}
				if len(problems) > 0 {
					continue
				}
				got := packOnce(t, dest, f, nil)
				want := data
				equal(t, got, want)
			}
		})
	}
}

func packOnce(t testing.TB, dir string, f archive.Features, o *PackOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Pack(t.Context(), openRoot(t, dir), &b, f, o); err != nil {
		t.Fatalf("Pack: %v", err)
	}
	return b.Bytes()
}

// TestUnpackCasync unpacks what casync packs of real and odd trees now: packed
// again, by casync, it is the same.
func TestUnpackCasync(t *testing.T) {
	testneed.Root(t)
	testneed.Tool(t, "casync")
	for _, dir := range []string{"/etc", oddTree(t)} {
		t.Run(strings.ReplaceAll(dir, "/", "_"), func(t *testing.T) {
			data := casync(t, dir)
			dest := filepath.Join(t.TempDir(), "x")
			for range 2 {
				if _, problems := unpack(t, data, dest, nil); len(problems) > 0 {
					t.Errorf("problems: %v", problems)
				}
				equal(t, casync(t, dest), data)
			}
		})
	}
}

// TestUnpackBad unpacks archives made to do harm: nothing appears outside the
// destination, and all comes to an end.
func TestUnpackBad(t *testing.T) {
	for _, name := range archives(t, "bad/*.catar", 70) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			base := mutable(t, t.TempDir())
			_, _, err := tryUnpack(t, read(t, name), base+"/a/b", nil)
			if err == nil {
				t.Fatal("made though its parent is missing")
			}
			must(t, os.Mkdir(base+"/a", 0o755))
			start := time.Now()
			_, problems, err := tryUnpack(t, read(t, name), base+"/a/b", nil)
			t.Logf("%v, %d problems", err, len(problems))
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			for dir, want := range map[string]string{base: "a", base + "/a": "b"} {
				if got := list(t, dir); got != want {
					t.Errorf("in %s: %s", dir, got)
				}
			}
			if _, err := os.Stat("/tmp/pwned"); err == nil {
				t.Error("/tmp/pwned is there")
			}
			if strings.HasPrefix(filepath.Base(name), "ok-") && err != nil {
				t.Error(err)
			}
		})
	}
}

// list returns the names in a directory.
func list(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// sample makes a tree with some of everything that needs no privileges.
func sample(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sample")
	must(t, os.MkdirAll(dir+"/d/e/f", 0o755), os.MkdirAll(dir+"/empty", 0o700), os.MkdirAll(dir+"/closed/below", 0o755))
	for i := range 200 {
		name := fmt.Sprintf("%s/d/e/%d", dir, i)
		must(t, os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, i*37), 0o644))
	}
	large := make([]byte, 3<<20+77)
	rand.NewChaCha8([32]byte{1}).Read(large)
	clear(large[1<<20 : 2<<20])
	must(t, os.WriteFile(dir+"/large", large, 0o640), os.WriteFile(dir+"/d/zero", nil, 0o600), os.WriteFile(dir+"/d/x", []byte("x"), 0o755),
		os.WriteFile(dir+"/closed/below/f", []byte("f"), 0o600), unix.Setxattr(dir+"/closed/below/f", "user.f", []byte("f"), 0), os.Chmod(dir+"/closed/below/f", 0o400),
		os.Symlink("/etc/passwd", dir+"/link"), os.Symlink("..", dir+"/d/up"), unix.Mkfifo(dir+"/fifo", 0o620),
		os.WriteFile(dir+"/"+strings.Repeat("n", 255), []byte("long"), 0o644))
	must(t, unix.Setxattr(dir+"/d/x", "user.a", []byte("1"), 0), unix.Setxattr(dir+"/d", "user.dir", []byte("2"), 0))
	must(t, os.Chmod(dir+"/closed/below", 0o500), os.Chmod(dir+"/closed", 0))
	t.Cleanup(func() { os.Chmod(dir+"/closed", 0o700); os.Chmod(dir+"/closed/below", 0o700) })
	return dir
}

// change is a way in which what was unpacked from sample may change.
type change struct {
	name    string
	change  func(d string) error
	changed int  // files that are not kept; not looked at if there is an error
	delete  bool // it takes this
	err     string
}

// changes returns ways in which what was unpacked from sample may change; outside is a
// directory with a file f.
func changes(outside string) []change {
	return []change{
		{name: "nothing", change: func(string) error { return nil }},
		{name: "content", change: func(d string) error { return os.WriteFile(d+"/d/e/9", bytes.Repeat([]byte{1}, 9*37), 0) }, changed: 1},
		{name: "the last byte", change: func(d string) error { return writeAt(d+"/large", 3<<20+76) }, changed: 1},
		{name: "the first byte", change: func(d string) error { return writeAt(d+"/large", 0) }, changed: 1},
		{name: "in a hole", change: func(d string) error { return writeAt(d+"/large", 1<<20+5) }, changed: 1},
		{name: "longer", change: func(d string) error { return os.Truncate(d+"/large", 5<<20) }, changed: 1},
		{name: "shorter", change: func(d string) error { return os.Truncate(d+"/large", 1<<20) }, changed: 1},
		{name: "small longer", change: func(d string) error { return appendTo(d + "/d/x") }, changed: 1},
		{name: "mode", change: func(d string) error { return unix.Chmod(d+"/d/x", 0o4711) }},
		{name: "owner", change: func(d string) error { return os.Lchown(d+"/link", 7, 8) }},
		{name: "time", change: func(d string) error { return os.Chtimes(d+"/d/e", time.Now(), time.Now()) }},
		{name: "attributes", change: func(d string) error {
			return errors.Join(unix.Setxattr(d+"/d/x", "user.b", nil, 0), unix.Setxattr(d+"/d/x", "user.a", []byte("2"), 0),
				unix.Setxattr(d+"/d/zero", "trusted.z", nil, 0), unix.Removexattr(d+"/d", "user.dir"))
		}},
		{name: "capabilities", change: func(d string) error {
			return unix.Setxattr(d+"/d/x", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		}},
		{name: "gone", change: func(d string) error { return os.RemoveAll(d + "/d/e") }, changed: 200},
		{name: "another link", change: func(d string) error { return errors.Join(os.Remove(d+"/link"), os.Symlink("x", d+"/link")) }},
		{name: "file for link", change: func(d string) error { return errors.Join(os.Remove(d+"/link"), os.WriteFile(d+"/link", nil, 0o644)) }},
		{name: "link for file", change: func(d string) error { return errors.Join(os.Remove(d+"/d/x"), os.Symlink(outside+"/f", d+"/d/x")) }, changed: 1},
		{name: "fifo for file", change: func(d string) error { return errors.Join(os.Remove(d+"/d/x"), unix.Mkfifo(d+"/d/x", 0o644)) }, changed: 1},
		{name: "file for directory", change: func(d string) error { return errors.Join(os.Remove(d+"/empty"), os.WriteFile(d+"/empty", nil, 0o644)) }},
		{name: "link for directory", change: func(d string) error { return errors.Join(os.RemoveAll(d+"/d"), os.Symlink(outside, d+"/d")) }, changed: 202},
		{name: "directory for file", change: func(d string) error { return errors.Join(os.Remove(d+"/d/x"), os.MkdirAll(d+"/d/x/y/z", 0o755)) }, changed: 1, delete: true, err: "d/x: a directory"},
		{name: "directory for large file", change: func(d string) error { return errors.Join(os.Remove(d+"/large"), os.MkdirAll(d+"/large/y", 0)) }, changed: 1, delete: true, err: "large: a directory"},
		{name: "directory for link", change: func(d string) error { return errors.Join(os.Remove(d+"/d/up"), os.Mkdir(d+"/d/up", 0o755)) }, delete: true, err: "d/up: a directory"},
		{name: "another name", change: func(d string) error { return os.Link(d+"/d/x", outside+"/hard") }, changed: 1},
		{name: "more", change: func(d string) error {
			return errors.Join(os.MkdirAll(d+"/more/of/it", 0), os.WriteFile(d+"/d/e/more", nil, 0o644), os.Symlink(outside, d+"/closed/below/out"))
		}, delete: true},
		{name: "left by a killed run", change: func(d string) error {
			return errors.Join(os.Mkdir(d+"/d/"+tempName(), 0o755), os.WriteFile(d+"/"+tempName(), nil, 0o644))
		}},
		{name: "setgid and a default ACL", change: func(d string) error {
			return errors.Join(os.Remove(d+"/d/x"), os.RemoveAll(d+"/d/e"), os.Lchown(d+"/d", 3, 4), unix.Chmod(d+"/d", 0o2755), setDefaultACL(d+"/d"))
		}, changed: 201},
		{name: "attributes that are inherited", change: func(d string) error {
			return errors.Join(os.Remove(d+"/d/x"), os.RemoveAll(d+"/d/e"), setFlags(d+"/d", archive.FlagNoATime|archive.FlagSync))
		}, changed: 201},
		{name: "immutable", change: func(d string) error {
			return errors.Join(os.Chmod(d+"/d/e/5", 0), setFlags(d+"/d/e/5", archive.FlagImmutable), setFlags(d+"/d/e", archive.FlagAppend))
		}},
	}
}

// TestUnpackChanges changes what was unpacked in every way and unpacks again, which
// puts right what differs and touches nothing else.
func TestUnpackChanges(t *testing.T) {
	testneed.Root(t)
	src := sample(t)
	data := packOnce(t, src, defaultFeatures, nil)
	outside := filepath.Join(t.TempDir(), "outside")
	for _, tt := range changes(outside) {
		t.Run(tt.name, func(t *testing.T) {
			dest := mutable(t, filepath.Join(t.TempDir(), "x"))
			must(t, os.MkdirAll(outside, 0o755), os.WriteFile(outside+"/f", []byte("keep"), 0o600))
			t.Cleanup(func() { os.RemoveAll(outside) })
			unpack(t, data, dest, nil)
			inodes := inodesOf(t, dest)
			if err := tt.change(dest); errors.Is(err, errors.ErrUnsupported) {
				testneed.Missing(t, "needs the attributes of ext4: %v", err)
			} else {
				must(t, err)
			}
			var stats UnpackStats
			for i, o := range []*UnpackOptions{{}, {Delete: true}} {
				if tt.delete && !o.Delete {
					_, _, err := tryUnpack(t, data, dest, o)
					if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
						t.Errorf("without delete: got %v", err)
					}
					continue
				}
				s, problems := unpack(t, data, dest, o)
				if len(problems) > 0 {
					t.Errorf("problems: %v", problems)
				}
				if i == 0 || tt.delete {
					stats = s
				}
				equal(t, packOnce(t, dest, defaultFeatures, nil), data)
			}
			if changed := stats.Files - stats.Kept; changed != tt.changed && tt.err == "" {
				t.Errorf("%d files were replaced, want %d", changed, tt.changed)
			}
			if tt.changed == 0 && !maps.Equal(inodesOf(t, dest), inodes) {
				t.Error("files were replaced")
			}
			if string(read(t, outside+"/f")) != "keep" || !strings.HasPrefix("f hard", list(t, outside)) {
				t.Errorf("outside: %s", list(t, outside))
			}
		})
	}
}

// sameEnds returns what UnpackOptions.From may be for an archive: where it begins and
// ends as the old one does, it is known to be that.
func sameEnds(old, data []byte) func(off, n int64) (int64, bool) {
	front, back := 0, 0
	for front < min(len(old), len(data)) && old[front] == data[front] {
		front++
	}
	for back < min(len(old), len(data)) && old[len(old)-1-back] == data[len(data)-1-back] {
		back++
	}
	return func(off, n int64) (int64, bool) {
		switch {
		case off+n <= int64(front):
			return off, true
		case off >= int64(len(data)-back):
			return off + int64(len(old)-len(data)), true
		}
		return 0, false
	}
}

// skipper is an archive that counts what of it is skipped.
type skipper struct {
	*bytes.Reader
	skipped int64
}

func (s *skipper) Skip(n int64) (int64, error) {
	n = min(n, int64(s.Len()))
	s.skipped += n
	_, err := s.Seek(n, io.SeekCurrent)
	return n, err
}

// Read reads few bytes, so that a reader has few of a content before it is asked for it.
func (s *skipper) Read(b []byte) (int, error) { return s.Reader.Read(b[:min(len(b), 16)]) }

// TestUnpackKnown changes what was unpacked in every way, before and after it was looked
// at to find out what of the archive is there. That is put right all the same.
func TestUnpackKnown(t *testing.T) {
	testneed.Root(t)
	data := packOnce(t, sample(t), defaultFeatures, nil)
	outside := filepath.Join(t.TempDir(), "outside")
	for _, tt := range changes(outside) {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprint(tt.name, before), func(t *testing.T) {
				dest := mutable(t, filepath.Join(t.TempDir(), "x"))
				must(t, os.MkdirAll(outside, 0o755), os.WriteFile(outside+"/f", []byte("keep"), 0o600))
				t.Cleanup(func() { os.RemoveAll(outside) })
				unpack(t, data, dest, nil)
				inodes := inodesOf(t, dest)
				change := func() {
					if err := tt.change(dest); errors.Is(err, errors.ErrUnsupported) {
						testneed.Missing(t, "needs the attributes of ext4: %v", err)
					} else {
						must(t, err)
					}
				}
				if before {
					change()
				}
				v := scan(t, dest)
				old := make([]byte, v.Size())
				_, err := v.ReadAt(old, 0)
				must(t, err)
				if !before {
					change()
				}
				s := &skipper{Reader: bytes.NewReader(data)}
				o := &UnpackOptions{Delete: tt.delete, NoSync: true, Old: v, From: sameEnds(old, data)}
				stats, err := Unpack(t.Context(), archive.NewReader(s), dest, o)
				must(t, err)
				equal(t, packOnce(t, dest, defaultFeatures, nil), data)
				if changed := stats.Files - stats.Kept; changed != tt.changed && tt.err == "" {
					t.Errorf("%d files were replaced, want %d", changed, tt.changed)
				}
				if tt.changed == 0 && !maps.Equal(inodesOf(t, dest), inodes) {
					t.Error("files were replaced")
				}
				if string(read(t, outside+"/f")) != "keep" {
					t.Error("a file outside was changed")
				}
				if ahead := int64(16 * stats.Files); tt.name == "nothing" && s.skipped < stats.Bytes-ahead {
					t.Errorf("%d bytes of content were skipped, want all %d", s.skipped, stats.Bytes)
				}
			})
		}
	}
}

// Only where an archive has a node with content is a file of a View.
func TestViewFile(t *testing.T) {
	dir := sample(t)
	inner := packOnce(t, dir, defaultFeatures, nil)
	must(t, os.WriteFile(dir+"/inner", inner, 0o644), unix.Setxattr(dir+"/inner", "user.inner", inner[:200], 0))
	v := scan(t, dir)
	ends := map[int64]int64{} // of contents, by where the node begins
	paths := map[int64]string{}
	for r := archive.NewReader(io.NewSectionReader(v, 0, v.Size())); ; {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if e.Node != nil && e.Node.Size > 0 {
			ends[e.Offset], paths[e.Offset] = r.Offset()+e.Node.Size, e.Path
		}
	}
	for off := range v.Size() {
		c, n := v.file(off)
		if c == nil {
			if ends[off] != 0 {
				t.Fatalf("no file at %d", off)
			}
		} else if off+n != ends[off] || inPath(c.dir, c.name) != paths[off] {
			t.Fatalf("%s from %d to %d, want %s to %d", inPath(c.dir, c.name), off, off+n, paths[off], ends[off])
		}
	}
}

// What a View holds is all of the archive but contents.
func TestViewHeld(t *testing.T) {
	v := scan(t, sample(t))
	all := make([]byte, v.Size())
	_, err := v.ReadAt(all, 0)
	must(t, err)
	for off := int64(-1); off <= v.Size(); off++ {
		b := v.Held(off)
		p, content := v.Locate(off)
		switch inside := off >= 0 && off < v.Size(); {
		case content || !inside:
			if len(b) > 0 {
				t.Fatalf("%d bytes at %d, in %v", len(b), off, p)
			}
		case len(b) == 0 || !bytes.Equal(b, all[off:off+int64(len(b))]):
			t.Fatalf("wrong bytes at %d", off)
		default:
			if _, more := v.Locate(off + int64(len(b))); !more && off+int64(len(b)) < v.Size() {
				t.Fatalf("%d bytes at %d are not all", len(b), off)
			}
		}
		if content {
			off += p.Size - 1
		}
	}
}

func writeAt(name string, off int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := []byte{0}
	f.ReadAt(b, off)
	b[0] ^= 1
	_, err = f.WriteAt(b, off)
	return err
}

func setFlags(name string, set archive.Features) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return setChattr(int(f.Fd()), set, set)
}

func setDefaultACL(name string) error {
	a := &archive.DefaultACL{UserObj: 7, GroupObj: 5, Mask: 7, Other: 1, Users: []archive.ACLEntry{{ID: 12345, Perm: 7}}}
	return unix.Setxattr(name, archive.DefaultACLName, a.Encode(), 0)
}

// inodesOf returns the inode of each regular file.
func inodesOf(t testing.TB, dir string) map[string]uint64 {
	t.Helper()
	inodes := map[string]uint64{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		inodes[path] = st.Ino
		return err
	}))
	return inodes
}

// brokenAt is a source that fails at some place.
type brokenAt struct {
	r    io.Reader
	left int
}

var errBroken = errors.New("broken")

func (b *brokenAt) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBroken
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// TestUnpackBroken ends the archive at many places, over nothing and over what other
// runs have left: the error says so, nothing is removed, no file is in part, and a
// run of the whole makes it whole.
func TestUnpackBroken(t *testing.T) {
	testneed.Root(t)
	src := sample(t)
	data := packOnce(t, src, defaultFeatures, nil)
	dest := filepath.Join(t.TempDir(), "x")
	must(t, os.MkdirAll(dest+"/d/e", 0o755), os.WriteFile(dest+"/d/e/keep", nil, 0o644))
	step := len(data) / 40
	if testing.Short() {
		step *= 5
	}
	before := openFiles(t)
	for at := 0; at < len(data); at += step {
		if at%3 == 0 {
			must(t, os.RemoveAll(dest+"/large"))
		}
		r := archive.NewReader(&brokenAt{bytes.NewReader(data), at})
		_, err := Unpack(t.Context(), r, dest, &UnpackOptions{NoSync: true, Delete: true})
		if !errors.Is(err, errBroken) {
			t.Errorf("at %d: got %v", at, err)
		}
		noTemps(t, dest)
		if _, err := os.Stat(dest + "/d/e/keep"); err != nil {
			t.Errorf("at %d: %v", at, err)
		}
		if fi, err := os.Stat(dest + "/large"); err == nil && fi.Size() != 3<<20+77 {
			t.Errorf("at %d: large has %d bytes", at, fi.Size())
		}
		if n := openFiles(t); n != before {
			t.Fatalf("at %d: %d files are open, %d were before", at, n, before)
		}
	}
	unpack(t, data, dest, &UnpackOptions{Delete: true})
	equal(t, packOnce(t, dest, defaultFeatures, nil), data)
}

// TestUnpackCancel ends the context at many places.
func TestUnpackCancel(t *testing.T) {
	data := manyFiles(t, 1000)
	cause := errors.New("enough")
	before := openFiles(t)
	for at := range 8 {
		ctx, cancel := context.WithCancelCause(t.Context())
		dest := filepath.Join(t.TempDir(), "x")
		nodes := 0
		o := &UnpackOptions{NoSync: true, Progress: func(UnpackStats) {
			if nodes++; nodes == at*200 {
				cancel(cause)
			}
		}}
		if at == 0 {
			cancel(cause)
		}
		_, err := Unpack(ctx, archive.NewReader(bytes.NewReader(data)), dest, o)
		if !errors.Is(err, cause) {
			t.Errorf("at %d: got %v", at, err)
		}
		noTemps(t, dest)
		if n := openFiles(t); n != before {
			t.Fatalf("at %d: %d files are open, %d were before", at, n, before)
		}
		cancel(nil)
	}
}

// TestUnpackKilled kills runs and completes what they have left.
func TestUnpackKilled(t *testing.T) {
	const role = "CASTOR_TEST_UNPACK"
	if dir := os.Getenv(role); dir != "" { // the run that is killed
		_, err := Unpack(t.Context(), archive.NewReader(bytes.NewReader(read(t, dir+"/x.catar"))), dir+"/x", &UnpackOptions{NoSync: true})
		must(t, err)
		return
	}
	dir := t.TempDir()
	data := manyFiles(t, 3000)
	must(t, os.WriteFile(dir+"/x.catar", data, 0o644))
	killed := 0
	for i := range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestUnpackKilled$")
		cmd.Env = append(os.Environ(), role+"="+dir)
		must(t, cmd.Start())
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(time.Millisecond) {
			if sub, _ := os.ReadDir(dir + "/x"); len(sub) > 5*i { // it is under way
				break
			}
		}
		must(t, cmd.Process.Kill())
		if cmd.Wait() != nil {
			killed++
		}
	}
	if killed == 0 {
		t.Error("all came to their end")
	}
	unpack(t, data, dir+"/x", &UnpackOptions{Delete: true})
	if os.Geteuid() == 0 {
		equal(t, packOnce(t, dir+"/x", archive.Best|archive.SHA512256, nil), data)
	}
}

// TestUnpackOther runs as somebody who may not do everything: what cannot be
// restored is told and counted, and directories that their owner may not enter are
// no hindrance, neither fresh nor again.
func TestUnpackOther(t *testing.T) {
	testneed.Root(t)
	src := sample(t)
	must(t, os.Lchown(src+"/d/x", 7, 7), unix.Chmod(src+"/d/x", 0o4755), unix.Setxattr(src+"/d/x", "trusted.t", nil, 0))
	data := packOnce(t, src, defaultFeatures, nil)
	base := t.TempDir()
	must(t, os.Chmod(base, 0o777), os.Chmod(filepath.Dir(base), 0o755))
	dest := base + "/x"
	asNobody(t, func() {
		for i := range 3 {
			if i == 2 {
				must(t, os.Chmod(dest+"/closed", 0o700), os.Chmod(dest+"/closed/below", 0o700), os.Mkdir(dest+"/closed/below/more", 0),
					os.Chmod(dest+"/closed/below", 0o500), os.Chmod(dest+"/closed", 0))
			}
			stats, problems := unpack(t, data, dest, &UnpackOptions{Delete: true})
			what := map[string]int{}
			for _, p := range problems {
				what[p.What]++
				if !errors.Is(p.Err, fs.ErrPermission) {
					t.Errorf("%v", &p)
				}
			}
			// The mode of a file that is to be set-user-id for somebody else is not restored as it is.
			if what["owner"] != stats.Nodes || what["set-id bits"] != 1 || what["attribute trusted.t"] != 1 || len(what) != 3 {
				t.Errorf("run %d: problems %v of %d nodes", i, what, stats.Nodes)
			}
			if i > 0 && stats.Kept < stats.Files-1 {
				t.Errorf("run %d: %d of %d files were kept", i, stats.Kept, stats.Files)
			}
			if i == 2 && stats.Removed != 1 {
				t.Errorf("%d names were removed", stats.Removed)
			}
		}
		_, _, err := tryUnpack(t, data, base+"/strict", &UnpackOptions{Strict: true})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "owner: ") {
			t.Errorf("strict: got %v", err)
		}
		// Without what takes privileges all can be restored; trusted.* does as well.
		mask := archive.All &^ archive.Privileged &^ archive.UserNames &^ archive.XAttrs
		stats, problems := unpack(t, data, base+"/mask", &UnpackOptions{Mask: mask, Strict: true})
		if len(problems) > 0 || stats.Files < 200 {
			t.Errorf("%+v, %v", stats, problems)
		}
	})
	const f = archive.NSecTime | archive.Permissions | archive.Symlinks | archive.FIFOs | archive.SHA512256
	must(t, os.Chmod(src+"/d/x", 0o755)) // which has another time for the attributes only
	equal(t, packOnce(t, dest, f, nil), packOnce(t, src, f, nil))
	var st unix.Stat_t
	must(t, unix.Stat(base+"/strict", &st))
	if st.Uid != 65534 {
		t.Error("not run as nobody")
	}
}

// TestUnpackLinks packs hard links and restores them, and what pretends to be one.
func TestUnpackLinks(t *testing.T) {
	src := t.TempDir()
	large := bytes.Repeat([]byte("large"), 200_000)
	must(t, os.Mkdir(src+"/d", 0o755), os.WriteFile(src+"/a", []byte("a"), 0o644), os.Link(src+"/a", src+"/d/b"), os.Link(src+"/a", src+"/z"),
		os.WriteFile(src+"/d/large", large, 0o600), os.Link(src+"/d/large", src+"/large"), os.WriteFile(src+"/single", []byte("a"), 0o644),
		os.WriteFile(src+"/none", nil, 0o644), os.Link(src+"/none", src+"/none2"))
	if err := unix.Setxattr(src+"/a", "user.x", nil, 0); err != nil {
		testneed.Missing(t, "needs extended attributes: %v", err)
	}
	f := defaultFeatures
	data := packOnce(t, src, f, &PackOptions{HardLinks: true})
	dest := t.TempDir() + "/x"
	groups := func(dir string) string {
		at := map[uint64]string{}
		for path, ino := range inodesOf(t, dir) {
			at[ino] += " " + strings.TrimPrefix(path, dir+"/")
		}
		var all []string
		for _, names := range at {
			list := strings.Fields(names)
			slices.Sort(list)
			all = append(all, strings.Join(list, "="))
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	for i := range 2 {
		stats, _ := unpack(t, data, dest, &UnpackOptions{HardLinks: true})
		if got, want := groups(dest), groups(src); got != want || want != "a=d/b=z d/large=large none=none2 single" {
			t.Errorf("%s\nwant %s", got, want)
		}
		if stats.Linked != 4 || stats.Kept != i*4 || stats.Files != 8 {
			t.Errorf("%+v", stats)
		}
		if os.Geteuid() == 0 {
			equal(t, packOnce(t, dest, f, &PackOptions{HardLinks: true}), data)
		}
	}
	// Without the option, over that: each name is a file.
	unpack(t, data, dest, nil)
	if got, want := groups(dest), "a d/b d/large large none none2 single z"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	equal(t, packOnce(t, dest, f, nil), packOnce(t, src, f, nil))
	// And linked again.
	unpack(t, data, dest, &UnpackOptions{HardLinks: true})
	if got, want := groups(dest), groups(src); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	// A planted name of a file with the same content and another mode.
	outside := t.TempDir() + "/outside"
	must(t, os.RemoveAll(dest+"/a"), os.WriteFile(outside, []byte("a"), 0o640), os.Chmod(outside, 0o640), os.Link(outside, dest+"/a"))
	unpack(t, data, dest, &UnpackOptions{HardLinks: true})
	if fi, err := os.Stat(outside); err != nil || fi.Mode() != 0o640 || groups(dest) != groups(src) {
		t.Errorf("a file outside has changed to %v, %v; %s", fi.Mode(), err, groups(dest))
	}
	// A mark that lies: the content is what counts.
	lies := bytes.Clone(data)
	i := bytes.LastIndex(lies, []byte("large"+"large"))
	copy(lies[i-300_000:], "LARGE")
	unpack(t, lies, dest, &UnpackOptions{HardLinks: true})
	if got, want := groups(dest), "a=d/b=z d/large large none=none2 single"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if bytes.Equal(read(t, dest+"/large"), read(t, dest+"/d/large")) || !bytes.Equal(read(t, dest+"/d/large"), large) {
		t.Error("wrong content")
	}
}

// TestUnpackSparse restores holes: at the beginning, in the middle and at the end.
func TestUnpackSparse(t *testing.T) {
	src := t.TempDir()
	for name, data := range map[string][2]int64{"begin": {900 << 10, 1 << 20}, "end": {0, 1 << 20}, "middle": {300 << 10, 900 << 10}, "all": {0, 0}, "small": {100, 50 << 10}} {
		must(t, os.WriteFile(src+"/"+name, nil, 0o644))
		f, err := os.OpenFile(src+"/"+name, os.O_RDWR, 0)
		must(t, err)
		size := int64(1<<20 + 4097)
		if name == "small" {
			size = 200 << 10
		}
		_, err = f.WriteAt([]byte("data"), data[0])
		must(t, err, f.Truncate(size), f.Close())
	}
	data := packOnce(t, src, archive.Unix|archive.SHA512256, nil)
	dest := t.TempDir() + "/x"
	unpack(t, data, dest, &UnpackOptions{Mask: archive.Permissions})
	for _, name := range []string{"begin", "end", "middle", "all", "small"} {
		var st unix.Stat_t
		must(t, unix.Stat(dest+"/"+name, &st))
		if !bytes.Equal(read(t, src+"/"+name), read(t, dest+"/"+name)) {
			t.Errorf("%s has other content", name)
		}
		if st.Blocks*512 > 16<<10 {
			t.Errorf("%s takes %d bytes", name, st.Blocks*512)
		}
	}
}

// TestUnpackSwapped has somebody swap directories and links while archives are
// extracted over and over: nothing outside changes.
func TestUnpackSwapped(t *testing.T) {
	base := t.TempDir()
	dest, outside := base+"/x", base+"/outside"
	unpack(t, manyFiles(t, 300), dest, nil)
	for i := range 3 {
		d := fmt.Sprintf("%s/%06d", dest, 100*i)
		must(t, unix.Mkfifo(d+"/zfifo", 0o644), os.Symlink("x", d+"/zlink"))
	}
	data := packOnce(t, dest, archive.Unix|archive.SHA512256, nil)
	must(t, os.MkdirAll(outside+"/000100", 0o755), os.WriteFile(outside+"/keep", []byte("keep"), 0o600), unix.Mkfifo(outside+"/fifo", 0o600))
	state := func() string {
		s := ""
		must(t, filepath.WalkDir(outside, func(path string, e fs.DirEntry, err error) error {
			var st unix.Stat_t
			unix.Lstat(path, &st)
			s += fmt.Sprintln(path, st.Mode, st.Mtim, st.Uid, st.Size, st.Nlink)
			return err
		}))
		return s
	}
	want := state()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := rand.New(rand.NewPCG(1, 2))
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			at := fmt.Sprintf("%s/%06d", dest, 100*r.IntN(3))
			if r.IntN(2) == 0 {
				at += fmt.Sprintf("/%06d", 10*r.IntN(30))
			}
			away := fmt.Sprintf("%s/away%d", base, i)
			os.Rename(at, away)
			os.Symlink(outside, at)
			os.Symlink(outside+"/keep", away+"/000001")
			os.Link(outside+"/keep", away+"/000002")
			os.Remove(away + "/zfifo")
			os.Link(outside+"/fifo", away+"/zfifo")
			os.Remove(at)
			os.Rename(away, at)
			os.RemoveAll(away)
		}
	}()
	failed, n := 0, 100
	if testing.Short() {
		n = 20
	}
	for range n {
		o := &UnpackOptions{NoSync: true, Delete: true}
		if _, err := Unpack(t.Context(), archive.NewReader(bytes.NewReader(data)), dest, o); err != nil {
			failed++
		}
	}
	close(stop)
	<-stopped
	t.Logf("%d of %d runs failed", failed, n)
	unpack(t, data, dest, &UnpackOptions{Delete: true})
	must(t, os.RemoveAll(dest)) // with the other names of what is outside
	if got := state(); got != want {
		t.Errorf("outside:\n%s\nwas\n%s", got, want)
	}
}

// FuzzUnpack unpacks anything over what was unpacked before: whatever comes of it is
// inside, and nothing is left half done.
func FuzzUnpack(f *testing.F) {
	for _, pattern := range []string{"bad/*.catar", "catar/*.catar"} {
		for _, name := range archives(f, pattern, 30) {
			if b := read(f, name); len(b) < 16<<10 {
				f.Add(b, true)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, links bool) {
		base := t.TempDir()
		must(t, os.Mkdir(base+"/x", 0o755), os.Mkdir(base+"/out", 0o755), os.WriteFile(base+"/out/f", nil, 0o600),
			os.Symlink("../out", base+"/x/a"), os.Symlink("../out/f", base+"/x/b"))
		o := &UnpackOptions{HardLinks: links, Delete: true, Mask: archive.All &^ archive.Chattr}
		_, _, err := tryUnpack(t, data, base+"/x", o)
		if _, _, again := tryUnpack(t, data, base+"/x", o); (err == nil) != (again == nil) {
			t.Errorf("%v, and again: %v", err, again)
		}
		if list(t, base) != "out x" || list(t, base+"/out") != "f" {
			t.Errorf("%s, %s", list(t, base), list(t, base+"/out"))
		}
	})
}

// hooked is an archive that calls at once it has been read up to some place.
type hooked struct {
	*bytes.Reader
	place int
	call  func()
}

func (h *hooked) Read(b []byte) (int, error) {
	if h.call != nil && int(h.Size())-h.Len() >= h.place {
		h.call()
		h.call = nil
	}
	return h.Reader.Read(b[:min(len(b), 4096)])
}

// TestUnpackWritten writes to an old file while it is compared: what it was when it was
// compared is not what it is, and nobody is told that it is right.
func TestUnpackWritten(t *testing.T) {
	src := t.TempDir()
	content := make([]byte, 20*smallFile)
	rand.NewChaCha8([32]byte{3}).Read(content)
	must(t, os.WriteFile(src+"/f", content, 0o644))
	data := packOnce(t, src, defaultFeatures, nil)
	hour := time.Now().Add(-time.Hour)
	for _, tt := range []struct {
		name   string
		change func(old []byte) // before it is unpacked
		write  func(name string) error
	}{
		{"kept", func([]byte) {}, func(name string) error { return writeAt(name, 0) }},
		{"grown", func([]byte) {}, appendTo},
		{"copied", func(old []byte) { old[15*smallFile]++ }, func(name string) error { return writeAt(name, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dest := t.TempDir()
			old := bytes.Clone(content)
			tt.change(old)
			must(t, os.WriteFile(dest+"/f", old, 0o644), os.Chtimes(dest+"/f", hour, hour))
			// So far behind the beginning that that has been compared.
			h := &hooked{Reader: bytes.NewReader(data), place: 12 * smallFile, call: func() { must(t, tt.write(dest+"/f")) }}
			_, err := Unpack(t.Context(), archive.NewReader(h), dest, &UnpackOptions{NoSync: true})
			if got := read(t, dest+"/f"); err == nil && !bytes.Equal(got, content) {
				t.Error("the content is wrong, and there was no error")
			} else if err != nil && !errors.Is(err, ErrChanged) {
				t.Errorf("got %v, want %v", err, ErrChanged)
			}
			noTemps(t, dest)
			unpack(t, data, dest, nil)
			if !bytes.Equal(read(t, dest+"/f"), content) {
				t.Error("the next run did not put it right")
			}
		})
	}
}

// atEnd is an archive that calls when it has been read.
type atEnd struct {
	*archive.Reader
	call func()
}

func (a *atEnd) Next() (archive.Entry, error) {
	e, err := a.Reader.Next()
	if err == io.EOF {
		a.call()
	}
	return e, err
}

// TestUnpackSwappedLate puts another directory in the place of one in which something is
// to be removed.
func TestUnpackSwappedLate(t *testing.T) {
	src := t.TempDir()
	must(t, os.MkdirAll(src+"/d/e", 0o755), os.WriteFile(src+"/d/e/f", []byte("f"), 0o644))
	data := packOnce(t, src, defaultFeatures, nil)
	dest, away := t.TempDir(), t.TempDir()
	unpack(t, data, dest, nil)
	must(t, os.WriteFile(dest+"/d/e/more", nil, 0o644))
	a := &atEnd{archive.NewReader(bytes.NewReader(data)), func() {
		must(t, os.Rename(dest+"/d/e", away+"/e"), os.Mkdir(dest+"/d/e", 0o700), os.WriteFile(dest+"/d/e/more", []byte("precious"), 0o600))
	}}
	if _, err := Unpack(t.Context(), a, dest, &UnpackOptions{NoSync: true, Delete: true}); !errors.Is(err, errSwapped) {
		t.Errorf("got %v, want %v", err, errSwapped)
	}
	if got := read(t, dest+"/d/e/more"); string(got) != "precious" {
		t.Errorf("got %q", got)
	}
	if fi, err := os.Stat(dest + "/d/e"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v: the other directory got the metadata", fi.Mode(), err)
	}
}
