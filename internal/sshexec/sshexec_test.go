package sshexec_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testssh"
)

func TestParseHost(t *testing.T) {
	for s, want := range map[string]sshexec.Host{
		"h":                 {Name: "h"},
		"u@h":               {User: "u", Name: "h"},
		"u@realm@h:22":      {User: "u@realm", Name: "h", Port: 22},
		"h:65535":           {Name: "h", Port: 65535},
		"[::1]":             {Name: "::1"},
		"u@[fe80::1%e0]:22": {User: "u", Name: "fe80::1%e0", Port: 22},
		"bücher.example":    {Name: "bücher.example"},
	} {
		got, err := sshexec.ParseHost(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", s, got, err, want)
		}
		if got.String() != s {
			t.Errorf("%s comes back as %s", s, got)
		}
	}
	for _, s := range []string{"", "@h", "u@", "-oProxyCommand=x", "-l@h", "u@-x", "h:", "h:0", "h:65536", "h:-1", "h:ssh", "::1", "[::1", "[::1]22",
		"[h]", "[]", "h h", "h\n", "h\x00", "u\t@h", "h;x", "$(x)", "`x`", "u|x@h", "h/x", "ssh://h", "\xff", "h\u00a0", "h\u200b"} {
		if got, err := sshexec.ParseHost(s); err == nil {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"u@h:22", "[::1]:22", "-x", "a@b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := sshexec.ParseHost(s)
		if err != nil {
			return
		}
		again, err := sshexec.ParseHost(h.String())
		if err != nil || again != h || h.Name == "" || h.Name[0] == '-' || strings.HasPrefix(h.User, "-") {
			t.Errorf("%q: %+v, %+v, %v", s, h, again, err)
		}
	})
}

// FuzzQuote has a shell take the words apart again.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "it's", "a b", "$HOME", "`x`", "\\", "\n", "-n", "é", "~", "a=b", "{a,b}", "#", "!x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		line, err := sshexec.Quote("printf", "%s.", s, "end")
		if err != nil {
			if !strings.Contains(s, "\x00") {
				t.Error(err)
			}
			return
		}
		out, err := exec.Command("sh", "-c", line).Output()
		if want := s + ".end."; err != nil || string(out) != want {
			t.Errorf("%q becomes %q, %v", want, out, err)
		}
	})
}

// fake returns options with a program that the shell script is, in place of ssh.
func fake(t *testing.T, script string) *sshexec.Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &sshexec.Options{Program: path, Grace: 100 * time.Millisecond}
}

var host = sshexec.Host{User: "u", Name: "h", Port: 2222}

