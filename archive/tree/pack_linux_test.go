package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/testneed"
)

const defaultFeatures = archive.All | archive.SHA512256 | archive.ExcludeFile | archive.ExcludeNoDump

// command runs a program and fails the test if it does.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testneed.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// pack returns the archive of dir, and checks that a View of dir is the same.
func pack(t testing.TB, dir string, f archive.Features, o *PackOptions) ([]byte, PackStats) {
	t.Helper()
	root := openRoot(t, dir)
	var b bytes.Buffer
	var last PackStats
	var counted PackOptions
	if o != nil {
		counted = *o
	}
	counted.Progress = func(s PackStats) {
		if s.Nodes < last.Nodes || s.Bytes < last.Bytes {
			t.Errorf("progress from %+v to %+v", last, s)
		}
		last = s
	}
	stats, err := Pack(t.Context(), root, &b, f, &counted)
	if err != nil {
		t.Fatalf("Pack: %v", err)
	}
	if last.Nodes != stats.Nodes || last.Bytes != stats.Bytes {
		t.Errorf("progress ended at %+v, stats are %+v", last, stats)
	}
	if stats.Size != int64(b.Len()) {
		t.Errorf("%d bytes, stats say %+v", b.Len(), stats)
	}
	v, _, err := Scan(t.Context(), root, f, o)
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	defer v.Close()
	got := make([]byte, v.Size())
	if _, err := io.ReadFull(io.NewSectionReader(v, 0, v.Size()), got); err != nil {
		t.Fatalf("View: %v", err)
	}
	if !bytes.Equal(got, b.Bytes()) {
		t.Errorf("the view, of %d bytes, is not what Pack writes, of %d", len(got), b.Len())
	}
	return b.Bytes(), stats
}

