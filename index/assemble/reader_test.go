package assemble

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"sync"
	"testing"

	"github.com/castorsync/castor/index"
)

// A heldSeed holds all but every second stretch of 100 bytes, as the tree in a
// directory holds all but the contents of files.
type heldSeed struct {
	b []byte

	mu   sync.Mutex
	read int // bytes; guarded by mu
}

func (s *heldSeed) ReadAt(b []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read += len(b)
	return bytes.NewReader(s.b).ReadAt(b, off)
}

func (s *heldSeed) held(off int64) []byte {
	if off/100%2 == 1 {
		return nil
	}
	return s.b[off:min(off/100*100+100, int64(len(s.b)))]
}

func (s *heldSeed) plan(t *testing.T, x *index.Index) *Plan {
	t.Helper()
	p, err := NewPlan(t.Context(), x, &PlanOptions{Seeds: []Seed{{File: s, Size: int64(len(s.b)), Held: s.held}}})
	if err != nil {
		t.Fatal(err)
	}
	s.read = 0
	return p
}

// Whatever is read and skipped, in whatever order, what is read is right, also if the
// seed changes.
func TestReader(t *testing.T) {
	for n := range 60 {
		r := rand.New(rand.NewSource(int64(n)))
		old := version(r, 60*kib)
		new, how := edited(r, old)
		if n%3 == 0 {
			new = bytes.Clone(old)
		}
		x := indexOf(t, new, small)
		s := &heldSeed{b: old}
		p := s.plan(t, x)
		if n%4 == 1 { // no held bytes: those stay what they were
			s.b = bytes.Clone(old)
			for i := 100; i < len(s.b); i += 20000 {
				s.b[i]++
			}
		}
		rd := p.NewReader(t.Context(), 0, -1, sourceOf(x, new), &Options{Workers: 1 + n%3})
		for off := 0; ; {
			b := make([]byte, r.Intn(3000))
			if r.Intn(3) == 0 {
				k, err := rd.Skip(int64(len(b)))
				if want := min(len(b), len(new)-off); err != nil || int(k) != want {
					t.Fatalf("%d, %s: Skip at %d of %d: got %d, %v, want %d", n, how, off, len(new), k, err, want)
				}
				off += int(k)
				continue
			}
			k, err := rd.Read(b)
			if !bytes.Equal(b[:k], new[off:off+k]) {
				t.Fatalf("%d, %s: Read at %d: wrong", n, how, off)
			}
			if off += k; err == io.EOF && off == len(new) {
				break
			} else if err != nil {
				t.Fatalf("%d, %s: Read at %d of %d: %v", n, how, off, len(new), err)
			}
		}
		if got := rd.Stats(); got.Done() != int64(len(new)) {
			t.Errorf("%d, %s: stats %+v, want %d bytes", n, how, got, len(new))
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a seed holds, and what is skipped, is not read.
func TestReaderLeaves(t *testing.T) {
	content := noise(1, 100*kib)
	x := indexOf(t, content, small)
	s := &heldSeed{b: content}
	p := s.plan(t, x)
	rd := p.NewReader(t.Context(), 0, -1, nil, nil)
	defer rd.Close()
	for off := 0; off < len(content); off += 200 {
		b := make([]byte, min(100, len(content)-off))
		if _, err := io.ReadFull(rd, b); err != nil || !bytes.Equal(b, content[off:off+len(b)]) {
			t.Fatalf("at %d: %v", off, err)
		}
		if _, err := rd.Skip(100); err != nil {
			t.Fatal(err)
		}
	}
	if s.read != 0 {
		t.Errorf("%d bytes were read", s.read)
	}
	if _, err := rd.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("at the end: got %v, want %v", err, io.EOF)
	}
	if got, want := rd.Stats().By[Copy], (Part{len(x.Entries), int64(len(content))}); got != want {
		t.Errorf("copied: got %+v, want %+v", got, want)
	}
}

// Where all that was left alone is needed after all, most of it is read ahead.
func TestReaderNeedsAll(t *testing.T) {
	content := noise(1, 200*kib)
	x := indexOf(t, content, small)
	s := &heldSeed{b: content}
	p := s.plan(t, x)
	rd := p.NewReader(t.Context(), 0, -1, nil, &Options{Workers: 2})
	defer rd.Close()
	missed := 0
	for {
		if err := rd.next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !rd.now.read {
			missed++
		}
		b, err := rd.bytes()
		if err != nil {
			t.Fatal(err)
		}
		rd.advance(len(b))
	}
	if n := len(x.Entries); missed > n/3 {
		t.Errorf("%d of %d chunks were not read ahead", missed, n)
	}
}

// Chunks that a seed has lost, and that no store has, are an error that stays.
func TestReaderMissing(t *testing.T) {
	content := noise(1, 20*kib)
	x := indexOf(t, content, small)
	s := &heldSeed{b: content}
	p := s.plan(t, x)
	s.b = noise(2, 20*kib)
	rd := p.NewReader(t.Context(), 0, -1, nil, nil)
	defer rd.Close()
	for range 2 {
		if _, err := io.Copy(io.Discard, rd); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want %v", err, os.ErrNotExist)
		}
	}
	if _, err := rd.Skip(1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Skip: got %v, want %v", err, os.ErrNotExist)
	}
}

// Plan.Within says what is the same bytes, and nothing of what comes from elsewhere.
func TestPlanWithin(t *testing.T) {
	found := 0
	for n := range 20 {
		r := rand.New(rand.NewSource(int64(n)))
		old := version(r, 40*kib)
		new, how := edited(r, old)
		x := indexOf(t, new, small)
		p := (&heldSeed{b: old}).plan(t, x)
		for range 500 {
			off := r.Int63n(int64(len(new)) + 10)
			size := 1 + r.Int63n(3000)
			at, ok := p.Within(0, off, size)
			if ok && (off+size > int64(len(new)) || !bytes.Equal(old[at:at+size], new[off:off+size])) {
				t.Fatalf("%d, %s: %d bytes at %d are not at %d", n, how, size, off, at)
			}
			if ok {
				found++
			}
			if _, ok := p.Within(1, off, size); ok {
				t.Fatalf("found in a seed that there is not")
			}
		}
		for i := range x.Entries {
			_, ok := p.Within(0, x.Start(i), int64(x.Len(i)))
			if want := p.Source(i) == Copy; ok != want {
				t.Errorf("%d, %s: entry %d: got %v, want %v", n, how, i, ok, want)
			}
		}
	}
	if found < 1000 {
		t.Errorf("%d ranges were found", found)
	}
}
