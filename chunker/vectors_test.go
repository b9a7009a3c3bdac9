package chunker

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/testblob"
)

// vector is an index file made by casync, as far as chunks go.
type vector struct {
	name string
	p    Params
	ends []int64
	ids  []ID
}

// readVector takes an index apart without regard to package index, which builds
// on this one: 64 bytes of header, 40 for each chunk, 40 of tail.
func readVector(t *testing.T, path string) vector {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 104 || len(b)%40 != 104%40 {
		t.Fatalf("%s has %d bytes and is no index", path, len(b))
	}
	word := func(at int) int { return int(binary.LittleEndian.Uint64(b[at:])) }
	v := vector{name: path, p: Params{Min: word(24), Avg: word(32), Max: word(40)}}
	for at := 64; at < len(b)-40; at += 40 {
		v.ends = append(v.ends, int64(word(at)))
		v.ids = append(v.ids, ID(b[at+8:at+40]))
	}
	return v
}

// reproduce fails unless data is cut and named as v says.
func (v vector) reproduce(t *testing.T, data []byte, d Digest) {
	t.Helper()
	agree(t, data, v.p, append([]int64{}, v.ends...))
	start := int64(0)
	for i, end := range v.ends {
		if got := d.Sum(data[start:end]); got != v.ids[i] {
			t.Errorf("%s: chunk %d at %d: got ID %v, want %v", v.name, i, start, got, v.ids[i])
		}
		start = end
	}
	if got := idsOf(t, data, v.p, d); !slices.Equal(got, v.ids) {
		t.Errorf("%s: the batches name the chunks\ngot  %v\nwant %v", v.name, got, v.ids)
	}
}

// idsOf returns the names that batches give to the chunks of data.
func idsOf(t *testing.T, data []byte, p Params, d Digest) (ids []ID) {
	t.Helper()
	o := &ParallelOptions{Hole: holesOf(data)}
	err := Parallel(t.Context(), bytes.NewReader(data), int64(len(data)), p, o, func(b *Batch) error {
		ids = append(ids, b.IDs(d)...)
		b.Release()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// Holes and what is not quite one get the names of the zeros that they hold.
func TestBatchIDs(t *testing.T) {
	noLeak(t)
	random := noise(segmentSize)
	data := slices.Concat(random[:5000], make([]byte, 2*segmentSize), random, make([]byte, segmentSize+5))
	for _, p := range []Params{DefaultParams, {1000, 1000, 1000}, {mib, 2 * mib, 2 * mib}} {
		ends := cutSplitter(t, data, p)
		for _, d := range Digests {
			var want []ID
			start := int64(0)
			for _, end := range ends {
				want = append(want, d.Sum(data[start:end]))
				start = end
			}
			if got := idsOf(t, data, p, d); !slices.Equal(got, want) {
				t.Errorf("%v, %v: the batches name %d chunks otherwise than %d alone", p, d, len(got), len(want))
			}
		}
	}
}

func TestCasyncDefault(t *testing.T) {
	for _, d := range []Digest{SHA512256, SHA256} {
		dir := filepath.Join("../testdata/casync/index", d.String()+"-default")
		files, err := filepath.Glob(filepath.Join(dir, "*.caibx"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(files), len(testblob.Names()); got != want {
			t.Errorf("%d vectors in %s, want %d", got, dir, want)
		}
		for _, name := range testblob.Names() {
			t.Run(d.String()+"/"+name, func(t *testing.T) {
				v := readVector(t, filepath.Join(dir, name+".caibx"))
				if v.p != DefaultParams {
					t.Errorf("chunk sizes %v, want %v", v.p, DefaultParams)
				}
				v.reproduce(t, testblob.Blob(name), d)
			})
		}
	}
}

// casync make prints the digest of the whole blob.
func TestCasyncDigests(t *testing.T) {
	for _, d := range []Digest{SHA512256, SHA256} {
		b, err := os.ReadFile("../testdata/casync/index/" + d.String() + "-default/DIGESTS.tsv")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if got, want := len(lines), len(testblob.Names()); got != want {
			t.Errorf("%v: %d lines in DIGESTS.tsv, want %d", d, got, want)
		}
		for _, line := range lines {
			name, want, _ := strings.Cut(line, "\t")
			if got := d.Sum(testblob.Blob(name)).String(); got != want {
				t.Errorf("%v of %s: got %s, want %s", d, name, got, want)
			}
		}
	}
}

func TestCasyncChunkSizes(t *testing.T) {
	const pattern = "../testdata/casync/index/chunk-size/mixed.*.caibx"
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %s, %v", pattern, err)
	}
	mixed := testblob.Blob("mixed")
	for _, file := range files {
		spec := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "mixed."), ".caibx")
		t.Run(spec, func(t *testing.T) {
			v := readVector(t, file)
			if want := paramsOf(t, spec); v.p != want {
				t.Errorf("chunk sizes %v, want %v", v.p, want)
			}
			v.reproduce(t, mixed, SHA512256)
		})
	}
}

// paramsOf reads what casync was given as --chunk-size, with _ for the colon: AVG
// or MIN_AVG_MAX.
func paramsOf(t *testing.T, spec string) Params {
	t.Helper()
	var sizes []int
	for s := range strings.SplitSeq(spec, "_") {
		digits := strings.TrimRight(s, "KM")
		n, err := strconv.Atoi(digits)
		if err != nil {
			t.Fatal(err)
		}
		switch s[len(digits):] {
		case "K":
			n *= kib
		case "M":
			n *= mib
		}
		sizes = append(sizes, n)
	}
	switch len(sizes) {
	case 1:
		return ParamsFor(sizes[0])
	case 3:
		return Params{Min: sizes[0], Avg: sizes[1], Max: sizes[2]}
	}
	t.Fatalf("chunk sizes %q", spec)
	return Params{}
}

// Here the hash allows a cut exactly at the minimum, which desync missed until
// its pull request 393.
func TestCasyncMinBoundary(t *testing.T) {
	data, err := os.ReadFile("../testdata/desync/minboundary/minboundary.raw")
	if err != nil {
		t.Fatal(err)
	}
	v := readVector(t, "../testdata/desync/minboundary/minboundary.casync.caibx")
	if len(v.ends) != 9 || v.ends[0] != int64(DefaultParams.Min) {
		t.Fatalf("the vector has %d chunks and begins with %v, want 9 and a cut at the minimum", len(v.ends), v.ends[:1])
	}
	v.reproduce(t, data, SHA512256)
}
