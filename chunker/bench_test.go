package chunker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
)

func BenchmarkCut(b *testing.B) {
	data := noise(16 << 20)
	s := NewSplitter(DefaultParams)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			rest = rest[s.Cut(rest):]
		}
	}
}

func BenchmarkReader(b *testing.B) {
	data := noise(16 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		r := NewReader(bytes.NewReader(data), DefaultParams)
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkParallel(b *testing.B) {
	data := noise(64 << 20)
	release := func(b *Batch) error { b.Release(); return nil }
	for _, workers := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			o := &ParallelOptions{Workers: workers}
			for b.Loop() {
				if err := Parallel(context.Background(), bytes.NewReader(data), int64(len(data)), DefaultParams, o, release); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("reader", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := ParallelReader(context.Background(), bytes.NewReader(data), DefaultParams, nil, release); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hole", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		zeros := make([]byte, len(data))
		o := &ParallelOptions{Hole: func(off, n int64) bool { return true }}
		for b.Loop() {
			if err := Parallel(context.Background(), bytes.NewReader(zeros), int64(len(zeros)), DefaultParams, o, release); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSum(b *testing.B) {
	data := noise(DefaultParams.Avg)
	for _, d := range Digests {
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				d.Sum(data)
			}
		})
	}
}

func BenchmarkSumAll(b *testing.B) {
	data := noise(16 * DefaultParams.Avg)
	var chunks [][]byte
	for rest := data; len(rest) > 0; rest = rest[DefaultParams.Avg:] {
		chunks = append(chunks, rest[:DefaultParams.Avg])
	}
	ids := make([]ID, len(chunks))
	for _, d := range Digests {
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				d.SumAll(ids, chunks)
			}
		})
	}
}
