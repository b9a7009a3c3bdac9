package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/internal/testns"
)

// castLab is a switch with hosts on which castor runs.
type castLab struct {
	t       *testing.T
	bridge  *testns.Bridge
	server  *testns.Host
	clients []*testns.Host
	dir     string // has v1.img, v2.img, their indexes and store.castr
	v1, v2  []byte
	roots   [2]string // of the indexes
}

// inCastLab runs test with two clients, in namespaces of its own.
func inCastLab(t *testing.T, test func(l *castLab)) {
	t.Helper()
	t.Parallel()
	testns.Run(t, func(t *testing.T) {
		l := &castLab{t: t, bridge: testns.NewBridge(t, testns.BridgeOptions{Snooping: true, Querier: true})}
		l.server = l.bridge.Host("server")
		l.clients = []*testns.Host{l.bridge.Host("one"), l.bridge.Host("two")}
		l.dir, l.v1, l.v2 = versions(t, 8<<20)
		for i, v := range []string{"v1", "v2"} {
			l.roots[i] = strings.TrimSpace(ok(t, l.dir, "root", v+".caibx"))
		}
		test(l)
	})
}

func (l *castLab) path(name string) string { return filepath.Join(l.dir, name) }

// url is that of the channel of a version, on the interface of every host.
func (l *castLab) url(version int) string { return "mcast://eth0/" + l.roots[version-1] }

// castorOn returns castor with args, to be run on a host in directory dir.
func castorOn(h *testns.Host, dir string, args ...string) *exec.Cmd {
	c := h.Command("castor", append([]string{"--progress", "none"}, args...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CASTOR_STORE=")
	return c
}

// output is what a process has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// sender is a castor cast.
type sender struct {
	*process
	t   *testing.T
	out *output
}

// cast starts castor cast in the directory of the lab, and waits until it hears
// listeners.
func (l *castLab) cast(t *testing.T, args ...string) *sender {
	t.Helper()
	return l.castIn(t, l.dir, args...)
}

func (l *castLab) castIn(t *testing.T, dir string, args ...string) *sender {
	t.Helper()
	c := castorOn(l.server, dir, append([]string{"cast"}, args...)...)
	s := &sender{t: t, out: &output{}}
	c.Stderr = s.out
	s.process = start(t, c)
	waitFor(t, "the sender to begin", func() bool {
		select {
		case <-s.done:
			t.Fatalf("castor cast %q ended: %s", args, s.out)
		default:
		}
		return strings.Contains(s.out.String(), "root ")
	})
	return s
}

// end ends the sender by a signal and sees that it says so, and leaves the channel.
func (s *sender) end() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.process.end(); code != 143 {
		s.t.Errorf("cast: exit code %d after SIGTERM, want 143\n%s", code, s.out)
	}
}

// client is another castor, and when it started.
type client struct {
	*process
	t     *testing.T
	dir   string
	begun time.Time
}

func (l *castLab) start(t *testing.T, host int, args ...string) *client {
	t.Helper()
	dir := t.TempDir()
	return &client{start(t, castorOn(l.clients[host], dir, args...)), t, dir, time.Now()}
}

// succeeds waits for the client to end well.
func (c *client) succeeds() time.Duration {
	c.t.Helper()
	if code := c.end(); code != 0 {
		c.t.Fatalf("castor %q: exit code %d, want 0\n%s", c.Args[3:], code, c.stderr.Bytes())
	}
	took := time.Since(c.begun)
	tidy(c.t, c.dir)
	text := strings.TrimSpace(c.stderr.String())
	if n := strings.Count(text, "\n"); n > 3 {
		c.t.Errorf("%d lines of messages", n+1)
	}
	c.t.Logf("%v: %s", took.Round(time.Millisecond), lastLine(text))
	return took
}

// fails waits for the client to end with the code and one line that matches want, and
// with nothing left behind.
func (c *client) fails(code int, want string) time.Duration {
	c.t.Helper()
	got := c.end()
	took := time.Since(c.begun)
	text := c.stderr.String()
	c.t.Logf("%v: %s", took.Round(time.Millisecond), strings.TrimSpace(text))
	if got != code {
		c.t.Errorf("castor %q: exit code %d, want %d", c.Args[3:], got, code)
	}
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "castor: ") || len(text) > 600 {
		c.t.Errorf("want one line of an error, got\n%s", text)
	}
	if !regexp.MustCompile(want).MatchString(text) {
		c.t.Errorf("want %q in\n%s", want, text)
	}
	names, err := os.ReadDir(c.dir)
	if err != nil || len(names) > 0 {
		c.t.Errorf("left behind: %v, error %v", names, err)
	}
	return took
}

