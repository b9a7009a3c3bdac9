package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a castor on its way.
type process struct {
	*exec.Cmd
	t              testing.TB
	stdout, stderr bytes.Buffer
	done           chan struct{} // closed when it has ended
}

// start starts c.
func start(t testing.TB, c *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: c, t: t, done: make(chan struct{})}
	if c.Stdout == nil {
		c.Stdout = &p.stdout
	}
	if c.Stderr == nil {
		c.Stderr = &p.stderr
	}
	c.WaitDelay = time.Second // somebody may hold a pipe open
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); <-p.done })
	go func() { defer close(p.done); c.Wait() }()
	return p
}

// moved returns how many bytes the process has read and written; false if it has
// ended.
func (p *process) moved() (int64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.Process.Pid))
	if err != nil {
		return 0, false
	}
	var n int64
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "rchar" || key == "wchar" {
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			n += v
		}
	}
	return n, true
}

// stop halts the process once it has moved some bytes and reports whether it
// could: it may have ended before.
func (p *process) stop(bytes int64) bool {
	deadline := time.Now().Add(30 * time.Second)
	for {
		n, alive := p.moved()
		if !alive {
			return false
		}
		if n >= bytes {
			return p.signal(syscall.SIGSTOP) && p.stopped()
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%q has moved only %d bytes of %d", p.Args, n, bytes)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// stopped waits until the process stands still, and reports whether it does.
func (p *process) stopped() bool {
	for range 10_000 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			return false
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		switch rest[:1] {
		case "T":
			return true
		case "Z", "X":
			return false
		}
		time.Sleep(100 * time.Microsecond)
	}
	p.t.Fatalf("%q does not stop", p.Args)
	return false
}

func (p *process) signal(s syscall.Signal) bool {
	select {
	case <-p.done:
		return false
	default:
		return p.Process.Signal(s) == nil
	}
}

// end waits for the end and returns the exit code.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%q does not end", p.Args)
		return 0
	}
}

// signalCase is a command to be hit by a signal.
type signalCase struct {
	name  string
	after int64 // bytes moved, when the signal comes
	args  []string
	pipe  bool // stdin is a pipe that gives a part of the image and stays open
	setup func(dir string)
	check func(dir string) // of what must not have changed
}

