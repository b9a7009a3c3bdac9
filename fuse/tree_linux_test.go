//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/index/blob"
	"github.com/castorsync/castor/internal/testneed"
)

const vectors = "../testdata/casync/catar/"

// vector returns an archive.
func vector(t testing.TB, name string) ([]byte, *archive.Tree) {
	t.Helper()
	b, err := os.ReadFile(vectors + name)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := archive.OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return b, tree
}

// attributes reads the extended attributes of a node that is no symlink.
func attributes(t *testing.T, path string) (all []string) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		all = append(all, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return all
}

func compare(t *testing.T, path string, it *archive.Item) {
	t.Helper()
	n := it.Node
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	ino, _ := it.Range()
	if it.Path == "" {
		ino = rootIno
	}
	size := n.Size + int64(len(n.Target))
	if st.Ino != uint64(ino) || st.Mode != n.Mode || st.Uid != n.UID || st.Gid != n.GID || st.Size != size || st.Nlink != 1 || st.Mtim.Nano() != n.MTime {
		t.Errorf("%s: got %+v, want %+v", path, st, n)
	}
	if n.IsDevice() && (unix.Major(st.Rdev) != n.Major || unix.Minor(st.Rdev) != n.Minor) {
		t.Errorf("%s: device %#x, want %d:%d", path, st.Rdev, n.Major, n.Minor)
	}
	switch {
	case n.IsSymlink():
		if to, err := os.Readlink(path); to != n.Target || err != nil {
			t.Errorf("%s: target %q, %v", path, to, err)
		}
		return
	case n.IsRegular():
		want, err := io.ReadAll(it.Content())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: wrong content, %v", path, err)
		}
	case n.IsDir():
		var want []string
		for c, err := range it.Children() {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, c.Name())
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := f.Readdirnames(-1); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: names %q, %v, want %q", path, got, err, want)
		}
	}
	want := []string{}
	for _, a := range xattrs(n) {
		want = append(want, fmt.Sprintf("%s=%q", a.name, a.value()))
	}
	slices.Sort(want)
	if got := attributes(t, path); !slices.Equal(got, want) {
		t.Errorf("%s: attributes %q, want %q", path, got, want)
	}
}

// What is mounted is what is in the archive, whatever that has.
func TestTree(t *testing.T) {
	need(t)
	files, err := filepath.Glob(vectors + "*.catar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d archives, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, tree := vector(t, filepath.Base(file))
			b, _ := openBlob(t, content, nil)
			overBlob, err := archive.OpenTree(b, b.Size())
			if err != nil {
				t.Fatal(err)
			}
			dir, _ := mount(t, Tree(overBlob), &Options{Flags: []string{"dev", "suid"}})
			for it, err := range tree.Root().All() {
				if err != nil {
					t.Fatal(err)
				}
				compare(t, filepath.Join(dir, it.Path), it)
			}
			if _, err := os.Stat(filepath.Join(dir, "no such file")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what is not there: %v", err)
			}
		})
	}
}

// The real tools see what casync's mount shows them; symlinks have sizes, too.
func TestCasyncMount(t *testing.T) {
	testneed.Tool(t, "casync")
	name, err := filepath.Abs(vectors + "t1.unix.catar")
	if err != nil {
		t.Fatal(err)
	}
	_, tree := vector(t, "t1.unix.catar")
	ours, _ := mount(t, Tree(tree), nil)
	theirs := t.TempDir()
	casync := exec.Command("casync", "mount", name, theirs)
	if err := casync.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(theirs, unix.MNT_DETACH)
		casync.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, ok, err := mountAt(theirs); ok || err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("casync has not mounted")
		}
	}
	list := func(dir string) []string {
		lines := strings.Split(output(t, "find", dir, "-mindepth", "1", "(", "-type", "d", "-printf", "%P %y %m %U %G %T@\n", "-o",
			"-type", "l", "-printf", "%P %m %U %G %T@ %l\n", "-o", "-printf", "%P %y %m %U %G %s %T@\n", ")"), "\n")
		slices.Sort(lines)
		return lines
	}
	if got, want := list(ours), list(theirs); !slices.Equal(got, want) || len(got) < 100 {
		t.Errorf("got %q, want %q", got, want)
	}
	sums := func(dir string) string {
		return output(t, "sh", "-c", `cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum`, "-", dir)
	}
	if got, want := sums(ours), sums(theirs); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What tools copy out of a mount is what casync extracts.
