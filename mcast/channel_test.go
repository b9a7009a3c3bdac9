package mcast

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/storetest"
)

// indexOf returns an index of the given chunks.
func indexOf(chunks ...[]byte) *index.Index {
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
	at := int64(0)
	for _, c := range chunks {
		at += int64(len(c))
		x.Entries = append(x.Entries, index.Entry{End: at, ID: chunker.BLAKE3.Sum(c)})
	}
	return x
}

// repeating returns an index of n chunks of up to most bytes, of which about distinct
// ones differ.
func repeating(r *rand.Rand, n, distinct, most int) *index.Index {
	x := indexOf()
	at := int64(0)
	for range n {
		id := chunker.ID{byte(r.IntN(max(distinct, 1)))}
		at += 1 + int64(id[0])*7919%int64(most)
		x.Entries = append(x.Entries, index.Entry{End: at, ID: id})
	}
	return x
}

func TestFirsts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 500 {
		x := repeating(r, r.IntN(60), 1+r.IntN(200), 100)
		if i < 3 {
			x = repeating(r, i, 1, 100)
		}
		seen := map[chunker.ID]bool{}
		var want []uint32
		for j, e := range x.Entries {
			if !seen[e.ID] {
				want = append(want, uint32(j))
			}
			seen[e.ID] = true
		}
		got := firsts(x)
		if len(want) == len(x.Entries) {
			want = nil
		}
		if !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Fatalf("%d entries: %v, want %v", len(x.Entries), got, want)
		}
		c, err := newContent(x, 3)
		if err != nil {
			t.Fatal(err)
		}
		if c.space.Chunks != len(seen) {
			t.Fatalf("%d chunks, want %d", c.space.Chunks, len(seen))
		}
		for n := range c.space.Chunks {
			if !seen[c.id(n)] || c.length(n) != x.Len(c.entry(n)) {
				t.Fatalf("chunk %d is %v, which has come already", n, c.id(n))
			}
			delete(seen, c.id(n))
		}
	}
}

func TestContentBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	x := repeating(r, 100, 60, 5000)
	c, err := newContent(x, 2)
	if err != nil {
		t.Fatal(err)
	}
	var inBuckets, single int64
	for ord := range uint32(c.space.Total()) {
		switch k, _, _ := c.space.Kind(ord); k {
		case wire.Bucket:
			inBuckets += c.bytes(ord)
		case wire.SingleChunk:
			single += c.bytes(ord)
		default:
			if n := c.bytes(ord); n != 0 {
				t.Errorf("%v has chunks of %d bytes", k, n)
			}
		}
	}
	want := int64(0)
	for n := range c.space.Chunks {
		want += int64(c.length(n))
	}
	if inBuckets != want || single != want {
		t.Errorf("%d bytes in buckets, %d in single groups, want %d", inBuckets, single, want)
	}
	if _, err := newContent(x, wire.MaxLevel+1); !errors.Is(err, wire.ErrSpace) {
		t.Errorf("level %d: %v", wire.MaxLevel+1, err)
	}
}

// strange is a codec that nobody else knows.
type strange struct{}

func (strange) Name() string { return "strange" }
func (strange) Decode(dst, src []byte, limit int) ([]byte, error) {
	if len(src) > limit {
		return nil, errors.New("too long")
	}
	for _, b := range src {
		dst = append(dst, ^b)
	}
	return dst, nil
}

