package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// sftpServer returns the path of OpenSSH's server program.
func sftpServer(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server", "/usr/lib/ssh/sftp-server"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	testneed.Missing(t, "needs OpenSSH's sftp-server")
	return ""
}

// local returns options with which OpenSSH's server runs here, in place of ssh, with
// the given options of its own. Each one that is started appends its process ID to
// the file pids in home, where sessions start.
func local(t testing.TB, home string, args ...string) *Options {
	t.Helper()
	program := filepath.Join(t.TempDir(), "ssh")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >>'%s/pids'\nexec %s -d '%s' %s\n", home, sftpServer(t), home, strings.Join(args, " "))
	if err := os.WriteFile(program, []byte(script), 0o777); err != nil {
		t.Fatal(err)
	}
	return &Options{SSH: &sshexec.Options{Program: program}, Backoff: 5 * time.Millisecond}
}

func openStore(t testing.TB, url string, o *Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// noLeak fails the test if goroutines are left at its end.
func noLeak(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		b := make([]byte, 1<<20)
		t.Errorf("%d goroutines more than before:\n%s", runtime.NumGoroutine()-before, b[:runtime.Stack(b, true)])
	})
}

func TestStore(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server []string
		o      Options
	}{
		{"default", nil, Options{}},
		{"one connection", nil, Options{Connections: 1}},
		{"plain, durable, create", nil, Options{Plain: true, Durable: true, Create: true}},
		{"no extensions", []string{"-P", "posix-rename,fsync"}, Options{Durable: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				if strings.HasSuffix(t.Name(), "/Many") && tt.name != "default" {
					t.Skip("one time will do")
				}
				noLeak(t)
				home := t.TempDir()
				o := local(t, home, tt.server...)
				tt.o.SSH, tt.o.Backoff = o.SSH, o.Backoff
				if !tt.o.Create {
					if err := os.Mkdir(home+"/s.castr", 0o777); err != nil {
						t.Fatal(err)
					}
				}
				return openStore(t, "sftp://host/~/s.castr", &tt.o)
			})
		})
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ url, path, loc, err string }{
		{"sftp://h/a/b", "/a/b", "sftp://h/a/b", ""},
		{"sftp://u@h:2222/a/b/", "/a/b", "sftp://u@h:2222/a/b", ""},
		{"sftp://[::1]:22/", "/", "sftp://[::1]:22/", ""},
		{"sftp://h/~/a", "a", "sftp://h/~/a", ""},
		{"sftp://h/~/", ".", "sftp://h/~", ""},
		{"sftp://h/~", ".", "sftp://h/~", ""},
		{"sftp://h/~/../a", "../a", "sftp://h/a", ""},
		{"sftp://h/~u/a", "/~u/a", "sftp://h/~u/a", ""},
		{"sftp://h/a%20b%3F", "/a b?", "sftp://h/a%20b%3F", ""},
		{"sftp://h/a/../../b", "/b", "sftp://h/b", ""},
		{"sftp://h", "", "", "want a path"},
		{"sftp:///a", "", "", "want sftp:// and a host"},
		{"ssh://h/a", "", "", "want sftp://"},
		{"sftp://h/a?b", "", "", "%3F"},
		{"sftp://h/a%00", "", "", "zero byte"},
		{"sftp://-oProxyCommand=x/a", "", "", "begins with -"},
		{"sftp://u:secret@h/a", "", "", "password"},
		{"sftp://u:secret@h:x/a", "", "", "not a URL"},
		{"://secret", "", "", "not a URL"},
	} {
		pl, err := parse(tt.url)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("parse(%q): error %v, want %q and no secret", tt.url, err, tt.err)
			}
			continue
		}
		if err != nil || pl.path != tt.path || pl.String() != tt.loc && tt.path[0] != '.' {
			t.Errorf("parse(%q) = %q, %q, %v, want %q, %q", tt.url, pl.path, pl, err, tt.path, tt.loc)
		}
	}
}

