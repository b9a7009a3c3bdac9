package cli

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
)

// mixedTree makes a tree of all kinds of nodes at path, of some megabytes.
func mixedTree(t *testing.T, path string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(path, name) }
	noise := rand.NewChaCha8([32]byte{7})
	for i := range 60 {
		d := at(fmt.Sprintf("dir%d/sub", i%7))
		check(os.MkdirAll(d, 0o755))
		b := make([]byte, i*i*50)
		noise.Read(b)
		check(os.WriteFile(filepath.Join(d, fmt.Sprintf("file %02d", i)), b, 0o640))
	}
	check(os.WriteFile(at("text"), []byte(strings.Repeat("some text\n", 30_000)), 0o4755))
	check(os.WriteFile(at("a.b"), nil, 0o600))
	check(os.WriteFile(at("ü\n#"), []byte("odd"), 0o644))
	check(os.Mkdir(at("a"), 0o700))
	check(os.WriteFile(at("a/read-only"), []byte("x"), 0o444))
	check(os.Symlink("a/../text", at("link")))
	check(os.Link(at("text"), at("hardlink")))
	check(unix.Mkfifo(at("fifo"), 0o600))
	check(os.Chmod(at("a"), 0o777|os.ModeSticky))
	if err := unix.Setxattr(at("text"), "user.comment", []byte("value"), 0); err != nil {
		testneed.Missing(t, "needs extended attributes: %v", err)
	}
	if os.Geteuid() == 0 {
		check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		check(os.Chown(at("a.b"), 1, 54321))
	}
	check(os.Chtimes(at("text"), time.Time{}, time.Unix(1_000_000_000, 123456789)))
}

// Over one store, castor makes the indexes of casync, and says of them what casync
// says.
func TestTreeAsCasync(t *testing.T) {
	testneed.Tool(t, "casync")
	work := t.TempDir()
	mixedTree(t, filepath.Join(work, "tree"))
	for _, tt := range []struct {
		name, digest   string
		castor, casync []string
	}{
		{"default", "sha512-256", nil, nil},
		{"sha256", "sha256", nil, nil},
		{"unix", "sha512-256", []string{"--with", "unix"}, []string{"--with=unix"}},
		{"some", "sha512-256", []string{"--with", "symlinks,usec-time", "--with", "16bit-uids"}, []string{"--with=symlinks", "--with=usec-time", "--with=16bit-uids"}},
		{"without", "sha512-256", []string{"--without", "privileged,xattrs"}, []string{"--without=privileged", "--without=xattrs"}},
		{"none", "sha512-256", []string{"--without", "all"}, []string{"--without=all"}},
		{"sizes", "sha512-256", []string{"--chunk-size", "4K:16K:64K"}, []string{"--chunk-size=4096:16384:65536"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ca, my := tt.name+"-ca.caidx", tt.name+"-my.caidx"
			want := casync(t, work, append(tt.casync, "make", "--store=s.castr", "--digest="+tt.digest, ca, "tree")...)
			report := ok(t, work, append(tt.castor, "make", "--json", "-s", "s.castr", "--digest", tt.digest, my, "tree")...)
			same(t, read(t, work, ca), work, my)
			if !strings.Contains(report, `"new_chunks":0,`) {
				t.Errorf("make into casync's store: %s", report)
			}
			if got := strings.TrimSpace(ok(t, work, "digest", "-s", "s.castr", my)); got != want {
				t.Errorf("digest: got %s, casync says %s", got, want)
			}
			if tt.castor == nil {
				if got := strings.TrimSpace(ok(t, work, "digest", "--digest", tt.digest, "tree")); got != want {
					t.Errorf("digest of the directory: got %s, casync says %s", got, want)
				}
			}
			ok(t, work, "verify", "-s", "s.castr", ca, "tree")
			if tt.name == "some" {
				return // casync cannot read what it makes with usec-time
			}
			for _, args := range [][]string{{"list"}, {"list", "a"}, {"list", "text"}, {"mtree"}, {"stat"}, {"stat", "text"}, {"stat", "a"}, {"stat", "ü\n#"}, {"digest", "text"}, {"digest", "a"}} {
				want := casync(t, work, append([]string{args[0], "--store=s.castr", "--digest=" + tt.digest, ca}, args[1:]...)...)
				got := strings.TrimSpace(ok(t, work, append([]string{args[0], "-s", "s.castr", my}, args[1:]...)...))
				if got != want {
					t.Errorf("%q: got\n%s\nwant\n%s", args, got, want)
				}
			}
			// The directory itself, and the archive.
			for _, command := range []string{"list", "mtree"} {
				a := ok(t, work, command, "-s", "s.castr", my)
				ok(t, work, append(tt.castor[:len(tt.castor):len(tt.castor)], "make", "--digest", tt.digest, "x.catar", "tree")[chunkSizeFlags(tt.castor):]...)
				if b := ok(t, work, command, "x.catar"); b != a {
					t.Errorf("%s of the archive: got\n%s\nwant\n%s", command, b, a)
				}
			}
		})
	}
}