// forms returns chunks in every form in which a store may have them, what has to be
// sent of each, and a store with them.
func forms(t *testing.T) (chunks [][]byte, want []wire.Part, src store.Getter) {
	t.Helper()
	enc, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	m := &storetest.Memory{}
	add := func(b []byte, stored store.Chunk, p wire.Part) {
		chunks, want = append(chunks, b), append(want, p)
		stored.ID = chunker.BLAKE3.Sum(b)
		if stored.Data != nil {
			if err := m.Put(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
		}
	}
	random := func(seed, n int) []byte { return storetest.Random(uint64(seed), n) }
	text := bytes.Repeat([]byte("castor "), 3000)
	z := enc.Encode(nil, text)
	inverse := bytes.Clone(random(2, 700))
	for i := range inverse {
		inverse[i] = ^inverse[i]
	}
	flipped := bytes.Clone(random(6, 900))
	flipped[17] ^= 1
	add(random(1, 5000), store.Chunk{Data: random(1, 5000)}, wire.Part{Form: wire.Plain, Length: 5000})
	add(text, store.Chunk{Data: z, Codec: cacnk.Zstd}, wire.Part{Form: wire.Zstd, Length: len(z)})
	add(random(2, 700), store.Chunk{Data: inverse, Codec: strange{}}, wire.Part{Form: wire.Plain, Length: 700})
	add(random(3, 800), store.Chunk{Data: enc.Encode(nil, random(3, 800)), Codec: cacnk.Zstd}, wire.Part{Form: wire.Plain, Length: 800})
	add(random(4, 600), store.Chunk{}, wire.Part{Form: wire.Absent})
	add([]byte{7}, store.Chunk{Data: []byte{7}}, wire.Part{Form: wire.Plain, Length: 1})
	add(random(5, 900), store.Chunk{Data: random(5, 899)}, wire.Part{Form: wire.Absent})
	add(random(6, 900), store.Chunk{Data: flipped}, wire.Part{Form: wire.Absent})
	add(random(7, 900), store.Chunk{Data: random(8, 50000)}, wire.Part{Form: wire.Absent})
	add(bytes.Clone(text[1:]), store.Chunk{Data: z[:len(z)-4], Codec: cacnk.Zstd}, wire.Part{Form: wire.Absent})
	return chunks, want, m
}

// TestObject makes the object of each group and takes it apart.
func TestObject(t *testing.T) {
	chunks, want, src := forms(t)
	x := indexOf(append(slices.Clone(chunks), chunks[1], chunks[0])...) // some twice
	for _, level := range []int{0, 1, 2, 4, wire.MaxLevel} {
		c, err := newContent(x, level)
		if err != nil {
			t.Fatal(err)
		}
		need := newNeed(c, func(chunker.ID) bool { return true })
		for ord := 1 + uint32(c.space.IndexPieces()); ord < uint32(c.space.Total()); ord++ {
			pad := int(ord % 100)
			b, err := c.object(t.Context(), ord, src, pad)
			if err != nil || cap(b) < len(b)+pad {
				t.Fatalf("level %d, group %d: room for %d bytes, %v, want %d", level, ord, cap(b), err, len(b)+pad)
			}
			if limit := need.limit(ord); int64(len(b)) > limit {
				t.Errorf("level %d: the object of group %d has %d bytes, more than the limit %d", level, ord, len(b), limit)
			}
			from, to := c.space.ChunkRange(ord)
			parts, err := wire.ParseDirectory(b, to-from)
			if err != nil || !slices.Equal(parts, want[from:to]) {
				t.Errorf("level %d, group %d: parts %v, %v, want %v", level, ord, parts, err, want[from:to])
			}
			next := from
			err = c.unpack(ord, b, func(n int, ch store.Chunk) error {
				if n != next || ch.ID != c.id(n) {
					t.Errorf("chunk %d, want %d", n, next)
				}
				next++
				if want[n].Form == wire.Absent {
					if ch.Data != nil || ch.Codec != nil {
						t.Errorf("chunk %d, which is absent, has %d bytes", n, len(ch.Data))
					}
					return nil
				}
				plain, err := ch.Open(x.Digest(), c.length(n))
				if err != nil || !bytes.Equal(plain, chunks[n]) {
					t.Errorf("chunk %d: %v", n, err)
				}
				return nil
			})
			if err != nil || next != to {
				t.Errorf("level %d, group %d: unpacked to chunk %d, %v", level, ord, next, err)
			}
		}
	}
}

func TestObjectIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	for _, n := range []int{0, 1, 100, 30000} {
		x := indexOf()
		for i := range n {
			x.Entries = append(x.Entries, index.Entry{End: int64(i+1) * 1000, ID: chunker.ID{byte(i), byte(i >> 8), byte(r.IntN(256))}})
		}
		c, err := newContent(x, 2)
		if err != nil {
			t.Fatal(err)
		}
		var all []byte
		for i := range c.space.IndexPieces() {
			b, err := c.object(t.Context(), c.space.Ordinal(wire.IndexPiece, i), &storetest.Memory{}, 0)
			if err != nil || len(b) > wire.IndexObjectSize {
				t.Fatalf("piece %d: %d bytes, %v", i, len(b), err)
			}
			all = append(all, b...)
		}
		y, err := index.Decode(bytes.NewReader(all))
		if err != nil || y.Root() != x.Root() {
			t.Errorf("%d entries: the pieces are another index: %v", n, err)
		}
	}
}

