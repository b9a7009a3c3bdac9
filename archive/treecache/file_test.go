package treecache

import (
	"bytes"
	"math"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

func testHeader() index.Header {
	return index.Header{Features: index.BlobFeatures(chunker.SHA256), Params: chunker.Params{Min: 64, Avg: 256, Max: 1024}}
}

func testRecords() []record {
	return []record{
		{start: 1, size: 1, id: chunker.ID{1}, print: [32]byte{2}, settled: true},
		{start: 2, size: 7}, // not settled: not written
		{start: math.MaxUint64, size: 1024, id: chunker.ID{31: 3}, print: [32]byte{31: 4}, settled: true},
	}
}

func encoded(t testing.TB, records []record) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b, testHeader(), records); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A size that no cache has is refused before memory is taken.
func TestDecodeSize(t *testing.T) {
	b := encoded(t, testRecords())
	for _, size := range []int64{-1, 0, int64(len(b)) - 1, int64(len(b)) + 1, headSize + sumSize + (maxRecords+1)*recordSize, math.MaxInt64} {
		if _, err := decode(bytes.NewReader(b), size, testHeader()); err == nil {
			t.Errorf("%d bytes: no error", size)
		}
	}
	// One that a cache may have is not believed before the head says the same.
	if n := testing.AllocsPerRun(1, func() { decode(bytes.NewReader(b), headSize+sumSize+maxRecords*recordSize, testHeader()) }); n > 1000 {
		t.Errorf("%v allocations", n)
	}
	for _, size := range []uint32{0, 1025, math.MaxUint32} {
		b := encoded(t, []record{{size: size, settled: true}})
		if _, err := decode(bytes.NewReader(b), int64(len(b)), testHeader()); err == nil {
			t.Errorf("a chunk of %d bytes: no error", size)
		}
	}
}

// What decodes is encoded the same.
func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, nil))
	f.Add(encoded(f, testRecords()))
	f.Add(encoded(f, []record{{size: 0, settled: true}}))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := decode(bytes.NewReader(b), int64(len(b)), testHeader())
		if err == nil && !bytes.Equal(encoded(t, records), b) {
			t.Error("encoded otherwise")
		}
	})
}
