package reflink_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/internal/reflink"
)

// TestClone clones where the file system can, and elsewhere checks that the
// failure is one and changes nothing.
func TestClone(t *testing.T) {
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	n, err := reflink.BlockSize(src)
	if err != nil || n < 4096 || n&(n-1) != 0 {
		t.Fatalf("BlockSize = %d, %v", n, err)
	}
	var content []byte
	for i := range 8 {
		content = append(content, bytes.Repeat([]byte{byte('a' + i)}, int(n))...)
	}
	for _, f := range []*os.File{src, dst} {
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	want := bytes.Clone(content)
	err = reflink.Clone(dst, n, src, 4*n, 2*n)
	if err == nil {
		copy(want[n:], content[4*n:6*n])
	}
	if got, err := os.ReadFile(dst.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong content after Clone, error %v", err)
	}
	if err != nil {
		t.Logf("no sharing on this file system: %v", err)
		return // the failure has been checked
	}
	if err := reflink.Clone(dst, 0, src, 1, n); err == nil {
		t.Error("Clone from an offset that is not aligned: no error")
	}
}
