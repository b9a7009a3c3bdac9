package blob

import "testing"

// A reader that leaves out most of what is between its reads gets nothing ahead, one
// that reads all of it more and more.
func TestStreams(t *testing.T) {
	var sparse, dense, large streams
	for i := range int64(8) {
		if _, depth := sparse.read(i*600_000, i*600_000+4096); depth != 0 {
			t.Errorf("sparse read %d: %d chunks ahead, want 0", i, depth)
		}
		want := min(1<<i, 1<<16)
		if i == 0 {
			want = 0
		}
		if _, depth := dense.read(i*20_000, i*20_000+4096); depth != want {
			t.Errorf("dense read %d: %d chunks ahead, want %d", i, depth, want)
		}
		if _, depth := large.read(i*256_000, i*256_000+128_000); depth != want {
			t.Errorf("large read %d: %d chunks ahead, want %d", i, depth, want)
		}
	}
}
