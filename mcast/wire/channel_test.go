package wire_test

import (
	"crypto/ed25519"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/wire"
)

// Numbers of groups: see maxOrdinal.
const maxOrdinal = 1<<31 - 1

var allScopes = []wire.Scope{wire.LinkScope, wire.SiteScope, wire.OrgScope, wire.GlobalScope}

// testKey is the network key of all tests: byte i is i.
func testKey() *wire.Key {
	k := new(wire.Key)
	for i := range k {
		k[i] = byte(i)
	}
	return k
}

// testSigner is the Ed25519 key of all tests: byte i of the seed is i.
func testSigner() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(testKey()[:ed25519.SeedSize]) }

// channels are of every kind, all different.
func channels() map[string]wire.Channel {
	pub := testSigner().Public().(ed25519.PublicKey)
	other := testKey()
	other[wire.KeySize-1]++
	root := chunker.ID{1, 2, 3}
	return map[string]wire.Channel{
		"root":              wire.OfRoot(root, nil),
		"another root":      wire.OfRoot(chunker.ID{1, 2, 4}, nil),
		"root, key":         wire.OfRoot(root, testKey()),
		"root, other key":   wire.OfRoot(root, other),
		"name":              wire.OfName("a", nil, nil),
		"no name":           wire.OfName("", nil, nil),
		"another name":      wire.OfName("b", nil, nil),
		"name, key":         wire.OfName("a", nil, testKey()),
		"name, signer":      wire.OfName("a", pub, nil),
		"name, both":        wire.OfName("a", pub, testKey()),
		"name of the root":  wire.OfName(string(root[:]), nil, nil),
		"name with the key": wire.OfName(string(testKey()[:])+"a", nil, nil),
	}
}

func TestChannelsDiffer(t *testing.T) {
	seen := map[netip.Addr]string{}
	for name, c := range channels() {
		g := c.Group(wire.SiteScope, false, 0)
		if other, ok := seen[g]; ok {
			t.Errorf("%s and %s have the same groups", name, other)
		}
		seen[g] = name
	}
	for name, c := range channels() {
		if g := c.Group(wire.SiteScope, false, 0); seen[g] != name {
			t.Errorf("%s has other groups the second time", name)
		}
	}
}

func TestGroup(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, c := range channels() {
		for _, scope := range allScopes {
			for _, ssm := range []bool{false, true} {
				ords := []uint32{0, 1, 2, maxOrdinal - 1, maxOrdinal}
				for range 200 {
					ords = append(ords, r.Uint32()&maxOrdinal)
				}
				for _, ord := range ords {
					g := c.Group(scope, ssm, ord)
					a := g.As16()
					if !g.IsMulticast() || a[0] != 0xff || wire.Scope(a[1]&15) != scope {
						t.Fatalf("%s, %v: %v is no group of the scope", name, scope, g)
					}
					if got := netip.MustParsePrefix("ff30::/12").Contains(g); got != ssm {
						t.Fatalf("%s: %v is source-specific: %v, want %v", name, g, got, ssm)
					}
					if a[12]&0x80 == 0 {
						t.Fatalf("%s: %v is not in the range for dynamic groups", name, g)
					}
					if got, ok := c.Ordinal(g); !ok || got != ord {
						t.Fatalf("%s: %v has ordinal %d, %v, want %d", name, g, got, ok, ord)
					}
				}
			}
		}
	}
}

// The last 32 bits of an address are all that becomes the link-layer address.
func TestGroupsDistinct(t *testing.T) {
	for name, c := range channels() {
		for _, ssm := range []bool{false, true} {
			seen := map[[4]byte]uint32{}
			for i := range uint32(4000) {
				for _, ord := range []uint32{i, maxOrdinal - i, 1<<30 + i} {
					a := c.Group(wire.SiteScope, ssm, ord).As16()
					if other, ok := seen[[4]byte(a[12:])]; ok && other != ord {
						t.Fatalf("%s: groups %d and %d end alike", name, ord, other)
					}
					seen[[4]byte(a[12:])] = ord
				}
			}
		}
	}
}

