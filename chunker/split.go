package chunker

import (
	"encoding/binary"
	"math/bits"
)

// window is the number of bytes whose hash decides about a cut behind them.
const window = 48

// Splitter finds cuts in memory. It is a value without state: copies agree, and
// it is safe for concurrent use. Its zero value is not usable.
type Splitter struct {
	first int  // shortest length at which the rule is tested
	limit int  // length at which a chunk ends whatever the hash
	every bool // the rule allows a cut at every position
	test  test // of the hash, unless every
}

// NewSplitter returns the splitter for p. It panics if p is not valid, see
// [Params.Validate].
func NewSplitter(p Params) Splitter {
	if err := p.Validate(); err != nil {
		panic("chunker: " + err.Error())
	}
	s := Splitter{first: max(p.Min, window), limit: p.Max}
	if d := p.discriminator(); d > 1 {
		s.test = newTest(uint32(d))
	} else {
		s.every = true
	}
	return s
}

// fixed reports whether the hash has no say: chunks are all of one size. casync
// tests the hash at 48 bytes at the earliest and then makes chunks longer than
// a maximum below that, which it refuses to write; cutting at the maximum is
// the one outcome that keeps such an index valid.
func (s Splitter) fixed() bool { return s.first >= s.limit }

// Cut returns the length of the first chunk of b. The caller must pass the rest
// of the stream from the start of a chunk, or at least Params.Max bytes of it.
// Cut returns 0 only for an empty b. It does not retain b.
func (s Splitter) Cut(b []byte) int {
	b = b[:min(len(b), s.limit)]
	if s.fixed() || len(b) <= s.first {
		return len(b)
	}
	if s.every {
		return s.first
	}
	h := sum(b[s.first-window : s.first])
	if s.test.hit(h) {
		return s.first
	}
	p, hits := s.scan(b, s.first, &h)
	if hits == 0 {
		return p
	}
	return p - 15 + bits.TrailingZeros16(hits)
}

// sum returns the hash of a whole window.
func sum(w []byte) (h uint32) {
	for _, c := range w[:window] {
		h = bits.RotateLeft32(h, 1) ^ entering[c]
	}
	return h
}

// test decides whether a chunk may end where the window has hash h, that is
// whether h mod d = d-1, by a multiplication in place of a division. Let d be
// odd times 2^twos. Then h-(d-1), as a 32-bit number, is a multiple of d
// exactly if its product with the inverse of odd, rotated right by twos, is at most
// (2^32-1-(d-1))/d: the products of the multiples are the quotients, and each
// other number has a larger one (Granlund and Montgomery, "Division by invariant
// integers using multiplication", 1994, section 9).
type test struct {
	inverse uint32 // of odd, modulo 2^32
	less    uint32 // (d-1)·inverse
	twos    uint32
	limit   uint32
}

func newTest(d uint32) test {
	twos := bits.TrailingZeros32(d)
	odd := d >> twos
	inverse := odd // right in the lowest three bits; each step doubles them
	for range 4 {
		inverse *= 2 - odd*inverse
	}
	return test{inverse: inverse, less: (d - 1) * inverse, twos: uint32(twos), limit: (1<<32 - 1 - (d - 1)) / d}
}

func (t test) hit(h uint32) bool {
	return bits.RotateLeft32(h*t.inverse-t.less, -int(t.twos)) <= t.limit
}

// scan rolls the hash *h of the window that ends at b[:p] forward until a cut is
// allowed. It returns the position up to which it went and a bit for each of the
// last sixteen positions at which a cut is allowed, bit 15 for that last one;
// no bits and len(b) if there is none. p is at least [window].
func (s *Splitter) scan(b []byte, p int, h *uint32) (int, uint16) {
	for haveScan16 && len(b)-p >= 16 {
		// Vector code cannot be preempted: not more than some 0.1 ms at a time.
		done, hits := scan16(&b[p], min((len(b)-p)/16, 16<<10), h, &s.test)
		p += done
		if hits != 0 {
			return p, hits
		}
	}
	return s.scanOne(b, p, h)
}

// scanOne is scan a position at a time. Four steps a turn keep the table loads of
// the next bytes ahead of the chain of rotations.
func (s *Splitter) scanOne(b []byte, p int, hash *uint32) (int, uint16) {
	const last = 1 << 15
	out := b[p-window : len(b)-window]
	in := b[p:]
	in = in[:len(out)]
	lt, et := &leaving, &entering
	t, h := s.test, *hash
	i := 0
	for ; len(out)-i >= 4; i += 4 {
		o := binary.LittleEndian.Uint32(out[i:])
		n := binary.LittleEndian.Uint32(in[i:])
		h1 := bits.RotateLeft32(h, 1) ^ (lt[byte(o)] ^ et[byte(n)])
		h2 := bits.RotateLeft32(h1, 1) ^ (lt[byte(o>>8)] ^ et[byte(n>>8)])
		h3 := bits.RotateLeft32(h2, 1) ^ (lt[byte(o>>16)] ^ et[byte(n>>16)])
		h = bits.RotateLeft32(h3, 1) ^ (lt[byte(o>>24)] ^ et[byte(n>>24)])
		switch {
		case t.hit(h1):
			*hash = h1
			return p + i + 1, last
		case t.hit(h2):
			*hash = h2
			return p + i + 2, last
		case t.hit(h3):
			*hash = h3
			return p + i + 3, last
		case t.hit(h):
			*hash = h
			return p + i + 4, last
		}
	}
	for ; i < len(out); i++ {
		h = bits.RotateLeft32(h, 1) ^ (lt[out[i]] ^ et[in[i]])
		if t.hit(h) {
			*hash = h
			return p + i + 1, last
		}
	}
	*hash = h
	return len(b), 0
}
