package cli

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store/storetest"
)

// mounts is a directory with an index, its store and mount points.
type mounts struct {
	t       *testing.T
	dir     string
	content []byte
}

func newMounts(t *testing.T) *mounts {
	t.Helper()
	testneed.Root(t)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		testneed.Missing(t, "needs /dev/fuse: %v", err)
	}
	m := &mounts{t: t, dir: t.TempDir(), content: storetest.Random(7, 3<<20)}
	write(t, m.content, m.dir, "v1")
	ok(t, m.dir, "make", "--chunk-size", "16K", "v1.caibx", "v1")
	m.mkdir("mnt")
	return m
}

func (m *mounts) path(name ...string) string {
	return filepath.Join(append([]string{m.dir}, name...)...)
}

// mkdir makes a mount point, which is free at the end.
func (m *mounts) mkdir(name string) {
	m.t.Helper()
	if err := os.Mkdir(m.path(name), 0o777); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { unix.Unmount(m.path(name), unix.MNT_DETACH) })
}

// mount mounts in the background.
func (m *mounts) mount(args ...string) {
	m.t.Helper()
	ok(m.t, m.dir, append([]string{"mount", "--daemon"}, args...)...)
}

func (m *mounts) unmount() {
	m.t.Helper()
	ok(m.t, m.dir, "unmount", "mnt")
}

// foreground mounts, and returns when the mount is there.
func (m *mounts) foreground(args ...string) *process {
	m.t.Helper()
	c := command(m.dir, append([]string{"mount"}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	c.Stderr = w
	p := start(m.t, c)
	w.Close()
	said := make(chan bool, 1)
	go func() {
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.Contains(lines.Text(), "is mounted") {
				said <- true
			}
		}
		close(said)
	}()
	if !<-said {
		m.t.Fatal("not mounted")
	}
	return p
}

// mounted reports whether something is mounted at mnt.
func (m *mounts) mounted() bool {
	return strings.Contains(string(read(m.t, "/proc/self/mounts")), " "+m.path("mnt")+" ")
}

// ended waits until nothing is mounted.
func (m *mounts) ended(p *process, code int) {
	m.t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		m.t.Fatal("castor goes on")
	}
	if got := p.ProcessState.ExitCode(); got != code {
		m.t.Errorf("exit code %d, want %d", got, code)
	}
	if m.mounted() {
		m.t.Error("still mounted")
	}
}

// cat reads the mounted file in another process.
func (m *mounts) cat() ([]byte, error) { return exec.Command("cat", m.path("mnt", "v1")).Output() }

func (m *mounts) same() {
	m.t.Helper()
	if got, err := m.cat(); err != nil || !bytes.Equal(got, m.content) {
		m.t.Errorf("%s, %v", difference(got, m.content), err)
	}
}

func TestMountDaemon(t *testing.T) {
	m := newMounts(t)
	m.mount("--prefetch", "4", "--cache-size", "1M", "v1.caibx", "mnt")
	m.same()
	if o := castor(t, m.dir, "mount", "--daemon", "v1.caibx", "mnt"); o.code != 1 || !strings.Contains(o.stderr, "already mounted v1.caibx") {
		t.Errorf("mounted twice: %+v", o)
	}
	m.unmount()
	if o := castor(t, m.dir, "unmount", "mnt"); o.code != 1 || !strings.Contains(o.stderr, "mounted nothing") {
		t.Errorf("unmounted twice: %+v", o)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"no.caibx", "mnt"}, 10, "no.caibx"},
		{[]string{"v1.caibx", "no"}, 1, "no such file"},
		{[]string{"v1.caibx", "v1"}, 1, "not a directory"},
		{[]string{"v1.caibx", "."}, 1, "not empty"},
		{[]string{".", "mnt"}, 2, "is a directory"},
		{[]string{"--fill", "v1.caibx", "mnt"}, 2, "--copy-on-read"},
		{[]string{"mcast://lo/v1", "mnt"}, 2, "with -c"},
		{[]string{"-s", "mcast://lo", "v1.caibx", "mnt"}, 2, "with -c"},
		{[]string{"-o", "user_id=0", "v1.caibx", "mnt"}, 2, "unknown option"},
		{[]string{"--copy-on-read", "v1", "v1.caibx", "mnt"}, 1, "exists and is no image"},
	} {
		if o := castor(t, m.dir, append([]string{"mount", "--daemon"}, tt.args...)...); o.code != tt.code || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, tt.want) {
			t.Errorf("%q: %+v, want %d, %s", tt.args, o, tt.code, tt.want)
		}
	}
	if m.mounted() {
		t.Error("mounted after an error")
	}
}

