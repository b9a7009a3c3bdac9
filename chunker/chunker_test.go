package chunker

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zeebo/blake3"
)

func TestDigestSum(t *testing.T) {
	counting := func(n int) string { // the input of BLAKE3's own test vectors
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i % 251)
		}
		return string(b)
	}
	for _, tt := range []struct {
		digest Digest
		data   string
		want   string
	}{
		{BLAKE3, "", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
		{BLAKE3, "abc", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"},
		{BLAKE3, counting(1025), "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"},
		{BLAKE3, counting(102400), "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"},
		{SHA512256, "", "c672b8d1ef56ed28ab87c3622c5114069bdd3ad7b8f9737498d0c01ecef0967a"},
		{SHA512256, "abc", "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"},
		{SHA256, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
	} {
		if got := tt.digest.Sum([]byte(tt.data)).String(); got != tt.want {
			t.Errorf("%v of %.8q, %d bytes: got %s, want %s", tt.digest, tt.data, len(tt.data), got, tt.want)
		}
	}
	if d := Digest(3); !panics(func() { d.Sum(nil) }) {
		t.Errorf("Sum of %v did not panic", d)
	}
}

// One after the other, all at once, or from many goroutines: the IDs are those
// of the standard library.
func TestDigestSumMany(t *testing.T) {
	noLeak(t)
	random := noise(100_000)
	var chunks [][]byte
	for _, n := range []int{0, 1, 55, 56, 63, 64, 111, 112, 127, 128, 129, 4095, 4096, 65536, len(random)} {
		for range 3 {
			chunks = append(chunks, random[:n])
			random = append(random[1:], byte(n))
		}
	}
	for d, sum := range map[Digest]func([]byte) [32]byte{SHA512256: sha512.Sum512_256, SHA256: sha256.Sum256, BLAKE3: blake3.Sum256} {
		var want []ID
		for _, b := range chunks {
			want = append(want, sum(b))
		}
		for n := range len(chunks) + 1 {
			got := make([]ID, n)
			d.SumAll(got, chunks[:n])
			if !slices.Equal(got, want[:n]) {
				t.Fatalf("%v: SumAll of %d chunks differs", d, n)
			}
		}
		var wg sync.WaitGroup
		for first := range 16 {
			wg.Go(func() {
				for i := range chunks {
					i = (first + i) % len(chunks)
					if got := d.Sum(chunks[i]); got != want[i] {
						t.Errorf("%v: Sum of %d bytes beside others: got %v, want %v", d, len(chunks[i]), got, want[i])
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestParseDigest(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Digest
		ok   bool
	}{
		{"blake3", BLAKE3, true},
		{"sha512-256", SHA512256, true},
		{"sha256", SHA256, true},
		{"", 0, false},
		{"SHA256", 0, false},
		{"sha-256", 0, false},
		{"sha512", 0, false},
		{"digest(3)", 0, false},
	} {
		got, err := ParseDigest(tt.name)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseDigest(%q) = %v, %v, want %v, ok %v", tt.name, got, err, tt.want, tt.ok)
		}
		if tt.ok && got.String() != tt.name {
			t.Errorf("ParseDigest(%q).String() = %q", tt.name, got)
		}
	}
	var zero Digest
	if zero != BLAKE3 {
		t.Errorf("the zero Digest is %v, want %v", zero, BLAKE3)
	}
	if got, want := Digest(3).String(), "digest(3)"; got != want {
		t.Errorf("Digest(3).String() = %q, want %q", got, want)
	}
	seen := map[Digest]bool{}
	for _, d := range Digests {
		seen[d] = true
	}
	if len(Digests) != 3 || len(seen) != 3 {
		t.Errorf("Digests = %v, want each of the three once", Digests)
	}
}

func TestParseID(t *testing.T) {
	var id ID
	for i := range id {
		id[i] = byte(0xf8 + i)
	}
	const hex = "f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f1011121314151617"
	if got := id.String(); got != hex {
		t.Errorf("String() = %q, want %q", got, hex)
	}
	for _, tt := range []struct {
		name, in string
		want     ID
		ok       bool
	}{
		{"its own string", hex, id, true},
		{"upper case", strings.ToUpper(hex), id, true},
		{"zero", strings.Repeat("0", 64), ID{}, true},
		{"empty", "", ID{}, false},
		{"short", hex[:63], ID{}, false},
		{"long", hex + "0", ID{}, false},
		{"very long", strings.Repeat(hex, 1000), ID{}, false},
		{"not hex", hex[:63] + "g", ID{}, false},
		{"slash", hex[:31] + "/" + hex[32:], ID{}, false},
		{"64 bytes of UTF-8", strings.Repeat("é", 32), ID{}, false},
	} {
		got, err := ParseID(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%s: ParseID = %v, %v, want %v, ok %v", tt.name, got, err, tt.want, tt.ok)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", tt.name, len(err.Error()))
		}
	}
}

func TestParamsValidate(t *testing.T) {
	for _, tt := range []struct {
		p  Params
		ok bool
	}{
		{DefaultParams, true},
		{Params{1, 1, 1}, true},
		{Params{MaxSize, MaxSize, MaxSize}, true},
		{Params{1, 1, MaxSize}, true},
		{Params{1, MaxSize, MaxSize}, true},
		{Params{}, false},
		{Params{0, 1, 2}, false},
		{Params{-1, 1, 2}, false},
		{Params{2, 1, 4}, false},
		{Params{1, 4, 2}, false},
		{Params{3, 2, 1}, false},
		{Params{1, 2, MaxSize + 1}, false},
		{Params{MaxSize + 1, MaxSize + 1, MaxSize + 1}, false},
		{Params{1, math.MaxInt, math.MaxInt}, false},
		{Params{math.MinInt, 0, 0}, false},
	} {
		err := tt.p.Validate()
		if ok := err == nil; ok != tt.ok || !ok && !errors.Is(err, ErrParams) {
			t.Errorf("%v: got %v, want ok %v", tt.p, err, tt.ok)
		}
		if got := panics(func() { NewSplitter(tt.p) }); got == tt.ok {
			t.Errorf("NewSplitter(%v) panics: %v, want %v", tt.p, got, !tt.ok)
		}
	}
	if got, want := DefaultParams.String(), "16384:65536:262144"; got != want {
		t.Errorf("DefaultParams.String() = %q, want %q", got, want)
	}
}

func TestParamsFor(t *testing.T) {
	for _, tt := range []struct {
		avg  int
		want Params
		ok   bool
	}{
		{64 * kib, DefaultParams, true},
		{1, Params{1, 1, 4}, true},
		{3, Params{1, 3, 12}, true},
		{4, Params{1, 4, 16}, true},
		{100, Params{25, 100, 400}, true},
		{32 * mib, Params{8 * mib, 32 * mib, MaxSize}, true},
		{32*mib + 1, Params{8 * mib, 32*mib + 1, MaxSize}, true},
		{MaxSize, Params{32 * mib, MaxSize, MaxSize}, true},
		{MaxSize + 1, Params{32 * mib, MaxSize + 1, MaxSize}, false},
		{0, Params{1, 0, 0}, false},
		{-4, Params{1, -4, -16}, false},
	} {
		got := ParamsFor(tt.avg)
		if err := got.Validate(); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParamsFor(%d) = %v, %v, want %v, ok %v", tt.avg, got, err, tt.want, tt.ok)
		}
	}
	for avg := MaxSize + 1; avg > 0; avg *= 2 { // none is so large that it comes out valid again
		if p := ParamsFor(avg); p.Validate() == nil {
			t.Errorf("ParamsFor(%d) = %v is valid", avg, p)
		}
	}
}

// Each value was seen in casync, except for those of tiny sizes.
func TestDiscriminator(t *testing.T) {
	for _, tt := range []struct {
		p    Params
		want uint64
	}{
		{DefaultParams, 49535},
		{ParamsFor(4 * kib), 3075},
		{ParamsFor(1 * mib), 886711},
		{ParamsFor(4 * mib), 5721670},
		{Params{2 * mib, 8 * mib, MaxSize}, 62724856},
		{ParamsFor(8 * mib), 32 * mib},       // 62724856 and then the maximum
		{ParamsFor(16 * mib), 64 * mib},      // behind the pole
		{ParamsFor(MaxSize), MaxSize},        // far behind it
		{Params{60000, 65536, 70000}, 60000}, // not below the minimum
		{Params{1000, 1000, 1000}, 1000},
		{Params{1, 1, 4}, 1}, // 0.75 and then the minimum
		{Params{1, 2, 4}, 1},
		{Params{1, 3, 12}, 2},
	} {
		if got := tt.p.discriminator(); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.p, got, tt.want)
		}
	}
}

// Compilers for some machines fuse the multiplication and the addition into one
// step that rounds once. No average is so close to an edge that it matters.
func TestDiscriminatorFused(t *testing.T) {
	for avg := 1; avg < 10*mib; avg += 3 {
		p := Params{1, avg, MaxSize}
		fused := float64(avg) / math.FMA(-1.42888852e-7, float64(avg), 1.33237515)
		want := uint64(MaxSize)
		if 0 < fused && fused <= MaxSize {
			want = max(1, uint64(fused))
		}
		if got := p.discriminator(); got != want {
			t.Fatalf("%v: got %d, fused %d", p, got, want)
		}
	}
}

func ExampleParamsFor() {
	fmt.Println(ParamsFor(64 << 10))
	// Output: 16384:65536:262144
}