// casync returns the archive that casync makes of dir.
func casync(t testing.TB, dir string, options ...string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.catar")
	command(t, "casync", append(options, "make", name, dir)...)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// equal compares archives and shows where they part.
func equal(t testing.TB, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	near := func(b []byte) []byte { return b[max(0, at-96):min(len(b), at+64)] }
	t.Errorf("got %d bytes, want %d; at %d:\n%s\nwant\n%s", len(got), len(want), at, hex.Dump(near(got)), hex.Dump(near(want)))
}

// vectorTree returns the tree that the vectors are made of.
func vectorTree(t testing.TB) string {
	t.Helper()
	testneed.Root(t)
	for _, tool := range []string{"setfattr", "setfacl", "setcap", "chattr", "python3", "mknod"} {
		testneed.Tool(t, tool)
	}
	dir := filepath.Join(t.TempDir(), "t1")
	t.Cleanup(func() { exec.Command("chattr", "-R", "-i", "-a", dir).Run() })
	out, err := exec.Command("bash", "testdata/mktree.sh", dir).CombinedOutput()
	if err != nil {
		testneed.Missing(t, "needs a file system with the attributes of ext4: %v: %s", err, out)
	}
	return dir
}

// features returns what casync's options ask for.
func features(t testing.TB, options string) archive.Features {
	t.Helper()
	var with, without archive.Features
	f := archive.SHA512256 | archive.ExcludeFile | archive.ExcludeNoDump
	for _, o := range strings.Fields(options) {
		key, value, _ := strings.Cut(o, "=")
		var err error
		switch o {
		case "--digest=sha256":
			f &^= archive.SHA512256
			continue
		case "--exclude-nodump=no":
			f &^= archive.ExcludeNoDump
			continue
		case "--exclude-submounts=yes":
			f |= archive.ExcludeSubmounts
			continue
		}
		var g archive.Features
		switch key {
		case "--with":
			g, err = archive.ParseFeatures(value)
			with |= g
		case "--without":
			g, err = archive.ParseFeatures(value)
			without |= g
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return (archive.Select(with, without) | f).Normalize()
}

// TestVectors packs the tree of the vectors under every set of options: the
// digests are those that casync printed.
func TestVectors(t *testing.T) {
	dir := vectorTree(t)
	table, err := os.ReadFile("../../testdata/casync/catar/MATRIX.tsv")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(table)), "\n")[1:]
	if len(lines) < 30 {
		t.Fatalf("%d vectors", len(lines))
	}
	for _, line := range lines {
		cols := strings.Split(line, "\t")
		name, options, flags, digest := cols[0], cols[1], cols[2], cols[3]
		t.Run(name, func(t *testing.T) {
			f := features(t, options)
			if want, err := strconv.ParseUint(flags, 16, 64); err != nil || uint64(f) != want {
				t.Fatalf("features %#x, want %#x, %v", uint64(f), want, err)
			}
			got, _ := pack(t, dir, f, nil)
			sum := sha512.Sum512_256(got)
			if !f.Has(archive.SHA512256) {
				sum = sha256.Sum256(got)
			}
			if hex.EncodeToString(sum[:]) == digest {
				return
			}
			t.Errorf("digest %x, want %s", sum, digest)
			if _, err := exec.LookPath("casync"); err == nil {
				equal(t, got, casync(t, dir, strings.Fields(options)...))
			}
		})
	}
}

// TestCasync packs trees as they are on real systems and compares with what casync
// makes of them now.
func TestCasync(t *testing.T) {
	testneed.Root(t)
	testneed.Tool(t, "casync")
	dirs := []string{"/etc", "../..", oddTree(t), "/dev"}
	if !testing.Short() {
		dirs = append(dirs, "/usr/share/doc", "/usr/include", smallFiles(t, 10_000))
	}
	for _, dir := range dirs {
		t.Run(strings.ReplaceAll(dir, "/", "_"), func(t *testing.T) {
			var got, want []byte
			for range 3 { // somebody else may work there
				got, _ = pack(t, dir, defaultFeatures, nil)
				if want = casync(t, dir); bytes.Equal(got, want) {
					return
				}
			}
			equal(t, got, want)
		})
	}
}

// oddTree returns a tree with what real trees seldom have.
func oddTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "odd")
	deep := dir + strings.Repeat("/d", archive.MaxDepth-2)
	must(t, os.MkdirAll(deep, 0o755), os.WriteFile(deep+"/f", nil, 0o644))
	for _, name := range []string{" ", "\n", "\x01", "\xff\xfe", "a\\b", "a", "a.b", "a-", "ü", strings.Repeat("n", 255)} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
		must(t, os.Symlink(name, filepath.Join(dir, "to "+name[:min(len(name), 200)])))
	}
	// Sizes about those at which files are read in other ways, and a sparse one.
	for i, size := range []int64{0, 1, 4095, smallFile - 1, smallFile, smallFile + 1, prefetchBlock, prefetchBlock + 1, 5*prefetchBlock + 7} {
		b := bytes.Repeat([]byte{byte(i), 7, 9}, int(size/3+1))[:size]
		must(t, os.WriteFile(fmt.Sprintf("%s/size%d", dir, size), b, 0o600))
	}
	sparse := dir + "/sparse"
	must(t, os.WriteFile(sparse, []byte("head"), 0o644), os.Truncate(sparse, 9<<20))
	must(t, unix.Mkfifo(dir+"/fifo", 0o640), unix.Mknod(dir+"/sock", unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(dir+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(4095, 1<<20-1))))
	must(t, os.Lchown(dir+"/a", 70000, 4), os.Link(dir+"/a", dir+"/a2"))
	for i := range 40 {
		must(t, unix.Setxattr(dir+"/a.b", fmt.Sprintf("user.%d", i*7%40), bytes.Repeat([]byte{byte(i)}, i), 0))
	}
	if _, err := exec.LookPath("setfacl"); err == nil {
		for _, acl := range []string{"u:1:rw,u:70000:r,g:2:x", "d:u:3:rwx,d:g:4:r", "m:r"} {
			command(t, "setfacl", "-m", acl, filepath.Dir(deep))
		}
		command(t, "setfacl", "-m", "u:1:rw,g:70000:r", dir+"/fifo", dir+"/sock", dir+"/dev")
	}
	return dir
}