func start(t *testing.T, o *sshexec.Options, argv ...string) *sshexec.Conn {
	t.Helper()
	c, err := sshexec.Start(t.Context(), host, o, argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestArguments looks at what the program is run with.
func TestArguments(t *testing.T) {
	o := fake(t, `printf '%s|' "$@"`)
	o.Args = []string{"-F", "my config"}
	c := start(t, o, "casync", "pull", "/it's here")
	if b, err := io.ReadAll(c); err != nil || string(b) != `-F|my config|-p|2222|--|u@h|casync pull '/it'\''s here'|` {
		t.Errorf("%s, %v", b, err)
	}
	c, err := sshexec.Subsystem(t.Context(), sshexec.Host{Name: "h"}, "sftp", o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != `-F|my config|-s|--|h|sftp|` {
		t.Errorf("%s, %v", b, err)
	}
	o.Getenv = func(name string) string { return map[string]string{"CASYNC_SSH_PATH": o.Program}[name] }
	c = start(t, &sshexec.Options{Getenv: o.Getenv}, "x")
	if b, err := io.ReadAll(c); err != nil || string(b) != `-p|2222|--|u@h|x|` {
		t.Errorf("%s, %v", b, err)
	}
}

func TestRefused(t *testing.T) {
	o := fake(t, "exit 0")
	for _, h := range []sshexec.Host{{}, {Name: "-x"}, {Name: "h", User: "-x"}, {Name: "h", Port: -1}, {Name: "h\n"}} {
		if _, err := sshexec.Start(t.Context(), h, o, "x"); err == nil {
			t.Errorf("host %+v is taken", h)
		}
	}
	for _, argv := range [][]string{nil, {"a\x00b"}} {
		if _, err := sshexec.Start(t.Context(), host, o, argv...); err == nil {
			t.Errorf("%q is run", argv)
		}
	}
	if _, err := sshexec.Subsystem(t.Context(), host, "-x", o); err == nil {
		t.Error("subsystem -x is started")
	}
	o.Program = "/no/such/ssh"
	if _, err := sshexec.Start(t.Context(), host, o, "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	errStop := errors.New("stop")
	cancel(errStop)
	if _, err := sshexec.Start(ctx, host, o, "x"); !errors.Is(err, errStop) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEcho(t *testing.T) {
	c := start(t, fake(t, "exec cat"), "x")
	want := strings.Repeat("0123456789", 100_000)
	go func() {
		io.WriteString(c, want)
		c.CloseWrite()
	}()
	b, err := io.ReadAll(c)
	if err != nil || string(b) != want {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// TestReasons has the program end in several ways.
func TestReasons(t *testing.T) {
	for script, want := range map[string]string{
		"exit 0":                               "ssh u@h:2222: unexpected EOF",
		"exit 127":                             "ssh u@h:2222: casync was not found there",
		"echo no route >&2; exit 255":          "ssh u@h:2222: connection failed or broke: no route",
		"echo a >&2; echo b >&2; exit 2":       "ssh u@h:2222: casync: exit status 2: a; b",
		"kill -9 $$":                           "ssh u@h:2222: casync: signal: killed",
		`printf '\033[31mred\r\n' >&2; exit 1`: "ssh u@h:2222: casync: exit status 1: [31mred",
		"for i in 1 2 3 4 5 6 7 8; do echo $i >&2; done; exit 1": "ssh u@h:2222: casync: exit status 1: 4; 5; 6; 7; 8",
		// What has the standard error open still is not waited for.
		"sleep 20 >/dev/null </dev/null & echo gone >&2; exit 1": "ssh u@h:2222: casync: exit status 1: gone",
	} {
		t.Run(script, func(t *testing.T) {
			begin := time.Now()
			c := start(t, fake(t, script), "casync", "pull")
			_, err := io.ReadAll(c)
			if err == nil {
				err = io.EOF
			}
			if got := c.Explain(err); got.Error() != want {
				t.Errorf("%v, want %s", got, want)
			}
			if err := c.Wait(); (err == nil) != (script == "exit 0") {
				t.Errorf("Wait: %v", err)
			}
			if d := time.Since(begin); d > 10*time.Second {
				t.Errorf("after %v", d)
			}
		})
	}
}

func TestLongLines(t *testing.T) {
	c := start(t, fake(t, "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2; exit 1"), "casync")
	io.ReadAll(c)
	err := c.Wait()
	if err == nil || len(err.Error()) > 2000 || !strings.HasSuffix(err.Error(), "last") {
		t.Errorf("%.3000v", err)
	}
}

// TestInterrupted closes, cancels, and lets deadlines pass, while reads and writes wait.
func TestInterrupted(t *testing.T) {
	before := runtime.NumGoroutine()
	errStop := errors.New("stop")
	for name, script := range map[string]string{"obeys": "exec sleep 60", "ignores": "trap '' TERM PIPE; sleep 60", "leaves children": "sleep 60 & wait"} {
		t.Run(name, func(t *testing.T) {
			for _, how := range []string{"close", "cancel", "deadline"} {
				ctx, cancel := context.WithCancelCause(t.Context())
				c, err := sshexec.Start(ctx, host, fake(t, script), "x")
				if err != nil {
					t.Fatal(err)
				}
				errs := make(chan error, 2)
				go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
				go func() { _, err := c.Write(make([]byte, 10<<20)); errs <- err }()
				time.Sleep(20 * time.Millisecond)
				begin := time.Now()
				switch how {
				case "close":
					c.Close()
				case "cancel":
					cancel(errStop)
				case "deadline":
					if err := errors.Join(c.SetReadDeadline(begin), c.SetWriteDeadline(begin)); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					if err := <-errs; err == nil || how == "deadline" && !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: %v", how, err)
					} else if how == "cancel" && !errors.Is(c.Explain(err), errStop) {
						t.Errorf("%s: %v", how, c.Explain(err))
					}
				}
				c.Close()
				if d := time.Since(begin); d > 10*time.Second {
					t.Errorf("%s took %v", how, d)
				}
				cancel(nil)
			}
		})
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// TestSSH goes through a real server.
func TestSSH(t *testing.T) {
	name, args := testssh.Start(t)
	h, err := sshexec.ParseHost(name)
	if err != nil {
		t.Fatal(err)
	}
	o := &sshexec.Options{Args: args}
	c, err := sshexec.Start(t.Context(), h, o, "printf", "%s", "a 'b' $c")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "a 'b' $c" {
		t.Errorf("%q, %v", b, err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	for command, want := range map[string]string{"no-such-command": "was not found there", "false": "exit status 1"} {
		c, err := sshexec.Start(t.Context(), h, o, command)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.ReadAll(c)
		if err := c.Wait(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", command, err)
		}
	}
	h.Port = 1
	c, err = sshexec.Start(t.Context(), h, o, "true")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "connection failed or broke: ") {
		t.Errorf("nobody listens: %v", err)
	}
}