func TestOpen(t *testing.T) {
	noLeak(t)
	home := t.TempDir()
	os.WriteFile(home+"/file", nil, 0o666)
	for _, tt := range []struct {
		path   string
		create bool
		is     error
		text   string
	}{
		{"/~/none", false, fs.ErrNotExist, "sftp://host/~/none"},
		{"/~/none", true, nil, ""},
		{"/~/file", true, nil, "not a directory"},
		{home, false, nil, ""},
	} {
		o := local(t, home)
		o.Create = tt.create
		s, err := Open(t.Context(), "sftp://host"+tt.path, o)
		if err == nil {
			s.Close()
		}
		switch {
		case tt.is == nil && tt.text == "":
			if err != nil {
				t.Errorf("Open of %s: %v", tt.path, err)
			}
		case tt.is != nil && !errors.Is(err, tt.is), err == nil, !strings.Contains(err.Error(), tt.text):
			t.Errorf("Open of %s: error %v, want %v, %q", tt.path, err, tt.is, tt.text)
		}
	}
}

// TestLayout checks files, names and modes against package dir, in both directions.
func TestLayout(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, "sftp://host"+home+"/new/s.castr", func() *Options {
		o := local(t, home, "-u", "027")
		o.Create = true
		return o
	}())
	c := storetest.Chunk(1, 5000)
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	hex := c.ID.String()
	fi, err := os.Stat(filepath.Join(home, "new/s.castr", hex[:4], hex+".cacnk"))
	if err != nil || fi.Mode() != 0o440 {
		t.Errorf("chunk file: %v, %v, want mode 0440", fi.Mode(), err)
	}
	d, err := dir.Open(home+"/new/s.castr", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Open(storetest.Digest, storetest.Limit); err != nil {
		t.Error(err)
	}
	big := storetest.Plain(storetest.Random(7, 3<<20)) // longer than guess
	if err := d.Put(t.Context(), big); err != nil {
		t.Fatal(err)
	}
	got, err = s.Get(t.Context(), big.ID)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := got.Open(storetest.Digest, 4<<20); err != nil || !bytes.Equal(b, big.Data) {
		t.Error(err)
	}
	if want := "sftp://host" + home + "/new/s.castr/" + big.ID.String()[:4] + "/" + big.ID.String() + ".cacnk"; got.Loc != want {
		t.Errorf("Loc %q, want %q", got.Loc, want)
	}
}

// TestCasync reads a store that casync made.
func TestCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	home := t.TempDir()
	blob := storetest.Random(3, 1<<20)
	os.WriteFile(home+"/blob", blob, 0o666)
	if out, err := exec.Command(casync, "make", "--store="+home+"/s.castr", home+"/blob.caibx", home+"/blob").CombinedOutput(); err != nil {
		t.Fatalf("casync make: %v\n%s", err, out)
	}
	s := openStore(t, "sftp://host/~/s.castr", local(t, home))
	n, size := 0, 0
	err := s.List(t.Context(), func(i store.Info) error {
		n++
		c, err := s.Get(t.Context(), i.ID)
		if err != nil {
			return err
		}
		b, err := c.Open(chunker.SHA512256, 1<<20)
		size += len(b)
		return err
	})
	if err != nil || n < 2 || size != len(blob) {
		t.Errorf("%d chunks, %d bytes, error %v", n, size, err)
	}
}

