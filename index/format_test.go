package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

// Where the words of a file with three entries are.
const (
	atFeatures = 16
	atMin      = 24
	atAvg      = 32
	atMax      = 40
	atTable    = 48
	atEntries  = 64
	atTail     = 64 + 3*40
)

func put(b []byte, at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }

// Nothing but a whole and consistent index is one.
func TestDecodeHostile(t *testing.T) {
	good := encode(t, &index.Index{Header: small, Entries: []index.Entry{{End: 10}, {End: 20}, {End: 30}}})
	type change = func(b []byte) []byte
	word := func(at int, v uint64) change {
		return func(b []byte) []byte { put(b, at, v); return b }
	}
	sizes := func(low, avg, high uint64) change {
		return func(b []byte) []byte {
			put(b, atMin, low)
			put(b, atAvg, avg)
			put(b, atMax, high)
			return b
		}
	}
	ends := func(ends ...uint64) change {
		return func(b []byte) []byte {
			for i, end := range ends {
				put(b, atEntries+40*i, end)
			}
			return b
		}
	}
	type hostile struct {
		name   string
		change change
	}
	tests := []hostile{
		{"empty", func(b []byte) []byte { return nil }},
		{"header record one shorter", word(0, 47)},
		{"header record one longer", word(0, 49)},
		{"header record huge", word(0, math.MaxUint64)},
		{"no index type", word(8, 0x96824d9c7b129ff8)},
		{"catar entry type", word(8, 0x1396fabcea5bbb51)},
		{"big-endian", func(b []byte) []byte { slices.Reverse(b[:16]); return b }},
		{"table with a size", word(atTable, 16+3*40+40)},
		{"no table type", word(atTable+8, 0xe75b9e112f17417c)},

		{"both digests", word(atFeatures, 0xb800000000000000)},
		{"all features", word(atFeatures, math.MaxUint64)},

		{"sizes all zero", sizes(0, 0, 0)},
		{"min zero", sizes(0, 64, 256)},
		{"min above avg", sizes(65, 64, 256)},
		{"avg above max", sizes(16, 257, 256)},
		{"max above limit", sizes(16, 64, chunker.MaxSize+1)},
		{"all above limit", sizes(chunker.MaxSize+1, chunker.MaxSize+2, chunker.MaxSize+3)},
		{"max 2^32+256", sizes(16, 64, 1<<32+256)},
		{"max 2^63", sizes(16, 64, 1<<63)},
		{"max 2^64-1", sizes(16, 64, math.MaxUint64)},
		{"min 2^64-16", sizes(1<<64-16, 64, 256)},
		{"all 2^64-1", sizes(math.MaxUint64, math.MaxUint64, math.MaxUint64)},

		{"first end zero", ends(0)},
		{"end zero in the middle", ends(10, 0)},
		{"ends equal", ends(10, 10, 30)},
		{"last ends equal", ends(10, 20, 20)},
		{"ends decreasing", ends(10, 20, 19)},
		{"first chunk one too long", ends(257, 258, 259)},
		{"last chunk one too long", ends(10, 20, 277)},
		{"end 2^32+30", ends(10, 20, 1<<32+30)},
		{"end 2^63-1", ends(10, 20, math.MaxInt64)},
		{"end 2^63", ends(10, 20, 1<<63)},
		{"end 2^64-1", ends(10, 20, math.MaxUint64)},
		{"end with the sign bit", ends(10, 20, 1<<63|30)},

		{"tail: second word", word(atTail+8, 1)},
		{"tail: index one off", word(atTail+16, 49)},
		{"tail: index zero", word(atTail+16, 0)},
		{"tail: count one less", word(atTail+24, 16+2*40+40)},
		{"tail: count one more", word(atTail+24, 16+4*40+40)},
		{"tail: size zero", word(atTail+24, 0)},
		{"tail: size one off", word(atTail+24, 16+3*40+40+1)},
		{"tail: size 2^64-1", word(atTail+24, math.MaxUint64)},
		{"tail: marker", word(atTail+32, 0x4b4f050e5549ecd0)},
		{"entry missing", func(b []byte) []byte { return slices.Delete(b, atEntries, atEntries+40) }},
		{"entry twice", func(b []byte) []byte { return slices.Insert(b, atEntries, b[atEntries:atEntries+40]...) }},
		{"no tail", func(b []byte) []byte { return b[:atTail] }},
		{"tail only", func(b []byte) []byte { return b[atTail:] }},

		{"one more byte", func(b []byte) []byte { return append(b, 0) }},
		{"another tail", func(b []byte) []byte { return append(b, b[atTail:]...) }},
		{"another index", func(b []byte) []byte { return append(b, b...) }},
		{"a byte in front", func(b []byte) []byte { return slices.Insert(b, 0, 0) }},
		{"huge_chunk.caibx", func([]byte) []byte { return read(t, testdata+"desync/adversarial/huge_chunk.caibx") }},
		{"1 MiB of zeros", func([]byte) []byte { return make([]byte, 1<<20) }},
	}
	for bit := 33; bit < 59; bit++ {
		tests = append(tests, hostile{fmt.Sprintf("feature bit %d", bit), word(atFeatures, uint64(small.Features)|1<<bit)})
	}
	for n := range len(good) {
		tests = append(tests, hostile{fmt.Sprintf("cut to %d bytes", n), func(b []byte) []byte { return b[:n] }})
	}
	for _, tt := range tests {
		b := tt.change(bytes.Clone(good))
		x, err := index.Decode(bytes.NewReader(b))
		if !errors.Is(err, index.ErrFormat) || x != nil {
			t.Errorf("%s: got %v, %v, want %v", tt.name, x, err, index.ErrFormat)
		}
	}
	decode(t, good) // which is what each differs from
}

