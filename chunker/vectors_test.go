package chunker

import (
	"encoding/binary"
	"os"
	"path/filepath"
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

// Here the hash allows a cut exactly at the minimum, which desync missed for
// years (its pull request 393).
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
