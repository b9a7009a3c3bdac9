package cli

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

// peakVariable is the environment variable that names the file into which castor
// under test writes its peak resident memory in KiB.
const peakVariable = "CASTOR_TEST_PEAK"

// writePeak writes this process's peak to a file. What wait4 tells of a child is
// of no use: it counts what the parent had before the child's exec.
func writePeak(name string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			v = bytes.TrimSuffix(bytes.TrimSpace(v), []byte(" kB"))
			return os.WriteFile(name, v, 0o666)
		}
	}
	return fmt.Errorf("no VmHWM in %q", status)
}

// peakLimit is what a run may take, in KiB.
const peakLimit = 256 << 10

// within ends the test if c fails, or needs more memory than it may.
func within(t *testing.T, c *exec.Cmd) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "peak")
	c.Env = append(c.Env, peakVariable+"="+name)
	begin := time.Now()
	if o := finish(t, c); o.code != 0 {
		t.Fatalf("%q: exit code %d, want 0\n%s", c.Args, o.code, o.stderr)
	}
	peak, err := strconv.Atoi(string(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d MiB, %v", strings.Join(c.Args[1:], " "), peak>>10, time.Since(begin).Round(time.Millisecond))
	if peak > peakLimit {
		t.Errorf("%q took %d MiB, want at most %d", c.Args, peak>>10, peakLimit>>10)
	}
}

func needMemoryTest(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes")
	}
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
}

// make of a long stream takes no memory for its length.
func TestMemoryMake(t *testing.T) {
	needMemoryTest(t)
	pattern := bytes.Repeat([]byte("a pattern of 32 bytes, again &c\n"), 1<<15)
	for _, tt := range []struct {
		name   string
		length int64
		r      io.Reader
		args   []string
	}{
		{"noise", 2 << 30, rand.NewChaCha8([32]byte{1}), []string{"make", "--index-only", "x.caibx", "-"}},
		{"zeros", 2 << 30, zeros{}, []string{"make", "-s", "store.castr", "x.caibx", "-"}},
		{"pattern", 1 << 30, &repeated{b: pattern}, []string{"make", "-s", "store.castr", "x.caibx", "-"}},
		{"small chunks", 256 << 20, rand.NewChaCha8([32]byte{2}), []string{"make", "--index-only", "--chunk-size", "1K", "x.caibx", "-"}},
		{"greatest chunks", 768 << 20, rand.NewChaCha8([32]byte{3}), []string{"make", "-s", "store.castr", "--chunk-size", "8M", "x.caibx", "-"}},
		{"large chunks", 1 << 30, &repeated{b: pattern}, []string{"make", "--index-only", "--chunk-size", "1M", "x.caibx", "-"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			c := command(dir, tt.args...)
			c.Stdin = io.LimitReader(tt.r, tt.length)
			within(t, c)
			if fi := ok(t, dir, "info", "--json", "x.caibx"); !strings.Contains(fi, fmt.Sprintf(`"bytes":%d,`, tt.length)) {
				t.Errorf("info: %s", fi)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// repeated reads as b again and again.
type repeated struct {
	b  []byte
	at int
}

func (r *repeated) Read(b []byte) (int, error) {
	n := copy(b, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

// An index of a million chunks and 64 GiB, nearly all of it zeros, is handled by
// every command in bounded memory: 40 bytes a chunk and a little.
func TestMemoryLargeIndex(t *testing.T) {
	needMemoryTest(t)
	dir := t.TempDir()
	const size, chunks, every = 64 << 10, 1 << 20, 128
	// The chunk that is not zero takes a page of disk each time.
	often := make([]byte, size)
	copy(often[size/2:], "often")
	write(t, often, dir, "often.img")
	params := chunker.Params{Min: size, Avg: size, Max: size}
	ok(t, dir, "make", "--chunk-size", fmt.Sprintf("%d:%d:%d", size, size, size), "often.caibx", "often.img")
	f, err := os.Create(filepath.Join(dir, "x.caibx"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := index.NewWriter(f, index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: params})
	if err != nil {
		t.Fatal(err)
	}
	zero, id := chunker.BLAKE3.Sum(make([]byte, size)), chunker.BLAKE3.Sum(often)
	for i := range chunks {
		next := zero
		if i%every == 5 {
			next = id
		}
		if err := w.Append(next, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, command(dir, "extract", "x.caibx", "disk.img"))
	fi, err := os.Stat(filepath.Join(dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fi.Size(), int64(chunks)*size; got != want {
		t.Errorf("got %d bytes, want %d", got, want)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Blocks*512 > 256<<20 {
		t.Errorf("takes %d MiB of disk: zeros are no holes", st.Blocks>>11)
	}
	within(t, command(dir, "extract", "x.caibx", "disk.img"))               // nothing to do
	within(t, command(dir, "extract", "--in-place", "x.caibx", "disk.img")) // neither
	within(t, command(dir, "info", "--seed", "disk.img", "x.caibx"))
	within(t, command(dir, "root", "x.caibx"))
	within(t, command(dir, "diff", "x.caibx", "often.caibx"))
	within(t, command(dir, "gc", "--yes", "default.castr", "x.caibx"))
	within(t, command(dir, "make", "--index-only", "--chunk-size", fmt.Sprintf("%d:%d:%d", size, size, size), "again.caibx", "disk.img"))
	same(t, read(t, dir, "x.caibx"), dir, "again.caibx")
}