// What is unusual and allowed.
func TestDecodeAccepts(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    chunker.Params
		ends []int64
	}{
		{"no chunk", chunker.DefaultParams, nil},
		{"chunks below the minimum", small.Params, []int64{1, 2, 3}},
		{"chunks of the maximum", small.Params, []int64{256, 512, 513}},
		{"smallest sizes", chunker.Params{Min: 1, Avg: 1, Max: 1}, []int64{1, 2}},
		{"greatest sizes", chunker.Params{Min: chunker.MaxSize, Avg: chunker.MaxSize, Max: chunker.MaxSize}, []int64{chunker.MaxSize, chunker.MaxSize + 1}},
	} {
		x := &index.Index{Header: blobHeader(chunker.SHA256, tt.p)}
		for _, end := range tt.ends {
			x.Entries = append(x.Entries, index.Entry{End: end})
		}
		b := encode(t, x)
		if got := decode(t, b); got.Header != x.Header || !slices.Equal(got.Entries, x.Entries) {
			t.Errorf("%s: got %v, want %v", tt.name, got, x)
		}
	}
	for _, f := range []index.Features{0, 1<<33 - 1, 1 << 62, 1 << 59, 1 << 61} {
		x := &index.Index{Header: index.Header{Features: f, Params: small.Params}}
		if got := decode(t, encode(t, x)); got.Features != f {
			t.Errorf("features %#x came back as %#x", uint64(f), uint64(got.Features))
		}
	}
}