// chunkSizeFlags returns how many of the first arguments an archive does not take.
func chunkSizeFlags(args []string) int {
	if len(args) > 0 && args[0] == "--chunk-size" {
		return 2
	}
	return 0
}

// What one program makes, the other extracts.
func TestTreeCasyncBothWays(t *testing.T) {
	testneed.Tool(t, "casync")
	testneed.Root(t) // casync gives up where it may not set an owner
	work := t.TempDir()
	mixedTree(t, filepath.Join(work, "tree"))
	casync(t, work, "make", "--store=s.castr", "ca.caidx", "tree")
	ok(t, work, "extract", "--strict", "-s", "s.castr", "ca.caidx", "out")
	ok(t, work, "verify", "-s", "s.castr", "ca.caidx", "out")

	ok(t, work, "make", "-s", "my.castr", "--digest", "sha512-256", "--hard-links", "my.caidx", "tree")
	casync(t, work, "extract", "--store=my.castr", "my.caidx", "out2")
	if got := ok(t, work, "diff", "tree", "out2"); got != "" { // the marks do not count
		t.Errorf("got\n%s", got)
	}
	ok(t, work, "extract", "--hard-links", "-s", "my.castr", "my.caidx", "out3")
	if got := ok(t, work, "diff", "tree", "out3"); got != "" {
		t.Errorf("got\n%s", got)
	}
	fi, err := os.Stat(filepath.Join(work, "out3", "text"))
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.Stat(filepath.Join(work, "out3", "hardlink")); err != nil || !os.SameFile(fi, other) {
		t.Errorf("hardlink is not text: %v", err)
	}

	// An archive without chunks, both ways, and over what there is.
	casync(t, work, "make", "ca.catar", "tree")
	ok(t, work, "make", "my.catar", "tree")
	same(t, read(t, work, "ca.catar"), work, "my.catar")
	write(t, []byte("changed"), work, "out", "text")
	write(t, []byte("more"), work, "out", "more")
	ok(t, work, "extract", "--delete", "my.catar", "out")
	casync(t, work, "extract", "my.catar", "out4")
	for _, d := range []string{"out", "out4"} {
		if got := ok(t, work, "verify", "my.catar", d); got != "" {
			t.Errorf("%s: %s", d, got)
		}
	}
}

