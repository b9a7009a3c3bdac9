package share

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// TestBackdated replaces content by as much other content and sets the time back, as
// those do whose builds have a fixed time: in place, and in a new file, which may get
// the number of the old one.
func TestBackdated(t *testing.T) {
	for _, anew := range []bool{false, true} {
		tr := newFolder(t, map[string][]byte{"f": noise(1, 1<<20)})
		past := time.Now().Add(-time.Hour)
		set := func() {
			if err := os.Chtimes(tr.path("f"), past, past); err != nil {
				t.Fatal(err)
			}
		}
		set()
		tr.scan()
		before := tr.file("f")
		if anew {
			os.Remove(tr.path("f"))
		}
		b := noise(2, 1<<20)
		tr.write("f", b)
		set()
		if _, changed := tr.scan(); !changed {
			t.Errorf("new file %v: not noticed", anew)
			continue
		}
		f := tr.file("f")
		if now, lacks := chunks(t, f); lacks > 0 || !bytes.Equal(now, b) || f.Version <= before.Version {
			t.Errorf("new file %v: wrong bytes, or version %d after %d", anew, f.Version, before.Version)
		}
	}
}