// chunkFiles returns how many chunks a store has.
func chunkFiles(t *testing.T, store string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(store, "*", "*.cacnk"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestCast gets indexes and chunks from a sender in all the ways there are.
func TestCast(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		s := l.cast(t, "-i", "eth0", "-s", "store.castr", "--rate", "80M", "v1.caibx", "v2.caibx")
		t.Run("extract index and chunks", func(t *testing.T) {
			cs := []*client{
				l.start(t, 0, "extract", l.url(1), "disk.img"),
				l.start(t, 1, "extract", l.url(1), "disk.img"),
				l.start(t, 1, "extract", "mcast:///"+l.roots[1], "disk.img"), // any interface
			}
			for i, c := range cs {
				c.succeeds()
				same(t, [][]byte{l.v1, l.v1, l.v2}[i], c.dir, "disk.img")
			}
		})
		t.Run("extract over the other version", func(t *testing.T) {
			c := l.start(t, 0, "extract", "--seed", l.path("v1.img"), "--json", l.url(2), "disk.img")
			c.succeeds()
			same(t, l.v2, c.dir, "disk.img")
			if !strings.Contains(c.stdout.String(), `"copy"`) {
				t.Errorf("nothing from the seed: %s", c.stdout.String())
			}
		})
		t.Run("extract to stdout", func(t *testing.T) {
			c := castorOn(l.clients[0], t.TempDir(), "extract", l.url(1), "-")
			if o := finish(t, c); o.code != 0 || o.stdout != string(l.v1) {
				t.Errorf("exit code %d, %d bytes\n%s", o.code, len(o.stdout), o.stderr)
			}
		})
		t.Run("index at hand", func(t *testing.T) {
			c := l.start(t, 0, "extract", "-s", "mcast://eth0", "-c", "cache.castr", l.path("v1.caibx"), "disk.img")
			c.succeeds()
			same(t, l.v1, c.dir, "disk.img")
			if n := chunkFiles(t, filepath.Join(c.dir, "cache.castr")); n == 0 {
				t.Error("nothing was kept in the cache")
			}
			again := castorOn(l.clients[0], c.dir, "extract", "-s", "mcast://eth0", "-c", "cache.castr", "--json", l.path("v1.caibx"), "again.img")
			before := l.server.Sent()
			if o := finish(t, again); o.code != 0 {
				t.Fatalf("exit code %d: %s", o.code, o.stderr)
			}
			same(t, l.v1, c.dir, "again.img")
			if n := l.server.Sent().Sub(before).Bytes; n > 100_000 {
				t.Errorf("the cache had everything and %d bytes were sent", n)
			}
		})
		t.Run("cache", func(t *testing.T) {
			c := l.start(t, 0, "cache", "-s", "mcast://eth0", "-c", "cache.castr", l.path("v1.caibx"))
			c.succeeds()
			ok(t, c.dir, "extract", "-s", "cache.castr", l.path("v1.caibx"), "disk.img")
			same(t, l.v1, c.dir, "disk.img")
			// With the index of the channel, what is there already comes not again.
			o := finish(t, castorOn(l.clients[0], c.dir, "cache", "-c", "cache.castr", l.url(2)))
			if o.code != 0 || !regexp.MustCompile(`[1-9][0-9]* chunks copied .* [1-9][0-9]* present`).MatchString(o.stderr) {
				t.Errorf("exit code %d: %s", o.code, o.stderr)
			}
			ok(t, c.dir, "extract", "-s", "cache.castr", l.path("v2.caibx"), "disk.img")
			same(t, l.v2, c.dir, "disk.img")
		})
		t.Run("capabilities", func(t *testing.T) {
			m := regexp.MustCompile(`(?m)^CapEff:\s*([0-9a-f]+)`).FindSubmatch(read(t, fmt.Sprintf("/proc/%d/status", s.Process.Pid)))
			var caps uint64
			if m == nil {
				t.Fatal("no CapEff")
			}
			fmt.Sscanf(string(m[1]), "%x", &caps)
			// Programs with cgo, as this may be, cannot give up what all their threads have.
			_, _, cgo := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
			if kept := caps&(1<<unix.CAP_NET_RAW) != 0; kept && cgo == 0 {
				t.Errorf("the sender has CAP_NET_RAW: %x", caps)
			}
		})
		s.end()
		tidy(t, l.dir)
	})
}

