package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	chacha "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
)

const kib, mib, gib = 1 << 10, 1 << 20, 1 << 30

// Chunk sizes that make many chunks of little data, one of them all of a size.
var (
	small = chunker.Params{Min: 64, Avg: 256, Max: 1024}
	fixed = chunker.Params{Min: 256, Avg: 256, Max: 256}
)

// noise returns n bytes that are random and the same for the same seed.
func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	chacha.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16), 3: byte(seed >> 24)}).Read(b)
	return b
}

// cut returns the chunks of b.
func cut(t testing.TB, b []byte, p chunker.Params) (chunks [][]byte) {
	t.Helper()
	r := chunker.NewReader(bytes.NewReader(b), p)
	for {
		c, err := r.Next()
		if err == io.EOF {
			return chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, bytes.Clone(c))
	}
}

// indexOf returns the index of b, made one chunk at a time.
func indexOf(t testing.TB, b []byte, p chunker.Params) *index.Index {
	t.Helper()
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: p}}
	for _, c := range cut(t, b, p) {
		x.Entries = append(x.Entries, index.Entry{End: x.Size() + int64(len(c)), ID: x.Digest().Sum(c)})
	}
	return x
}

// source is a store in memory.
type source struct {
	// fault makes of the n-th Get, from 1 on, what it likes; nil: nothing.
	fault func(n int, c store.Chunk) (store.Chunk, error)

	mu     sync.Mutex
	chunks map[chunker.ID][]byte // guarded by mu, as all below
	calls  int
	twice  int // calls for a chunk that had been got before
	got    map[chunker.ID]bool
}

// sourceOf returns a source of the chunks of x, the index of b.
func sourceOf(x *index.Index, b []byte) *source {
	s := &source{chunks: map[chunker.ID][]byte{}, got: map[chunker.ID]bool{}}
	for i, e := range x.Entries {
		s.chunks[e.ID] = b[x.Start(i):e.End]
	}
	return s
}

// without takes the chunks of x out of s.
func (s *source) without(x *index.Index) *source {
	for _, e := range x.Entries {
		delete(s.chunks, e.ID)
	}
	return s
}

func (s *source) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	s.mu.Lock()
	s.calls++
	n := s.calls
	b, ok := s.chunks[id]
	if s.got[id] {
		s.twice++
	}
	s.got[id] = true
	s.mu.Unlock()
	if !ok {
		return store.Chunk{}, &store.Error{Op: "get", Loc: "memory", ID: id, Err: fs.ErrNotExist}
	}
	c := store.Chunk{ID: id, Data: b, Loc: "memory"}
	if s.fault != nil {
		return s.fault(n, c)
	}
	return c, nil
}

