package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/store"
)

func TestParseParams(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want chunker.Params
		ok   bool
	}{
		{"16K:64K:256K", chunker.DefaultParams, true},
		{"65536", chunker.DefaultParams, true},
		{"64KiB", chunker.DefaultParams, true},
		{"1:1:1", chunker.Params{Min: 1, Avg: 1, Max: 1}, true},
		{"1:1M:128M", chunker.Params{Min: 1, Avg: 1 << 20, Max: 128 << 20}, true},
		{"", chunker.Params{}, false},
		{"0:1:1", chunker.Params{}, false},
		{"64K:", chunker.Params{}, false},
		{"1:2", chunker.Params{}, false},
		{"1:2:3:4", chunker.Params{}, false},
		{"2:1:3", chunker.Params{}, false},
		{"1:3:2", chunker.Params{}, false},
		{"1:1:129M", chunker.Params{}, false},
		{"1:1:8E", chunker.Params{}, false},
		{"NaN", chunker.Params{}, false},
		{"-1", chunker.Params{}, false},
	} {
		got, err := parseParams(tt.in)
		if (err == nil) != tt.ok {
			t.Errorf("%q: error %v, want one: %v", tt.in, err, !tt.ok)
		}
		if err == nil && got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.in, got, tt.want)
		}
		if err != nil && exitCode(err) != exitUsage {
			t.Errorf("%q: exit code %d, want %d", tt.in, exitCode(err), exitUsage)
		}
	}
}

