package assemble

import (
	"bytes"
	"math/rand"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/chunker"
)

// FuzzAssemble makes a new version from an old one, with chunks so small that
// few bytes make many, in place and from a seed.
func FuzzAssemble(f *testing.F) {
	f.Add([]byte{}, []byte{}, byte(0), byte(0))
	f.Add([]byte("old"), []byte("new"), byte(1), byte(200))
	f.Add(bytes.Repeat([]byte("ab"), 100), bytes.Repeat([]byte("ba"), 120), byte(2), byte(3))
	f.Add(make([]byte, 5000), noise(1, 6000), byte(3), byte(100))
	for n := range 8 {
		r := rand.New(rand.NewSource(int64(n)))
		old := version(r, 2*kib)
		new, _ := edited(r, old)
		f.Add(old, new, byte(n), byte(n*30))
	}
	params := []chunker.Params{
		{Min: 1, Avg: 1, Max: 1},
		{Min: 1, Avg: 8, Max: 16},
		{Min: 16, Avg: 16, Max: 16},
		{Min: 1, Avg: 1, Max: 100},
		{Min: 48, Avg: 64, Max: 128},
		{Min: 64, Avg: 100, Max: 500},
		{Min: 1, Avg: 100, Max: 5000},
		small,
	}
	f.Fuzz(func(t *testing.T, old, new []byte, sizes, held byte) {
		if len(old)+len(new) > 16*kib {
			t.Skip("too much")
		}
		p := params[int(sizes)%len(params)]
		x := indexOf(t, new, p)
		src := sourceOf(x, new)

		stats, got, err := runInPlace(t, old, new, x, src, 1+16*int(held), 16*int(held))
		if err != nil {
			t.Fatal(err)
		}
		same(t, "in place", got, new)
		whole(t, stats, x)

		dir := t.TempDir()
		for i, s := range []Seed{seed(t, dir, old, nil), seed(t, dir, old, indexOf(t, old, p)), seed(t, dir, old, x)} {
			dest := filepath.Join(dir, "dest")
			if i == 2 { // over what is right already, with the wrong index
				write(t, dir, "dest", old)
			}
			stats, err := File(t.Context(), x, dest, src, FileOptions{Seeds: []Seed{s}, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			holds(t, dest, new)
			whole(t, stats, x)
			leftovers(t, dir)
		}
	})
}