func TestExtracted(t *testing.T) {
	testneed.Tool(t, "casync")
	name, err := filepath.Abs(vectors + "t1.default.catar")
	if err != nil {
		t.Fatal(err)
	}
	_, tree := vector(t, "t1.default.catar")
	dir, _ := mount(t, Tree(tree), nil)
	extracted := filepath.Join(t.TempDir(), "x")
	output(t, "casync", "extract", "--without=chattr", "--without=quota-projid", "--without=fat-attrs", "--without=subvolume", name, extracted)
	same := func(what, other string, args ...string) {
		t.Helper()
		if diff := output(t, "rsync", append(args, "-aHAXni", "--checksum", "--delete", extracted+"/", other+"/")...); diff != "" {
			t.Errorf("rsync sees differences in %s:\n%s", what, diff)
		}
	}
	same("the mount", dir)
	copied, unpacked := t.TempDir(), t.TempDir()
	output(t, "rsync", "-aHAX", dir+"/", copied+"/")
	same("its copy", copied)
	output(t, "sh", "-c", `tar -C "$1" --acls --xattrs --xattrs-include='*' --warning=no-file-ignored -cf - . | tar -C "$2" --acls --xattrs --xattrs-include='*' -xpf -`, "-", dir, unpacked)
	same("what tar unpacked", unpacked, "--exclude=sock") // tar has none
}

// directory returns an archive of n empty files in one directory.
func directory(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Unix.Normalize())
	if err != nil {
		t.Fatal(err)
	}
	err = w.Enter("", &archive.Node{Mode: archive.TypeDir | 0o755})
	for i := range n {
		err = errors.Join(err, w.Add(fmt.Sprintf("f%07d", i), &archive.Node{Mode: archive.TypeRegular | 0o644, MTime: int64(i) * 1e9}, nil))
	}
	if err = errors.Join(err, w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A large directory is read in many requests, also from the middle.
func TestDirectory(t *testing.T) {
	content := directory(t, 5000)
	tree, err := archive.OpenTree(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	dir, m := mount(t, Tree(tree), nil)
	if got := strings.Count(output(t, "ls", "-l", dir), "\n"); got != 5001 {
		t.Errorf("ls has %d lines", got)
	}
	if s := m.Stats(); s.Listed < 5000 || s.Listed > 7000 || s.Lookups > 100 {
		t.Errorf("stats %+v", s)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		names, err := f.Readdirnames(2000)
		if err != nil || len(names) != 2000 || names[1999] != "f0001999" {
			t.Fatalf("%d names, %v", len(names), err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
}

// A chunk that is missing is an error in reading, not a file that does not exist; and
// the directory can be read once the chunk is back.
func TestTreeFailure(t *testing.T) {
	content := directory(t, 5000)
	b, src := openBlob(t, content, &blob.Options{Cache: 1, Ahead: -1})
	tree, err := archive.OpenTree(b, b.Size())
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := mount(t, Tree(tree), nil)
	missing := error(fs.ErrNotExist)
	src.fail.Store(&missing)
	if _, err := os.Stat(filepath.Join(dir, "f0002000")); !errors.Is(err, syscall.EIO) {
		t.Errorf("stat: %v", err)
	}
	if _, err := os.ReadDir(dir); !errors.Is(err, syscall.EIO) {
		t.Errorf("list: %v", err)
	}
	src.fail.Store(nil)
	if _, err := os.Stat(filepath.Join(dir, "f0002000")); err != nil {
		t.Errorf("stat: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 5000 {
		t.Errorf("list: %d names, %v", len(names), err)
	}
}

// A mount knows no more of an archive than has been asked for, and opening one costs
// nothing however large it is.
func TestOpenLarge(t *testing.T) {
	content := directory(t, 100_000)
	b, src := openBlob(t, content, &blob.Options{Ahead: -1})
	_ = src
	tree, err := archive.OpenTree(b, b.Size())
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := mount(t, Tree(tree), nil)
	if fi, err := os.Stat(filepath.Join(dir, "f0098765")); err != nil || fi.ModTime().Unix() != 98765 {
		t.Fatalf("%v, %v", fi, err)
	}
	if s := b.Stats(); s.Fetched > 30 {
		t.Errorf("%d of %d chunks were read for one file", s.Fetched, len(b.Index().Entries))
	}
}

// However much of a tree is looked at, only so many nodes are known at once. What is open
// or has something mounted on it stays, whichever way the kernel is told.
func TestForget(t *testing.T) {
	need(t)
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old kernel %v", old), func(t *testing.T) {
			content := directory(t, 5000)
			tree, err := archive.OpenTree(bytes.NewReader(content), int64(len(content)))
			if err != nil {
				t.Fatal(err)
			}
			dir, m := mount(t, Tree(tree), nil)
			m.s.nodes.mu.Lock()
			m.s.nodes.limit = 1000
			if old {
				at, _, err := mountAt(dir)
				if err != nil {
					t.Fatal(err)
				}
				m.s.nodes.drop = func(all []*treeNode) { invalidate(all, at.device) }
			}
			m.s.nodes.mu.Unlock()
			testForget(t, dir, m)
		})
	}
}

// The kernel is not told again and again while nodes come.
func TestForgetPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newNodes(10)
		calls := 0
		k.drop = func([]*treeNode) { calls++ }
		unmounted := make(chan struct{})
		go k.forget(unmounted)
		for range 1000 {
			k.add(&treeNode{})
			time.Sleep(time.Millisecond)
		}
		close(unmounted)
		<-k.done
		if calls < 10 || calls > 21 {
			t.Errorf("told %d times in a second", calls)
		}
	})
}