func TestDecodeStreams(t *testing.T) {
	x := made(3000, small)
	b := encode(t, x)
	for name, r := range map[string]io.Reader{
		"one byte":      iotest.OneByteReader(bytes.NewReader(b)),
		"half":          iotest.HalfReader(bytes.NewReader(b)),
		"data with EOF": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		got, err := index.Decode(r)
		if err != nil || !slices.Equal(got.Entries, x.Entries) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var errBroken = errors.New("the cable is cut")

// A source that fails says nothing about the index.
func TestDecodeReadError(t *testing.T) {
	good := encode(t, made(3, small))
	for n := range len(good) + 1 {
		r := io.MultiReader(bytes.NewReader(good[:n]), iotest.ErrReader(errBroken))
		x, err := index.Decode(r)
		if !errors.Is(err, errBroken) || errors.Is(err, index.ErrFormat) || x != nil {
			t.Errorf("broken at %d: got %v, want %v", n, err, errBroken)
		}
	}
}

// Reader gives the same answer again, good or bad.
func TestReaderSticky(t *testing.T) {
	good := encode(t, made(3, small))
	for _, tt := range []struct {
		name string
		b    []byte
		n    int
		want error
	}{
		{"good", good, 3, io.EOF},
		{"cut", good[:atTail-1], 2, index.ErrFormat},
		{"more behind the tail", append(bytes.Clone(good), 0), 3, index.ErrFormat},
	} {
		r, err := index.NewReader(bytes.NewReader(tt.b))
		if err != nil {
			t.Fatal(err)
		}
		if r.Header() != small {
			t.Errorf("%s: Header() = %v, want %v", tt.name, r.Header(), small)
		}
		n := 0
		for ; err == nil; n++ {
			_, err = r.Next()
		}
		if n-1 != tt.n || !errors.Is(err, tt.want) {
			t.Errorf("%s: got %d entries, %v, want %d, %v", tt.name, n-1, err, tt.n, tt.want)
		}
		if e, again := r.Next(); again != err || e != (index.Entry{}) {
			t.Errorf("%s: got %v the second time, want %v", tt.name, again, err)
		}
	}
}

// boaster claims to hold more than it does.
type boaster struct{ io.Reader }

func (boaster) Len() int { return math.MaxInt }

// allocated returns how many bytes f allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Claims cost nothing: memory follows what has been read.
func TestDecodeMemory(t *testing.T) {
	good := encode(t, made(3, small))
	huge := bytes.Clone(good)
	put(huge, atTail+24, 16+40<<40+40)
	sparse, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if _, err := sparse.Write(good[:atTail]); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if _, err := sparse.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"tail with a huge count": bytes.NewReader(huge),
		"reader with a huge Len": boaster{bytes.NewReader(good[:atTail])},
		"sparse file of 1 TiB":   sparse,
	} {
		var err error
		if got, want := allocated(func() { _, err = index.Decode(r) }), uint64(1<<20); got > want {
			t.Errorf("%s: allocated %d bytes, want at most %d", name, got, want)
		}
		if !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: got %v, want %v", name, err, index.ErrFormat)
		}
	}

	const n = 200_000
	large := encode(t, made(n, small))
	for name, tt := range map[string]struct {
		r      io.Reader
		factor uint64
	}{
		"known length":     {bytes.NewReader(large), 5},
		"unknown length":   {iotest.HalfReader(bytes.NewReader(large)), 10},
		"a length of 2^63": {boaster{bytes.NewReader(large)}, 10},
	} {
		if got, want := allocated(func() { index.Decode(tt.r) }), tt.factor*40*n; got > want {
			t.Errorf("%s: %d entries allocated %d bytes, want at most %d", name, n, got, want)
		}
	}
}