func smallFiles(t testing.TB, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "small")
	for i := range n {
		sub := fmt.Sprintf("%s/%d", dir, i%97)
		if i < 97 {
			must(t, os.MkdirAll(sub, 0o755))
		}
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", sub, i), []byte(strings.Repeat(fmt.Sprint(i), i%50)), 0o644))
	}
	return dir
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOptions compares with casync under options that the vectors do not have.
func TestOptions(t *testing.T) {
	testneed.Root(t)
	testneed.Tool(t, "casync")
	dir := filepath.Join(t.TempDir(), "shift")
	must(t, os.Mkdir(dir, 0o755), os.Lchown(dir, 1000000, 1000000))
	for _, id := range []int{1000000, 1000001, 1000004, 1065536 + 2, 1065535} {
		name := fmt.Sprint(dir, "/", id)
		must(t, os.WriteFile(name, nil, 0o644), os.Lchown(name, id, id))
	}
	for _, tt := range []struct {
		options     []string
		shift, size uint32
	}{
		{[]string{"--uid-shift=1000000"}, 1000000, 65536},
		{[]string{"--uid-shift=1000000", "--uid-range=1000"}, 1000000, 1000},
		{[]string{"--uid-shift=999990", "--uid-range=4294967296"}, 999990, 0},
	} {
		t.Run(fmt.Sprint(tt.options), func(t *testing.T) {
			must(t, os.Lchown(dir+"/1065535", 1065534, 1000000)) // 65535 is refused by both
			got, _ := pack(t, dir, defaultFeatures, &PackOptions{UIDShift: tt.shift, UIDRange: tt.size})
			equal(t, got, casync(t, dir, tt.options...))
		})
	}
	_, err := Pack(t.Context(), openRoot(t, dir), io.Discard, defaultFeatures, &PackOptions{UIDShift: 1000001})
	if err == nil || !strings.Contains(err.Error(), "below the shift") {
		t.Errorf("an owner below the shift: %v", err)
	}
}

// TestExcludeFiles compares with casync what .caexclude files leave out.
func TestExcludeFiles(t *testing.T) {
	testneed.Tool(t, "casync")
	dir := filepath.Join(t.TempDir(), "x")
	for _, name := range []string{
		"a.o", "keep.o", "top", "sub/top", "sub/skip", "sub/b.o", "sub/deep/c.o", "sub/deep/skip", "sub/.hidden.o", "sub/deep/er/z",
		"buildfile", "build/x", "sub/build/x", "deep/skip/x", "[a]", "\\x", "x y", "é", "one/two/three/four", "one/TWO/three/four",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	for _, patterns := range []string{
		"# no pattern\n\n *.o \n/top\nsub/skip\nbuild/\n!keep.o\n",
		"skip", "skip/", "/skip", "sub/*/skip", "*/skip\n", "su[a-c]/deep", "su[!a-c]/deep", "*", ".*", "?idden.o", "*.o\n!/sub/b.o",
		"one/*/three/\n!one/TWO/three", "one//two", "//top//", "[[]a]", "\\\\x", "x y\r\n", "deep\n!deep/skip", "\\[a]", "[", "é", "??", "sub/\n!sub", "deep/er", "!*\n*",
	} {
		t.Run(fmt.Sprintf("%q", patterns), func(t *testing.T) {
			must(t, os.WriteFile(dir+"/.caexclude", []byte(patterns), 0o644))
			for _, sub := range []string{"", "!b.o\ner\n"} {
				must(t, os.WriteFile(dir+"/sub/.caexclude", []byte(sub), 0o644))
				got, _ := pack(t, dir, defaultFeatures, nil)
				equal(t, got, casync(t, dir))
			}
			// The same patterns as options, with the files switched off, but for
			// what the files say themselves.
			must(t, os.Remove(dir+"/sub/.caexclude"))
			want, _ := pack(t, dir, defaultFeatures, nil)
			got, _ := pack(t, dir, defaultFeatures&^archive.ExcludeFile, &PackOptions{Exclude: lines(patterns)})
			f := byte(archive.ExcludeFile >> 56)
			if len(got) != len(want) || got[23] != want[23]&^f {
				t.Errorf("options leave %d bytes, the file %d", len(got), len(want))
			}
		})
	}
	for _, bad := range []string{"..", "a/../b", "/", "!", "x\n./y"} {
		must(t, os.WriteFile(dir+"/.caexclude", []byte(bad), 0o644))
		if _, err := Pack(t.Context(), openRoot(t, dir), io.Discard, defaultFeatures, nil); err == nil || !strings.Contains(err.Error(), ".caexclude") {
			t.Errorf("pattern %q: %v", bad, err)
		}
	}
	must(t, os.Remove(dir+"/.caexclude"), os.Symlink("/etc/passwd", dir+"/.caexclude"))
	if _, err := Pack(t.Context(), openRoot(t, dir), io.Discard, defaultFeatures, nil); err == nil {
		t.Error("a link was followed")
	}
}

// A name in Omit is left out where it is that very node.
func TestOmit(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/store/sub", 0o777), os.MkdirAll(dir+"/a/store", 0o777))
	for _, name := range []string{"index", "store/chunk", "a/index", "a/store/chunk"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o666))
	}
	must(t, os.Symlink("index", dir+"/link"), os.Link(dir+"/index", dir+"/other"))
	var omitted []string
	b, stats := pack(t, dir, defaultFeatures, &PackOptions{
		Omit:    []string{dir + "/index", dir + "/store", dir + "/nosuch"},
		Problem: func(p Problem) { omitted = append(omitted, p.Path+" "+p.What) },
	})
	if got, want := strings.Join(decode(t, b), " "), " a a/index a/store a/store/chunk a/store a link other "; got != want {
		t.Errorf("in the archive: %q, want %q", got, want)
	}
	if got, want := strings.Join(omitted[:2], ", "), "index left out, store left out"; got != want || stats.Excluded != 2 {
		t.Errorf("reported: %s, want %s; stats %+v", got, want, stats)
	}
}

