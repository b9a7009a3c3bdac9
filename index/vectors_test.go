package index_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testblob"
)

const testdata = "../testdata/"

// vectors returns the paths of all index files that casync made.
func vectors(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{
		"casync/index/sha512-256-default/*.caibx",
		"casync/index/sha256-default/*.caibx",
		"casync/index/chunk-size/*.caibx",
		"casync/caidx/*.caidx",
		"desync/minboundary/*.caibx",
	} {
		files, err := filepath.Glob(testdata + pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no vectors: %s, %v", pattern, err)
		}
		all = append(all, files...)
	}
	return all
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode(t testing.TB, x *index.Index) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := x.Encode(&b); err != nil {
		t.Fatal("Encode:", err)
	}
	return b.Bytes()
}

func decode(t testing.TB, b []byte) *index.Index {
	t.Helper()
	x, err := index.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal("Decode:", err)
	}
	return x
}

// What casync wrote comes back byte for byte.
func TestVectorsRoundTrip(t *testing.T) {
	for _, path := range vectors(t) {
		b := read(t, path)
		x := decode(t, b)
		if !bytes.Equal(encode(t, x), b) {
			t.Errorf("%s: encodes to other bytes", path)
		}
		if got, want := index.EncodedSize(len(x.Entries)), int64(len(b)); got != want {
			t.Errorf("%s: EncodedSize = %d, want %d", path, got, want)
		}
		if got, want := x.Features, featuresOf(path); got != want {
			t.Errorf("%s: features %#x, want %#x", path, uint64(got), uint64(want))
		}
		if got, want := x.Digest(), digestOf(path); got != want {
			t.Errorf("%s: digest %v, want %v", path, got, want)
		}
	}
}

func digestOf(path string) chunker.Digest {
	if strings.Contains(path, "/sha256-") {
		return chunker.SHA256
	}
	return chunker.SHA512256
}

func featuresOf(path string) index.Features {
	switch {
	case strings.HasSuffix(path, "t1-unix-4096.caidx"):
		return 0xb000000000001f09
	case strings.HasSuffix(path, ".caidx"):
		return 0xb0000001ffeffe26
	}
	return index.BlobFeatures(digestOf(path))
}

// blobHeader is the header that casync gives to the index of a blob.
func blobHeader(d chunker.Digest, p chunker.Params) index.Header {
	return index.Header{Features: index.BlobFeatures(d), Params: p}
}

// write cuts data and writes its index.
func write(t *testing.T, h index.Header, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := index.NewWriter(&b, h)
	if err != nil {
		t.Fatal(err)
	}
	err = chunker.Parallel(context.Background(), bytes.NewReader(data), int64(len(data)), h.Params, nil, func(batch *chunker.Batch) error {
		defer batch.Release()
		for _, p := range batch.Pieces {
			if err := w.Append(h.Features.Digest().Sum(p.Data), len(p.Data)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := w.Size(), int64(len(data)); got != want {
		t.Errorf("Size() = %d, want %d", got, want)
	}
	if got, want := index.EncodedSize(w.Count()), int64(b.Len()); got != want {
		t.Errorf("%d chunks in %d bytes, want %d", w.Count(), got, want)
	}
	return b.Bytes()
}

// From the same blob and sizes come the very files that casync makes.
func TestWriterMatchesCasync(t *testing.T) {
	for _, d := range []chunker.Digest{chunker.SHA512256, chunker.SHA256} {
		for _, name := range testblob.Names() {
			want := read(t, testdata+"casync/index/"+d.String()+"-default/"+name+".caibx")
			if got := write(t, blobHeader(d, chunker.DefaultParams), testblob.Blob(name)); !bytes.Equal(got, want) {
				t.Errorf("%v of %s: the index has %d bytes and is not casync's of %d", d, name, len(got), len(want))
			}
		}
	}
}

// The large ones are there as checksums only.
func TestWriterMatchesCasyncChunkSizes(t *testing.T) {
	mixed := testblob.Blob("mixed")
	sums := bufio.NewScanner(bytes.NewReader(read(t, testdata+"casync/index/chunk-size/SHA256SUMS")))
	n := 0
	for sums.Scan() {
		want, file, ok := strings.Cut(sums.Text(), "  ")
		if !ok {
			t.Fatalf("SHA256SUMS: line %q", sums.Text())
		}
		n++
		p := paramsOf(t, strings.TrimSuffix(strings.TrimPrefix(file, "mixed."), ".caibx"))
		b := write(t, blobHeader(chunker.SHA512256, p), mixed)
		if got := sha256Hex(b); got != want {
			t.Errorf("%s: %d bytes with SHA-256 %s, want %s", file, len(b), got, want)
		}
		if !bytes.Equal(encode(t, decode(t, b)), b) {
			t.Errorf("%s: encodes to other bytes", file)
		}
	}
	if want := 10; n != want || sums.Err() != nil {
		t.Errorf("%d lines in SHA256SUMS, want %d; %v", n, want, sums.Err())
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// paramsOf reads a --chunk-size of casync, with _ for the colon.
func paramsOf(t *testing.T, spec string) chunker.Params {
	t.Helper()
	var sizes []int
	for s := range strings.SplitSeq(spec, "_") {
		digits, mega := strings.CutSuffix(s, "M")
		n, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatal(err)
		}
		if mega {
			n <<= 20
		}
		sizes = append(sizes, n)
	}
	switch len(sizes) {
	case 1:
		return chunker.ParamsFor(sizes[0])
	case 3:
		return chunker.Params{Min: sizes[0], Avg: sizes[1], Max: sizes[2]}
	}
	t.Fatalf("chunk sizes %q", spec)
	return chunker.Params{}
}
