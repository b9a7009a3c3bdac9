// Package sshexec runs commands on other hosts through the ssh program, so that
// the user's configuration, agent, keys and jump hosts are as usual. What comes out
// is a stream of bytes in each direction, and the reason when it ends.
package sshexec

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Options are the settings of a connection. The zero value and nil mean the
// defaults.
type Options struct {
	// Program is run as ssh: with Args, options, "--", the host and one argument, the
	// command line for a shell on the host. "" means $CASYNC_SSH_PATH, or ssh.
	Program string
	// Args are further options of Program.
	Args []string
	// Getenv looks up the environment; nil means that it is empty. The program itself
	// has the environment of this process.
	Getenv func(string) string
	// Log is told of the command and of each line that comes from its standard error,
	// at level Debug; nil means nobody is.
	Log *slog.Logger
	// Grace is the time that the program has to end by itself after [Conn.Close]; 0
	// means 2 s.
	Grace time.Duration
}

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Program == "" && d.Getenv != nil {
		d.Program = d.Getenv("CASYNC_SSH_PATH")
	}
	d.Program = cmp.Or(d.Program, "ssh")
	d.Grace = cmp.Or(d.Grace, 2*time.Second)
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Start runs argv on a host, as it is: each argument is quoted for the POSIX shell
// there. The program is killed when ctx ends. It may ask the user for passwords,
// which ssh does on the terminal, not through the streams. The caller must close
// the Conn.
func Start(ctx context.Context, h Host, o *Options, argv ...string) (*Conn, error) {
	line, err := Quote(argv...)
	if err != nil {
		return nil, fmt.Errorf("ssh %v: %w", h, err)
	}
	return Shell(ctx, h, line, o)
}

// Shell runs a command line with the user's shell on a host, with the rules of
// [Start].
func Shell(ctx context.Context, h Host, line string, o *Options) (*Conn, error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.IndexByte(line, 0) >= 0 {
		return nil, fmt.Errorf("ssh %v: not a command: %q", h, line)
	}
	return start(ctx, h, o, words[0], append(h.args(), line))
}

// Subsystem starts a subsystem of a host, such as sftp, with the rules of [Start].
func Subsystem(ctx context.Context, h Host, name string, o *Options) (*Conn, error) {
	if err := checkWord("subsystem", name); err != nil {
		return nil, fmt.Errorf("ssh %v: %w", h, err)
	}
	return start(ctx, h, o, name, append(h.args("-s"), name))
}

func start(ctx context.Context, h Host, options *Options, what string, args []string) (*Conn, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	o := options.withDefaults()
	c := &Conn{ctx: ctx, host: h, what: what, log: o.Log, grace: o.Grace, exited: make(chan struct{})}
	cmd := exec.CommandContext(ctx, o.Program, append(o.Args[:len(o.Args):len(o.Args)], args...)...)
	setSysProcAttr(cmd)
	if err := c.run(cmd); err != nil {
		return nil, fmt.Errorf("ssh %v: %w", h, err)
	}
	return c, nil
}

// run starts cmd with pipes of which our ends do not block, so that reads and
// writes end when they are closed.
func (c *Conn) run(cmd *exec.Cmd) (err error) {
	var theirs, ours []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			closeAll(ours)
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	stdin, in := pipe()
	out, stdout := pipe()
	diag, stderr := pipe()
	theirs, ours = []*os.File{stdin, stdout, stderr}, []*os.File{in, out, diag}
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	c.in, c.out, c.diag, c.drained = in, out, diag, make(chan struct{})

	started := make(chan error)
	go func() {
		// The system ends a child that is to die with its parent when the thread that
		// started it ends: this one stays for as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.wait(cmd)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	c.log.Debug("ssh started", "host", c.host.String(), "argv", cmd.Args, "pid", cmd.Process.Pid)
	c.kill = cmd.Process.Kill
	// What the program started may hold the other ends.
	c.unwatch = context.AfterFunc(c.ctx, func() { closeAll([]*os.File{in, out}) })
	go c.collect()
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