// Over an old tree, a new one is what it is in an empty place, in whatever way it is
// extracted, and files that are right are kept.
func TestTreeOver(t *testing.T) {
	testneed.Root(t)
	work := t.TempDir()
	tree := filepath.Join(work, "tree")
	mixedTree(t, tree)
	noise := rand.NewChaCha8([32]byte{8})
	for i := range 300 {
		b := make([]byte, 100+i*50)
		noise.Read(b)
		write(t, b, tree, fmt.Sprintf("many%03d", i))
	}
	ok(t, work, "make", "-s", "s.castr", "--hard-links", "old.caidx", "tree")
	sh := func(script string) {
		t.Helper()
		c := exec.Command("sh", "-ec", script)
		c.Dir = tree
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sh(`echo more >>many010; printf x | dd of=many050 bs=1 seek=5 conv=notrunc; rm many060 many061; chmod 600 many070; touch many080
		mv dir3 moved; mkdir many200dir; mv many20? many200dir; cp many001 many150.1; ln many002 many160.1; chown 5:6 many170
		rm many180; ln -s many181 many180; rm many190; mkdir many190; mv many220 many221`)
	ok(t, work, "make", "-s", "s.castr", "--hard-links", "new.caidx", "tree")
	for _, flags := range []string{"--delete", "--delete --strict", "--delete --hard-links", "--delete --seed tree",
		"--delete --without xattrs,acl", "--delete --uid-shift 100000", ""} {
		t.Run(flags, func(t *testing.T) {
			f := append([]string{"extract", "--json", "-s", "s.castr"}, strings.Fields(flags)...)
			fresh, over := filepath.Join(t.TempDir(), "fresh"), filepath.Join(t.TempDir(), "over")
			ok(t, work, append(f, "new.caidx", fresh)...)
			ok(t, work, append(f, "old.caidx", over)...)
			if flags == "" { // then what is in the way is an error, and what is not needed stays
				if err := os.Remove(filepath.Join(over, "many190")); err != nil {
					t.Fatal(err)
				}
			}
			report := ok(t, work, append(f, "new.caidx", over)...)
			var r struct{ Files, Kept int }
			if err := json.Unmarshal([]byte(report), &r); err != nil {
				t.Fatal(err)
			}
			if r.Kept < r.Files-40 {
				t.Errorf("%d of %d files were kept", r.Kept, r.Files)
			}
			got := strings.TrimSpace(ok(t, work, "diff", fresh, over))
			if flags == "" { // what is not in the archive stays
				got = strings.Join(slices.DeleteFunc(strings.Split(got, "\n"), func(line string) bool {
					return strings.HasPrefix(line, "added ") || strings.HasSuffix(line, " .")
				}), "\n")
			}
			if got != "" {
				t.Errorf("over the old tree it differs from a fresh one:\n%s", got)
			}
		})
	}
}

// What is right already reaches the disk nevertheless: a run that was killed may have left
// it in memory.
func TestRightIsSynced(t *testing.T) {
	testneed.Root(t)
	work := t.TempDir()
	mkfs, image, mnt := testneed.Tool(t, "mkfs.ext4"), filepath.Join(work, "image"), filepath.Join(work, "mnt")
	noise := make([]byte, 200_000)
	rand.NewChaCha8([32]byte{6}).Read(noise)
	for _, dir := range []string{"tree", "mnt"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, noise, work, "tree", "file")
	write(t, nil, image)
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, mnt).CombinedOutput(); err != nil {
		testneed.Missing(t, "needs ext4 on a loop device: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	for _, tt := range []struct{ index, source, dest string }{
		{"x.caidx", "tree", "mnt/out"},
		{"x.caibx", "tree/file", "mnt/file"},
	} {
		noise[0]++ // of both, the first block is told apart
		write(t, noise, work, "tree", "file")
		ok(t, work, "make", "-s", "s.castr", tt.index, tt.source)
		extract := []string{"extract", "-s", "s.castr", tt.index, tt.dest}
		ok(t, work, append(extract, "--no-sync")...)
		if bytes.Contains(read(t, image), noise[:4096]) {
			t.Logf("%s reached the disk early", tt.dest)
		}
		ok(t, work, extract...)
		if !bytes.Contains(read(t, image), noise[:4096]) {
			t.Errorf("%s is not on the disk", tt.dest)
		}
	}
}

// What cannot be restored is reported, and an error with --strict.
func TestTreeStrict(t *testing.T) {
	testneed.Root(t)
	work, err := os.MkdirTemp("", "castor-strict-") // below which nobody may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	if err := os.Mkdir(filepath.Join(work, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, []byte("x"), work, "tree", "file")
	if err := os.Chown(filepath.Join(work, "tree", "file"), 1, 1); err != nil {
		t.Fatal(err)
	}
	ok(t, work, "make", "x.catar", "tree")
	if err := os.Chmod(work, 0o777); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(work, "castor") // where nobody can start it
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("install", "-m", "755", self, program).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	for _, tt := range []struct {
		flags []string
		code  int
		want  string
	}{
		{nil, 0, "not restored"},
		{[]string{"--strict"}, 1, "owner"},
		{[]string{"--strict", "--without", "privileged"}, 0, ""},
	} {
		c := command(work, append(append([]string{"extract"}, tt.flags...), "x.catar", fmt.Sprint("out", len(tt.flags)))...)
		c.Path, c.Env = program, append(c.Env, "HOME="+work)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if o := finish(t, c); o.code != tt.code || !strings.Contains(o.stderr, tt.want) {
			t.Errorf("%q: exit code %d, want %d: %s", tt.flags, o.code, tt.code, o.stderr)
		}
	}
}

// Of a large archive, a look at one directory takes a few chunks.
func TestTreeGetsLittle(t *testing.T) {
	work := t.TempDir()
	noise := rand.NewChaCha8([32]byte{9})
	for i := range 40 {
		d := filepath.Join(work, "tree", fmt.Sprintf("dir%02d", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 50 {
			b := make([]byte, 12_000)
			noise.Read(b)
			write(t, b, d, fmt.Sprintf("file%02d", j))
		}
	}
	ok(t, work, "make", "-s", "s.castr", "--no-sync", "x.caidx", "tree")
	chunks, err := dir.Open(filepath.Join(work, "s.castr"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer chunks.Close()
	h, err := httpstore.NewHandler(httpstore.HandlerOptions{Source: chunks})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".cacnk") {
			asked.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
	defer server.Close()
	total := strings.Count(ok(t, work, "chunks", "x.caidx"), "\n")
	for _, tt := range []struct {
		args []string
		most int64
	}{
		{[]string{"stat", "x.caidx", "dir20"}, 6},
		{[]string{"list", "--recursive=false", "x.caidx"}, 50}, // a chunk for each directory in it
		{[]string{"list", "x.caidx", "dir20"}, 20},             // which has 600 kB
		{[]string{"cat", "x.caidx", "dir20/file30"}, 8},
		{[]string{"extract", "x.caidx", "out", "dir20/file30"}, 8},
		{[]string{"digest", "x.caidx", "dir20/file30"}, 8},
		{[]string{"extract", "--tar", "x.caidx", "out.tar", "dir21"}, 35},
	} {
		asked.Store(0)
		ok(t, work, append([]string{tt.args[0], "-s", server.URL}, tt.args[1:]...)...)
		t.Logf("%s: %d of %d chunks", strings.Join(tt.args, " "), asked.Load(), total)
		if n := asked.Load(); n > tt.most || n == 0 {
			t.Errorf("%s: asked for %d of %d chunks, want at most %d", strings.Join(tt.args, " "), n, total, tt.most)
		}
	}
	if out, err := exec.Command("cmp", filepath.Join(work, "out", "file30"), filepath.Join(work, "tree", "dir20", "file30")).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

// A make from a pipe that is interrupted ends, and leaves nothing behind.
func TestTarInterrupted(t *testing.T) {
	work := t.TempDir()
	c := command(work, "make", "--tar", "x.caidx", "-")
	c.Env = append(c.Env, "TMPDIR="+work)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(in)
	if err := w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 4<<20)); err != nil { // more than the pipe holds: it is being read
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != 130 {
		t.Errorf("got %v, want exit code 130", err)
	}
	names, err := filepath.Glob(filepath.Join(work, "*"))
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %q, %v", names, err)
	}
}

// The shift of numbers is casync's.
func TestTreeShift(t *testing.T) {
	testneed.Tool(t, "casync")
	testneed.Root(t)
	work := t.TempDir()
	if err := os.Mkdir(filepath.Join(work, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, id := range []int{100_000, 101_000, 165_535 + 100_000} {
		name := filepath.Join(work, "tree", fmt.Sprint(i))
		write(t, nil, name)
		if err := os.Lchown(name, id, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Lchown(filepath.Join(work, "tree"), 100_000, 100_000); err != nil {
		t.Fatal(err)
	}
	casync(t, work, "make", "--store=s.castr", "--uid-shift=100000", "ca.caidx", "tree")
	ok(t, work, "make", "-s", "s.castr", "--digest", "sha512-256", "--uid-shift", "100000", "my.caidx", "tree")
	same(t, read(t, work, "ca.caidx"), work, "my.caidx")
	ok(t, work, "extract", "-s", "s.castr", "--strict", "--uid-shift", "100000", "my.caidx", "out")
	ok(t, work, "verify", "-s", "s.castr", "--uid-shift", "100000", "my.caidx", "out")
	if o := castor(t, work, "verify", "-s", "s.castr", "my.caidx", "out"); o.code != exitMismatch {
		t.Errorf("verify without the shift: exit code %d, want %d: %s", o.code, exitMismatch, o.stderr)
	}
}

// Trees as they are on real systems: both programs make the same index, and each
// extracts what the other stored.
func TestTreeReal(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	testneed.Tool(t, "casync")
	testneed.Root(t)
	work := t.TempDir()
	small := filepath.Join(work, "small")
	for i := range 100_000 {
		sub := filepath.Join(small, strconv.Itoa(i%317))
		if i < 317 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, strconv.Itoa(i)), []byte(strings.Repeat(strconv.Itoa(i), i%60)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"/usr/share", small} {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			d := t.TempDir()
			for try := range 3 { // somebody else may work there
				ok(t, d, "make", "--no-sync", "-s", "my.castr", "--digest", "sha512-256", "my.caidx", dir)
				casync(t, d, "make", "--store=ca.castr", "ca.caidx", dir)
				if bytes.Equal(read(t, d, "my.caidx"), read(t, d, "ca.caidx")) {
					break
				}
				if try == 2 {
					t.Fatal("the indexes differ")
				}
			}
			ok(t, d, "extract", "--no-sync", "--strict", "-s", "ca.castr", "ca.caidx", "out")
			ok(t, d, "verify", "-s", "my.castr", "my.caidx", "out")
			casync(t, d, "extract", "--store=my.castr", "my.caidx", "out2")
			ok(t, d, "verify", "-s", "ca.castr", "ca.caidx", "out2")
		})
	}
}