func TestSignals(t *testing.T) {
	source, v1, v2 := versions(t, 48<<20)
	path := func(name string) string { return filepath.Join(source, name) }
	absent := func(names ...string) func(string) {
		return func(dir string) {
			for _, name := range names {
				if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
					t.Errorf("%s is there: %v", name, err)
				}
			}
		}
	}
	old := func(dir string) { write(t, v1, dir, "disk.img") }
	index, err := os.ReadFile(path("v2.caibx"))
	if err != nil {
		t.Fatal(err)
	}
	keeps := func(dir string) { same(t, v1, dir, "disk.img") }
	cases := []signalCase{
		{name: "make", after: 20 << 20, args: []string{"make", "--compression-level", "9", "new.caibx", path("v1.img")}, check: absent("new.caibx")},
		{name: "make over an index", after: 20 << 20, args: []string{"make", "--compression-level", "9", "old.caibx", path("v1.img")},
			setup: func(dir string) { write(t, index, dir, "old.caibx") },
			check: func(dir string) { same(t, index, dir, "old.caibx") }},
		{name: "make index only", after: 10 << 20, args: []string{"make", "--index-only", "--digest", "sha512-256", "new.caibx", path("v1.img")}, check: absent("new.caibx", "default.castr")},
		{name: "make from an open pipe", after: 10 << 20, args: []string{"make", "new.caibx", "-"}, pipe: true, check: absent("new.caibx")},
		{name: "extract", after: 20 << 20, args: []string{"extract", "-s", path("store.castr"), path("v2.caibx"), "disk.img"}, check: absent("disk.img")},
		{name: "extract with cache", after: 20 << 20, args: []string{"extract", "-c", "cache.castr", "-s", path("store.castr"), path("v2.caibx"), "disk.img"}, check: absent("disk.img")},
		{name: "extract over the old version", after: 20 << 20, args: []string{"extract", "-s", path("store.castr"), path("v2.caibx"), "disk.img"}, setup: old, check: keeps},
		{name: "extract in place", after: 20 << 20, args: []string{"extract", "--in-place", "-s", path("store.castr"), path("v2.caibx"), "disk.img"}, setup: old,
			check: func(dir string) {
				ok(t, dir, "extract", "--in-place", "-s", path("store.castr"), path("v2.caibx"), "disk.img")
				same(t, v2, dir, "disk.img")
			}},
		{name: "extract with seed", after: 20 << 20, args: []string{"extract", "--seed", path("v1.img"), "-s", path("store.castr"), path("v2.caibx"), "disk.img"}, check: absent("disk.img")},
		{name: "extract to stdout", after: 10 << 20, args: []string{"extract", "-s", path("store.castr"), path("v2.caibx"), "-"}},
		{name: "cat", after: 10 << 20, args: []string{"cat", "-s", path("store.castr"), path("v2.caibx")}},
		{name: "cache", after: 20 << 20, args: []string{"cache", "-s", path("store.castr"), "-c", "cache.castr", path("v2.caibx")}},
		{name: "chop", after: 20 << 20, args: []string{"chop", "--compression-level", "9", "-s", "chop.castr", path("v1.caibx"), path("v1.img")}},
		{name: "verify file", after: 10 << 20, args: []string{"verify", path("v1.caibx"), path("v1.img")}},
		{name: "verify stores", after: 5 << 20, args: []string{"verify", "-s", path("store.castr"), path("v1.caibx")}},
		{name: "check", after: 5 << 20, args: []string{"check", path("store.castr")}},
		{name: "digest", after: 10 << 20, args: []string{"digest", "--digest", "sha512-256", path("v1.img")}},
		{name: "info with seed", after: 10 << 20, args: []string{"info", "--seed", "disk.img", path("v2.caibx")}, setup: old, check: keeps},
	}
	for i, c := range cases {
		// SIGTERM for every other one: they take the same way.
		sig, want := syscall.SIGINT, 130
		if i%2 == 1 {
			sig, want = syscall.SIGTERM, 143
		}
		t.Run(c.name, func(t *testing.T) {
			for range 10 {
				dir, p := c.begin(t, v1)
				if !p.stop(c.after) {
					if code := p.end(); code != 0 {
						t.Fatalf("exit code %d before any signal: %s", code, p.stderr.Bytes())
					}
					continue // the machine was too fast, or this test too slow
				}
				p.signal(sig)
				p.signal(syscall.SIGCONT)
				code := p.end()
				if code == 0 && p.stderr.Len() > 0 && !strings.Contains(p.stderr.String(), "interrupted") {
					continue // it was at its end
				}
				if code != want {
					t.Fatalf("%v: exit code %d, want %d\n%s", sig, code, want, p.stderr.Bytes())
				}
				if got := p.stderr.String(); strings.Count(got, "castor: ") != 1 || !strings.HasPrefix(lastLine(got), "castor: ") {
					t.Errorf("got messages %q, want one of castor itself, at the end", got)
				}
				if c.check != nil {
					c.check(dir)
				}
				tidy(t, dir)
				tidy(t, source)
				return
			}
			t.Fatal("it always ended before the signal came")
		})
	}
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// begin starts the command in a directory of its own.
func (c *signalCase) begin(t *testing.T, img []byte) (dir string, p *process) {
	dir = t.TempDir()
	if c.setup != nil {
		c.setup(dir)
	}
	cmd := command(dir, append([]string{"--progress", "none"}, c.args...)...)
	var in io.WriteCloser
	if c.pipe {
		var err error
		if in, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	if c.name == "extract to stdout" || c.name == "cat" {
		cmd.Stdout = &bytes.Buffer{} // thrown away
	}
	p = start(t, cmd)
	if c.pipe {
		go in.Write(img) // and never closed
	}
	return dir, p
}

// Halting castor for a while in the middle does no harm.
func TestStopAndContinue(t *testing.T) {
	source, v1, _ := versions(t, 24<<20)
	path := func(name string) string { return filepath.Join(source, name) }
	for _, tt := range []signalCase{
		{name: "make", args: []string{"make", "--digest", "sha512-256", "new.caibx", path("v1.img")}, check: func(dir string) { same(t, read(t, source, "v1.caibx"), dir, "new.caibx") }},
		{name: "extract", args: []string{"extract", "-s", path("store.castr"), path("v1.caibx"), "disk.img"}, check: func(dir string) { same(t, v1, dir, "disk.img") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := tt.begin(t, nil)
			halts := 0
			for n := int64(4 << 20); p.stop(n); n += 8 << 20 {
				halts++
				time.Sleep(5 * time.Millisecond)
				p.signal(syscall.SIGCONT)
			}
			if code := p.end(); code != 0 {
				t.Fatalf("exit code %d after %d halts, want 0\n%s", code, halts, p.stderr.Bytes())
			}
			tt.check(dir)
			tidy(t, dir)
			t.Logf("halted %d times", halts)
		})
	}
}

// A second signal ends castor at once, even where the first cannot: here it waits
// to write to a stderr that nobody reads.
func TestSecondSignalToProcess(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := fillPipe(w); err != nil {
		t.Fatal(err)
	}
	c := command(t.TempDir(), "info", "-")
	c.Stdin = bytes.NewReader(make([]byte, 1<<20)) // no index, which it will say
	c.Stderr = w
	p := start(t, c)
	waitFor(t, "castor to read stdin", func() bool { n, alive := p.moved(); return !alive || n > 50_000 })
	p.signal(syscall.SIGINT)
	select {
	case <-p.done:
		t.Fatalf("ended after one signal with %d: it did not wait", p.ProcessState.ExitCode())
	case <-time.After(100 * time.Millisecond):
	}
	p.signal(syscall.SIGINT)
	if code := p.end(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

// fillPipe writes to a pipe until it takes no more.
func fillPipe(w *os.File) error {
	c, err := w.SyscallConn()
	if err != nil {
		return err
	}
	b := make([]byte, 4096)
	return c.Write(func(fd uintptr) bool {
		for {
			if _, err := syscall.Write(int(fd), b); err != nil {
				return true // it would have to wait
			}
		}
	})
}
