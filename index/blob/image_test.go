package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

func openImage(t testing.TB, name string, x *index.Index) *Image {
	t.Helper()
	m, err := OpenImage(name, x, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// withZeros returns content with zeros in the middle.
func withZeros(t *testing.T) ([]byte, *index.Index, *counting) {
	want, x, src := content(t, 40)
	zeros := storetest.Plain(make([]byte, 300<<10))
	if err := src.Getter.(store.Store).Put(t.Context(), zeros); err != nil {
		t.Fatal(err)
	}
	end := int64(len(want) + len(zeros.Data))
	x.Entries = append(x.Entries, index.Entry{ID: zeros.ID, End: end})
	x.Params.Max = len(zeros.Data)
	want = append(want, zeros.Data...)
	x.Entries = append(x.Entries, index.Entry{ID: x.Entries[0].ID, End: end + int64(x.Len(0))})
	return append(want, want[:x.Len(0)]...), x, src
}

func readAll(t testing.TB, b *Blob) ([]byte, error) {
	t.Helper()
	return io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
}

// What has been read once is read from the image afterwards, also by the next process,
// and also for content that is in several places.
func TestImage(t *testing.T) {
	want, x, src := withZeros(t)
	name := filepath.Join(t.TempDir(), "image")
	gone := errors.New("the store is gone")

	m := openImage(t, name, x)
	if _, err := OpenImage(name, x, nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	b := New(x, src, &Options{Image: m, Ahead: -1})
	half := make([]byte, x.Start(20))
	if _, err := b.ReadAt(half, 0); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if m.Left() != len(x.Entries)-20 {
		t.Errorf("%d entries left", m.Left())
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	src.fail.Store(&gone)
	m = openImage(t, name, x)
	b = New(x, src, &Options{Image: m, Ahead: -1})
	if _, err := b.ReadAt(half, 0); err != nil || !bytes.Equal(half, want[:len(half)]) {
		t.Errorf("first half without the store: %v", err)
	}
	if _, err := readAll(t, b); !errors.Is(err, gone) {
		t.Errorf("all without the store: %v", err)
	}
	if err := b.Fill(t.Context(), 4); !errors.Is(err, gone) {
		t.Errorf("fill without the store: %v", err)
	}
	src.fail.Store(nil)
	if err := b.Fill(t.Context(), 4); err != nil || m.Left() != 0 || b.Stats().Lacking != 0 {
		t.Errorf("fill: %v, %d left", err, m.Left())
	}
	b.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	src.fail.Store(&gone)
	m = openImage(t, name, x)
	b = New(x, src, &Options{Image: m})
	if got, err := readAll(t, b); err != nil || !bytes.Equal(got, want) {
		t.Errorf("all from the image: %v", err)
	}
	if s := b.Stats(); s.Image == 0 || s.Fetched != 0 {
		t.Errorf("stats %+v", s)
	}
	b.Close()
	m.Close()
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not the content: %v", err)
	}
}

// Damage is found when it is read, and mended; zeros over it are written.
func TestImageDamage(t *testing.T) {
	want, x, src := withZeros(t)
	name := filepath.Join(t.TempDir(), "image")
	m := openImage(t, name, x)
	b := New(x, src, &Options{Image: m})
	if err := b.Fill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	b.Close()
	m.Close()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{3, len(x.Entries) - 2} { // the latter is zero
		if _, err := f.WriteAt([]byte("damage"), x.Start(i)+100); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	m = openImage(t, name, x)
	b = New(x, src, &Options{Image: m})
	before := src.gets.Load()
	if got, err := readAll(t, b); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v", err)
	}
	if n := src.gets.Load() - before; n != 2 {
		t.Errorf("%d chunks got, want 2", n)
	}
	b.Close()
	m.Close()
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not mended: %v", err)
	}
}

// Verify finds all that is not right, and the file is the content when nothing lacks.
func TestImageVerify(t *testing.T) {
	want, x, src := withZeros(t)
	name := filepath.Join(t.TempDir(), "image")
	m := openImage(t, name, x)
	defer m.Close()
	b := open(t, x, src, &Options{Image: m})
	if err := b.Fill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if _, err := m.File().WriteAt([]byte("damage"), x.Start(7)+100); err != nil {
		t.Fatal(err)
	}
	for _, lacking := range []int{1, 0} {
		var last atomic.Int64
		err := m.Verify(t.Context(), 4, func(done int64) { last.Store(max(last.Load(), done)) })
		if err != nil || m.Left() != lacking || last.Load() == 0 {
			t.Errorf("verify: %v, %d lacking, want %d", err, m.Left(), lacking)
		}
		if err := b.Fill(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(m.File().Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not the content: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Verify(ctx, 4, func(int64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// After a crash the map claims no more than what was on disk before it was written,
// and what it claims wrongly does no harm.
func TestImageCrash(t *testing.T) {
	want, x, src := withZeros(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	m := openImage(t, name, x)
	b := New(x, src, &Options{Image: m})
	early, err := os.ReadFile(name + mapSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t, b); err != nil {
		t.Fatal(err)
	}
	b.Close()
	m.Close()
	late, err := os.ReadFile(name + mapSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(early, late) {
		t.Error("the map says nothing of what was read")
	}
	for _, tt := range []struct {
		name  string
		bits  []byte
		image func() error
	}{
		{"map behind", early, func() error { return nil }},
		{"map ahead", late, func() error { return os.Truncate(name, 0) }},
		{"map cut off", late[:mapHeader+1], func() error { return nil }},
		{"map of ones", append(late[:mapHeader:mapHeader], bytes.Repeat([]byte{0xff}, len(late)-mapHeader)...), func() error { return os.Truncate(name, 100) }},
		{"no image", late, func() error { return os.Remove(name) }},
		{"no map", nil, func() error { return os.Remove(name) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := errors.Join(os.WriteFile(name+mapSuffix, tt.bits, 0o666), tt.image()); err != nil {
				t.Fatal(err)
			}
			m := openImage(t, name, x)
			b := New(x, src, &Options{Image: m, Cache: 1, Ahead: -1})
			for i := range x.Entries { // one at a time, so that none comes from memory
				got := make([]byte, x.Len(i))
				if _, err := b.ReadAt(got, x.Start(i)); err != nil || !bytes.Equal(got, want[x.Start(i):x.Start(i+1)]) {
					t.Fatalf("read: %v", err)
				}
			}
			if m.Left() != 0 {
				t.Errorf("%d left", m.Left())
			}
			b.Close()
			m.Close()
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the image is not the content: %v", err)
			}
		})
	}
}

func TestImageRefused(t *testing.T) {
	_, x, _ := content(t, 10)
	_, other, _ := content(t, 11)
	dir := t.TempDir()
	name := filepath.Join(dir, "image")
	openImage(t, name, x).Close()
	for _, tt := range []struct {
		name, file, bits, want string
	}{
		{"another index", "image", "", "another index"},
		{"a file", "precious", "", "exists and is no image"},
		{"no map", "odd", "something else altogether, and of some length that will do for it", "no map of an image"},
		{"short map", "short", "x", "no map of an image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, tt.file)
			if tt.file == "precious" {
				if err := os.WriteFile(file, []byte("precious"), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if tt.bits != "" {
				if err := os.WriteFile(file+mapSuffix, []byte(tt.bits), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			m, err := OpenImage(file, other, nil)
			if err == nil {
				m.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if tt.file == "precious" {
				if got, err := os.ReadFile(file); string(got) != "precious" || err != nil {
					t.Errorf("the file has %q, %v", got, err)
				}
				if _, err := os.Stat(file + mapSuffix); err == nil {
					t.Error("a map was left")
				}
			}
		})
	}
}

// An image on a full disk is filled no further, and reading goes on.
func TestImageFull(t *testing.T) {
	want, x, src := content(t, 20)
	m := openImage(t, filepath.Join(t.TempDir(), "image"), x)
	defer m.Close()
	f, err := os.Open(m.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	m.f.Close()
	m.f = f // it cannot be written
	b := open(t, x, src, &Options{Image: m})
	if got, err := readAll(t, b); err != nil || !bytes.Equal(got, want) || m.Left() != len(x.Entries) {
		t.Errorf("read: %v, %d left", err, m.Left())
	}
}

// Whatever a map says, the content is right.
func FuzzMap(f *testing.F) {
	want, x, src := content(f, 5)
	dir := f.TempDir()
	m := openImage(f, filepath.Join(dir, "seed"), x)
	f.Add(append(m.header(), 0xff), []byte("image"))
	f.Add(m.header()[:mapHeader-1], []byte{})
	f.Add([]byte{}, []byte{})
	m.Close()
	name := filepath.Join(dir, "image")
	f.Fuzz(func(t *testing.T, bits, image []byte) {
		if err := errors.Join(os.WriteFile(name+mapSuffix, bits, 0o666), os.WriteFile(name, image, 0o666)); err != nil {
			t.Fatal(err)
		}
		m, err := OpenImage(name, x, nil)
		if err != nil {
			return
		}
		defer m.Close()
		b := open(t, x, src, &Options{Image: m})
		if got, err := readAll(t, b); err != nil || !bytes.Equal(got, want) || m.Left() < 0 || m.Left() > len(x.Entries) {
			t.Errorf("%v, %d left", err, m.Left())
		}
	})
}
