package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
)

func compare(t testing.TB, old, new []byte, mask archive.Features) string {
	t.Helper()
	var b strings.Builder
	must(t, Compare(t.Context(), openTree(t, old), openTree(t, new), mask, func(c Change) error {
		fmt.Fprintf(&b, "%s %s%v\n", c.Kind, c.Path, c.What)
		return nil
	}))
	return b.String()
}

// TestCompare changes a tree in one way at a time, and compares with what it was.
func TestCompare(t *testing.T) {
	const f = archive.UID32 | archive.NSecTime | archive.Permissions | archive.Symlinks | archive.FIFOs | archive.XAttrs | archive.SHA512256
	at := time.Unix(1e9, 5)
	for _, tt := range []struct {
		name   string
		change func(d string) error
		want   string
		mask   archive.Features
	}{
		{"nothing", func(string) error { return nil }, "", 0},
		{"content", func(d string) error { return os.WriteFile(d+"/a/f", []byte("g"), 0) }, "changed a/f[content]\n", 0},
		{"large", func(d string) error { return writeAt(d+"/large", 999_999) }, "changed large[content]\n", 0},
		{"size", func(d string) error { return os.Truncate(d+"/large", 5) }, "changed large[size]\n", 0},
		{"mode", func(d string) error { return os.Chmod(d+"/a", 0o711) }, "metadata a[mode]\n", 0},
		{"mode masked", func(d string) error { return os.Chmod(d+"/a", 0o711) }, "", archive.NSecTime},
		{"attribute", func(d string) error { return unix.Setxattr(d+"/a/f", "user.x", []byte("y"), 0) }, "metadata a/f[xattrs]\n", 0},
		{"target", func(d string) error { return errors.Join(os.Remove(d+"/l"), os.Symlink("y", d+"/l")) }, "changed l[target]\n", archive.Symlinks},
		{"type", func(d string) error { return errors.Join(os.Remove(d+"/l"), unix.Mkfifo(d+"/l", 0o777)) }, "changed l[type]\n", archive.Symlinks | archive.FIFOs},
		{"directory for file", func(d string) error {
			return errors.Join(os.Remove(d+"/a/f"), os.MkdirAll(d+"/a/f/x/y", 0o755))
		}, "changed a/f[type]\nadded a/f/x[]\nadded a/f/x/y[]\n", archive.Symlinks},
		{"file for directory", func(d string) error {
			return errors.Join(os.RemoveAll(d+"/a"), os.WriteFile(d+"/a", nil, 0o755))
		}, "changed a[type]\nremoved a/f[]\nremoved a/z[]\nremoved a/z/z[]\n", archive.Symlinks},
		{"added and removed", func(d string) error {
			return errors.Join(os.WriteFile(d+"/0", nil, 0o644), os.Rename(d+"/a", d+"/b"), os.Mkdir(d+"/zz", 0o755))
		}, "added 0[]\nremoved a[]\nremoved a/f[]\nremoved a/z[]\nremoved a/z/z[]\nadded b[]\nadded b/f[]\nadded b/z[]\nadded b/z/z[]\nadded zz[]\n", archive.Symlinks},
		{"what is not compared", func(d string) error { return unix.Mkfifo(d+"/fifo", 0o644) }, "", archive.Symlinks},
		{"time", func(d string) error { return os.Chtimes(d+"/large", at, at.Add(time.Hour)) }, "metadata large[time]\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := t.TempDir() + "/t"
			must(t, os.MkdirAll(d+"/a/z/z", 0o755), os.WriteFile(d+"/a/f", []byte("f"), 0o644),
				os.WriteFile(d+"/large", bytes.Repeat([]byte("x"), 1<<20), 0o644), os.Symlink("x", d+"/l"))
			same := func() { // times of what a change touches are of no interest, but for those it sets
				for _, name := range []string{"/a/z/z", "/a/z", "/a/f", "/a", "/large", ""} {
					if fi, err := os.Stat(d + name); err == nil && !fi.ModTime().Equal(at.Add(time.Hour)) {
						must(t, os.Chtimes(d+name, at, at))
					}
				}
			}
			same()
			old := packOnce(t, d, f, nil)
			must(t, tt.change(d))
			same()
			if got := compare(t, old, packOnce(t, d, f, nil), tt.mask); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestCompareFeatures compares archives that keep different things: only what both
// keep counts.
func TestCompareFeatures(t *testing.T) {
	src := sample(t)
	a := packOnce(t, src, archive.NSecTime|archive.Permissions|archive.Symlinks|archive.FIFOs|archive.XAttrs, nil)
	b := packOnce(t, src, archive.SecTime|archive.ReadOnly|archive.SHA512256, nil)
	if got := compare(t, a, b, 0) + compare(t, b, a, 0); got != "" {
		t.Errorf("got %s", got)
	}
}

// TestCompareEnds ends comparisons early.
func TestCompareEnds(t *testing.T) {
	a, b := manyFiles(t, 200), manyFiles(t, 100)
	enough := errors.New("enough")
	n := 0
	err := Compare(t.Context(), openTree(t, a), openTree(t, b), 0, func(Change) error {
		if n++; n == 5 {
			return enough
		}
		return nil
	})
	if err != enough || n != 5 {
		t.Errorf("%v after %d changes", err, n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err = Compare(ctx, openTree(t, a), openTree(t, b), 0, func(Change) error { cancel(enough); return nil })
	if err != enough {
		t.Errorf("canceled: %v", err)
	}
}
