package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
)

// serveVariable makes the test binary a server: the command that a client starts.
const serveVariable = "CASTOR_TEST_SERVE"

// slowVariable makes that server read 16 KiB every 20 ms.
const slowVariable = "CASTOR_TEST_SLOW"

// slowly reads in small pieces, and not often.
type slowly struct{ r io.Reader }

func (s slowly) Read(b []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.r.Read(b[:min(len(b), 16<<10)])
}

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		if err := serveMain(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "castor:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveMain is pull|push BASE ARCHIVE INDEX STORE.
func serveMain(args []string) error {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		args = args[1:]
	}
	if len(args) != 5 {
		return fmt.Errorf("arguments %q", args)
	}
	o := &ServerOptions{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	opener := func(path string) func(context.Context) (io.ReadCloser, error) {
		return func(context.Context) (io.ReadCloser, error) { return os.Open(path) }
	}
	creator := func(path string) func(context.Context) (Upload, error) {
		return func(context.Context) (Upload, error) { return atomicfile.Create(path, false) }
	}
	pull := args[0] == "pull"
	if args[2] != "-" {
		if pull {
			o.Archive = opener(args[2])
		} else {
			o.PutArchive = creator(args[2])
		}
	}
	if args[3] != "-" {
		if pull {
			o.Index = opener(args[3])
		} else {
			o.PutIndex = creator(args[3])
		}
	}
	if args[4] != "-" {
		if !pull {
			if err := os.MkdirAll(args[4], 0o755); err != nil {
				return err
			}
		}
		s, err := dir.Open(args[4], &dir.Options{Durable: true})
		if err != nil {
			return err
		}
		if pull {
			o.Source = s
		} else {
			o.Sink = s
		}
	}
	in := io.Reader(os.Stdin)
	if os.Getenv(slowVariable) != "" {
		in = slowly{in}
	}
	return Serve(context.Background(), in, os.Stdout, o)
}

// castor is the command of our server.
func castor(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "GORACE=atexit_sleep_ms=0 " + serveVariable + "=1 " + self
}

// casync is the command of casync's.
func casync(t testing.TB) string { return testneed.Tool(t, "casync") }

// fakeSSH returns a program that runs the command on this machine.
func fakeSSH(t testing.TB) string {
	t.Helper()
	return script(t, `while :; do case "$1" in -p|-F|-o) shift 2;; --) shift; break;; *) break;; esac; done
shift
exec sh -c "$*"`)
}

func script(t testing.TB, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// options are those of a client that reaches command through fakeSSH.
func options(t testing.TB, command string) *Options {
	t.Helper()
	return &Options{SSH: &sshexec.Options{Program: fakeSSH(t)}, Command: command, Backoff: 1}
}

// served is a directory with a blob, its index and its chunks, as casync has them.
type served struct {
	dir   string
	blob  []byte
	index []byte
	x     *index.Index
}

func (s *served) url(name string) string { return "ssh://host" + filepath.Join(s.dir, name) }

// serveBlob makes blob.caibx and store.castr by casync.
func serveBlob(t testing.TB, size int) *served {
	t.Helper()
	s := &served{dir: t.TempDir(), blob: blob(size)}
	in := filepath.Join(s.dir, "blob")
	if err := os.WriteFile(in, s.blob, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, nil, casync(t), "make", "--store="+filepath.Join(s.dir, "store.castr"), filepath.Join(s.dir, "blob.caibx"), in)
	var err error
	if s.index, err = os.ReadFile(filepath.Join(s.dir, "blob.caibx")); err != nil {
		t.Fatal(err)
	}
	if s.x, err = index.Decode(bytes.NewReader(s.index)); err != nil {
		t.Fatal(err)
	}
	return s
}

// blob returns bytes of which half compress.
func blob(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(b)
	for i := 0; i < size; i += 200 {
		clear(b[i:min(i+100, size)])
	}
	return b
}

func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	out, err := tryRun(env, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return out
}

func tryRun(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// open opens a store that is closed at the end of the test.
func open(t testing.TB, url string, o *Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sameChunk reports whether s has the chunk of entry i as it is in the blob.
func sameChunk(ctx context.Context, s store.Getter, x *index.Index, blob []byte, i int) error {
	c, err := s.Get(ctx, x.Entries[i].ID)
	if err != nil {
		return err
	}
	b, err := c.Open(x.Digest(), x.Params.Max)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, blob[x.Start(i):x.Entries[i].End]) {
		return fmt.Errorf("chunk %d is not what is in the blob", i)
	}
	c.Release()
	return nil
}

func openDir(t testing.TB, path string) *dir.Store {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := dir.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var none chunker.ID
