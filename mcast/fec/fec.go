// Package fec cuts objects into blocks of symbols and protects each block by a
// systematic Reed-Solomon code: a block of k source symbols has k more repair
// symbols, and any k of these 2k give the block back. It does no I/O.
//
// The code is Leopard in GF(2^8) (S.-J. Lin, T. Y. Al-Naffouri, Y. S. Han and
// W.-H. Chung, "Novel Polynomial Basis with Fast Fourier Transform and Its
// Application to Reed-Solomon Erasure Codes", 2016), which limits a block to 256
// symbols in all and symbols to multiples of 64 bytes.
package fec

import (
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

const (
	// MaxSource is the greatest number of source symbols of a block.
	MaxSource = 128
	// Align is what the size of a symbol, in bytes, is a multiple of.
	Align = 64
)

// Layout says how an object is cut. Blocks differ by at most one symbol, the longer
// ones first (RFC 5052, 9.1). The last symbol of the object is padded with zeros.
type Layout struct {
	Size    int64 // of the object, in bytes
	Symbol  int   // bytes of a symbol
	Symbols int   // source symbols of all blocks
	Blocks  int
}

// NewLayout returns the layout of an object of size bytes in symbols of symbol
// bytes, a positive multiple of [Align]. An empty object has no blocks.
func NewLayout(size int64, symbol int) Layout {
	l := Layout{Size: size, Symbol: symbol}
	l.Symbols = int((size + int64(symbol) - 1) / int64(symbol))
	l.Blocks = (l.Symbols + MaxSource - 1) / MaxSource
	return l
}

// Source returns the number of source symbols of a block; it has as many repair
// symbols.
func (l Layout) Source(block int) int {
	n := l.Symbols / l.Blocks
	if block < l.Symbols%l.Blocks {
		n++
	}
	return n
}

// Longest returns the number of source symbols of the longest block.
func (l Layout) Longest() int {
	if l.Blocks == 0 {
		return 0
	}
	return l.Source(0)
}

// First returns the number of source symbols in the blocks before block.
func (l Layout) First(block int) int {
	n, longer := l.Symbols/l.Blocks, l.Symbols%l.Blocks
	return block*n + min(block, longer)
}

// Padded returns the size of the object with its padding, in bytes.
func (l Layout) Padded() int64 { return int64(l.Symbols) * int64(l.Symbol) }

// Block returns the part of padded, the object with its padding, that block
// consists of. It shares memory with padded.
func (l Layout) Block(padded []byte, block int) []byte {
	from := l.First(block) * l.Symbol
	to := from + l.Source(block)*l.Symbol
	return padded[from:to:to]
}

// workspace lends the codes their working memory. All share it: what each kept for
// itself would be as large as a block, for every number of symbols. A sync.Pool would
// lose it at each collection, which a program with little garbage and a low GOGC has
// more often than blocks to encode.
type workspace struct{ free chan [][]byte }

// spare is how many working memories are kept.
const spare = 4

var scratch = workspace{make(chan [][]byte, spare)}

// Get returns n buffers of size bytes.
func (w *workspace) Get(n, size int) (b [][]byte) {
	select {
	case b = <-w.free:
	default:
	}
	if len(b) < n || cap(b[0]) < size {
		b = reedsolomon.AllocAligned(max(n, 2*MaxSource), size)
	}
	for i := range b {
		b[i] = b[i][:size]
	}
	return b
}

// Put takes back what Get returned.
func (w *workspace) Put(b [][]byte) {
	select {
	case w.free <- b[:cap(b)]:
	default:
	}
}

// codes holds the code for each number of source symbols. They are safe for
// concurrent use.
var codes [MaxSource + 1]func() reedsolomon.Encoder

func init() {
	for k := 1; k <= MaxSource; k++ {
		codes[k] = sync.OnceValue(func() reedsolomon.Encoder {
			e, err := reedsolomon.New(k, k, reedsolomon.WithLeopardGF(true), reedsolomon.WithInversionCache(false), reedsolomon.WithWorkAllocator(&scratch))
			if err != nil {
				panic(fmt.Sprintf("fec: %d source symbols: %v", k, err))
			}
			return e
		})
	}
}

// split returns b as symbols.
func split(symbols [][]byte, b []byte, symbol int) [][]byte {
	for ; len(b) > 0; b = b[symbol:] {
		symbols = append(symbols, b[:symbol:symbol])
	}
	return symbols
}

// Repair computes the repair symbols of a block into repair, which is as long as
// source. Both are whole symbols, of symbol bytes.
func Repair(repair, source []byte, symbol int) {
	k := len(source) / symbol
	if k == 1 {
		copy(repair, source) // the code of one symbol is repetition
		return
	}
	symbols := split(make([][]byte, 0, 2*k), source, symbol)
	symbols = split(symbols, repair, symbol)
	if err := codes[k]().Encode(symbols); err != nil {
		panic(fmt.Sprintf("fec: encode %d symbols of %d bytes: %v", k, symbol, err))
	}
}

// Block collects the symbols of one block until it can be decoded. It is not safe
// for concurrent use.
type Block struct {
	source  []byte // where the source symbols belong
	symbol  int
	k       int
	have    int
	missing int // source symbols
	got     [2 * MaxSource / 64]uint64
	repair  map[uint8][]byte
}

// NewBlock returns a Block that decodes into source, the block's part of the
// padded object, of whole symbols of symbol bytes.
func NewBlock(source []byte, symbol int) *Block {
	k := len(source) / symbol
	return &Block{source: source, symbol: symbol, k: k, missing: k}
}

// Has reports whether symbol esi was added.
func (b *Block) Has(esi uint8) bool { return b.got[esi/64]&(1<<(esi%64)) != 0 }

// Add copies symbol number esi: source symbols are 0 to k-1 and repair symbols k
// to 2k-1. It reports whether the symbol was of use: it is not if it is of another
// length, out of range, there already, or if there are k already.
func (b *Block) Add(esi uint8, symbol []byte) bool {
	if len(symbol) != b.symbol || int(esi) >= 2*b.k || b.Has(esi) || b.Full() {
		return false
	}
	b.got[esi/64] |= 1 << (esi % 64)
	b.have++
	if i := int(esi); i < b.k {
		copy(b.source[i*b.symbol:], symbol)
		b.missing--
		return true
	}
	if b.repair == nil {
		b.repair = make(map[uint8][]byte)
	}
	b.repair[esi] = append(make([]byte, 0, b.symbol), symbol...)
	return true
}

// Count returns the number of distinct symbols that were added.
func (b *Block) Count() int { return b.have }

// Need returns how many symbols are missing until the block can be decoded.
func (b *Block) Need() int { return b.k - b.have }

// Full reports whether the block can be decoded.
func (b *Block) Full() bool { return b.have >= b.k }

// Decode fills in the source symbols that were not added. The block must be full.
func (b *Block) Decode() error {
	if b.missing == 0 {
		return nil
	}
	if b.k == 1 {
		copy(b.source, b.repair[1])
		return nil
	}
	symbols := split(make([][]byte, 0, 2*b.k), b.source, b.symbol)
	for i := range symbols {
		if !b.Has(uint8(i)) {
			symbols[i] = symbols[i][:0]
		}
	}
	for i := b.k; i < 2*b.k; i++ {
		symbols = append(symbols, b.repair[uint8(i)])
	}
	if err := codes[b.k]().ReconstructData(symbols); err != nil {
		return fmt.Errorf("decode a block of %d symbols: %w", b.k, err)
	}
	for i := range b.k {
		if at := b.source[i*b.symbol:][:b.symbol]; &symbols[i][0] != &at[0] {
			copy(at, symbols[i])
		}
	}
	b.missing, b.repair = 0, nil
	return nil
}