// TestCastAbsent has no sender, with another store and without.
func TestCastAbsent(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		// At the same time.
		other := l.start(t, 0, "extract", "-s", "mcast://eth0", "-s", l.path("store.castr"), "-c", "cache.castr", l.path("v1.caibx"), "disk.img")
		alone := l.start(t, 0, "extract", l.url(1), "disk.img")
		store := l.start(t, 1, "extract", "-s", "mcast://eth0", l.path("v1.caibx"), "disk.img")
		cache := l.start(t, 1, "cache", "-s", "mcast://eth0", "-s", l.path("store.castr"), "-c", "cache.castr", l.path("v1.caibx"))
		if took := other.succeeds(); took > 9*time.Second {
			t.Errorf("took %v to turn to the store", took)
		}
		same(t, l.v1, other.dir, "disk.img")
		cache.succeeds()
		for _, c := range []*client{other, cache} {
			if n := chunkFiles(t, filepath.Join(c.dir, "cache.castr")); n == 0 {
				t.Error("nothing was kept in the cache")
			}
		}
		if took := alone.fails(exitFailure, "no announcement heard.*eth0|no announcement heard.*joined"); took > 6*time.Second {
			t.Errorf("took %v to give up", took)
		}
		if took := store.fails(exitFailure, "no announcement heard"); took > 6*time.Second {
			t.Errorf("took %v to give up", took)
		}
		none := l.start(t, 0, "extract", "mcast://eth7/"+l.roots[0], "disk.img")
		none.fails(exitFailure, "eth7")
	})
}

// TestCastDies kills the sender in the middle, with another store and without.
func TestCastDies(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		for _, tt := range []struct {
			name   string
			signal syscall.Signal
			code   int           // of the sender
			within time.Duration // until receivers give it up
		}{
			{"killed", syscall.SIGKILL, -1, 4 * time.Second},
			{"ended", syscall.SIGTERM, 143, time.Second},
		} {
			l.t.Run(tt.name, func(t *testing.T) {
				s := l.cast(t, "-s", "store.castr", "--rate", "10M", "v1.caibx")
				other := l.start(t, 0, "extract", "-s", "mcast://eth0", "-s", l.path("store.castr"), "-c", "cache.castr", l.path("v1.caibx"), "disk.img")
				alone := l.start(t, 1, "extract", l.url(1), "disk.img")
				cache := filepath.Join(other.dir, "cache.castr")
				waitFor(t, "some chunks", func() bool { return chunkFiles(t, cache) > 0 })
				s.signal(tt.signal)
				begin := time.Now()
				if code := s.process.end(); code != tt.code {
					t.Errorf("sender: exit code %d, want %d\n%s", code, tt.code, s.out)
				}
				alone.fails(exitFailure, "the sender has fallen silent")
				if took := time.Since(begin); took > tt.within+2*time.Second {
					t.Errorf("alone: noticed after %v", took)
				}
				other.succeeds()
				if took := time.Since(begin); took > tt.within+5*time.Second {
					t.Errorf("with another store: done after %v", took)
				}
				same(t, l.v1, other.dir, "disk.img")
			})
		}
	})
}

// TestCastAgain gives the sender other indexes while it runs.
func TestCastAgain(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		t := l.t
		write(t, read(t, l.dir, "v1.caibx"), l.dir, "current.caibx")
		s := l.cast(t, "-s", "store.castr", "--rate", "80M", "current.caibx")
		c := l.start(t, 0, "extract", l.url(1), "disk.img")
		c.succeeds()
		same(t, l.v1, c.dir, "disk.img")
		// One that cannot be read leaves everything as it was.
		write(t, []byte("no index"), l.dir, "current.caibx")
		s.signal(syscall.SIGHUP)
		waitFor(t, "a warning", func() bool {
			return strings.Contains(s.out.String(), "current.caibx") && strings.Contains(s.out.String(), "WARN")
		})
		c = l.start(t, 0, "extract", l.url(1), "disk.img")
		c.succeeds()
		// A new version.
		write(t, read(t, l.dir, "v2.caibx"), l.dir, "new")
		if err := os.Rename(l.path("new"), l.path("current.caibx")); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		c = l.start(t, 0, "extract", l.url(2), "disk.img")
		c.succeeds()
		same(t, l.v2, c.dir, "disk.img")
		old := l.start(t, 1, "extract", l.url(1), "disk.img")
		old.fails(exitFailure, "no announcement heard")
		s.end()
	})
}

