package tree

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/archive"
)

// manyFiles returns the archive of n small files in directories of ten.
func manyFiles(t testing.TB, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Best|archive.SHA512256)
	must(t, err)
	dir := func(name string) {
		must(t, w.Enter(name, &archive.Node{Mode: archive.TypeDir | 0o755, MTime: 1e18}))
	}
	dir("")
	for i := range n {
		if i%100 == 0 {
			dir(fmt.Sprintf("%06d", i))
		}
		if i%10 == 0 {
			dir(fmt.Sprintf("%06d", i))
		}
		content := bytes.Repeat([]byte{byte(i), byte(i >> 8), 1}, i%3000)
		n := &archive.Node{Mode: archive.TypeRegular | 0o644, MTime: 1e18 + int64(i), Size: int64(len(content))}
		must(t, w.Add(fmt.Sprintf("%06d", i), n, bytes.NewReader(content)))
		if i%10 == 9 {
			must(t, w.Leave())
		}
		if i%100 == 99 {
			must(t, w.Leave())
		}
	}
	must(t, w.Leave(), w.Close())
	return b.Bytes()
}

// BenchmarkUnpack extracts 20,000 small files, to a new directory and again over
// them. What was removed lately slows ext4 down: TMPDIR should be on a file system
// made for this.
func BenchmarkUnpack(b *testing.B) {
	const files = 20_000
	data := manyFiles(b, files)
	top := b.TempDir()
	for _, workers := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			dir := filepath.Join(top, fmt.Sprint(workers))
			must(b, os.MkdirAll(dir, 0o755))
			o := &UnpackOptions{Workers: workers, NoSync: true}
			run := func(b *testing.B, dest string) {
				if _, err := Unpack(b.Context(), archive.NewReader(bytes.NewReader(data)), dest, o); err != nil {
					b.Fatal(err)
				}
			}
			n := 0
			b.Run("fresh", func(b *testing.B) {
				for b.Loop() {
					run(b, filepath.Join(dir, fmt.Sprint(n)))
					n++
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*files), "µs/file")
			})
			b.Run("again", func(b *testing.B) {
				for b.Loop() {
					run(b, filepath.Join(dir, "0"))
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*files), "µs/file")
			})
		})
	}
}
