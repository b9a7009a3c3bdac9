package tree

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/castorsync/castor/archive"
)

func openTree(t testing.TB, data []byte) *archive.Tree {
	t.Helper()
	tr, err := archive.OpenTree(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	return tr
}

// TestPart extracts single nodes of each type below a directory that has its own
// metadata and content, which stay.
func TestPart(t *testing.T) {
	const f = archive.NSecTime | archive.Permissions | archive.Symlinks | archive.FIFOs | archive.SHA512256
	data := packOnce(t, sample(t), f, nil)
	tr := openTree(t, data)
	for _, path := range []string{"d", "d/e", "d/e/f", "d/e/77", "d/zero", "d/up", "empty", "large", "link", "fifo", "closed", "closed/below/f"} {
		t.Run(path, func(t *testing.T) {
			it, err := tr.Find(path)
			must(t, err)
			dest := filepath.Join(t.TempDir(), "x")
			must(t, os.Mkdir(dest, 0o711), os.Chmod(dest, 0o711), os.WriteFile(dest+"/mine", nil, 0o644))
			for range 2 {
				stats, err := Unpack(t.Context(), Part(tr.Features(), it), dest, &UnpackOptions{NoSync: true, Strict: true})
				must(t, err)
				if it.Node.IsRegular() && (stats.Files != 1 || stats.Bytes != it.Node.Size) {
					t.Errorf("%+v", stats)
				}
				if fi, err := os.Stat(dest); err != nil || fi.Mode().Perm() != 0o711 {
					t.Errorf("the destination has mode %v, %v", fi.Mode(), err)
				}
				names := []string{it.Name(), "mine"}
				slices.Sort(names)
				if got := list(t, dest); got != names[0]+" "+names[1] {
					t.Errorf("got %s", got)
				}
				got, err := openTree(t, packOnce(t, dest, f, nil)).Find(it.Name())
				must(t, err)
				if !got.Node.Equal(it.Node) {
					t.Errorf("%+v\nwant %+v", got.Node, it.Node)
				}
				a, _ := io.ReadAll(got.Content())
				b, _ := io.ReadAll(it.Content())
				if !bytes.Equal(a, b) {
					t.Error("other content")
				}
				if it.Node.IsDir() {
					a, _ := io.ReadAll(got.Records())
					b, _ := io.ReadAll(it.Records())
					equal(t, a, b)
				}
			}
			os.Chmod(dest+"/closed", 0o700)
			os.Chmod(dest+"/closed/below", 0o700)
		})
	}
	// The root is itself, with its metadata.
	dest := filepath.Join(t.TempDir(), "x")
	_, err := Unpack(t.Context(), Part(tr.Features(), tr.Root()), dest, &UnpackOptions{NoSync: true})
	must(t, err)
	equal(t, packOnce(t, dest, f, nil), data)
	os.Chmod(dest+"/closed", 0o700)
	os.Chmod(dest+"/closed/below", 0o700)
}

// cutShort is an archive whose end cannot be read any more.
type cutShort struct {
	io.ReaderAt
	end int64
}

func (c *cutShort) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > c.end {
		return 0, io.EOF
	}
	return c.ReaderAt.ReadAt(b, off)
}

// TestPartBroken extracts parts that cannot be read.
func TestPartBroken(t *testing.T) {
	data := packOnce(t, sample(t), archive.Unix|archive.SHA512256, nil)
	c := &cutShort{bytes.NewReader(data), int64(len(data))}
	tr, err := archive.OpenTree(c, int64(len(data)))
	must(t, err)
	for _, path := range []string{"d", "large", "d/e/9"} {
		c.end = int64(len(data))
		it, err := tr.Find(path)
		must(t, err)
		start, end := it.Range()
		c.end = (start + end) / 2
		dest := t.TempDir()
		_, err = Unpack(t.Context(), Part(tr.Features(), it), dest, &UnpackOptions{NoSync: true})
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v", path, err)
		}
		noTemps(t, dest)
	}
}