func TestObjectFails(t *testing.T) {
	errBroken := errors.New("broken")
	chunks, _, src := forms(t)
	c, err := newContent(indexOf(chunks...), 2)
	if err != nil {
		t.Fatal(err)
	}
	ord := c.space.Ordinal(wire.Bucket, 0)
	broken := getter(func(ctx context.Context, id chunker.ID) (store.Chunk, error) {
		if id == c.id(2) {
			return store.Chunk{}, &store.Error{Op: "get", ID: id, Err: errBroken}
		}
		return src.Get(ctx, id)
	})
	if _, err := c.object(t.Context(), ord, broken, 0); !errors.Is(err, errBroken) {
		t.Errorf("the store fails: %v", err)
	}
	swapped := getter(func(ctx context.Context, id chunker.ID) (store.Chunk, error) { return src.Get(ctx, c.id(0)) })
	b, err := c.object(t.Context(), ord, swapped, 0)
	if err != nil {
		t.Fatal(err)
	}
	if parts, err := wire.ParseDirectory(b, 4); err != nil || parts[0].Form != wire.Plain || parts[1].Form != wire.Absent {
		t.Errorf("the store gives other chunks: %v, %v", parts, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	if _, err := c.object(ctx, ord, src, 0); !errors.Is(err, errBroken) {
		t.Errorf("cancelled: %v", err)
	}
	for _, ord := range []uint32{0, uint32(c.space.Total()), 1<<31 - 1, 1<<32 - 1} {
		if b, err := c.object(t.Context(), ord, src, 0); err == nil {
			t.Errorf("group %d, which carries none, has an object of %d bytes", ord, len(b))
		}
	}
	// Objects that are not what they should be.
	if b, err = c.object(t.Context(), ord, src, 0); err != nil {
		t.Fatal(err)
	}
	never := func(int, store.Chunk) error { return nil }
	for what, b := range map[string][]byte{"empty": nil, "short": b[:len(b)-1], "long": append(bytes.Clone(b), 0), "other": bytes.Repeat([]byte{0xff}, len(b))} {
		if err := c.unpack(ord, b, never); !errors.Is(err, errPolluted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.unpack(ord, b, func(int, store.Chunk) error { return errBroken }); !errors.Is(err, errBroken) || errors.Is(err, errPolluted) {
		t.Errorf("who takes the chunks fails: %v", err)
	}
}

// getter is a function as a store.Getter.
type getter func(ctx context.Context, id chunker.ID) (store.Chunk, error)

func (f getter) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) { return f(ctx, id) }

// TestNeed looks at which groups a receiver joins: it misses each chunk in one of them,
// and none has less than half of use.
func TestNeed(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	for i := range 300 {
		x := repeating(r, r.IntN(200), 1+r.IntN(256), 1+r.IntN(10000))
		c, err := newContent(x, r.IntN(8))
		if err != nil {
			t.Fatal(err)
		}
		missing := map[chunker.ID]bool{}
		part := []float64{0, 1, r.Float64(), r.Float64() * r.Float64()}[i%4]
		for n := range c.space.Chunks {
			missing[c.id(n)] = r.Float64() < part
		}
		need := newNeed(c, func(id chunker.ID) bool { return missing[id] })
		groups := need.groups()
		if !slices.IsSorted(groups) {
			t.Fatalf("groups %v", groups)
		}
		covered := make([]int, c.space.Chunks)
		for _, ord := range groups {
			from, to := c.space.ChunkRange(ord)
			var of, all int64
			for n := from; n < to; n++ {
				covered[n]++
				all += int64(c.length(n))
				if missing[c.id(n)] {
					of += int64(c.length(n))
				}
			}
			if of == 0 || 2*of < all {
				t.Fatalf("group %d: %d bytes of %d are missing, and it is joined", ord, of, all)
			}
			if all != c.bytes(ord) {
				t.Fatalf("group %d has %d bytes, want %d", ord, c.bytes(ord), all)
			}
		}
		for n, times := range covered {
			if want := missing[c.id(n)]; need.missing.Has(n) != want || want && times != 1 || times > 1 {
				t.Fatalf("chunk %d, missing: %v, is in %d groups that are joined", n, want, times)
			}
			// A bucket with half of its bytes missing is joined as a whole.
			if k, _, _ := c.space.Kind(c.space.Ordinal(wire.SingleChunk, n)); k == wire.SingleChunk && missing[c.id(n)] {
				b := c.space.Ordinal(wire.Bucket, n>>c.space.Level)
				from, to := c.space.ChunkRange(b)
				var of int64
				for m := from; m < to; m++ {
					if missing[c.id(m)] {
						of += int64(c.length(m))
					}
				}
				if _, joined := slices.BinarySearch(groups, b); joined != (2*of >= c.bytes(b)) {
					t.Fatalf("bucket %d: %d bytes of %d are missing, joined: %v", b, of, c.bytes(b), joined)
				}
			}
		}
		need.bucketsOnly = true // what is missing comes in buckets, and no other ones
		for _, ord := range need.groups() {
			k, b, _ := c.space.Kind(ord)
			from, to := c.space.ChunkRange(ord)
			any := false
			for n := from; n < to; n++ {
				any = any || need.missing.Has(n)
				covered[n] = -1
			}
			if k != wire.Bucket || !any {
				t.Fatalf("%v %d is joined", k, b)
			}
		}
		for n, c := range covered {
			if need.missing.Has(n) && c != -1 {
				t.Fatalf("chunk %d is in no bucket that is joined", n)
			}
		}
		for n := range c.space.Chunks {
			need.missing.Remove(n)
			if need.missing.Has(n) {
				t.Fatalf("chunk %d is missing after it has come", n)
			}
		}
		if left := need.groups(); len(left) != 0 {
			t.Fatalf("nothing is missing, and groups %v are joined", left)
		}
	}
}

// What a sender may send of chunks fits the limit, whatever the encoder makes of them.
func TestNeedLimit(t *testing.T) {
	for _, size := range []int{1, 100, 65536, 262144} {
		x := indexOf(storetest.Random(1, size), storetest.Random(2, size))
		c, err := newContent(x, 1)
		if err != nil {
			t.Fatal(err)
		}
		need := newNeed(c, func(chunker.ID) bool { return true })
		for _, ord := range []uint32{c.space.Ordinal(wire.Bucket, 0), c.space.Ordinal(wire.SingleChunk, 1)} {
			plain := c.bytes(ord)
			if got := need.limit(ord); got < plain+8 && ord != c.space.Ordinal(wire.SingleChunk, 1) || got < plain+4 || got > plain+plain/16+200 {
				t.Errorf("chunks of %d bytes: limit %d for %d", size, got, plain)
			}
		}
		for _, ord := range []uint32{0, 1} {
			if got := need.limit(ord); got != 0 {
				t.Errorf("limit of %d bytes for chunks in group %d, which has none", got, ord)
			}
		}
	}
}
