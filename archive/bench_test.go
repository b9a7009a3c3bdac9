package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

// Small files: what a node costs.
func BenchmarkReaderNodes(b *testing.B) {
	data := manyFiles(b, 100_000, 100)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		readNodes(b, data)
	}
	b.ReportMetric(100_101*float64(b.N)/b.Elapsed().Seconds(), "nodes/s")
}

func readNodes(b *testing.B, data []byte) {
	r := NewReader(bytes.NewReader(data))
	for {
		if _, err := r.Next(); err == io.EOF {
			return
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriterNodes(b *testing.B) {
	for b.Loop() {
		b.SetBytes(int64(len(manyFiles(b, 100_000, 100))))
	}
	b.ReportMetric(100_101*float64(b.N)/b.Elapsed().Seconds(), "nodes/s")
}

// One large file: what a byte costs.
func BenchmarkWriterBytes(b *testing.B) {
	content := make([]byte, 64<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		writeLarge(b, io.Discard, content)
	}
}

func BenchmarkReaderBytes(b *testing.B) {
	content := make([]byte, 64<<20)
	var out bytes.Buffer
	writeLarge(b, &out, content)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		r := NewReader(bytes.NewReader(out.Bytes()))
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, content[:64<<10]); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func writeLarge(b *testing.B, out io.Writer, content []byte) {
	w, err := NewWriter(out, 0)
	err = errors.Join(err,
		w.Enter("", &Node{Mode: TypeDir | 0o777}),
		w.Add("a", &Node{Mode: TypeRegular | 0o666, Size: int64(len(content))}, bytes.NewReader(content)),
		w.Leave(), w.Close())
	if err != nil {
		b.Fatal(err)
	}
}

// Open an archive of 100,000 files in one directory, and find one.
func BenchmarkTreeLookup(b *testing.B) {
	data := manyFiles(b, 100_000, 1)
	ra := &countingReaderAt{ReaderAt: bytes.NewReader(data)}
	i := 0
	for b.Loop() {
		tree, err := OpenTree(ra, int64(len(data)))
		if err != nil {
			b.Fatal(err)
		}
		i = (i + 7919) % 100_000
		if _, err := tree.Find(fmt.Sprintf("directory-000000/file-%08d.txt", i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(ra.reads.Load())/float64(b.N), "reads/op")
	b.ReportMetric(float64(ra.bytes.Load())/float64(b.N)/1024, "KiB/op")
}

// List a directory of 100,000 files.
func BenchmarkTreeList(b *testing.B) {
	data := manyFiles(b, 100_000, 1)
	for b.Loop() {
		tree, err := OpenTree(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range tree.Root().All() {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(100_002*float64(b.N)/b.Elapsed().Seconds(), "nodes/s")
}
