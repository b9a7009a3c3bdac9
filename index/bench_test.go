package index_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/castorsync/castor/index"
)

func BenchmarkDecode(b *testing.B) {
	enc := encode(b, made(100_000, small))
	b.SetBytes(int64(len(enc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := index.Decode(bytes.NewReader(enc)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	x := made(100_000, small)
	b.SetBytes(index.EncodedSize(len(x.Entries)))
	b.ReportAllocs()
	for b.Loop() {
		if err := x.Encode(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
