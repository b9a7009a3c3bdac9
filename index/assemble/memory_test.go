package assemble

import (
	"encoding/binary"
	"os"
	"runtime"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

// large returns an index of n chunks that nobody has.
func large(n int) *index.Index {
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
	x.Entries = make([]index.Entry, n)
	for i := range x.Entries {
		e := &x.Entries[i]
		e.End = int64(i+1) * (64 * kib)
		binary.LittleEndian.PutUint64(e.ID[:], uint64(i+1)*0x9e3779b97f4a7c15)
	}
	return x
}

// heap returns how much the heap has grown by when do returns, garbage included.
func heap(do func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// Planning 64 GiB takes some tens of bytes a chunk: desync takes 500.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n, most = 1 << 20, 200 * mib
	x := large(n)
	hole := open(t, write(t, t.TempDir(), "hole", nil))
	if err := os.Truncate(hole.Name(), x.Size()); err != nil {
		t.Fatal(err)
	}
	shifted := *x // has the chunks of x elsewhere
	shifted.Entries = make([]index.Entry, n)
	for i := range n {
		shifted.Entries[i] = index.Entry{End: x.Entries[i].End, ID: x.Entries[(i+5)%n].ID}
	}
	plan := func(o *PlanOptions) (p *Plan) {
		p, err := NewPlan(t.Context(), x, o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var p *Plan
	for _, tt := range []struct {
		name string
		do   func()
		want Source
	}{
		{"nothing there", func() { p = plan(nil) }, Fetch},
		{"seed with index", func() {
			p = plan(&PlanOptions{Seeds: []Seed{{File: hole, Size: x.Size(), Index: encoded(t, &shifted)}}})
		}, Copy},
		{"destination", func() { p = plan(&PlanOptions{Dest: &Dest{File: hole, Size: x.Size()}}) }, Fetch},
		{"moves", func() {
			p = plan(nil)
			for i := range x.Entries {
				p.setOrigin(i, self, x.Start(i)+4096)
			}
			m := &mover{runner: &runner{Plan: p, roundBytes: roundBytes, heldBytes: heldBytes}}
			m.graph()
			for n := 0; n < len(m.moves); {
				round := m.round()
				if n += len(round); len(round) == 0 || len(m.held) > 0 {
					t.Fatalf("stuck after %d moves, %d held", n, len(m.held))
				}
			}
			runtime.KeepAlive(m)
		}, Move},
	} {
		if got := heap(tt.do); got > most {
			t.Errorf("%s: the heap grew by %d MiB, want no more than %d", tt.name, got/mib, most/mib)
		} else {
			t.Logf("%s: the heap grew by %d MiB", tt.name, got/mib)
		}
		if got := p.Totals().By[tt.want].Chunks; got != n {
			t.Errorf("%s: %d chunks are %v, want all", tt.name, got, tt.want)
		}
		p = nil
	}
}

// A run takes memory for the chunks on their way and not for the content.
func TestMemoryRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	content := noise(1, 48*mib)
	x := indexOf(t, content, chunker.DefaultParams)
	src := sourceOf(x, content)
	src.fault = func(_ int, c store.Chunk) (store.Chunk, error) {
		b := make([]byte, len(c.Data)) // a store reads each chunk anew
		copy(b, c.Data)
		c.Data = b
		return c, nil
	}
	p, err := NewPlan(t.Context(), x, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, write(t, t.TempDir(), "dest", nil))
	most := uint64(0)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	_, err = p.Run(t.Context(), Target{File: f, Fresh: true}, src, &Options{Workers: 8, Progress: func(Stats) {
		if n++; n%32 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8*mib {
		t.Errorf("the heap grew by %d KiB, want what some chunks take", grown/kib)
	}
}
