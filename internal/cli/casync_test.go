package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/testblob"
	"github.com/castorsync/castor/internal/testneed"
)

// vectors returns the path of a file or directory of testdata.
func vectors(t testing.TB, path ...string) string {
	t.Helper()
	name, err := filepath.Abs(filepath.Join(append([]string{"..", "..", "testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); err != nil {
		t.Fatal(err)
	}
	return name
}

// make reproduces every index that casync made, from a file and from a pipe.
func TestMakeAsCasync(t *testing.T) {
	for _, digest := range []string{"sha512-256", "sha256"} {
		t.Run(digest, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range testblob.Names() {
				write(t, testblob.Blob(name), dir, name)
				want := read(t, vectors(t, "casync", "index", digest+"-default", name+".caibx"))
				ok(t, dir, "make", "--index-only", "--digest", digest, name+".caibx", name)
				same(t, want, dir, name+".caibx")
				c := command(dir, "make", "--index-only", "--digest", digest, "-", "-")
				c.Stdin = strings.NewReader(string(testblob.Blob(name)))
				if o := finish(t, c); o.stdout != string(want) {
					t.Errorf("%s from a pipe: %s", name, difference([]byte(o.stdout), want))
				}
			}
		})
	}
	t.Run("sizes", func(t *testing.T) {
		dir := t.TempDir()
		write(t, testblob.Blob("mixed"), dir, "mixed")
		n := 0
		for line := range strings.Lines(string(read(t, vectors(t, "casync", "index", "chunk-size", "SHA256SUMS")))) {
			want, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
			sizes := strings.TrimSuffix(strings.TrimPrefix(file, "mixed."), ".caibx")
			ok(t, dir, "make", "--index-only", "--digest", "sha512-256", "--chunk-size", strings.ReplaceAll(sizes, "_", ":"), file, "mixed")
			sum := sha256.Sum256(read(t, dir, file))
			if got := hex.EncodeToString(sum[:]); got != want {
				t.Errorf("%s: got SHA-256 %s, want %s", file, got, want)
			}
			if kept, err := os.ReadFile(filepath.Join(vectors(t, "casync", "index", "chunk-size"), file)); err == nil {
				same(t, kept, dir, file)
			}
			n++
		}
		if n < 5 {
			t.Errorf("only %d vectors", n)
		}
	})
	t.Run("minimum", func(t *testing.T) { // desync misses a cut just at the minimum
		dir := t.TempDir()
		ok(t, dir, "make", "--index-only", "--digest", "sha512-256", "x.caibx", vectors(t, "desync", "minboundary", "minboundary.raw"))
		same(t, read(t, vectors(t, "desync", "minboundary", "minboundary.casync.caibx")), dir, "x.caibx")
	})
}

// inStores are the blobs that the vectors have in each store, at least.
var inStores = []string{"empty", "one", "text1m"}

// extract gets blobs out of every store that casync made, and the other commands
// find them right. A blob that is not there in full is said to be missing.
func TestExtractFromCasync(t *testing.T) {
	stores, err := filepath.Glob(vectors(t, "casync", "store") + "/*.castr")
	if err != nil || len(stores) < 4 {
		t.Fatalf("stores %q, %v, want 4", stores, err)
	}
	for _, store := range stores {
		t.Run(filepath.Base(store), func(t *testing.T) {
			dir := t.TempDir()
			i := strings.LastIndexByte(filepath.Base(store), '-')
			indexes := vectors(t, "casync", "index", filepath.Base(store)[:i]+"-default")
			digests := string(read(t, indexes, "DIGESTS.tsv"))
			ok(t, dir, "check", store)
			for _, name := range testblob.Names() {
				index := filepath.Join(indexes, name+".caibx")
				if o := castor(t, dir, "verify", "-s", store, index); o.code == exitMissing && !slices.Contains(inStores, name) {
					if o := castor(t, dir, "extract", "-s", store, index, name); o.code == 0 && name == "zero1m" {
						same(t, testblob.Blob(name), dir, name) // zeros need no store
					} else if o.code != exitMissing {
						t.Errorf("verify misses chunks of %s, and extract ends with %d: %s", name, o.code, o.stderr)
					}
					continue
				}
				ok(t, dir, "extract", "-s", store, index, name)
				same(t, testblob.Blob(name), dir, name)
				ok(t, dir, "verify", "-s", store, index)
				if got, want := name+"\t"+ok(t, dir, "digest", "-s", store, index), digests; !strings.Contains(want, got) {
					t.Errorf("digest %q is none of\n%s", got, want)
				}
			}
		})
	}
}

// casync runs casync and returns its output, or ends the test.
func casync(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.Command(testneed.Tool(t, "casync"), args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("casync %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// What casync makes now, castor reads, and makes the same itself.
func TestCasyncToCastor(t *testing.T) {
	testneed.Tool(t, "casync")
	img := image(3, 5<<20)
	for _, tt := range []struct{ compression, digest, sizes string }{
		{"zstd", "sha512-256", "65536"},
		{"zstd", "sha256", "65536"},
		{"gzip", "sha512-256", "65536"},
		{"xz", "sha256", "65536"},
		{"zstd", "sha512-256", "16384"},
		{"zstd", "sha256", "1000:3000:100000"},
		{"zstd", "sha512-256", "1048576:1048576:1048576"},
		{"gzip", "sha256", "48:300000:4000000"},
		{"zstd", "sha512-256", "4194304"},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			if testing.Short() && tt.sizes != "65536" {
				t.Skip("like the others")
			}
			dir := t.TempDir()
			write(t, img, dir, "disk.img")
			digest := casync(t, dir, "make", "--store=ca.castr", "--compression="+tt.compression, "--digest="+tt.digest, "--chunk-size="+tt.sizes, "ca.caibx", "disk.img")

			ok(t, dir, "extract", "-s", "ca.castr", "ca.caibx", "out.img")
			same(t, img, dir, "out.img")
			ok(t, dir, "verify", "ca.caibx", "disk.img")
			ok(t, dir, "verify", "-s", "ca.castr", "ca.caibx")
			ok(t, dir, "check", "ca.castr")
			if got := strings.TrimSpace(ok(t, dir, "digest", "-s", "ca.castr", "ca.caibx")); got != digest {
				t.Errorf("digest: got %s, casync says %s", got, digest)
			}
			if info := ok(t, dir, "info", "-s", "ca.castr", "ca.caibx"); !strings.Contains(info, "digest       "+tt.digest+"\n") || strings.Contains(info, "missing") {
				t.Errorf("info of what casync made:\n%s", info)
			}
			ok(t, dir, "cache", "-s", "ca.castr", "-c", "copy.castr", "ca.caibx")
			ok(t, dir, "verify", "-s", "copy.castr", "ca.caibx")

			// castor finds all its chunks in casync's store.
			report := ok(t, dir, "make", "--json", "-s", "ca.castr", "--digest", tt.digest, "--chunk-size", tt.sizes, "my.caibx", "disk.img")
			if !strings.Contains(report, `"new_chunks":0,`) {
				t.Errorf("make into casync's store: %s", report)
			}
			same(t, read(t, dir, "ca.caibx"), dir, "my.caibx")
		})
	}
}

// What castor makes, casync reads.
func TestCastorToCasync(t *testing.T) {
	testneed.Tool(t, "casync")
	img := image(4, 5<<20)
	for _, tt := range []struct{ digest, sizes, flag string }{
		{"sha512-256", "65536", "--json"},
		{"sha256", "65536", "--json"},
		{"sha512-256", "65536", "--uncompressed"},
		{"sha512-256", "65536", "--compression-level=19"},
		{"sha256", "1000:3000:100000", "--no-sync"},
		{"sha512-256", "2097152", "--json"},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			dir := t.TempDir()
			write(t, img, dir, "disk.img")
			ok(t, dir, "make", tt.flag, "-s", "my.castr", "--digest", tt.digest, "--chunk-size", tt.sizes, "my.caibx", "disk.img")
			casync(t, dir, "extract", "--store=my.castr", "my.caibx", "out.img")
			same(t, img, dir, "out.img")
			digest := casync(t, dir, "digest", "--store=my.castr", "my.caibx") // SHA-512/256, whatever names the chunks
			if got := strings.TrimSpace(ok(t, dir, "digest", "--digest", "sha512-256", "disk.img")); got != digest {
				t.Errorf("digest: got %s, casync says %s", got, digest)
			}
			casync(t, dir, "make", "--store=my.castr", "--digest="+tt.digest, "--chunk-size="+tt.sizes, "ca.caibx", "disk.img")
			same(t, read(t, dir, "ca.caibx"), dir, "my.caibx")
			ok(t, dir, "check", "my.castr")
		})
	}
}

// An index with BLAKE3 is refused by casync in its own words, and nothing is
// written.
func TestCasyncRefusesBLAKE3(t *testing.T) {
	tool := testneed.Tool(t, "casync")
	dir := t.TempDir()
	write(t, image(5, 1<<20), dir, "disk.img")
	ok(t, dir, "make", "my.caibx", "disk.img")
	c := exec.Command(tool, "extract", "--store=default.castr", "my.caibx", "out.img")
	c.Dir = dir
	out, err := c.CombinedOutput()
	if got := c.ProcessState.ExitCode(); got != 1 {
		t.Errorf("exit code %d, %v, want 1", got, err)
	}
	if !strings.Contains(string(out), "Operation not supported") {
		t.Errorf("casync says %q, want Operation not supported", out)
	}
	if fi, err := os.Stat(filepath.Join(dir, "out.img")); err == nil && fi.Size() > 0 {
		t.Errorf("casync wrote %d bytes", fi.Size())
	}
}
