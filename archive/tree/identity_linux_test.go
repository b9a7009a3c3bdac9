package tree

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
)

// identityTree makes a tree and returns a View of it.
func identityTree(t *testing.T) (string, *View) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755), os.Mkdir(dir+"/e", 0o755))
	for i := range 20 {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/%d", dir, i), bytes.Repeat([]byte{byte(i)}, 37*(i%5)), 0o644))
	}
	return dir, scan(t, dir)
}

func scan(t *testing.T, dir string) *View {
	t.Helper()
	v, _, err := Scan(t.Context(), openRoot(t, dir), defaultFeatures, nil)
	must(t, err)
	t.Cleanup(func() { v.Close() })
	return v
}

// TestIdentity compares the identities of ranges: they are equal if and only if the
// ranges are of the same bytes, here and in another View of the same tree.
func TestIdentity(t *testing.T) {
	dir, v := identityTree(t)
	w := scan(t, dir)
	later := time.Now().Add(time.Hour)
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string][2]int64{} // identity to a range
	for range 3000 {
		off := r.Int64N(v.Size() + 1)
		n := r.Int64N(min(300, v.Size()-off) + 1)
		id, ok := v.AppendIdentity(nil, off, n, later)
		again, ok2 := w.AppendIdentity([]byte("before"), off, n, later)
		if !ok || !ok2 || string(again) != "before"+string(id) {
			t.Fatalf("%d bytes at %d: %x, %v and %x, %v", n, off, id, ok, again, ok2)
		}
		other, known := seen[string(id)]
		if !known {
			seen[string(id)] = [2]int64{off, n}
			continue
		}
		a, b := make([]byte, n), make([]byte, other[1])
		_, err1 := v.ReadAt(a, off)
		_, err2 := v.ReadAt(b, other[0])
		must(t, err1, err2)
		if !bytes.Equal(a, b) {
			t.Fatalf("%d bytes at %d and %d at %d differ and have one identity", n, off, other[1], other[0])
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, v.Size() + 1}, {v.Size() + 1, 0}, {v.Size(), 1}} {
		if _, ok := v.AppendIdentity(nil, r[0], r[1], later); ok {
			t.Errorf("%d bytes at %d have an identity", r[1], r[0])
		}
	}
}

// offsetOf returns where the content of a file begins.
func offsetOf(t *testing.T, v *View, path string) int64 {
	t.Helper()
	for off := range v.Size() {
		if p, ok := v.Locate(off); ok && p.Path == path {
			return off
		}
	}
	t.Fatalf("%s is not there", path)
	return 0
}

// TestIdentityTouched touches a file in all ways: its content has another identity.
func TestIdentityTouched(t *testing.T) {
	later := time.Now().Add(time.Hour)
	for name, touch := range map[string]func(file string) error{
		"content": func(file string) error { return os.WriteFile(file, bytes.Repeat([]byte{'x'}, 37*4), 0o644) },
		"content and time": func(file string) error {
			fi, err := os.Stat(file)
			if err != nil {
				return err
			}
			return errors.Join(os.WriteFile(file, bytes.Repeat([]byte{'x'}, 37*4), 0o644), os.Chtimes(file, fi.ModTime(), fi.ModTime()))
		},
		"mode": func(file string) error { return os.Chmod(file, 0o600) },
		"replaced": func(file string) error {
			return errors.Join(os.WriteFile(file+"n", bytes.Repeat([]byte{4}, 37*4), 0o644), os.Rename(file+"n", file))
		},
	} {
		dir, v := identityTree(t)
		off := offsetOf(t, v, "d/4")
		before, ok := v.AppendIdentity(nil, off, 148, later)
		time.Sleep(10 * time.Millisecond) // the clock of files ticks
		must(t, touch(dir+"/d/4"))
		w := scan(t, dir)
		after, ok2 := w.AppendIdentity(nil, offsetOf(t, w, "d/4"), 148, later)
		if !ok || !ok2 || bytes.Equal(before, after) {
			t.Errorf("%s: %x, %v, then %x, %v", name, before, ok, after, ok2)
		}
		// The first View does not know. Once it has read the file, it does.
		if _, ok := v.AppendIdentity(nil, off, 148, later); !ok {
			t.Errorf("%s: no identity before the file is read", name)
		}
		v.ReadAt(make([]byte, 10), off)
		if _, ok := v.AppendIdentity(nil, off, 148, later); ok && name != "replaced" && name[:7] != "content" {
			t.Errorf("%s: an identity although the file was read as it is now", name)
		}
	}
}

// TestIdentitySettled asks for files that have not been touched for long.
func TestIdentitySettled(t *testing.T) {
	dir, v := identityTree(t)
	off := offsetOf(t, v, "d/4")
	old := time.Now().Add(-time.Hour)
	if _, ok := v.AppendIdentity(nil, off, 1, old); ok {
		t.Error("new file: an identity")
	}
	if _, ok := v.AppendIdentity(nil, 0, offsetOf(t, v, "d/1"), old); !ok {
		t.Error("metadata: no identity")
	}
	must(t, os.Chtimes(dir+"/d/4", old, old)) // its ctime is now
	if _, ok := scan(t, dir).AppendIdentity(nil, off, 1, old.Add(time.Minute)); ok {
		t.Error("old content, touched now: an identity")
	}
}

// TestAsRead reads files that have changed.
func TestAsRead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(file string) error
		want   string // if no error
		err    error
		told   bool
	}{
		{"same", func(string) error { return nil }, "12345", nil, false},
		{"mode", func(file string) error { return os.Chmod(file, 0o600) }, "12345", nil, false},
		{"written", func(file string) error { return os.WriteFile(file, []byte("abcde"), 0o644) }, "abcde", nil, true},
		{"longer", func(file string) error { return os.WriteFile(file, []byte("abcdefgh"), 0o644) }, "abcde", nil, true},
		{"shorter", func(file string) error { return os.Truncate(file, 4) }, "", ErrChanged, false},
		{"replaced", func(file string) error {
			return errors.Join(os.WriteFile(file+"n", []byte("abcde"), 0o644), os.Rename(file+"n", file))
		}, "", ErrChanged, false},
		{"gone", os.Remove, "", ErrChanged, false},
	} {
		dir := t.TempDir()
		file := dir + "/f"
		old := time.Now().Add(-time.Hour)
		must(t, os.WriteFile(file, []byte("12345"), 0o644), os.Chtimes(file, old, old))
		v := scan(t, dir)
		must(t, tt.change(file))
		var told []string
		r := v.AsRead(func(path string) { told = append(told, path) })
		off := offsetOf(t, v, "f")
		for range 2 {
			b := make([]byte, 5)
			n, err := r.ReadAt(b, off)
			if !errors.Is(err, tt.err) || string(b[:n]) != tt.want {
				t.Errorf("%s: got %q, %v", tt.name, b[:n], err)
			}
		}
		if want := map[bool][]string{true: {"f"}}[tt.told]; !slices.Equal(told, want) {
			t.Errorf("%s: told of %q, want %q", tt.name, told, want)
		}
	}
}