// TestCastOptions has sender and receivers agree on what they can agree on, or not.
func TestCastOptions(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		for _, key := range []string{"lab.key", "other.key"} {
			ok(l.t, l.dir, "cast", "keygen", key)
		}
		l.t.Run("keygen", func(t *testing.T) {
			fi, err := os.Stat(l.path("lab.key"))
			if err != nil || fi.Size() != 128 || fi.Mode() != 0o600 {
				t.Fatalf("%v, %v", fi, err)
			}
			if bytes.Equal(read(t, l.dir, "lab.key"), read(t, l.dir, "other.key")) {
				t.Error("two keys are the same")
			}
			if o := castor(t, l.dir, "cast", "keygen", "lab.key"); o.code != exitFailure || !strings.Contains(o.stderr, "exist") {
				t.Errorf("over a key: exit code %d: %s", o.code, o.stderr)
			}
			if o := castor(t, l.dir, "cast", "keygen"); o.code != exitUsage {
				t.Errorf("without a name: exit code %d: %s", o.code, o.stderr)
			}
			write(t, []byte("short"), l.dir, "short.key")
			if o := castor(t, l.dir, "extract", "--key", "short.key", l.url(1), "disk.img"); o.code != exitFailure || !strings.Contains(o.stderr, "5 bytes, want 128") {
				t.Errorf("with a short key: exit code %d: %s", o.code, o.stderr)
			}
		})
		address := l.server.Addr.String()
		for _, tt := range []struct {
			name         string
			cast         []string
			right, wrong []string // of extract: what is behind the URL's root, and flags
		}{
			{"key", []string{"--key", "lab.key"}, []string{"", "--key", "lab.key"}, []string{"", "--key", "other.key"}},
			{"no key", nil, []string{""}, []string{"", "--key", "lab.key"}},
			{"source", []string{"--source", address}, []string{"?source=" + address}, []string{"?source=fe80::99"}},
			{"scope", []string{"--scope", "link"}, []string{"?scope=link"}, nil},
			{"port", []string{"--port", "5555"}, []string{"?port=5555"}, nil},
		} {
			l.t.Run(tt.name, func(t *testing.T) {
				s := l.cast(t, append(tt.cast, "-s", "store.castr", "--rate", "80M", "v1.caibx")...)
				var cs []*client
				for i, o := range [][]string{tt.right, tt.wrong} {
					if o == nil {
						continue
					}
					args := []string{"extract"}
					for _, a := range o[1:] {
						if strings.HasSuffix(a, ".key") {
							a = l.path(a)
						}
						args = append(args, a)
					}
					cs = append(cs, l.start(t, i, append(args, l.url(1)+o[0], "disk.img")...))
				}
				cs[0].succeeds()
				same(t, l.v1, cs[0].dir, "disk.img")
				for _, c := range cs[1:] {
					c.fails(exitFailure, "no announcement heard")
				}
				s.end()
			})
		}
	})
}

// TestCastWithoutCapability runs a sender that may not hear reports.
func TestCastWithoutCapability(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		testneed.Tool(l.t, "setpriv")
		bounded := func(args ...string) *exec.Cmd {
			c := l.server.Command("setpriv", append([]string{"--bounding-set", "-net_raw", "--inh-caps", "-net_raw", "castor", "--progress", "none", "cast"}, args...)...)
			c.Dir = l.dir
			c.Env = append(os.Environ(), "CASTOR_STORE=")
			return c
		}
		l.t.Run("refused", func(t *testing.T) {
			o := finish(t, bounded("-s", "store.castr", "v1.caibx"))
			if o.code != exitFailure || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("exit code %d\n%s", o.code, o.stderr)
			}
			for _, want := range []string{"CAP_NET_RAW", "setcap cap_net_raw+ep", "AmbientCapabilities=CAP_NET_RAW", "--always"} {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("no %s in: %s", want, o.stderr)
				}
			}
		})
		l.t.Run("always", func(t *testing.T) {
			p := start(t, bounded("--always", "-s", "store.castr", "--rate", "60M", "v1.caibx"))
			cs := []*client{l.start(t, 0, "extract", l.url(1), "disk.img"), l.start(t, 1, "extract", l.url(1), "disk.img")}
			for _, c := range cs {
				c.succeeds()
				same(t, l.v1, c.dir, "disk.img")
			}
			p.signal(syscall.SIGTERM)
			if code := p.end(); code != 143 {
				t.Errorf("exit code %d: %s", code, p.stderr.Bytes())
			}
		})
		l.t.Run("local", func(t *testing.T) {
			p := start(t, bounded("--listeners", "local", "-s", "store.castr", "--rate", "60M", "v1.caibx"))
			dir := t.TempDir()
			if o := finish(t, castorOn(l.server, dir, "extract", l.url(1), "disk.img")); o.code != 0 {
				t.Fatalf("exit code %d: %s", o.code, o.stderr)
			}
			same(t, l.v1, dir, "disk.img")
			p.signal(syscall.SIGTERM)
			p.end()
		})
	})
}