func TestOrdinalForeign(t *testing.T) {
	c := wire.OfRoot(chunker.ID{1}, nil)
	for _, s := range []string{
		"::", "::1", "fe80::8000:1", "ff02::1", "ff02::16", "ff15::ca57:8000:1", "224.0.0.1", "239.255.255.250",
		"::ffff:224.0.0.1", "ff35::1", "ff35::7fff:ffff", "ff35:1::8000:1", "ff45::8000:1", "ff05::8000:1", "ff75::8000:1",
	} {
		if ord, ok := c.Ordinal(netip.MustParseAddr(s)); ok {
			t.Errorf("%s is taken for group %d", s, ord)
		}
	}
	if _, ok := c.Ordinal(netip.Addr{}); ok {
		t.Error("no address at all is taken for a group")
	}
	g := c.Group(wire.SiteScope, false, 5)
	if _, ok := c.Ordinal(g.WithZone("eth0")); !ok {
		t.Error("with a zone it is no group")
	}
	for _, other := range channels() {
		if _, ok := other.Ordinal(g); ok {
			t.Errorf("%v is taken for a group of another channel", g)
		}
	}
	// Every bit but those of the scope and of the ordinal counts.
	a := g.As16()
	for bit := range 128 {
		b := a
		b[bit/8] ^= 0x80 >> (bit % 8)
		ord, ok := c.Ordinal(netip.AddrFrom16(b))
		if scope, low := bit >= 12 && bit < 16, bit >= 97; ok != (scope || low) || low && ord == 5 || scope && ord != 5 {
			t.Errorf("with bit %d changed: ordinal %d, %v", bit, ord, ok)
		}
	}
}

func TestScope(t *testing.T) {
	hops := 0
	for _, s := range allScopes {
		if got, err := wire.ParseScope(s.String()); err != nil || got != s {
			t.Errorf("%v: parsed as %v, %v", s, got, err)
		}
		if s.Hops() <= hops {
			t.Errorf("%v: %d hops, want more than the narrower scope", s, s.Hops())
		}
		hops = s.Hops()
	}
	for _, name := range []string{"", "Site", "interface", "scope 5", "5"} {
		if s, err := wire.ParseScope(name); err == nil {
			t.Errorf("%q: parsed as %v", name, s)
		}
	}
	if h := wire.Scope(3).Hops(); h != 1 {
		t.Errorf("an unknown scope has %d hops, want 1", h)
	}
}

// spaces returns small spaces of all shapes.
func spaces() (all []wire.Space) {
	for _, size := range []int64{0, 1, 104, wire.IndexObjectSize - 1, wire.IndexObjectSize, wire.IndexObjectSize + 1, 5*wire.IndexObjectSize + 7} {
		for _, chunks := range []int{0, 1, 2, 3, 15, 16, 17, 63, 64, 65, 1000} {
			for _, level := range []int{0, 1, 2, 4, 6, 9, wire.MaxLevel} {
				all = append(all, wire.Space{IndexBytes: size, Chunks: chunks, Level: level})
			}
		}
	}
	return all
}

// TestSpace goes through all groups of a space.
func TestSpace(t *testing.T) {
	for _, s := range spaces() {
		if err := s.Check(); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		count := map[wire.Kind]int{}
		inBucket, single := make([]int, s.Chunks), make([]int, s.Chunks)
		for ord := range uint32(s.Total()) {
			k, i, ok := s.Kind(ord)
			if !ok || s.Ordinal(k, i) != ord || i != count[k] {
				t.Fatalf("%+v: group %d is %v %d, %v, and that is group %d", s, ord, k, i, ok, s.Ordinal(k, i))
			}
			count[k]++
			from, to := s.ChunkRange(ord)
			if has := from < to; has != (k == wire.Bucket || k == wire.SingleChunk) || from < 0 || to > s.Chunks || to-from > 1<<s.Level {
				t.Fatalf("%+v: %v %d has chunks %d to %d", s, k, i, from, to)
			}
			for n := from; n < to; n++ {
				if k == wire.Bucket {
					inBucket[n]++
				} else {
					single[n]++
				}
			}
		}
		if count[wire.Control] != 1 || count[wire.IndexPiece] != s.IndexPieces() || count[wire.Bucket] != s.Buckets() || count[wire.SingleChunk] != s.Chunks {
			t.Errorf("%+v: %v", s, count)
		}
		for n := range s.Chunks {
			if inBucket[n] != 1 || single[n] != 1 {
				t.Fatalf("%+v: chunk %d is in %d buckets and %d single groups", s, n, inBucket[n], single[n])
			}
		}
		for _, ord := range []uint32{uint32(s.Total()), uint32(s.Total()) + 1, maxOrdinal, math.MaxUint32} {
			if k, i, ok := s.Kind(ord); ok {
				t.Errorf("%+v: group %d is %v %d", s, ord, k, i)
			}
			if from, to := s.ChunkRange(ord); from != 0 || to != 0 {
				t.Errorf("%+v: group %d, which is none, has chunks %d to %d", s, ord, from, to)
			}
		}
		if got, want := int64(s.IndexPieces())*wire.IndexObjectSize, s.IndexBytes; got < want || got-want >= wire.IndexObjectSize {
			t.Errorf("%+v: %d pieces", s, s.IndexPieces())
		}
	}
}

func TestSpaceRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		s := wire.Space{IndexBytes: r.Int64N(1 << r.IntN(37)), Chunks: r.IntN(1 << r.IntN(31)), Level: r.IntN(wire.MaxLevel + 1)}
		if s.Check() != nil {
			continue
		}
		for range 20 {
			ord := uint32(r.IntN(s.Total()))
			k, i, ok := s.Kind(ord)
			if !ok || s.Ordinal(k, i) != ord {
				t.Fatalf("%+v: group %d is %v %d, %v", s, ord, k, i, ok)
			}
			if k == wire.SingleChunk {
				if from, to := s.ChunkRange(s.Ordinal(wire.Bucket, i>>s.Level)); i < from || i >= to {
					t.Fatalf("%+v: chunk %d is not in bucket %d of %d to %d", s, i, i>>s.Level, from, to)
				}
			}
		}
	}
}

func TestSpaceCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    wire.Space
		ok   bool
	}{
		{"empty", wire.Space{}, true},
		{"usual", wire.Space{IndexBytes: 60104, Chunks: 1500, Level: 4}, true},
		{"greatest level", wire.Space{Level: wire.MaxLevel}, true},
		{"level too great", wire.Space{Level: wire.MaxLevel + 1}, false},
		{"level of 64", wire.Space{Level: 64}, false},
		{"level of 255", wire.Space{Level: 255, Chunks: 1}, false},
		{"negative level", wire.Space{Level: -1}, false},
		{"negative chunks", wire.Space{Chunks: -1}, false},
		{"most chunks", wire.Space{Chunks: 1 << 30, Level: 1}, true},
		{"too many chunks", wire.Space{Chunks: 1<<30 + 1, Level: 20}, false},
		{"too many groups", wire.Space{Chunks: 1 << 30, Level: 0}, false},
		{"most groups", wire.Space{Chunks: 1<<30 - 1, Level: 0}, true},
		{"one group too many", wire.Space{Chunks: 1<<30 - 1, Level: 0, IndexBytes: 1}, false},
		{"2 G chunks", wire.Space{Chunks: math.MaxInt32, Level: 20}, false},
		{"most of an index", wire.Space{IndexBytes: 1 << 36}, true},
		{"too much of an index", wire.Space{IndexBytes: 1<<36 + 1}, false},
		{"greatest number", wire.Space{IndexBytes: math.MaxInt64}, false},
		{"negative index", wire.Space{IndexBytes: -1}, false},
		{"least number", wire.Space{IndexBytes: math.MinInt64}, false},
		{"all", wire.Space{IndexBytes: math.MaxInt64, Chunks: math.MaxInt, Level: math.MaxInt}, false},
	} {
		err := tt.s.Check()
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, wire.ErrSpace) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil && int64(tt.s.Total()) > maxOrdinal {
			t.Errorf("%s: %d groups", tt.name, tt.s.Total())
		}
	}
}

func TestLevelFor(t *testing.T) {
	for _, tt := range []struct {
		size, avg int64
		want      int
	}{
		{1 << 20, 1 << 20, 0}, {1 << 20, 64 << 10, 4}, {16 << 20, 64 << 10, 8}, {1 << 20, 16 << 20, 0},
		{1 << 20, 0, 20}, {0, 0, 0}, {-1, -1, 0}, {1 << 50, 1, wire.MaxLevel},
	} {
		if got := wire.LevelFor(tt.size, tt.avg); got != tt.want {
			t.Errorf("%d bytes of chunks of %d: level %d, want %d", tt.size, tt.avg, got, tt.want)
		}
	}
	for avg := int64(1); avg < 20<<20; avg += avg/7 + 1 {
		const size = 1 << 20
		l := wire.LevelFor(size, avg)
		if got := avg << l; l > 0 && (got > size*3/2 || 2*got < size*2/3) {
			t.Errorf("chunks of %d: level %d makes buckets of %d, want about %d", avg, l, got, size)
		}
	}
}

func TestSession(t *testing.T) {
	s := wire.Salt{0xde, 0xad, 0xbe, 0xef, 5}
	if got := s.Session(); got != 0xdeadbeef {
		t.Errorf("session %x", got)
	}
}

func TestAEAD(t *testing.T) {
	if (*wire.Key)(nil).AEAD(wire.Salt{}) != nil {
		t.Error("no key has a cipher")
	}
	n := make([]byte, 12)
	var sums [][]byte
	for _, s := range []wire.Salt{{}, {1}, {15: 1}} {
		sums = append(sums, testKey().AEAD(s).Seal(nil, n, nil, nil), new(wire.Key).AEAD(s).Seal(nil, n, nil, nil))
	}
	for i := range sums {
		for _, other := range sums[:i] {
			if slices.Equal(sums[i], other) {
				t.Error("two salts or keys have the same cipher")
			}
		}
	}
}