// write makes the file name in dir hold b, with holes for its zero blocks.
func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := runner{dst: Target{File: f, Fresh: true}}
	if err := r.write(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens path until the test ends.
func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// seed returns a seed of a new file in dir that holds b.
func seed(t testing.TB, dir string, b []byte, x *index.Index) Seed {
	t.Helper()
	s := Seed{File: open(t, write(t, dir, fmt.Sprintf("seed%d", len(names(t, dir))), b)), Size: int64(len(b))}
	if x != nil {
		s.Index = encoded(t, x)
	}
	return s
}

// encoded returns x as an index file.
func encoded(t testing.TB, x *index.Index) io.ReadSeeker {
	t.Helper()
	var b bytes.Buffer
	if err := x.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// names returns the names in dir.
func names(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// leftovers fails the test if dir holds temporary files.
func leftovers(t testing.TB, dir string) {
	t.Helper()
	for _, name := range names(t, dir) {
		if name[0] == '.' {
			t.Errorf("%s is left behind", name)
		}
	}
}

// holds fails the test unless the file path holds want.
func holds(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	same(t, path, got, want)
}

// same fails the test unless got is want.
func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Fatalf("%s: got %d bytes, want %d; they differ from offset %d on", what, len(got), len(want), at)
}

// whole fails the test unless the parts of s are x and what was fetched was
// needed.
func whole(t testing.TB, s Stats, x *index.Index) {
	t.Helper()
	chunks := 0
	for _, p := range s.By {
		chunks += p.Chunks
	}
	if s.Done() != x.Size() || chunks != len(x.Entries) {
		t.Errorf("stats: got %d bytes in %d chunks, want %d in %d: %+v", s.Done(), chunks, x.Size(), len(x.Entries), s)
	}
	if s.Fetched.Bytes > s.By[Fetch].Bytes || s.Fetched.Chunks > s.By[Fetch].Chunks {
		t.Errorf("stats: fetched %+v for %+v", s.Fetched, s.By[Fetch])
	}
	if s.Cloned > s.By[Copy].Bytes {
		t.Errorf("stats: cloned %d bytes of %+v", s.Cloned, s.By[Copy])
	}
}

// stamp is what tells whether a file was touched.
type stamp struct {
	fi fs.FileInfo
	b  []byte
}

func stampOf(t testing.TB, path string) stamp {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return stamp{fi, b}
}

// untouched fails the test if path is not as it was.
func (s stamp) untouched(t testing.TB, path string) {
	t.Helper()
	now := stampOf(t, path)
	if !os.SameFile(now.fi, s.fi) || !now.fi.ModTime().Equal(s.fi.ModTime()) || !bytes.Equal(now.b, s.b) {
		t.Errorf("%s was touched: same file %v, time %v, was %v; same content %v", path,
			os.SameFile(now.fi, s.fi), now.fi.ModTime(), s.fi.ModTime(), bytes.Equal(now.b, s.b))
	}
}

// edits are the ways in which an old version becomes a new one.
var edits = []struct {
	name string
	edit func(r *rand.Rand, b []byte) []byte
}{
	{"insert", func(r *rand.Rand, b []byte) []byte {
		return slices.Insert(b, r.Intn(len(b)+1), noise(r.Int63(), 1+r.Intn(3000))...)
	}},
	{"insert at front", func(r *rand.Rand, b []byte) []byte { return slices.Insert(b, 0, noise(r.Int63(), 1+r.Intn(100))...) }},
	{"delete", func(r *rand.Rand, b []byte) []byte { from, to := ranged(r, b); return slices.Delete(b, from, to) }},
	{"replace", func(r *rand.Rand, b []byte) []byte {
		from, to := ranged(r, b)
		copy(b[from:to], noise(r.Int63(), to-from))
		return b
	}},
	{"move", func(r *rand.Rand, b []byte) []byte {
		from, to := ranged(r, b)
		block := slices.Clone(b[from:to])
		b = slices.Delete(b, from, to)
		return slices.Insert(b, r.Intn(len(b)+1), block...)
	}},
	{"duplicate", func(r *rand.Rand, b []byte) []byte {
		from, to := ranged(r, b)
		return slices.Insert(b, r.Intn(len(b)+1), slices.Clone(b[from:to])...)
	}},
	{"swap halves", func(r *rand.Rand, b []byte) []byte { return slices.Concat(b[len(b)/2:], b[:len(b)/2]) }},
	{"rotate", func(r *rand.Rand, b []byte) []byte { k := r.Intn(len(b) + 1); return slices.Concat(b[k:], b[:k]) }},
	{"reverse blocks", func(r *rand.Rand, b []byte) []byte {
		blocks := slices.Collect(slices.Chunk(b, 1000+r.Intn(10000)))
		slices.Reverse(blocks)
		return slices.Concat(blocks...)
	}},
	{"zero", func(r *rand.Rand, b []byte) []byte { from, to := ranged(r, b); clear(b[from:to]); return b }},
	{"truncate", func(r *rand.Rand, b []byte) []byte { return b[:len(b)-r.Intn(len(b)/2+1)] }},
	{"grow", func(r *rand.Rand, b []byte) []byte { return append(b, noise(r.Int63(), r.Intn(20000))...) }},
	{"grow by zeros", func(r *rand.Rand, b []byte) []byte { return append(b, make([]byte, r.Intn(20000))...) }},
}

// ranged returns a range of b.
func ranged(r *rand.Rand, b []byte) (from, to int) {
	from = r.Intn(len(b) + 1)
	return from, from + r.Intn(min(len(b)-from, max(len(b)/4, 1))+1)
}

// version returns content of about n bytes: noise, zeros and repetitions.
func version(r *rand.Rand, n int) (b []byte) {
	for len(b) < n {
		part := 1 + r.Intn(n/4)
		switch k := r.Intn(6); {
		case k == 0:
			b = append(b, make([]byte, part)...)
		case k == 1 && len(b) > 0:
			from, to := ranged(r, b)
			b = append(b, b[from:to]...)
		default:
			b = append(b, noise(r.Int63(), part)...)
		}
	}
	return b
}

// edited returns a later version of b and how it came about.
func edited(r *rand.Rand, b []byte) ([]byte, string) {
	how := ""
	b = slices.Clone(b)
	for range 1 + r.Intn(4) {
		e := edits[r.Intn(len(edits))]
		b = e.edit(r, b)
		how += ", " + e.name
	}
	return b, how[2:]
}

var errTest = errors.New("test error")
var errStop = errors.New("stop")
