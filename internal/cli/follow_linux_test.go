package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFollowShare follows a file that is shared straight from disk, over two changes
// and a restart of the receiver.
func TestFollowShare(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		srv := t.TempDir()
		if err := os.MkdirAll(filepath.Join(srv, "os"), 0o777); err != nil {
			t.Fatal(err)
		}
		put := func(b []byte) {
			write(t, b, srv, "new.castor-tmp")
			if err := os.Rename(filepath.Join(srv, "new.castor-tmp"), filepath.Join(srv, "os", "disk 1?")); err != nil {
				t.Fatal(err)
			}
		}
		put(l.v1)
		write(t, nil, srv, "empty")
		pub := strings.TrimSpace(ok(t, l.dir, "cast", "signkey", "k"))
		ok(t, l.dir, "cast", "signkey", "other")
		s := l.cast(t, "--rate", "80M", "--share", srv, "--sign", "k")

		const url = "mcast://eth0/os/disk%201%3F"
		c := l.start(t, 0, "extract", "--pubkey", pub, url, "disk.img")
		c.succeeds()
		same(t, l.v1, c.dir, "disk.img")
		c = l.start(t, 0, "extract", "mcast:///empty", "disk.img")
		c.succeeds()
		same(t, nil, c.dir, "disk.img")
		wrong := l.start(t, 1, "extract", "--pubkey", l.path("other.pub"), url, "disk.img")
		wrong.fails(exitFailure, "no announcement heard.*only names signed with the key given")

		follow := []string{"extract", "--follow", "--exec", `cmp -s "$CASTOR_DEST" disk.img && echo $CASTOR_VERSION $CASTOR_ROOT >> log`, "--pubkey", l.path("k.pub"), url, "disk.img"}
		c = l.start(t, 1, follow...)
		arrived := func(n int, want []byte) {
			t.Helper()
			waitFor(t, "the version", func() bool {
				b, _ := os.ReadFile(filepath.Join(c.dir, "log"))
				return bytes.Count(b, []byte("\n")) == n
			})
			same(t, want, c.dir, "disk.img")
		}
		arrived(1, l.v1)
		put(l.v2)
		s.signal(syscall.SIGHUP) // looks at once
		arrived(2, l.v2)
		c.signal(syscall.SIGTERM)
		if code := c.end(); code != 143 {
			t.Errorf("exit code %d after SIGTERM, want 143\n%s", code, c.stderr.Bytes())
		}
		tidy(t, c.dir)

		// In its place a file of the same length, while nobody follows.
		v3 := bytes.Clone(l.v1)
		copy(v3[len(v3)/2:], "version three")
		put(v3)
		dir := c.dir
		c = &client{process: start(t, castorOn(l.clients[1], dir, follow...)), t: t, dir: dir}
		arrived(3, v3)
		if n := strings.Count(string(read(t, dir, "log")), l.roots[0]); n > 1 {
			t.Errorf("the first version came %d times", n)
		}
		c.signal(syscall.SIGINT)
		if code := c.end(); code != 130 {
			t.Errorf("exit code %d after SIGINT, want 130\n%s", code, c.stderr.Bytes())
		}
		s.end()
	})
}

// TestCastName announces an index under a name, and another one after SIGHUP.
func TestCastName(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		write(t, read(t, l.dir, "v2.caibx"), l.dir, "current.caibx")
		s := l.cast(t, "-s", "store.castr", "--rate", "80M", "--name", "os/stable=current.caibx", "v1.caibx")
		c := l.start(t, 0, "extract", "mcast://eth0/os/stable", "disk.img")
		c.succeeds()
		same(t, l.v2, c.dir, "disk.img")
		c = l.start(t, 0, "cache", "-c", "cache.castr", "mcast://eth0/os/stable")
		c.succeeds()
		if o := finish(t, castorOn(l.clients[0], c.dir, "cat", "-c", "cache.castr", "mcast://eth0/os/stable")); o.code != 0 || o.stdout != string(l.v2) {
			t.Errorf("cat: exit code %d, %d bytes: %s", o.code, len(o.stdout), o.stderr)
		}
		f := l.start(t, 1, "extract", "--follow", "mcast://eth0/os/stable", "disk.img")
		arrived := func(want []byte) {
			t.Helper()
			waitFor(t, "the version", func() bool {
				b, _ := os.ReadFile(filepath.Join(f.dir, "disk.img"))
				return bytes.Equal(b, want)
			})
		}
		arrived(l.v2)
		write(t, read(t, l.dir, "v1.caibx"), l.dir, "new")
		if err := os.Rename(l.path("new"), l.path("current.caibx")); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		arrived(l.v1)
		f.signal(syscall.SIGTERM)
		if code := f.end(); code != 143 {
			t.Errorf("exit code %d after SIGTERM, want 143\n%s", code, f.stderr.Bytes())
		}
		s.end()
		none := l.start(t, 0, "extract", "mcast://eth0/os/stable", "disk.img")
		none.fails(exitFailure, "no announcement heard: the name os/stable: joined ff15:.* on eth0 for 3s and heard nothing")
	})
}