func lines(s string) (list []string) {
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.Trim(line, " \t"); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

// mounted returns an empty file system of that type until the test ends.
func mounted(t testing.TB, fstype string) string {
	t.Helper()
	testneed.Root(t)
	mkfs := testneed.Tool(t, "mkfs."+fstype)
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600), os.Truncate(image, 512<<20))
	command(t, mkfs, "-q", image)
	dir := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(dir, 0o755))
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		testneed.Missing(t, "needs %s on a loop device: %v: %s", fstype, err, out)
	}
	t.Cleanup(func() { command(t, "umount", dir) })
	return dir
}

// TestFileSystems compares with casync on other file systems.
func TestFileSystems(t *testing.T) {
	testneed.Tool(t, "casync")
	for _, tt := range []struct {
		fstype string
		make   func(dir string)
	}{
		{"btrfs", func(dir string) {
			command(t, "btrfs", "-q", "subvolume", "create", dir+"/sub")
			command(t, "btrfs", "-q", "subvolume", "create", dir+"/subro")
			must(t, os.WriteFile(dir+"/sub/f", []byte("x"), 0o644), os.WriteFile(dir+"/nocow", nil, 0o644))
			command(t, "chattr", "+C", dir+"/nocow")
			command(t, "btrfs", "property", "set", "-ts", dir+"/subro", "ro", "true")
		}},
		{"xfs", func(dir string) {
			must(t, os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/f", []byte("q"), 0o644))
			command(t, "chattr", "-p", "4242", dir+"/f")
			command(t, "chattr", "-p", "7", dir+"/d")
			command(t, "chattr", "+P", dir+"/d")
		}},
	} {
		t.Run(tt.fstype, func(t *testing.T) {
			dir := filepath.Join(mounted(t, tt.fstype), "t")
			must(t, os.Mkdir(dir, 0o755))
			tt.make(dir)
			command(t, "cp", "-a", "/etc/default", dir+"/etc")
			got, _ := pack(t, dir, defaultFeatures, nil)
			equal(t, got, casync(t, dir))
		})
	}
}

// TestSubmounts compares with casync what is left out of other file systems, and
// that those of the kernel are empty.
func TestSubmounts(t *testing.T) {
	testneed.Root(t)
	testneed.Tool(t, "casync")
	dir := filepath.Join(t.TempDir(), "t")
	must(t, os.MkdirAll(dir+"/tmpfs", 0o755), os.MkdirAll(dir+"/proc", 0o755), os.MkdirAll(dir+"/bind", 0o755),
		os.WriteFile(dir+"/version", nil, 0o644), os.WriteFile(dir+"/last", []byte("x"), 0o644))
	for _, m := range []struct {
		what, at, fstype string
		flags            uintptr
	}{{"tmpfs", "tmpfs", "tmpfs", 0}, {"proc", "proc", "proc", 0}, {"/etc/default", "bind", "", unix.MS_BIND}, {"/proc/version", "version", "", unix.MS_BIND}} {
		if err := unix.Mount(m.what, dir+"/"+m.at, m.fstype, m.flags, ""); err != nil {
			testneed.Missing(t, "needs to mount: %v", err)
		}
		t.Cleanup(func() { must(t, unix.Unmount(dir+"/"+m.at, 0)) })
	}
	must(t, os.WriteFile(dir+"/tmpfs/f", []byte("x"), 0o644))
	got, _ := pack(t, dir, defaultFeatures, nil)
	equal(t, got, casync(t, dir))
	all := len(got)
	got, _ = pack(t, dir, defaultFeatures|archive.ExcludeSubmounts, nil)
	equal(t, got, casync(t, dir, "--exclude-submounts=yes"))
	if len(got) >= all {
		t.Errorf("%d bytes with submounts, %d without", all, len(got))
	}
}

// changing is a writer that calls a function when a number of bytes have come.
type changing struct {
	buf bytes.Buffer // not embedded: everything is to come through Write
	at  int
	do  func()
}

func (c *changing) Write(b []byte) (int, error) {
	if c.at -= len(b); c.at <= 0 && c.do != nil {
		c.do()
		c.do = nil
	}
	return c.buf.Write(b)
}

// decode reads a whole archive and returns its paths.
func decode(t testing.TB, b []byte) (paths []string) {
	t.Helper()
	r := archive.NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if err == io.EOF {
			return paths
		}
		if err != nil {
			t.Fatalf("the archive is corrupt: %v", err)
		}
		paths = append(paths, e.Path)
	}
}

