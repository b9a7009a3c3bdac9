package index_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/zeebo/blake3"
)

var update = flag.Bool("update", false, "write testdata/castor anew")

// naiveRoot is the definition in docs/formats.md, word for word and without a
// line of the code that it checks.
func naiveRoot(x *index.Index) chunker.ID {
	var size int64
	if n := len(x.Entries); n > 0 {
		size = x.Entries[n-1].End
	}
	b := words(uint64(x.Features), uint64(x.Params.Min), uint64(x.Params.Avg), uint64(x.Params.Max),
		uint64(len(x.Entries)), uint64(size))
	return derive("root", append(b, naiveTree(x.Entries)...))
}

func naiveTree(entries []index.Entry) []byte {
	var node chunker.ID
	switch len(entries) {
	case 0:
		return make([]byte, 32)
	case 1:
		node = derive("leaf", append(words(uint64(entries[0].End)), entries[0].ID[:]...))
	default:
		k := 1
		for 2*k < len(entries) {
			k *= 2
		}
		node = derive("node", append(naiveTree(entries[:k]), naiveTree(entries[k:])...))
	}
	return node[:]
}

func words(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

func derive(kind string, material []byte) (id chunker.ID) {
	blake3.DeriveKey("castor 2026-11-20 index v1 merkle "+kind, material, id[:])
	return id
}

// sizes are numbers of entries: all small ones, and those around powers of two.
func sizes() (ns []int) {
	for n := range 301 {
		ns = append(ns, n)
	}
	return append(ns, 511, 512, 513, 1000, 4095, 4096, 4097, 6000)
}

func TestRootNaive(t *testing.T) {
	all := made(10_000, small)
	var running index.RootHasher
	added := 0
	for _, n := range sizes() {
		x := &index.Index{Header: small, Entries: all.Entries[:n]}
		want := naiveRoot(x)
		if got := x.Root(); got != want {
			t.Errorf("%d entries: Index.Root = %v, want %v", n, got, want)
		}
		if got := index.NewTree(x).Root(); got != want {
			t.Errorf("%d entries: Tree.Root = %v, want %v", n, got, want)
		}
		for ; added < n; added++ {
			running.Add(all.Entries[added])
		}
		for range 2 { // asking changes nothing
			if got := running.Root(small, x.Size()); got != want {
				t.Errorf("%d entries: RootHasher.Root = %v, want %v", n, got, want)
			}
		}
	}
}

func TestWriterRoot(t *testing.T) {
	x := made(200, small)
	w, err := index.NewWriter(&fullDisk{math.MaxInt}, small)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Header(); got != small {
		t.Errorf("Header() = %v, want %v", got, small)
	}
	for i, e := range x.Entries {
		if got, want := w.Root(), naiveRoot(&index.Index{Header: small, Entries: x.Entries[:i]}); got != want {
			t.Fatalf("root before entry %d: got %v, want %v", i, got, want)
		}
		if err := w.Append(e.ID, x.Len(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := w.Root(), naiveRoot(x); got != want {
		t.Errorf("root after Close: got %v, want %v", got, want)
	}
}

// The root names the index: another byte, another root.
func TestRootCommits(t *testing.T) {
	base := made(5, small)
	seen := map[chunker.ID]string{base.Root(): "the index itself"}
	for name, change := range map[string]func(x *index.Index){
		"features": func(x *index.Index) { x.Features ^= 1 << 60 },
		"digest":   func(x *index.Index) { x.Features = x.Features.WithDigest(chunker.SHA256) },
		"min":      func(x *index.Index) { x.Params.Min++ },
		"avg":      func(x *index.Index) { x.Params.Avg++ },
		"max":      func(x *index.Index) { x.Params.Max++ },
		"first id": func(x *index.Index) { x.Entries[0].ID[0] ^= 1 },
		"last id":  func(x *index.Index) { x.Entries[4].ID[31] ^= 0x80 },
		"an end":   func(x *index.Index) { x.Entries[1].End++ },
		"last end": func(x *index.Index) { x.Entries[4].End++ },
		"one less": func(x *index.Index) { x.Entries = x.Entries[:4] },
		"two less": func(x *index.Index) { x.Entries = x.Entries[:3] },
		"none":     func(x *index.Index) { x.Entries = nil },
		"another":  func(x *index.Index) { x.Entries = append(x.Entries, index.Entry{End: x.Size() + 1}) },
		"ids exchanged": func(x *index.Index) {
			x.Entries[2].ID, x.Entries[3].ID = x.Entries[3].ID, x.Entries[2].ID
		},
	} {
		x := &index.Index{Header: base.Header, Entries: slices.Clone(base.Entries)}
		change(x)
		if other, ok := seen[x.Root()]; ok {
			t.Errorf("%s has the root of %s", name, other)
		}
		seen[x.Root()] = name
	}
}

// merkleVectors is testdata/castor/merkle.json.
type merkleVectors struct {
	Rule  string       `json:"rule"`
	Made  []madeVector `json:"made"`
	Files []fileVector `json:"files"`
}

type madeVector struct {
	N      int    `json:"n"`
	Digest string `json:"digest"`
	Min    int    `json:"min"`
	Avg    int    `json:"avg"`
	Max    int    `json:"max"`
	Root   string `json:"root"`
}

type fileVector struct {
	File string `json:"file"` // in testdata
	Root string `json:"root"`
}

func TestMerkleVectors(t *testing.T) {
	got := merkleVectors{
		Rule: "Roots of indexes with n entries, defined in docs/formats.md. The features are those of a blob with that digest. " +
			"The ID of entry i = 0, 1, … is the SHA-256 of i as 8 bytes, little-endian, whatever the digest; " +
			"its length is 1 + 7919·i mod max.",
	}
	for _, digest := range chunker.Digests {
		for _, p := range []chunker.Params{chunker.DefaultParams, {Min: 1, Avg: 2, Max: 3}} {
			for _, n := range []int{0, 1, 2, 3, 64, 65, 1000} {
				x := made(n, blobHeader(digest, p))
				got.Made = append(got.Made, madeVector{n, digest.String(), p.Min, p.Avg, p.Max, x.Root().String()})
			}
		}
	}
	for _, path := range vectors(t) {
		file := filepath.ToSlash(strings.TrimPrefix(path, filepath.FromSlash(testdata)))
		got.Files = append(got.Files, fileVector{file, decode(t, read(t, path)).Root().String()})
	}

	const path = testdata + "castor/merkle.json"
	if *update {
		b, err := json.MarshalIndent(got, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var want merkleVectors
	if err := json.Unmarshal(read(t, path), &want); err != nil {
		t.Fatal(err)
	}
	if got.Rule != want.Rule {
		t.Errorf("rule %q, want %q", got.Rule, want.Rule)
	}
	if !slices.Equal(got.Made, want.Made) {
		t.Errorf("roots of made indexes:\ngot  %v\nwant %v", got.Made, want.Made)
	}
	if !slices.Equal(got.Files, want.Files) {
		t.Errorf("roots of files:\ngot  %v\nwant %v", got.Files, want.Files)
	}
}

// run returns the entries of a proof's run.
func run(x *index.Index, p index.Proof) []index.Entry {
	return x.Entries[p.First:min(p.First+1<<p.Level, len(x.Entries))]
}

// prove calls f with the proof of every aligned run of an index of n entries.
func prove(t *testing.T, n int, f func(x *index.Index, root chunker.ID, p index.Proof)) {
	t.Helper()
	x := made(n, small)
	root := naiveRoot(x)
	tree := index.NewTree(x)
	for level := 0; level == 0 || 1<<(level-1) < n; level++ {
		for first := 0; first < n; first += 1 << level {
			p, err := tree.Prove(first, level)
			if err != nil {
				t.Fatalf("%d entries: Prove(%d, %d): %v", n, first, level, err)
			}
			f(x, root, p)
		}
	}
}

func TestProof(t *testing.T) {
	ns := []int{1000}
	for n := 1; n <= 70; n++ {
		ns = append(ns, n)
	}
	for n := 126; n <= 130; n++ {
		ns = append(ns, n)
	}
	for _, n := range ns {
		prove(t, n, func(x *index.Index, root chunker.ID, p index.Proof) {
			if err := p.Verify(root, run(x, p)); err != nil {
				t.Errorf("%d entries: proof of 2^%d from %d: %v", n, p.Level, p.First, err)
			}
		})
	}
}

// Whatever is changed in a proof or beside it, it does not hold any more.
func TestProofAltered(t *testing.T) {
	type proven struct {
		p    index.Proof
		e    []index.Entry
		root chunker.ID
	}
	alterations := map[string]func(v *proven) bool{ // false: there is nothing to alter
		"root":       func(v *proven) bool { v.root[0] ^= 1; return true },
		"features":   func(v *proven) bool { v.p.Header.Features ^= 1 << 60; return true },
		"min":        func(v *proven) bool { v.p.Header.Params.Min++; return true },
		"avg":        func(v *proven) bool { v.p.Header.Params.Avg++; return true },
		"max":        func(v *proven) bool { v.p.Header.Params.Max++; return true },
		"size":       func(v *proven) bool { v.p.Size++; return true },
		"count + 1":  func(v *proven) bool { v.p.Count++; return true },
		"count - 1":  func(v *proven) bool { v.p.Count--; return true },
		"count 0":    func(v *proven) bool { v.p.Count = 0; return true },
		"count < 0":  func(v *proven) bool { v.p.Count = -v.p.Count; return true },
		"count 2^63": func(v *proven) bool { v.p.Count = math.MaxInt; return true },
		"level + 1":  func(v *proven) bool { v.p.Level++; return !sameRun(v.p, len(v.e)) },
		"level - 1":  func(v *proven) bool { v.p.Level--; return !sameRun(v.p, len(v.e)) },
		"level 63":   func(v *proven) bool { v.p.Level = 63; return true },
		"level 1000": func(v *proven) bool { v.p.Level = 1000; return true },
		"level min":  func(v *proven) bool { v.p.Level = math.MinInt; return true },
		"first + 1":  func(v *proven) bool { v.p.First++; return true },
		"first min":  func(v *proven) bool { v.p.First = math.MinInt; return true },
		"first max":  func(v *proven) bool { v.p.First = math.MaxInt; return true },
		"next run": func(v *proven) bool {
			v.p.First += 1 << v.p.Level
			return true
		},
		"run before": func(v *proven) bool {
			v.p.First -= 1 << v.p.Level
			return true
		},
		"sibling":         func(v *proven) bool { v.p.First ^= 1 << v.p.Level; return true },
		"id of the first": func(v *proven) bool { v.e[0].ID[0] ^= 1; return true },
		"id of the last":  func(v *proven) bool { v.e[len(v.e)-1].ID[31] ^= 0x80; return true },
		"end":             func(v *proven) bool { v.e[0].End++; return true },
		"no entries":      func(v *proven) bool { v.e = nil; return true },
		"one less":        func(v *proven) bool { v.e = v.e[1:]; return true },
		"one more":        func(v *proven) bool { v.e = append(v.e, v.e[0]); return true },
		"exchanged": func(v *proven) bool {
			slices.Reverse(v.e)
			return len(v.e) > 1
		},
		"path one longer": func(v *proven) bool { v.p.Path = append(v.p.Path, index.Hash{}); return true },
		"path twice":      func(v *proven) bool { v.p.Path = append(v.p.Path, v.p.Path...); return len(v.p.Path) > 0 },
		"path without first": func(v *proven) bool {
			if len(v.p.Path) == 0 {
				return false
			}
			v.p.Path = v.p.Path[1:]
			return true
		},
		"path without last": func(v *proven) bool {
			if len(v.p.Path) == 0 {
				return false
			}
			v.p.Path = v.p.Path[:len(v.p.Path)-1]
			return true
		},
		"path reversed":       func(v *proven) bool { slices.Reverse(v.p.Path); return len(v.p.Path) > 1 },
		"path changed":        func(v *proven) bool { return flip(v.p.Path, 0) },
		"path changed at end": func(v *proven) bool { return flip(v.p.Path, len(v.p.Path)-1) },
	}
	for _, n := range []int{1, 2, 3, 5, 8, 65, 100} {
		used := 0
		prove(t, n, func(x *index.Index, root chunker.ID, p index.Proof) {
			if n > 10 && p.First>>p.Level > 1 && p.First+2<<p.Level < n {
				return // like its neighbours
			}
			for name, alter := range alterations {
				v := proven{p, slices.Clone(run(x, p)), root}
				v.p.Path = slices.Clone(p.Path)
				if !alter(&v) {
					continue
				}
				used++
				if err := v.p.Verify(v.root, v.e); !errors.Is(err, index.ErrProof) {
					t.Errorf("%d entries, proof of 2^%d from %d, altered %s: got %v, want %v", n, p.Level, p.First, name, err, index.ErrProof)
				}
			}
		})
		if used < 25 {
			t.Errorf("%d entries: only %d alterations", n, used)
		}
	}
}

// sameRun reports whether p is of a run of n entries. The last run of an index
// may have several levels, of which each is right.
func sameRun(p index.Proof, n int) bool {
	return p.Level >= 0 && p.First%(1<<p.Level) == 0 && min(1<<p.Level, p.Count-p.First) == n
}

func flip(path []index.Hash, i int) bool {
	if len(path) == 0 {
		return false
	}
	path[i][i%32] ^= 1
	return true
}

// Entries of one index do not pass for the same ones of another.
func TestProofOtherIndex(t *testing.T) {
	a, b := made(100, small), made(101, small)
	p, err := index.NewTree(a).Prove(0, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(a.Root(), b.Entries[:32]); err != nil {
		t.Errorf("equal entries: %v", err)
	}
	if err := p.Verify(b.Root(), b.Entries[:32]); !errors.Is(err, index.ErrProof) {
		t.Errorf("another root: got %v, want %v", err, index.ErrProof)
	}
}

func TestProveRejects(t *testing.T) {
	for _, tt := range []struct{ n, first, level int }{
		{0, 0, 0},
		{1, 1, 0},
		{1, 0, 1},
		{1, 0, -1},
		{100, 100, 0},
		{100, -1, 0},
		{100, -2, 1},
		{100, 1, 1},
		{100, 96, 6},
		{100, 0, 8},
		{100, 0, 63},
		{100, 0, 64},
		{100, 0, math.MaxInt},
		{100, math.MinInt, 0},
	} {
		if p, err := index.NewTree(made(tt.n, small)).Prove(tt.first, tt.level); err == nil {
			t.Errorf("%d entries: Prove(%d, %d) = %v, want an error", tt.n, tt.first, tt.level, p)
		}
	}
}

func BenchmarkRoot(b *testing.B) {
	x := made(100_000, small)
	b.ReportAllocs()
	for b.Loop() {
		x.Root()
	}
}

func BenchmarkProve(b *testing.B) {
	x := made(100_000, small)
	tree := index.NewTree(x)
	root := tree.Root()
	for b.Loop() {
		p, err := tree.Prove(4096, 3)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Verify(root, run(x, p)); err != nil {
			b.Fatal(err)
		}
	}
}
