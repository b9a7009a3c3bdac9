package tarfile_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tarfile"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/internal/testneed"
)

const (
	// inUstar is what every tar has; in PAX all but what tar has no place for.
	inUstar = archive.UID32 | archive.UserNames | archive.SecTime | archive.Permissions | archive.Symlinks | archive.DeviceNodes | archive.FIFOs
	inPAX   = inUstar&^archive.SecTime | archive.NSecTime | archive.XAttrs | archive.ACLs | archive.FCaps | archive.SELinux
)

// run runs a program and ends the test if it fails.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(testneed.Tool(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// makeTree makes a tree of all that a tar can hold, and returns its path.
func makeTree(t *testing.T, ustar bool) string {
	t.Helper()
	testneed.Root(t)
	dir := filepath.Join(t.TempDir(), "tree")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	put := func(name, content string) {
		t.Helper()
		check(os.MkdirAll(filepath.Dir(at(name)), 0o755))
		check(os.WriteFile(at(name), []byte(content), 0o644))
	}
	put("a.b", "between a and a/b")
	put("a/b", strings.Repeat("content ", 100_000))
	put("a-b", "")
	put("odd names/-x", "")
	put("odd names/back\\slash", "")
	put("odd names/new\nline", "")
	put("odd names/üñí\xff", "")
	put("deep/"+strings.Repeat("directory/", 20)+"f", "deep")
	check(os.Symlink("../nowhere", at("a/link")))
	check(os.Link(at("a/b"), at("hardlink")))
	check(unix.Mkfifo(at("fifo"), 0o640))
	check(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	check(unix.Mknod(at("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 200))))
	put("owned", "x")
	check(os.Chown(at("owned"), 1, 12345)) // daemon, and a group without a name
	check(os.Chmod(at("owned"), 0o644|os.ModeSetuid|os.ModeSetgid))
	check(os.Mkdir(at("sticky"), 0o755))
	check(os.Chmod(at("sticky"), 0o777|os.ModeSticky))
	f, err := os.Create(at("sparse"))
	check(err)
	_, err = f.WriteAt([]byte("island"), 700_000)
	check(err)
	check(f.Truncate(3 << 20))
	check(f.Close())
	if !ustar {
		put(strings.Repeat("n", 255), "long")
		check(os.Symlink(strings.Repeat("t", 300), at("long target")))
		check(os.Chown(at("a-b"), 2_000_000_000, 3_000_000))
		attributes(t, at)
	}
	for i, name := range []string{"a/b", "owned", "a", "."} {
		check(os.Chtimes(at(name), time.Time{}, time.Unix(1_000_000_000+int64(i), 123456789)))
	}
	check(os.Chtimes(at("a.b"), time.Time{}, time.Unix(5, 0)))
	return dir
}

func attributes(t *testing.T, at func(string) string) {
	t.Helper()
	for _, x := range []struct{ name, key, value string }{
		{"a/b", "user.text", "value"},
		{"a/b", "user.b=%25", "\x00binary\n"},
		{"a/b", "user.empty", ""},
		{"a", "trusted.dir", "x"},
		{"owned", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		if err := unix.Setxattr(at(x.name), x.key, []byte(x.value), 0); err != nil {
			testneed.Missing(t, "needs extended attributes: %v", err)
		}
	}
	run(t, "setfacl", "-m", "u:daemon:rw,u:4242:r,g:bin:x,m::rw", at("a/b"), at("a-b"))
	run(t, "setfacl", "-m", "u:daemon:rwx", at("a"))
	run(t, "setfacl", "-d", "-m", "u:daemon:rwx,g:4242:r", at("a"))
	run(t, "setfacl", "-d", "-m", "u::rwx,g::r,o::-", at("sticky"))
}

// pack returns the archive that package tree makes of a directory.
func pack(t *testing.T, dir string, f archive.Features, o *tree.PackOptions) []byte {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	if _, err := tree.Pack(t.Context(), root, &b, f, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// system is how the system knows users and groups.
func system(o tarfile.ImportOptions) *tarfile.ImportOptions {
	number := func(s string, err error) (uint32, bool) {
		n, perr := strconv.ParseUint(s, 10, 32)
		return uint32(n), err == nil && perr == nil
	}
	o.LookupUser = func(name string) (uint32, bool) {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, false
		}
		return number(u.Uid, err)
	}
	o.LookupGroup = func(name string) (uint32, bool) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, false
		}
		return number(g.Gid, err)
	}
	return &o
}

// same ends the test unless two archives are equal.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	x, err := archive.OpenTree(bytes.NewReader(want), int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	y, err := archive.OpenTree(bytes.NewReader(got), int64(len(got)))
	if err != nil {
		t.Fatal(err)
	}
	err = tree.Compare(t.Context(), x, y, 0, func(c tree.Change) error { t.Errorf("%s %q: %v", c.Kind, c.Path, c.What); return nil })
	t.Fatalf("archives differ: %v", err)
}

// Import makes of GNU tar's files what Pack makes of the directory.
func TestImportGNU(t *testing.T) {
	testneed.Tool(t, "tar")
	for _, tt := range []struct {
		name  string
		f     archive.Features
		flags []string
	}{
		{"ustar", inUstar, []string{"--format=ustar"}},
		{"gnu", inUstar, []string{"--format=gnu"}},
		{"gnu sparse", inUstar, []string{"--format=gnu", "--sparse"}},
		{"pax", inPAX, []string{"--format=pax", "--acls", "--selinux", "--xattrs", "--xattrs-include=*"}},
		{"pax sparse", inPAX, []string{"--format=pax", "--acls", "--selinux", "--xattrs", "--xattrs-include=*", "--sparse"}},
		{"sparse 0.1", inUstar, []string{"--format=pax", "--sparse", "--sparse-version=0.1"}},
		{"incremental", inUstar, []string{"--format=gnu", "--listed-incremental=" + filepath.Join(t.TempDir(), "snapshot"), "--label=name"}},
		{"sorted", inPAX, []string{"--format=pax", "--acls", "--xattrs", "--xattrs-include=*", "--sort=name"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := makeTree(t, tt.name == "ustar")
			name := filepath.Join(t.TempDir(), "x.tar")
			run(t, "tar", append(tt.flags, "-cf", name, "-C", dir, ".")...)
			for _, links := range []bool{false, true} {
				if links && !tt.f.Has(archive.XAttrs) {
					continue
				}
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				want := pack(t, dir, tt.f, &tree.PackOptions{HardLinks: links})
				o := system(tarfile.ImportOptions{HardLinks: links, Problem: func(p tarfile.Problem) { t.Error(p.Error()) }})
				var got bytes.Buffer
				if _, err := tarfile.Import(t.Context(), f, &got, tt.f, o); err != nil {
					t.Fatal(err)
				}
				same(t, got.Bytes(), want)
				c := exec.Command("cat", name)
				out, err := c.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				got.Reset()
				if _, err := tarfile.Import(t.Context(), out, &got, tt.f, o); err != nil {
					t.Fatal(err)
				}
				if err := c.Wait(); err != nil {
					t.Errorf("who wrote the pipe: %v", err)
				}
				same(t, got.Bytes(), want)
			}
		})
	}
}

// GNU tar makes of Export's files the directory again.
func TestExportGNU(t *testing.T) {
	testneed.Tool(t, "tar")
	dir := makeTree(t, false)
	want := pack(t, dir, inPAX|archive.Sockets, &tree.PackOptions{HardLinks: true})
	name := filepath.Join(t.TempDir(), "x.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := tarfile.Export(t.Context(), archive.NewReader(bytes.NewReader(want)), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if stats.Linked != 1 || stats.Problems != 0 {
		t.Errorf("got %+v", stats)
	}
	out := t.TempDir()
	run(t, "tar", "--acls", "--selinux", "--xattrs", "--xattrs-include=*", "-xpf", name, "-C", out)
	same(t, pack(t, out, inPAX|archive.Sockets, &tree.PackOptions{HardLinks: true}), want)
	run(t, "tar", "--compare", "--acls", "--xattrs", "--xattrs-include=*", "-f", name, "-C", dir)

	// A part is extracted as it is.
	tr, err := archive.OpenTree(bytes.NewReader(want), int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	it, err := tr.Find("a")
	if err != nil {
		t.Fatal(err)
	}
	var part bytes.Buffer
	if _, err := tarfile.Export(t.Context(), tree.Part(tr.Features(), it), &part, nil); err != nil {
		t.Fatal(err)
	}
	list := exec.Command("tar", "-t")
	list.Stdin = &part
	names, err := list.Output()
	if got, want := string(names), "./a/\n./a/b\n./a/link\n"; got != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// Sockets are left out and reported.
func TestExportSocket(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0); err != nil {
		testneed.Missing(t, "needs sockets: %v", err)
	}
	b := pack(t, dir, archive.Unix, nil)
	var told []string
	o := &tarfile.ExportOptions{Problem: func(p tarfile.Problem) { told = append(told, p.Error()) }}
	if _, err := tarfile.Export(t.Context(), archive.NewReader(bytes.NewReader(b)), io.Discard, o); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(told, "\n"), `"socket": socket: left out: tar has no place for it`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