// TestChanges changes a tree while it is packed: what comes of it is a whole
// archive, or an error that names the file.
func TestChanges(t *testing.T) {
	const large = 64 << 20
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		err    string // "" if there is none
		what   string // the problem that is reported
	}{
		{"grows", func(dir string) error { return appendTo(dir + "/b-large") }, "", Changed},
		{"shrinks", func(dir string) error { return os.Truncate(dir+"/b-large", large/2) }, `b-large": became shorter`, ""},
		{"vanishes while it is open", func(dir string) error { return os.Remove(dir + "/b-large") }, "", ""},
		{"vanishes before", func(dir string) error { return os.Remove(dir + "/z9999") }, "", Vanished},
		{"directory vanishes", func(dir string) error { return os.Remove(dir + "/z999a") }, "", Vanished},
		{"file becomes a directory", func(dir string) error {
			return errors.Join(os.Remove(dir+"/z9999"), os.Mkdir(dir+"/z9999", 0o755))
		}, "", Vanished},
		{"file becomes a link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/z9999"), os.Symlink("/etc/passwd", dir+"/z9999"))
		}, "", ""},
		{"file becomes a fifo", func(dir string) error {
			return errors.Join(os.Remove(dir+"/z9999"), unix.Mkfifo(dir+"/z9999", 0o644))
		}, "", Vanished},
		{"directory becomes a link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/z999a"), os.Symlink("/etc", dir+"/z999a"))
		}, "", Vanished},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(dir+"/b-large", nil, 0o644), os.Truncate(dir+"/b-large", large))
			for i := range ahead * 3 { // more than is looked at ahead
				must(t, os.WriteFile(fmt.Sprintf("%s/m%04d", dir, i), []byte("m"), 0o644))
			}
			must(t, os.WriteFile(dir+"/z9999", []byte("z"), 0o644), os.Mkdir(dir+"/z999a", 0o755))
			var problems []string
			w := &changing{at: 1 << 20, do: func() { must(t, tt.change(dir)) }}
			stats, err := Pack(t.Context(), openRoot(t, dir), w, defaultFeatures, &PackOptions{
				Problem: func(p Problem) { problems = append(problems, p.What) },
			})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			decode(t, w.buf.Bytes())
			if got := strings.Join(problems, " "); got != tt.what {
				t.Errorf("problems %q, want %q; %+v", got, tt.what, stats)
			}
		})
	}
}