// TestCastTree sends a directory as one tree, straight from disk: whole, in part, and
// again when it has changed.
func TestCastTree(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		root := filepath.Join(t.TempDir(), "os")
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, l.v1, root, "disk.img")
		write(t, []byte("one\n"), root, "etc/issue")
		s := l.cast(t, "--rate", "80M", "--share-tree", root)

		c := l.start(t, 0, "extract", "mcast://eth0/os", "copy")
		c.succeeds()
		same(t, l.v1, c.dir, "copy/disk.img")
		if out := ok(t, c.dir, "diff", root, "copy"); out != "" {
			t.Errorf("differs: %s", out)
		}
		part := l.start(t, 1, "extract", "-c", "cache.castr", "mcast://eth0/os", ".", "etc")
		part.succeeds()
		same(t, []byte("one\n"), part.dir, "etc/issue")

		list := l.start(t, 1, "list", "mcast://eth0/os", "etc")
		list.succeeds()

		write(t, []byte("two and a half\n"), root, "etc/issue")
		s.signal(syscall.SIGHUP) // looks at once
		waitFor(t, "the change", func() bool {
			again := &client{process: start(t, castorOn(l.clients[0], c.dir, "extract", "mcast://eth0/os", "copy")), t: t, dir: c.dir}
			again.succeeds()
			return string(read(t, c.dir, "copy/etc/issue")) == "two and a half\n"
		})
		if out := ok(t, c.dir, "diff", root, "copy"); out != "" {
			t.Errorf("differs after the change: %s", out)
		}
		s.end()
	})
}

// TestFollowTree follows a directory that is shared as one tree, a part of it too, over a
// change and a restart of the receiver.
func TestFollowTree(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		root := filepath.Join(t.TempDir(), "os")
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, []byte("not wanted\n"), root, "readme")
		write(t, []byte("one\n"), root, "etc/issue")
		s := l.cast(t, "--rate", "80M", "--share-tree", root)
		for i, tt := range []struct {
			args []string
			in   string
		}{
			{[]string{"copy/"}, "copy/etc"},
			{[]string{".", "etc"}, "etc"},
		} {
			follow := append([]string{"extract", "--follow", "--exec", "echo >> ../log", "mcast://eth0/os"}, tt.args...)
			dir := filepath.Join(t.TempDir(), "here")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			begin := func() *client {
				return &client{process: start(t, castorOn(l.clients[i], dir, follow...)), t: t, dir: dir}
			}
			c := begin()
			arrived := func(n int, want string) {
				t.Helper()
				waitFor(t, "the version", func() bool {
					b, _ := os.ReadFile(filepath.Join(dir, "../log"))
					return bytes.Count(b, []byte("\n")) == n
				})
				if got := string(read(t, dir, tt.in+"/issue")); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
			end := func() {
				t.Helper()
				c.signal(syscall.SIGTERM)
				if code := c.end(); code != 143 {
					t.Errorf("exit code %d after SIGTERM, want 143\n%s", code, c.stderr.Bytes())
				}
			}
			texts := []string{"one\n", "the second\n", "the third one\n"}
			arrived(1, texts[i])
			end()
			write(t, []byte(texts[i+1]), root, "etc/issue")
			s.signal(syscall.SIGHUP)
			c = begin()
			arrived(2, texts[i+1])
			end()
			if _, err := os.Stat(filepath.Join(dir, "readme")); err == nil {
				t.Error("what was not asked for is there")
			}
		}
		s.end()
	})
}