// TestOdd has what may lie about in a store.
func TestOdd(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, "sftp://host/~/", local(t, home))
	file := func(c store.Chunk, suffix string) string {
		hex := c.ID.String()
		os.Mkdir(filepath.Join(home, hex[:4]), 0o777)
		return filepath.Join(home, hex[:4], hex+suffix)
	}
	null, directory, empty, both, huge, junk := storetest.Chunk(1, 10), storetest.Chunk(2, 10), storetest.Chunk(3, 10), storetest.Chunk(4, 10), storetest.Chunk(5, 10), storetest.Chunk(6, 10)
	os.Symlink("/dev/null", file(null, ".cacnk"))
	os.Mkdir(file(directory, ".cacnk"), 0o777)
	os.WriteFile(file(empty, ".cacnk"), nil, 0o444)
	os.WriteFile(file(both, ".cacnk"), nil, 0o444)
	os.WriteFile(file(both, ""), both.Data, 0o444)
	os.WriteFile(file(huge, ""), nil, 0o644)
	os.Truncate(file(huge, ""), 1<<40)
	os.WriteFile(file(junk, ".cacnk"), []byte("junk"), 0o444)
	for _, tt := range []struct {
		what string
		c    store.Chunk
		is   error
		has  bool
	}{
		{"link to /dev/null", null, fs.ErrNotExist, false},
		{"directory", directory, fs.ErrNotExist, false},
		{"empty", empty, store.ErrDamaged, false},
		{"empty, and the other form", both, nil, true},
		{"huge", huge, store.ErrDamaged, true},
		{"neither form", junk, store.ErrDamaged, true},
	} {
		_, err := s.Get(t.Context(), tt.c.ID)
		if tt.is == nil && err != nil || !errors.Is(err, tt.is) {
			t.Errorf("%s: Get: error %v, want %v", tt.what, err, tt.is)
		}
		if has, err := s.Has(t.Context(), tt.c.ID); err != nil || has != tt.has {
			t.Errorf("%s: Has = %v, %v, want %v", tt.what, has, err, tt.has)
		}
	}
	if err := s.Put(t.Context(), null); err != nil {
		t.Errorf("Put in place of a link: %v", err)
	}
	if fi, err := os.Lstat(file(null, ".cacnk")); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("the link is still there: %v", err)
	}
}

// TestUse checks that the use of a chunk is recorded, and Sweep.
func TestUse(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, "sftp://host/~/", local(t, home))
	old := time.Now().Add(-48 * time.Hour)
	a, b := storetest.Chunk(1, 5000), storetest.Chunk(2, 5000)
	for _, c := range []store.Chunk{a, b} {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(home, s.file(c.ID, compressed)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if added, err := s.Add(t.Context(), a); err != nil || added.New {
		t.Errorf("Add = %+v, %v", added, err)
	}
	since := time.Now().Add(-time.Hour)
	for _, tt := range []struct {
		c    store.Chunk
		want bool
	}{{a, false}, {b, true}} {
		if got, err := s.Remove(t.Context(), tt.c.ID, since); err != nil || got != tt.want {
			t.Errorf("Remove = %v, %v, want %v", got, err, tt.want)
		}
	}

	prefix := filepath.Join(home, "0123")
	os.Mkdir(prefix, 0o777)
	hex := "0123" + strings.Repeat("0", 60)
	for name, keep := range map[string]bool{
		hex + ".0123456789abcdef.tmp":        false,
		".tmp-cacnk123":                      false,
		hex + ".cacnk.0123456789abcdef.gone": false,
		"readme":                             true,
	} {
		os.WriteFile(filepath.Join(prefix, name), []byte("x"), 0o644)
		os.Chtimes(filepath.Join(prefix, name), old, old)
		defer func() {
			if _, err := os.Stat(filepath.Join(prefix, name)); (err == nil) != keep {
				t.Errorf("after Sweep, %s: %v", name, err)
			}
		}()
	}
	os.Mkdir(filepath.Join(home, "4567"), 0o777)
	for _, dryRun := range []bool{true, false} {
		if n, err := s.Sweep(t.Context(), since, dryRun); n != 3 || err != nil {
			t.Errorf("Sweep = %d, %v, want 3", n, err)
		}
	}
	if _, err := os.Stat(filepath.Join(home, "4567")); err == nil {
		t.Error("Sweep leaves an empty directory")
	}
}

// TestKilled kills the servers again and again while chunks are put and got.
func TestKilled(t *testing.T) {
	noLeak(t)
	home := t.TempDir()
	o := local(t, home)
	o.Retries = 50
	s := openStore(t, "sftp://host/~/", o)
	ctx, cancel := context.WithCancel(t.Context())
	var kills atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(30 * time.Millisecond)
			pids, _ := os.ReadFile(home + "/pids")
			os.Truncate(home+"/pids", 0)
			for _, pid := range strings.Fields(string(pids)) {
				if exec.Command("kill", "-9", pid).Run() == nil {
					kills.Add(1)
				}
			}
		}
	})
	const n = 200
	err := par.Each(t.Context(), 8, n, func(ctx context.Context, i int) error {
		c := storetest.Chunk(uint64(i), 50_000)
		if err := s.Put(ctx, c); err != nil {
			return err
		}
		got, err := s.Get(ctx, c.ID)
		if err == nil {
			_, err = got.Open(storetest.Digest, storetest.Limit)
		}
		return err
	})
	cancel()
	wg.Wait()
	if err != nil || kills.Load() == 0 {
		t.Errorf("%v, and %d servers were killed", err, kills.Load())
	}
	count := 0
	if err := s.List(t.Context(), func(store.Info) error { count++; return nil }); err != nil || count != n {
		t.Errorf("List finds %d chunks, error %v, want %d", count, err, n)
	}
}