func appendTo(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("more")
	return errors.Join(err, f.Close())
}

// TestErrorEndsStream has an error come up behind a large file that is on its way:
// nobody waits for the end of the file.
func TestErrorEndsStream(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/large", nil, 0o644), os.Truncate(dir+"/large", 1<<40), os.WriteFile(dir+"/"+excludeFile, nil, 0o644),
		os.Mkdir(dir+"/z", 0o755), os.WriteFile(dir+"/z/"+excludeFile, []byte(".."), 0o644))
	_, err := Pack(t.Context(), openRoot(t, dir), io.Discard, defaultFeatures, nil)
	if err == nil || !strings.Contains(err.Error(), `z/.caexclude: line 1`) {
		t.Errorf("got %v", err)
	}
}

// TestSmallChanges writes to small files all the time: each archive is whole, and
// each file in it what it was at some time.
func TestSmallChanges(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), []byte("x"), 0o644))
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprintf("%s/f%d", dir, i%50)
			switch i % 3 {
			case 0:
				os.WriteFile(name, bytes.Repeat([]byte("y"), i%9000), 0o644)
			case 1:
				os.Remove(name)
			case 2:
				os.Mkdir(name, 0o755)
				os.Remove(name)
			}
		}
	}()
	for range 300 {
		var b bytes.Buffer
		_, err := Pack(t.Context(), openRoot(t, dir), &b, defaultFeatures, &PackOptions{KeepGoing: true})
		if err != nil {
			t.Errorf("Pack: %v", err)
			continue
		}
		decode(t, b.Bytes())
	}
	close(stop)
	<-done
}

// TestUnreadable asks for a tree of which a part cannot be read.
func TestUnreadable(t *testing.T) {
	testneed.Root(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755), os.WriteFile(dir+"/a", []byte("a"), 0o644), os.WriteFile(dir+"/secret", []byte("s"), 0o600),
		os.Mkdir(dir+"/closed", 0o700), os.WriteFile(dir+"/closed/in", nil, 0o644))
	root := openRoot(t, dir)
	asNobody(t, func() {
		var b bytes.Buffer
		_, err := Pack(t.Context(), root, &b, defaultFeatures, &PackOptions{Workers: 1})
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "closed") && !strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
		b.Reset()
		stats, err := Pack(t.Context(), root, &b, defaultFeatures, &PackOptions{KeepGoing: true})
		if err != nil || stats.Unreadable != 2 {
			t.Errorf("keep going: %+v, %v", stats, err)
		}
		if got := strings.Join(decode(t, b.Bytes()), " "); strings.Contains(got, "secret") || strings.Contains(got, "closed") || !strings.Contains(got, "a") {
			t.Errorf("archive of %s", got)
		}
	})
}

// asNobody runs f without the privilege to read everything.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	// All threads of the process change, as Go has it.
	must(t, unix.Setresgid(-1, 65534, -1), unix.Setresuid(-1, 65534, -1))
	defer func() { must(t, unix.Setresuid(-1, 0, -1), unix.Setresgid(-1, 0, -1)) }()
	f()
}