func TestMountSignals(t *testing.T) {
	m := newMounts(t)
	p := m.foreground("v1.caibx", "mnt")
	m.same()
	p.Process.Signal(syscall.SIGTERM)
	m.ended(p, 0)

	// As when a terminal is closed. Where the tests are to ignore that, castor is not.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	p = m.foreground("v1.caibx", "mnt")
	p.Process.Signal(syscall.SIGHUP)
	m.ended(p, 0)

	p = m.foreground("v1.caibx", "mnt")
	f, err := os.Open(m.path("mnt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.Process.Signal(syscall.SIGINT)
	time.Sleep(300 * time.Millisecond) // it tries, and waits
	if !m.mounted() {
		t.Fatal("unmounted while it was in use")
	}
	f.Close()
	m.ended(p, 0)

	p = m.foreground("v1.caibx", "mnt")
	if f, err = os.Open(m.path("mnt")); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.Process.Signal(syscall.SIGINT)
	time.Sleep(300 * time.Millisecond)
	p.Process.Signal(syscall.SIGINT)
	m.ended(p, 130)
}

// A mount that is in another mount namespace, too, is served until it has gone there, and
// castor says what it waits for.
func TestMountNamespace(t *testing.T) {
	m := newMounts(t)
	c := command(m.dir, "mount", "v1.caibx", "mnt")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stderr = w
	p := start(t, c)
	w.Close()
	lines := bufio.NewScanner(r)
	said := func(what string) {
		t.Helper()
		if r.SetReadDeadline(time.Now().Add(20 * time.Second)); !lines.Scan() || !strings.Contains(lines.Text(), what) {
			t.Fatalf("said %q, %v, want %q", lines.Text(), lines.Err(), what)
		}
	}
	said("is mounted")
	other := exec.Command(testneed.Tool(t, "unshare"), "-m", "--propagation", "private", "sh", "-c", `echo; read line; exec cat "$1"`, "-", m.path("mnt", "v1"))
	in, err1 := other.StdinPipe()
	out, err2 := other.StdoutPipe()
	if err := errors.Join(err1, err2, other.Start()); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Process.Signal(syscall.SIGTERM)
	said("other mount namespaces")
	if m.mounted() {
		t.Error("still mounted here")
	}
	io.WriteString(in, "\n")
	if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, m.content) {
		t.Errorf("read there: %s, %v", difference(got, m.content), err)
	}
	m.ended(p, 0)
}

// A service manager is told when the mount can be used, and when it is about to end.
func TestMountNotify(t *testing.T) {
	m := newMounts(t)
	name := m.path("notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	notify.SetReadDeadline(time.Now().Add(20 * time.Second))
	told := func() string {
		b := make([]byte, 4096)
		n, err := notify.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	c := command(m.dir, "mount", "-q", "v1.caibx", "mnt")
	c.Env = append(c.Env, "NOTIFY_SOCKET="+name)
	p := start(t, c)
	if got := told(); !strings.Contains(got, "READY=1") || !m.mounted() {
		t.Errorf("told %q, mounted: %v", got, m.mounted())
	}
	m.same()
	p.Process.Signal(syscall.SIGTERM)
	if got := told(); !strings.Contains(got, "STOPPING=1") {
		t.Errorf("told %q", got)
	}
	m.ended(p, 0)
}

// What is logged when nobody can read it any more does not end the mount.
func TestMountNoStderr(t *testing.T) {
	m := newMounts(t)
	c := command(m.dir, "mount", "v1.caibx", "mnt")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = w, w
	p := start(t, c)
	w.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	r.Close()
	if err := os.Rename(m.path("default.castr"), m.path("away.castr")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.cat(); err == nil {
		t.Error("read what is not there")
	}
	p.Process.Signal(syscall.SIGUSR1)
	if err := os.Rename(m.path("away.castr"), m.path("default.castr")); err != nil {
		t.Fatal(err)
	}
	m.same()
	m.unmount()
	m.ended(p, 0)
}

// A process that was killed leaves a mount that answers with errors, and that castor
// unmount removes.
func TestMountKilled(t *testing.T) {
	m := newMounts(t)
	p := m.foreground("v1.caibx", "mnt")
	f, err := os.Open(m.path("mnt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.Process.Kill()
	<-p.done
	if _, err := m.cat(); err == nil {
		t.Error("read what nobody serves")
	}
	if o := castor(t, m.dir, "mount", "v1.caibx", "mnt"); o.code != 1 || !strings.Contains(o.stderr, "castor unmount") {
		t.Errorf("mount over it: %+v", o)
	}
	m.unmount()
	m.mount("v1.caibx", "mnt")
	m.same()
	m.unmount()
}

func TestMountStats(t *testing.T) {
	m := newMounts(t)
	c := command(m.dir, "mount", "-q", "-c", "cache.castr", "v1.caibx", "mnt")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stderr = w
	p := start(t, c)
	w.Close()
	for end := time.Now().Add(10 * time.Second); !m.mounted() && time.Now().Before(end); {
		runtime.Gosched()
	}
	m.same()
	p.Process.Signal(syscall.SIGUSR1)
	var stats struct {
		Mount struct {
			Bytes int64 `json:"read_bytes"`
		}
		Blob  map[string]float64
		Cache map[string]int64
	}
	if err := json.NewDecoder(r).Decode(&stats); err != nil {
		t.Fatal(err)
	}
	if stats.Mount.Bytes < int64(len(m.content)) || stats.Blob["fetched"] == 0 || stats.Blob["fetch_ms_p99"] == 0 || stats.Cache == nil {
		t.Errorf("statistics: %+v", stats)
	}
	m.unmount()
	m.ended(p, 0)
}

// A store that is away for a while costs errors only while it is.
func TestMountOutage(t *testing.T) {
	m := newMounts(t)
	var down atomic.Bool
	files := http.FileServer(http.Dir(m.dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Error(w, "down", http.StatusNotFound)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	m.mount("--prefetch", "0", srv.URL+"/v1.caibx", "mnt")
	f, err := os.Open(m.path("mnt", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := unix.Pread(int(f.Fd()), b, 0); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	if _, err := unix.Pread(int(f.Fd()), b, 2<<20); err != unix.EIO {
		t.Errorf("while the store is away: %v", err)
	}
	down.Store(false)
	f.Close()
	m.same()
	m.unmount()
}

// A damaged chunk is an error, or is got from the next store.
func TestMountDamage(t *testing.T) {
	m := newMounts(t)
	ok(t, m.dir, "copy", "-s", "default.castr", "-d", "good.castr", "v1.caibx")
	chunks, err := filepath.Glob(m.path("default.castr", "*", "*.cacnk"))
	if err != nil || len(chunks) < 10 {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	b := read(t, chunks[5])
	b[len(b)/2] ^= 1
	os.Chmod(chunks[5], 0o666)
	write(t, b, chunks[5])
	m.mount("v1.caibx", "mnt")
	if _, err := m.cat(); err == nil {
		t.Error("read a damaged chunk")
	}
	m.unmount()
	m.mount("-s", "default.castr", "-s", "good.castr", "v1.caibx", "mnt")
	m.same()
	m.unmount()
}

// What was kept is enough without a store, as soon as it is everything.
func TestMountCopyOnRead(t *testing.T) {
	m := newMounts(t)
	m.mount("--copy-on-read", "image", "v1.caibx", "mnt")
	m.same()
	m.unmount()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if o := castor(t, m.dir, "mount", "--daemon", "--copy-on-read", "image", "-s", "default.castr", "v1.caibx", "mnt"); o.code == 0 {
			break // the one before has let go of it
		}
	}
	m.unmount()
	same(t, m.content, m.dir, "image")

	m.mount("--copy-on-read", "filled", "--fill", "v1.caibx", "mnt")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(m.path("mnt"), "user.castor.stats", value)
		if err != nil {
			t.Fatal(err)
		}
		var stats struct{ Blob struct{ Lacking int } }
		if err := json.Unmarshal(value[:n], &stats); err != nil {
			t.Fatal(err)
		}
		if stats.Blob.Lacking == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d chunks are lacking", stats.Blob.Lacking)
		}
	}
	if err := os.Rename(m.path("default.castr"), m.path("away.castr")); err != nil {
		t.Fatal(err)
	}
	m.same()
	m.unmount()
	same(t, m.content, m.dir, "filled")
}

// The kernel reads an image by itself once it is complete and right, and not before.
func TestMountPassthrough(t *testing.T) {
	m := newMounts(t)
	passes := func() bool {
		t.Helper()
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(m.path("mnt"), "user.castor.stats", value)
		var stats struct{ Mount struct{ Passthrough bool } }
		if err = errors.Join(err, json.Unmarshal(value[:max(n, 0)], &stats)); err != nil {
			t.Fatal(err)
		}
		return stats.Mount.Passthrough
	}
	for _, tt := range []struct {
		what   string
		passes bool
	}{{"empty", false}, {"complete", true}, {"damaged", false}, {"mended", true}} {
		if tt.what == "damaged" {
			f, err := os.OpenFile(m.path("image"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteAt([]byte("damage"), 1<<20)
			f.Close()
		}
		p := m.foreground("--copy-on-read", "image", "-o", "passthrough", "v1.caibx", "mnt")
		if got := passes(); got != tt.passes {
			t.Errorf("%s: the kernel reads by itself: %v", tt.what, got)
		}
		m.same()
		m.unmount()
		m.ended(p, 0)
	}
	for _, tt := range []struct{ args []string }{
		{[]string{"--passthrough", "v1.caibx", "mnt"}},
		{[]string{"--passthrough", "--copy-on-read", "image", "v1.caidx", "mnt"}},
	} {
		if o := castor(t, m.dir, append([]string{"mount"}, tt.args...)...); o.code != 2 || !strings.Contains(o.stderr, "--passthrough") {
			t.Errorf("%q: %+v", tt.args, o)
		}
	}
}

// File systems in the mounted file can be mounted, too.
func TestMountLoop(t *testing.T) {
	m := newMounts(t)
	if err := os.MkdirAll(m.path("tree", "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, m.content, m.dir, "tree", "sub", "file")
	run := func(name string, args ...string) {
		t.Helper()
		c := exec.Command(testneed.Tool(t, name), args...)
		c.Dir = m.dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", c.Args, err, out)
		}
	}
	run("mkfs.ext4", "-q", "-d", "tree", "v1.ext4", "16M")
	run("mksquashfs", "tree", "v1.squashfs", "-quiet", "-no-progress")
	m.mkdir("loop")
	for _, kind := range []string{"ext4", "squashfs"} {
		ok(t, m.dir, "make", kind+".caibx", "v1."+kind)
		m.mount(kind+".caibx", "mnt")
		c := exec.Command(testneed.Tool(t, "mount"), "-t", kind, "-o", "ro,loop", "mnt/"+kind, "loop")
		c.Dir = m.dir
		if out, err := c.CombinedOutput(); err != nil {
			testneed.Missing(t, "needs loop devices and %s: %v, %s", kind, err, out)
		}
		same(t, m.content, m.dir, "loop", "sub", "file")
		run("umount", "loop")
		m.unmount()
	}
}

// Mount(8) finds castor by the type of the file system.
func TestMountHelper(t *testing.T) {
	m := newMounts(t)
	if _, err := os.Stat("/sbin/mount.fuse"); err != nil {
		testneed.Missing(t, "needs mount.fuse: %v", err)
	}
	exe, err := exec.LookPath("castor")
	if err != nil {
		t.Fatal(err)
	}
	// In a mount namespace of its own, in which castor is installed.
	script := fmt.Sprintf(`set -e
		cd %s
		trap 'umount -l mnt 2>/dev/null || true' EXIT
		mkdir bin; cp %s bin/castor; mount --bind bin /usr/local/bin
		mount -t fuse.castor v1.caibx mnt -o ro,noexec,nofail,prefetch=3,store=default.castr
		sha256sum < mnt/v1; grep -c "mnt fuse.castor ro,noexec," /proc/self/mounts
		castor unmount mnt
		mount -t fuse castor#v1.caibx mnt
		sha256sum < mnt/v1
		castor unmount mnt
		echo "$PWD/v1.caibx $PWD/mnt fuse.castor _netdev,nofail,noauto,x-systemd.automount,allow_other,nosuid,nodev,store=$PWD/default.castr 0 0" > fstab
		mount --bind fstab /etc/fstab
		mount "$PWD/mnt"
		sha256sum < mnt/v1
		umount mnt
		! mount -t fuse.castor no.caibx mnt 2>&1
		! mount -t fuse.castor v1.caibx mnt -o nonsense 2>&1
	`, m.dir, exe)
	c := exec.Command(testneed.Tool(t, "unshare"), "-m", "sh", "-c", script)
	c.Env = append(os.Environ(), "CASTOR_STORE=")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256(m.content))
	lines := strings.SplitAfter(string(out), "\n")
	if len(lines) < 6 || lines[0] != sum || lines[1] != "1\n" || lines[2] != sum || lines[3] != sum ||
		!strings.Contains(lines[4], "no.caibx") || !strings.Contains(lines[5], "-o nonsense: unknown option") {
		t.Errorf("%s", out)
	}
}

// Users mount with fusermount3.
func TestMountUser(t *testing.T) {
	m := newMounts(t)
	testneed.Tool(t, "fusermount3")
	testneed.Tool(t, "setpriv")
	dir, err := os.MkdirTemp("/var/tmp", "castor-test-") // where other users get
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := exec.LookPath("castor")
	if err != nil {
		t.Fatal(err)
	}
	write(t, read(t, exe), dir, "castor")
	// In a mount namespace of its own, in which everybody may use /dev/fuse.
	script := fmt.Sprintf(`set -e
		cp -r %s/v1.caibx %s/default.castr %s
		cd %s
		trap 'umount -l mnt 2>/dev/null || true' EXIT
		chmod 755 castor
		mkdir mnt dev; chown 65534 mnt . ; chmod 755 .
		mknod fuse c 10 229; chmod 666 fuse
		mount --bind fuse /dev/fuse
		user="setpriv --reuid=65534 --regid=65534 --clear-groups"
		$user ./castor mount --daemon -o noexec v1.caibx mnt
		$user cat mnt/v1 | sha256sum
		grep -c "%s/mnt fuse.castor ro,nosuid,nodev,noexec,.*user_id=65534" /proc/self/mounts
		cat mnt/v1 2>&1 | sha256sum | cut -c1-8
		$user ./castor unmount mnt
		for i in 1 2; do
			$user ./castor mount --passthrough --copy-on-read image v1.caibx mnt & # twice: the second time the image is complete
			timeout 20 sh -c 'while ! grep -q "%s/mnt" /proc/self/mounts; do sleep 0.01; done'
			$user cat mnt/v1 | sha256sum
			$user ./castor unmount mnt
			wait
		done
		! grep "%s/mnt" /proc/self/mounts
		$user ./castor mount --daemon --allow-other v1.caibx mnt 2>&1 | head -1
		mount --bind /dev/null /bin/fusermount3; mount --bind /dev/null /usr/bin/fusermount3 2>/dev/null || true
		$user env PATH=/nowhere ./castor mount v1.caibx mnt 2>&1 || true
	`, m.dir, m.dir, dir, dir, dir, dir, dir)
	c := exec.Command(testneed.Tool(t, "unshare"), "-m", "sh", "-c", script)
	c.Env = append(os.Environ(), "CASTOR_STORE=")
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%x", sha256.Sum256(m.content)), "\n1\n", "user_allow_other", "fuse3", "does not read the file by itself"} {
		if !strings.Contains(string(out), s) {
			t.Errorf("no %q", s)
		}
	}
}

// What comes by multicast is brought into the cache before it is mounted.
func TestMountCast(t *testing.T) {
	newMounts(t) // for what it needs
	inCastLab(t, func(l *castLab) {
		t, dir := l.t, t.TempDir()
		l.cast(t, "-i", "eth0", "-s", "store.castr", "--rate", "80M", "v1.caibx")
		c := l.clients[0].Command(testneed.Tool(t, "unshare"), "-m", "sh", "-c", `set -e
			mkdir mnt
			trap 'umount -l mnt 2>/dev/null || true' EXIT
			castor mount --daemon -c cache.castr "$1" mnt
			cat mnt/* | sha256sum
			castor unmount mnt`, "-", l.url(1))
		c.Dir = dir
		c.Env = append(os.Environ(), "CASTOR_STORE=")
		o := finish(t, c)
		if want := fmt.Sprintf("%x  -\n", sha256.Sum256(l.v1)); o.code != 0 || o.stdout != want {
			t.Errorf("%+v, want %s", o, want)
		}
	})
}
