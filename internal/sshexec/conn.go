package sshexec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Conn is a running command: what is written is its standard input, what is read
// its standard output. Reading and writing may go on at once, each from one
// goroutine. Close and deadlines interrupt them.
type Conn struct {
	ctx   context.Context // of the command's life
	host  Host
	what  string // the program or subsystem on the host
	log   *slog.Logger
	grace time.Duration
	in    *os.File
	out   *os.File
	diag  *os.File // the standard error
	kill  func() error

	unwatch func() bool // ends what closes the streams when ctx ends
	tail    tail

	drained chan struct{} // closed when diag has been read to its end
	exited  chan struct{} // closed when err is set
	err     error
}

// ExitError says why a command on another host ended.
type ExitError struct {
	Host    Host
	Command string // the program or subsystem that was to run there
	Err     error  // of package os/exec, or the cause of the context
	Stderr  string // the last lines that came from its standard error
}

func (e *ExitError) Error() string {
	s := e.reason()
	if e.Stderr != "" {
		s += ": " + strings.ReplaceAll(e.Stderr, "\n", "; ")
	}
	return fmt.Sprintf("ssh %v: %s", e.Host, s)
}

func (e *ExitError) reason() string {
	switch x, _ := errors.AsType[*exec.ExitError](e.Err); {
	case x == nil:
		return e.Err.Error()
	case x.ExitCode() == 255:
		return "connection failed or broke"
	case x.ExitCode() == 127:
		return fmt.Sprintf("%s was not found there", e.Command)
	default:
		return fmt.Sprintf("%s: %v", e.Command, x)
	}
}

func (e *ExitError) Unwrap() error { return e.Err }

// Read reads from the command. io.EOF says that it closes its output, for whatever
// reason: see [Conn.Explain].
func (c *Conn) Read(p []byte) (int, error) { return c.out.Read(p) }

// Write writes to the command.
func (c *Conn) Write(p []byte) (int, error) { return c.in.Write(p) }

// CloseWrite tells the command that no more comes.
func (c *Conn) CloseWrite() error { return c.in.Close() }

// SetReadDeadline sets when Read fails with os.ErrDeadlineExceeded, if the system
// can do that; the zero time means never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.out.SetReadDeadline(t) }

// SetWriteDeadline does the same for Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }

// Close closes the streams and waits until the program has ended, which it is made
// to after some grace. It may be called more than once, from any goroutine.
func (c *Conn) Close() error {
	c.unwatch()
	c.in.Close()
	c.out.Close()
	select {
	case <-c.exited:
	case <-time.After(c.grace):
		c.log.Debug("ssh killed: it did not end by itself", "host", c.host.String())
		c.kill()
		<-c.exited
	}
	return nil
}

// Wait waits until the program has ended. Any status but 0 is an *ExitError.
func (c *Conn) Wait() error {
	<-c.exited
	return c.err
}

// Exited returns a channel that is closed when the program has ended.
func (c *Conn) Exited() <-chan struct{} { return c.exited }

// explainWait is how long Explain waits for the program to end by itself.
const explainWait = time.Second

// Explain returns err, with which a stream of c ended too early, together with what
// is known of the reason. If the program is about to end, Explain waits for that.
func (c *Conn) Explain(err error) error {
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return fmt.Errorf("ssh %v: %w", c.host, context.Cause(c.ctx))
	case errors.Is(err, os.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("ssh %v: %w", c.host, err)
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	select {
	case <-c.exited:
	case <-time.After(explainWait):
	}
	select {
	case <-c.exited:
		if c.err != nil {
			return c.err
		}
	default:
	}
	return &ExitError{Host: c.host, Command: c.what, Err: err, Stderr: c.tail.String()}
}

// stderrWait is how long the rest of the standard error is waited for: other
// programs may hold it open, such as ssh's own for connections that are shared.
const stderrWait = 200 * time.Millisecond

// wait sets c.err and closes c.exited when cmd has ended.
func (c *Conn) wait(cmd *exec.Cmd) {
	err := cmd.Wait()
	if c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	c.log.Debug("ssh ended", "host", c.host.String(), "err", err)
	select {
	case <-c.drained:
	case <-time.After(stderrWait):
		c.diag.Close()
		<-c.drained
	}
	if err != nil {
		c.err = &ExitError{Host: c.host, Command: c.what, Err: err, Stderr: c.tail.String()}
	}
	close(c.exited)
}

// Bounds of what is kept of the standard error.
const (
	maxLines = 5
	maxLine  = 256 // bytes
)

// tail keeps the last lines of a stream.
type tail struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == maxLines {
		t.lines = t.lines[:copy(t.lines, t.lines[1:])]
	}
	t.lines = append(t.lines, line)
}

// collect reads the standard error to its end.
func (c *Conn) collect() {
	defer close(c.drained)
	defer c.diag.Close()
	b := bufio.NewReaderSize(c.diag, maxLine)
	for {
		line, more, err := b.ReadLine()
		if err != nil {
			return
		}
		for rest := more; rest && err == nil; {
			_, rest, err = b.ReadLine()
		}
		if s := printable(string(line)); s != "" {
			c.tail.add(s)
			c.log.Debug("ssh says", "host", c.host.String(), "line", s)
		}
	}
}

// printable returns a line without what could play tricks on a terminal.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return -1
	}, s))
}

// Host returns where the command runs.
func (c *Conn) Host() Host { return c.host }