// A directory that was open when the mount was ended by force leaves nothing behind.
func TestForced(t *testing.T) {
	need(t)
	content := directory(t, 5000)
	tree, err := archive.OpenTree(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := count(t)
	dir := t.TempDir()
	m, err := Tree(tree).Mount(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	noPoll(t, dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := f.Readdirnames(1); len(names) != 1 || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	if err := unix.Unmount(dir, unix.MNT_FORCE); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	f.Close()
	unix.Unmount(dir, unix.MNT_DETACH)
	m.Wait()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		after, _ := count(t)
		if after <= before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, before it were %d", after, before)
		}
	}
}

func testForget(t *testing.T, dir string, m *Mount) {
	f, err := os.Open(filepath.Join(dir, "f0000010"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	over, covered := filepath.Join(t.TempDir(), "over"), filepath.Join(dir, "f0000011")
	if err := errors.Join(os.WriteFile(over, []byte("over"), 0o666), unix.Mount(over, covered, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(covered, unix.MNT_DETACH)
	// The same in a mount namespace of its own.
	elsewhere := exec.Command(testneed.Tool(t, "unshare"), "-m", "sh", "-c", `mount --bind "$1" "$2" && echo && read line && cat "$2"`, "-", over, filepath.Join(dir, "f0000012"))
	in, err1 := elsewhere.StdinPipe()
	out, err2 := elsewhere.StdoutPipe()
	if err := errors.Join(err1, err2, elsewhere.Start()); err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Wait()
	defer elsewhere.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := strings.Count(output(t, "ls", "-l", dir), "\n"); got != 5001 {
			t.Errorf("ls has %d lines", got)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		m.s.nodes.mu.Lock()
		live := m.s.nodes.live
		m.s.nodes.mu.Unlock()
		if live <= 1003 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d nodes are known", live)
		}
	}
	if fi, err := f.Stat(); err != nil || fi.ModTime().Unix() != 10 {
		t.Errorf("what was open: %v, %v", fi, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "f0000020")); err != nil || fi.ModTime().Unix() != 20 {
		t.Errorf("what was forgotten: %v, %v", fi, err)
	}
	if got, err := os.ReadFile(covered); string(got) != "over" || err != nil {
		t.Errorf("what was mounted on: %q, %v", got, err)
	}
	io.WriteString(in, "\n")
	if got, err := io.ReadAll(out); string(got) != "over" || err != nil {
		t.Errorf("what was mounted on elsewhere: %q, %v", got, err)
	}
}
