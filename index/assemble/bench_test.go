package assemble

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
)

// versions are an old version of 64 MiB and what may have become of it.
func versions() (old []byte, new []struct {
	name string
	b    []byte
}) {
	old = noise(1, 64*mib)
	edited := slices.Clone(old)
	for off := mib; off < len(edited); off += 4 * mib {
		copy(edited[off:], noise(int64(off), 1000))
	}
	return old, []struct {
		name string
		b    []byte
	}{
		{"same", old},
		{"edited", edited},
		{"shifted", slices.Concat([]byte("x"), old)},
		{"swapped", slices.Concat(old[len(old)/2:], old[:len(old)/2])},
	}
}

// Looking through a file for what the index has.
func BenchmarkLocate(b *testing.B) {
	old, new := versions()
	for _, v := range new {
		b.Run(v.name, func(b *testing.B) {
			x := indexOf(b, v.b, chunker.DefaultParams)
			f := open(b, write(b, b.TempDir(), "dest", old))
			b.SetBytes(int64(len(old)))
			for b.Loop() {
				if _, err := NewPlan(b.Context(), x, &PlanOptions{Dest: &Dest{File: f, Size: int64(len(old))}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Ordering the moves of 64 GiB, all of which is shifted.
func BenchmarkGraph(b *testing.B) {
	x := large(1 << 20)
	p, err := NewPlan(b.Context(), x, nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := range x.Entries {
		p.setOrigin(i, self, x.Start(i)+4096)
	}
	b.ReportAllocs()
	for b.Loop() {
		m := &mover{runner: &runner{Plan: p, roundBytes: roundBytes, heldBytes: heldBytes}}
		m.graph()
		for len(m.round()) > 0 {
		}
	}
}

// Moving within the destination, from one version to the other and back.
func BenchmarkMoves(b *testing.B) {
	old, new := versions()
	for _, v := range new[2:] {
		b.Run(v.name, func(b *testing.B) {
			indexes := []*index.Index{indexOf(b, v.b, chunker.DefaultParams), indexOf(b, old, chunker.DefaultParams)}
			srcs := []store.Getter{sourceOf(indexes[0], v.b), sourceOf(indexes[1], old)}
			path := write(b, b.TempDir(), "dest", old)
			b.SetBytes(int64(len(old)))
			for i := 0; b.Loop(); i++ {
				if _, err := File(b.Context(), indexes[i%2], path, srcs[i%2], FileOptions{InPlace: true, NoSync: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Getting everything from a directory.
func BenchmarkRun(b *testing.B) {
	content := noise(1, 64*mib)
	x := indexOf(b, content, chunker.DefaultParams)
	s, err := dir.Open(filepath.Join(b.TempDir(), "s.castr"), &dir.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	for i, e := range x.Entries {
		if err := s.Put(context.Background(), store.Chunk{ID: e.ID, Data: content[x.Start(i):e.End]}); err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "dest")
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := open(b, write(b, filepath.Dir(path), "dest", nil))
		p, err := NewPlan(b.Context(), x, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Run(b.Context(), Target{File: f, Fresh: true}, s, nil); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