func TestWriterRejects(t *testing.T) {
	for _, h := range []index.Header{
		{},
		{Features: small.Features},
		{Features: small.Features, Params: chunker.Params{Min: 2, Avg: 1, Max: 3}},
		{Features: 1 << 40, Params: small.Params},
		{Features: 1<<59 | 1<<61, Params: small.Params},
	} {
		if w, err := index.NewWriter(io.Discard, h); !errors.Is(err, index.ErrFormat) || w != nil {
			t.Errorf("NewWriter(%v): got %v, want %v", h, err, index.ErrFormat)
		}
		if err := (&index.Index{Header: h}).Encode(io.Discard); !errors.Is(err, index.ErrFormat) {
			t.Errorf("Encode of %v: got %v, want %v", h, err, index.ErrFormat)
		}
	}
	for _, size := range []int{0, -1, 257, math.MinInt, math.MaxInt} {
		var out bytes.Buffer
		w, err := index.NewWriter(&out, small)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Append(chunker.ID{}, 256); err != nil {
			t.Fatal(err)
		}
		err = w.Append(chunker.ID{}, size)
		if err == nil {
			t.Errorf("a chunk of %d bytes was taken, want an error", size)
		}
		if again := w.Append(chunker.ID{}, 1); again != err {
			t.Errorf("the next good chunk: got %v, want %v", again, err)
		}
		if closed := w.Close(); closed != err || out.Len() != 0 {
			t.Errorf("Close: got %v and %d bytes, want %v and none", closed, out.Len(), err)
		}
		if w.Count() != 1 || w.Size() != 256 {
			t.Errorf("%d chunks of %d bytes, want 1 of 256", w.Count(), w.Size())
		}
	}
	for _, ends := range [][]int64{{0}, {-1}, {257}, {10, 10}, {10, 9}, {10, 300}, {10, math.MaxInt64}} {
		x := &index.Index{Header: small}
		for _, end := range ends {
			x.Entries = append(x.Entries, index.Entry{End: end})
		}
		if err := x.Encode(io.Discard); err == nil {
			t.Errorf("Encode of ends %v returned nil, want an error", ends)
		}
	}
}

// Closed is closed: a second tail would make a whole index a bad one.
func TestWriterClosed(t *testing.T) {
	var out bytes.Buffer
	w, err := index.NewWriter(&out, small)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(out.Bytes())
	if err := w.Append(chunker.ID{}, 1); err == nil {
		t.Error("Append after Close returned nil, want an error")
	}
	if err := w.Close(); err == nil {
		t.Error("Close after Close returned nil, want an error")
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("%d bytes written, want %d", out.Len(), len(want))
	}
}

// fullDisk takes n bytes.
type fullDisk struct{ n int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if len(b) > d.n {
		n := d.n
		d.n = 0
		return n, errBroken
	}
	d.n -= len(b)
	return len(b), nil
}

// Close, if nothing before it, tells of a failed write.
func TestWriterWriteError(t *testing.T) {
	x := made(5000, small)
	size := int(index.EncodedSize(len(x.Entries)))
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, size - 1, size} {
		w, err := index.NewWriter(&fullDisk{n}, small)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range x.Entries {
			if err = w.Append(e.ID, x.Len(i)); err != nil {
				break
			}
		}
		closed := w.Close()
		if want := n < size; errors.Is(closed, errBroken) != want {
			t.Errorf("disk full after %d of %d bytes: Close returned %v", n, size, closed)
		}
		if err != nil && closed != err {
			t.Errorf("disk full after %d bytes: Append returned %v and then Close %v", n, err, closed)
		}
		if err := x.Encode(&fullDisk{n}); errors.Is(err, errBroken) != (n < size) {
			t.Errorf("disk full after %d of %d bytes: Encode returned %v", n, size, err)
		}
	}
}

// TestReadAt reads the bytes of an index file at every offset.
func TestReadAt(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
		for i := range n {
			x.Entries = append(x.Entries, index.Entry{End: int64(i+1) * 1000, ID: chunker.ID{byte(i), 1}})
		}
		var want bytes.Buffer
		if err := x.Encode(&want); err != nil {
			t.Fatal(err)
		}
		if int64(want.Len()) != index.EncodedSize(n) {
			t.Fatalf("%d entries: %d bytes, EncodedSize says %d", n, want.Len(), index.EncodedSize(n))
		}
		if err := iotest.TestReader(io.NewSectionReader(x, 0, index.EncodedSize(n)), want.Bytes()); err != nil {
			t.Errorf("%d entries: %v", n, err)
		}
		if _, err := x.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a negative offset is no error")
		}
	}
}