// TestGone has a server that cannot be reached any more, and one that never could.
func TestGone(t *testing.T) {
	noLeak(t)
	home := t.TempDir()
	o := local(t, home)
	o.Retries = 2
	s := openStore(t, "sftp://host/~/", o)
	script := "#!/bin/sh\necho 'no route to host' >&2\nexit 255\n"
	if err := os.WriteFile(o.SSH.Program+"x", []byte(script), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(o.SSH.Program+"x", o.SSH.Program); err != nil {
		t.Fatal(err)
	}
	pids, _ := os.ReadFile(home + "/pids")
	exec.Command("kill", "-9", strings.TrimSpace(string(pids))).Run()
	_, err := s.Get(t.Context(), storetest.Chunk(1, 10).ID)
	if err == nil || store.Missing(err) || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("Get: error %v, want what ssh says", err)
	}
	_, err = Open(t.Context(), "sftp://host/~/", o)
	if err == nil || store.Missing(err) || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("Open: error %v, want what ssh says", err)
	}
}

// TestCollect has garbage collections at the same time as puts: whatever was put is
// there, as long as it is in use.
func TestCollect(t *testing.T) {
	home := t.TempDir()
	s := openStore(t, "sftp://host/~/", local(t, home))
	old := time.Now().Add(-48 * time.Hour)
	chunks := make([]store.Chunk, 40)
	for i := range chunks {
		chunks[i] = storetest.Chunk(uint64(i), 3000)
	}
	for round := range 5 {
		for i, c := range chunks {
			if err := s.Put(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				if err := os.Chtimes(filepath.Join(home, s.file(c.ID, compressed)), old, old); err != nil {
					t.Fatal(err)
				}
			}
		}
		other := openStore(t, "sftp://host/~/", local(t, home))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := store.GC(t.Context(), other, func(chunker.ID) bool { return false }, store.GCOptions{Since: time.Now().Add(-time.Hour)})
			if err != nil {
				t.Errorf("GC: %v", err)
			}
		})
		wg.Go(func() {
			err := par.Each(t.Context(), 8, len(chunks), func(ctx context.Context, i int) error { return s.Put(ctx, chunks[i]) })
			if err != nil {
				t.Errorf("Put: %v", err)
			}
		})
		wg.Wait()
		for _, c := range chunks {
			got, err := s.Get(t.Context(), c.ID)
			if err == nil {
				_, err = got.Open(storetest.Digest, storetest.Limit)
			}
			if err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
}

// TestReadOnly has a server that takes nothing.
func TestReadOnly(t *testing.T) {
	home := t.TempDir()
	c := storetest.Chunk(1, 5000)
	enc, err := cacnk.NewEncoder(3)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, "sftp://host/~/", local(t, home, "-R"))
	name := filepath.Join(home, s.file(c.ID, compressed))
	os.Mkdir(filepath.Dir(name), 0o777)
	os.WriteFile(name, enc.Encode(nil, c.Data), 0o444)
	old := time.Now().Add(-48 * time.Hour)
	os.Chtimes(name, old, old)
	if has, err := s.Has(t.Context(), c.ID); err != nil || !has {
		t.Errorf("Has = %v, %v", has, err)
	}
	if err := s.Put(t.Context(), storetest.Chunk(2, 10)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Put: error %v, want fs.ErrPermission", err)
	}
}
