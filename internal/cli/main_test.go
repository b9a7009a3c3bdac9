package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// raceVariable holds the settings of the race detector.
const raceVariable = "GORACE"

// The tests run the real command: the test binary under the name castor, which
// is first in PATH.
func TestMain(m *testing.M) {
	if os.Getenv(raceVariable) == "" {
		os.Setenv(raceVariable, "atexit_sleep_ms=0") // else each castor with the race detector takes a second
	}
	testscript.Main(m, map[string]func(){"castor": func() {
		code := Main(os.Args[1:], System())
		if name := os.Getenv(peakVariable); name != "" {
			if err := writePeak(name); err != nil {
				panic(err)
			}
		}
		os.Exit(code)
	}})
}

// outcome is how a run of castor ended.
type outcome struct {
	code           int // -1 if a signal killed it
	stdout, stderr string
}

// command returns castor with args, to be run in directory dir, with no store in
// the environment.
func command(dir string, args ...string) *exec.Cmd {
	c := exec.Command("castor", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CASTOR_STORE=")
	return c
}

// finish runs c to its end.
func finish(t testing.TB, c *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &stdout
	}
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// castor runs castor in dir.
func castor(t testing.TB, dir string, args ...string) outcome {
	t.Helper()
	return finish(t, command(dir, args...))
}

// ok runs castor in dir, ends the test unless that succeeds, and returns what it
// wrote to stdout.
func ok(t testing.TB, dir string, args ...string) string {
	t.Helper()
	o := castor(t, dir, args...)
	if o.code != 0 {
		t.Fatalf("castor %s: exit code %d, want 0\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, b []byte, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// same ends the test if the file does not hold want.
func same(t testing.TB, want []byte, path ...string) {
	t.Helper()
	if got := read(t, path...); !bytes.Equal(got, want) {
		t.Fatalf("%s: %s", filepath.Join(path...), difference(got, want))
	}
}

// difference says in what got is not want.
func difference(got, want []byte) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("got %d bytes, want %d; the first %d are right", len(got), len(want), at)
}

// leftOver matches the names of files that a run of castor may have on its way
// and must not leave behind.
var leftOver = regexp.MustCompile(`\.castor-tmp|\.[0-9a-f]{16}\.(tmp|gone)$`)

// litter returns the files below dir that a run has left behind.
func litter(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && leftOver.MatchString(d.Name()) {
			names = append(names, path)
		}
		return err
	})
	return names, err
}

// tidy ends the test if there is litter below dir.
func tidy(t testing.TB, dir string) {
	t.Helper()
	names, err := litter(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		t.Fatalf("left behind: %q", names)
	}
}

// image returns n bytes that are like a disk image: noise, text that compresses
// and zeros.
func image(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, 0, n+64)
	for len(b) < n {
		part := min(n-len(b), 64<<10+r.IntN(1<<20))
		end := len(b) + part
		switch r.IntN(5) {
		case 0:
			b = b[:end]
		case 1, 2:
			for len(b) < end {
				b = fmt.Appendf(b, "line %016x of the image\n", r.Uint64())
			}
			b = b[:end]
		default:
			noise.Read(b[len(b):end])
			b = b[:end]
		}
	}
	return b
}

// edited returns b with insertions, deletions and overwrites in n places.
func edited(seed uint64, b []byte, n int) []byte {
	return edit(rand.New(rand.NewPCG(seed, 1)), b, n)
}

// versions makes a directory with two versions of an image of about n bytes,
// v1.img and v2.img, their indexes and store.castr, and returns it and both.
func versions(t testing.TB, n int) (dir string, v1, v2 []byte) {
	t.Helper()
	dir = t.TempDir()
	v1 = image(uint64(n), n)
	v2 = edited(uint64(n), v1, 40)
	write(t, v1, dir, "v1.img")
	write(t, v2, dir, "v2.img")
	for _, v := range []string{"v1", "v2"} {
		ok(t, dir, "make", "-s", "store.castr", "--no-sync", "--digest", "sha512-256", v+".caibx", v+".img")
	}
	return dir, v1, v2
}