// TestCancel ends the context at different times: there is an error, and nothing
// that was opened stays so.
func TestCancel(t *testing.T) {
	dir := oddTreeOrSmall(t)
	before := openFiles(t)
	for _, at := range []int{0, 1, 1000, 1 << 20, 4 << 20} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		w := &changing{at: at, do: func() { cancel(cause) }}
		if at == 0 {
			cancel(cause)
		}
		root := openRoot(t, dir)
		if _, err := Pack(ctx, root, w, defaultFeatures, nil); !errors.Is(err, cause) {
			t.Errorf("at %d: got %v", at, err)
		}
		root.Close()
		if n := openFiles(t); n != before {
			t.Errorf("at %d: %d files are open, %d were before", at, n, before)
		}
	}
	errFull := errors.New("full")
	root := openRoot(t, dir)
	if _, err := Pack(t.Context(), root, failing{errFull}, defaultFeatures, nil); !errors.Is(err, errFull) {
		t.Errorf("a writer that fails: %v", err)
	}
	v, _, err := Scan(t.Context(), root, defaultFeatures, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, io.NewSectionReader(v, 0, v.Size()))
	must(t, v.Close(), v.Close(), root.Close())
	if _, err := v.ReadAt(make([]byte, v.Size()), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a closed view: %v", err)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d files are open, %d were before", n, before)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func oddTreeOrSmall(t testing.TB) string {
	t.Helper()
	dir := smallFiles(t, 2000)
	for i := range 5 {
		name := fmt.Sprintf("%s/0/large%d", dir, i)
		must(t, os.WriteFile(name, nil, 0o644), os.Truncate(name, 8<<20))
	}
	return dir
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// TestView reads a view at random, from several goroutines, and asks where bytes
// are.
func TestView(t *testing.T) {
	dir := oddTreeOrSmall(t)
	want, stats := pack(t, dir, defaultFeatures, nil)
	v, vstats, err := Scan(t.Context(), openRoot(t, dir), defaultFeatures, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if vstats != stats {
		t.Errorf("Scan has met %+v, Pack %+v", vstats, stats)
	}
	var wg sync.WaitGroup
	for seed := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			for range 3000 {
				off := r.Int64N(v.Size())
				b := make([]byte, r.IntN(100<<10))
				n, err := v.ReadAt(b, off)
				if int64(n) != min(int64(len(b)), v.Size()-off) || (err != nil) != (n < len(b)) || !bytes.Equal(b[:n], want[off:][:n]) {
					t.Errorf("ReadAt(%d, %d) = %d, %v", len(b), off, n, err)
					return
				}
				p, ok := v.Locate(off)
				if !ok {
					continue
				}
				if err := isAt(dir, p, want[off]); err != nil {
					t.Errorf("Locate(%d): %v", off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if files, dirs := len(v.files.open), len(v.dirs.open); files > maxViewFiles || dirs > maxViewDirs {
		t.Errorf("%d files and %d directories are open", files, dirs)
	}
	if _, ok := v.Locate(0); ok {
		t.Error("the first byte is no content")
	}
	if n, err := v.ReadAt(make([]byte, 1), v.Size()); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// isAt checks that c is where p says.
func isAt(dir string, p Place, c byte) error {
	f, err := os.Open(filepath.Join(dir, p.Path))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() != p.Offset+p.Size {
		return fmt.Errorf("%+v: %d bytes, %v", p, fi.Size(), err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, p.Offset); err != nil || b[0] != c {
		return fmt.Errorf("%+v: %x, want %x, %v", p, b, c, err)
	}
	return nil
}

// TestViewChange changes a file of a view: its content is an error, everything else
// still reads.
func TestViewChange(t *testing.T) {
	for name, change := range map[string]func(name string) error{
		"content": func(name string) error { return os.WriteFile(name, []byte("other"), 0o644) },
		"size":    func(name string) error { return os.Truncate(name, 3) },
		"replaced": func(name string) error {
			return errors.Join(os.WriteFile(name+"2", []byte("12345"), 0o644), os.Rename(name+"2", name))
		},
		"gone": os.Remove,
		"link": func(name string) error { return errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)) },
		"fifo": func(name string) error { return errors.Join(os.Remove(name), unix.Mkfifo(name, 0o644)) },
	} {
		for _, read := range []int{0, 4, 5} { // bytes that have been read before
			dir := t.TempDir()
			must(t, os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/d/f", []byte("12345"), 0o644), os.WriteFile(dir+"/z", []byte("z"), 0o644))
			old := time.Now().Add(-time.Hour)
			must(t, os.Chtimes(dir+"/d/f", old, old))
			v, _, err := Scan(t.Context(), openRoot(t, dir), defaultFeatures, nil)
			must(t, err)
			off := int64(0)
			for p, ok := v.Locate(off); !ok || p.Path != "d/f"; p, ok = v.Locate(off) {
				off++
			}
			b := make([]byte, 5)
			if _, err := v.ReadAt(b[:read], off); err != nil || string(b[:read]) != "12345"[:read] {
				t.Fatalf("%q, %v", b, err)
			}
			must(t, change(dir+"/d/f"))
			gone := read == 4 && name != "content" && name != "size" // the open file is what it was
			_, err = v.ReadAt(b, off)
			if gone && (err != nil || string(b) != "12345") {
				t.Errorf("%s: %q, %v", name, b, err)
			}
			if !gone && (err == nil || !errors.Is(err, ErrChanged)) {
				t.Errorf("%s, %d bytes read before: got %v", name, read, err)
			}
			if _, err := v.ReadAt(make([]byte, v.Size()-off-5), off+5); err != nil {
				t.Errorf("%s: the rest: %v", name, err)
			}
			must(t, v.Close())
		}
	}
}

// TestHardLinks marks the names of files, and nothing else.
func TestHardLinks(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/a", []byte("a"), 0o644), os.WriteFile(dir+"/single", []byte("a"), 0o644),
		os.Link(dir+"/a", dir+"/d/b"), os.Link(dir+"/a", dir+"/z"), os.WriteFile(dir+"/d/stale", nil, 0o644),
		unix.Setxattr(dir+"/d/stale", archive.HardLinkXAttr, []byte("../etc"), 0), unix.Setxattr(dir+"/a", "user.zz", nil, 0), unix.Setxattr(dir+"/a", "user.aa", nil, 0))
	plain, _ := pack(t, dir, defaultFeatures, nil)
	if !bytes.Contains(plain, []byte(archive.HardLinkXAttr+"\x00../etc")) || bytes.Count(plain, []byte(archive.HardLinkXAttr)) != 1 {
		t.Error("without the option, attributes are what they are")
	}
	b, _ := pack(t, dir, defaultFeatures, &PackOptions{HardLinks: true})
	groups := map[string]string{}
	r := archive.NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if e.Node == nil {
			continue
		}
		n := len(e.Node.XAttrs)
		if group, ok := takeLinkGroup(e.Node); ok {
			groups[e.Path] = group
			if n != 3 || len(e.Node.XAttrs) != 2 {
				t.Errorf("%s: %d attributes, then %d", e.Path, n, len(e.Node.XAttrs))
			}
		}
	}
	if got := fmt.Sprint(groups); got != "map[a:a d/b:a z:a]" {
		t.Errorf("groups %s", got)
	}
	if _, err := Pack(t.Context(), openRoot(t, dir), io.Discard, archive.Unix, &PackOptions{HardLinks: true}); err == nil {
		t.Error("marks without extended attributes")
	}
}

// BenchmarkPack packs a tree of small files, or the one that CASTOR_BENCH_TREE
// names, to nowhere.
func BenchmarkPack(b *testing.B) {
	dir := os.Getenv("CASTOR_BENCH_TREE")
	if dir == "" {
		dir = smallFiles(b, 10_000)
	}
	root := openRoot(b, dir)
	for b.Loop() {
		stats, err := Pack(b.Context(), root, io.Discard, defaultFeatures, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(stats.Size)
	}
}

// FuzzACL: whatever a file system says is an ACL, it is refused or has a form that
// the archive can judge.
func FuzzACL(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00"))
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"))
	w := &walker{f: archive.ACLs | archive.UID32, ids: newIDs(archive.ACLs|archive.UID32, &PackOptions{})}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := w.parseACL(b)
		if err == nil && a != nil && len(a.Users)+len(a.Groups) > len(b)/8 {
			t.Errorf("%d bytes have %+v", len(b), a)
		}
	})
}

// FuzzDirents: whatever is in the memory that a directory was read into, parsing
// ends.
func FuzzDirents(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x18\x00\x08name\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range appendDirents(nil, b) {
			if len(e.name) > len(b) || strings.IndexByte(e.name, 0) >= 0 {
				t.Errorf("%q", e.name)
			}
		}
	})
}