func TestExitCode(t *testing.T) {
	wrap := func(err error) error { return errors.Join(errors.New("other"), err) }
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("any"), 1},
		{fs.ErrNotExist, 1},
		{usagef("wrong"), 2},
		{&mismatchError{"differs"}, 3},
		{&location.NotFoundError{What: "store", Loc: "x", Err: fs.ErrNotExist}, 10},
		{&incompleteError{"lacks"}, 14},
		{&assemble.MissingError{Err: fs.ErrNotExist}, 14},
		{&store.NotFoundError{}, 14},
		{&signalError{os.Interrupt}, 130},
		{&signalError{syscall.SIGTERM}, 143},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
		if got := exitCode(wrap(tt.err)); got != tt.want {
			t.Errorf("wrapped %v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}

// stuck is a reader and writer that waits until it is closed.
type stuck chan struct{}

func (s stuck) Read([]byte) (int, error) { <-s; return 0, io.EOF }

func (s stuck) Write(b []byte) (int, error) { <-s; return len(b), nil }

// run runs Main in this process with two signals to be sent.
func run(stdin io.Reader, stdout, stderr io.Writer, args ...string) (signals chan<- os.Signal, exit, code <-chan int) {
	s, e, c := make(chan os.Signal, 2), make(chan int, 1), make(chan int, 1)
	sys := Sys{
		Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: func(string) string { return "" },
		Signals: s, Exit: func(code int) { e <- code },
	}
	go func() { c <- Main(args, sys) }()
	return s, e, c
}

func receive(t *testing.T, what string, c <-chan int) int {
	t.Helper()
	select {
	case n := <-c:
		return n
	case <-time.After(30 * time.Second):
		t.Fatalf("no %s", what)
		return 0
	}
}

// A signal ends a command that waits for its input or output.
func TestSignalWhileWaiting(t *testing.T) {
	dir := t.TempDir()
	write(t, image(1, 1<<20), dir, "disk.img")
	index := dir + "/v1.caibx"
	ok(t, dir, "make", "v1.caibx", "disk.img")
	for _, args := range [][]string{
		{"make", dir + "/new.caibx", "-"},
		{"make", "--index-only", "-", dir + "/disk.img"},
		{"extract", "-", dir + "/new.img"},
		{"extract", index, "-"},
		{"cat", "-"},
		{"cat", index},
		{"cache", "-c", dir + "/cache.castr", "-"},
		{"chop", "-", dir + "/disk.img"},
		{"info", "-"},
		{"info", index},
		{"chunks", "-"},
		{"chunks", index},
		{"root", "-"},
		{"diff", index, "-"},
		{"digest", "-"},
		{"verify", "-"},
		{"gc", "--dry-run", dir + "/default.castr", "-"},
		{"version"},
		{"help", "make"},
	} {
		t.Run(strings.Join(args[:1], " "), func(t *testing.T) {
			t.Parallel()
			pipe := make(stuck)
			defer close(pipe)
			var stderr bytes.Buffer
			signals, exit, code := run(pipe, pipe, &stderr, args...)
			signals <- os.Interrupt
			if got := receive(t, "end of "+strings.Join(args, " "), code); got != 130 {
				t.Errorf("%q: exit code %d, want 130", args, got)
			}
			select {
			case code := <-exit:
				t.Errorf("one signal, and Exit(%d) was called", code)
			default:
			}
			if got := stderr.String(); !strings.HasPrefix(got, "castor: ") || !strings.HasSuffix(got, "interrupted\n") || strings.Count(got, "\n") != 1 {
				t.Errorf("%q: got message %q, want one line that says interrupted", args, got)
			}
		})
	}
}

// A second signal ends the process where the first cannot.
func TestSecondSignal(t *testing.T) {
	for _, second := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		pipe := make(stuck)
		signals, exit, code := run(pipe, io.Discard, pipe, "nonsense")
		signals <- os.Interrupt
		select {
		case c := <-code:
			t.Fatalf("one signal, and it ended with %d", c)
		case c := <-exit:
			t.Fatalf("one signal, and Exit(%d) was called", c)
		case <-time.After(50 * time.Millisecond):
		}
		signals <- second
		if got, want := receive(t, "call of Exit", exit), (&signalError{second}).code(); got != want {
			t.Errorf("%v: got exit code %d, want %d", second, got, want)
		}
		close(pipe)
		<-code
	}
}

func TestCancelReader(t *testing.T) {
	data := image(1, 1_000_003)
	r := cancelReader(t.Context(), bytes.NewReader(data))
	if err := iotest.TestReader(r, data); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	if _, err := cancelReader(t.Context(), iotest.ErrReader(broken)).Read(make([]byte, 1)); err != broken {
		t.Errorf("got error %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	pipe := make(stuck)
	r = cancelReader(ctx, pipe)
	time.AfterFunc(time.Millisecond, func() { cancel(broken) })
	for range 2 {
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != broken {
			t.Errorf("got %d bytes, %v, want 0, %v", n, err, broken)
		}
	}
	close(pipe)
}

// keeper keeps the slices that it is given, against the rules.
type keeper struct{ got [][]byte }

func (k *keeper) Write(b []byte) (int, error) {
	k.got = append(k.got, b)
	return len(b), nil
}

func TestCancelWriter(t *testing.T) {
	data := image(1, 1_000_003)
	var out bytes.Buffer
	if n, err := cancelWriter(t.Context(), &out).Write(data); n != len(data) || err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("wrote %d bytes, %v, and %d arrived", n, err, out.Len())
	}
	if n, err := cancelWriter(t.Context(), iotest.TruncateWriter(io.Discard, 0)).Write(nil); n != 0 || err != nil {
		t.Errorf("writing nothing: %d, %v", n, err)
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	pipe := make(stuck)
	w := cancelWriter(ctx, pipe)
	time.AfterFunc(time.Millisecond, func() { cancel(stop) })
	for range 2 {
		if n, err := w.Write(data); n != 0 || err != stop {
			t.Errorf("got %d bytes, %v, want 0, %v", n, err, stop)
		}
	}
	close(pipe)

	// An abandoned write must not see what the caller does with its buffer.
	k := &keeper{}
	b := []byte("before")
	if _, err := cancelWriter(t.Context(), k).Write(b); err != nil {
		t.Fatal(err)
	}
	copy(b, "AFTER!")
	if got := string(k.got[0]); got != "before" {
		t.Errorf("the writer sees %q, want %q", got, "before")
	}
}
