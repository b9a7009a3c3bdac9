package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/caformat"
)

// The layout of an index file:
//
//	48 bytes  INDEX record: size, type, features, min, avg, max
//	16 bytes  TABLE record: all-ones instead of a size, type
//	40 bytes  an entry: end offset, chunk ID; any number of them
//	40 bytes  tail: 0, 0, 48 (size of the INDEX record), size of the TABLE record, marker
const (
	headerSize = 48 + 16
	entrySize  = 40
	tailSize   = 40
)

// EncodedSize returns the size in bytes of an index file with n entries.
func EncodedSize(n int) int64 { return headerSize + entrySize*int64(n) + tailSize }

// Writer writes an index entry by entry, in constant memory. The index is
// complete only after Close. It is not safe for concurrent use.
type Writer struct {
	w     *bufio.Writer
	h     Header
	count int
	end   int64
	root  RootHasher
	buf   [entrySize]byte
	err   error // sticky; errClosed after Close
}

// NewWriter returns a Writer whose header has been written to w's buffer.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	bw := bufio.NewWriterSize(w, 64<<10)
	b := h.encode()
	_, err := bw.Write(b[:])
	return &Writer{w: bw, h: h, err: err}, err
}

// encode returns the records that come before the entries.
func (h Header) encode() (b [headerSize]byte) {
	words(b[:], 48, caformat.Index, uint64(h.Features), uint64(h.Params.Min), uint64(h.Params.Avg), uint64(h.Params.Max),
		math.MaxUint64, caformat.Table)
	return b
}

// encodeTail returns what comes behind count entries.
func encodeTail(count int) (b [tailSize]byte) {
	words(b[:], 0, 0, 48, 16+entrySize*uint64(count)+tailSize, caformat.TableTail)
	return b
}

func words(b []byte, vs ...uint64) {
	for i, v := range vs {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
}

// Header returns the header that was given to [NewWriter].
func (w *Writer) Header() Header { return w.h }

// Append adds the next chunk, of size bytes.
func (w *Writer) Append(id chunker.ID, size int) error {
	if w.err != nil {
		return w.err
	}
	if size < 1 || size > w.h.Params.Max {
		w.err = fmt.Errorf("index entry %d: chunk of %d bytes, want 1 to %d", w.count, size, w.h.Params.Max)
		return w.err
	}
	w.end += int64(size)
	w.count++
	Entry{End: w.end, ID: id}.encode(&w.buf)
	w.root.add(&w.buf)
	_, w.err = w.w.Write(w.buf[:])
	return w.err
}

var errClosed = errors.New("index writer is closed")

// Close writes the tail and flushes. It does not close the underlying writer.
// Afterwards, Append and Close return an error and write nothing.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	b := encodeTail(w.count)
	if _, w.err = w.w.Write(b[:]); w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

// Count returns the number of chunks appended so far.
func (w *Writer) Count() int { return w.count }

// Size returns the number of content bytes that they cover.
func (w *Writer) Size() int64 { return w.end }

// Root returns the Merkle root of an index that ends here, see [Index.Root].
func (w *Writer) Root() chunker.ID { return w.root.Root(w.h, w.end) }

func (e Entry) encode(b *[entrySize]byte) {
	binary.LittleEndian.PutUint64(b[:], uint64(e.End))
	copy(b[8:], e.ID[:])
}

// Encode writes the whole index to w.
func (x *Index) Encode(w io.Writer) error {
	iw, err := NewWriter(w, x.Header)
	if err != nil {
		return err
	}
	for i, e := range x.Entries {
		if err := iw.Append(e.ID, x.Len(i)); err != nil {
			return err
		}
	}
	return iw.Close()
}

// ReadAt reads from the bytes that [Index.Encode] would write, whose number is
// [EncodedSize]. It implements [io.ReaderAt].
func (x *Index) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read an index at offset %d", off)
	}
	tail := headerSize + entrySize*int64(len(x.Entries))
	for n < len(b) {
		at := off + int64(n)
		switch {
		case at < headerSize:
			h := x.Header.encode()
			n += copy(b[n:], h[at:])
		case at < tail:
			i, rest := (at-headerSize)/entrySize, (at-headerSize)%entrySize
			var e [entrySize]byte
			x.Entries[i].encode(&e)
			n += copy(b[n:], e[rest:])
		case at < tail+tailSize:
			t := encodeTail(len(x.Entries))
			n += copy(b[n:], t[at-tail:])
		default:
			return n, io.EOF
		}
	}
	return n, nil
}

// Reader reads an index entry by entry, in constant memory. It checks what a
// file can get wrong: it is safe on any input. It is not safe for concurrent
// use.
type Reader struct {
	r     *bufio.Reader
	h     Header
	count int
	end   int64
	buf   [entrySize]byte
	err   error // sticky; set by Next
}

// NewReader reads the header of an index. It may read ahead of what it has
// returned.
func NewReader(r io.Reader) (*Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var b [headerSize]byte
	if n, err := io.ReadFull(br, b[:]); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("%w: ends after %d bytes, within the header", ErrFormat, n)
		}
		return nil, err
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	if word(0) != 48 || word(1) != caformat.Index {
		return nil, fmt.Errorf("%w: does not begin as an index does", ErrFormat)
	}
	if word(6) != math.MaxUint64 || word(7) != caformat.Table {
		return nil, fmt.Errorf("%w: no chunk table behind the header", ErrFormat)
	}
	h := Header{
		Features: Features(word(2)),
		Params:   chunker.Params{Min: size(word(3)), Avg: size(word(4)), Max: size(word(5))},
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	return &Reader{r: br, h: h}, nil
}

// size converts a size from a file for Params.Validate to judge: all values out
// of range stay so.
func size(v uint64) int { return int(min(v, chunker.MaxSize+1)) }

// Header returns the index's header.
func (r *Reader) Header() Header { return r.h }

// Next returns the next entry, and io.EOF behind the last one if the index is
// complete and nothing follows it.
func (r *Reader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	e, err := r.next()
	r.err = err
	return e, err
}

func (r *Reader) next() (Entry, error) {
	b := &r.buf
	if _, err := io.ReadFull(r.r, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return Entry{}, fmt.Errorf("%w: ends after %d entries without a tail: truncated?", ErrFormat, r.count)
	} else if err != nil {
		return Entry{}, err
	}
	end := binary.LittleEndian.Uint64(b[:])
	if end == 0 {
		return Entry{}, r.tail(b)
	}
	if end > math.MaxInt64 || int64(end) <= r.end {
		return Entry{}, fmt.Errorf("%w: entry %d ends at offset %d, the one before at %d", ErrFormat, r.count, end, r.end)
	}
	if n := int64(end) - r.end; n > int64(r.h.Params.Max) {
		return Entry{}, fmt.Errorf("%w: entry %d has %d bytes, more than the greatest chunk size %d", ErrFormat, r.count, n, r.h.Params.Max)
	}
	e := Entry{End: int64(end), ID: chunker.ID(b[8:])}
	r.count++
	r.end = e.End
	return e, nil
}

// tail checks the five words that end an index and returns io.EOF if all is
// well.
func (r *Reader) tail(b *[entrySize]byte) error {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	if word(1) != 0 || word(2) != 48 || word(4) != caformat.TableTail {
		return fmt.Errorf("%w: entry %d ends at offset 0 and is no tail", ErrFormat, r.count)
	}
	if want := 16 + entrySize*uint64(r.count) + tailSize; word(3) != want {
		return fmt.Errorf("%w: tail says the table has %d bytes, but it has %d", ErrFormat, word(3), want)
	}
	if _, err := r.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: more data behind the tail", ErrFormat)
	} else if err != io.EOF {
		return err
	}
	return io.EOF
}

// Each calls f for the entries that are left, until f returns an error, which it
// returns. It returns nil if the index is complete and nothing follows it.
func (r *Reader) Each(f func(Entry) error) error {
	for {
		e, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
}

// Decode reads a whole index. The memory it takes grows with what has been
// read, never with what the input claims.
func Decode(r io.Reader) (*Index, error) {
	hint := entriesIn(r)
	ir, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	x := &Index{Header: ir.Header()}
	for {
		e, err := ir.Next()
		if err == io.EOF {
			return x, nil
		}
		if err != nil {
			return nil, err
		}
		if len(x.Entries) == cap(x.Entries) {
			x.grow(hint)
		}
		x.Entries = append(x.Entries, e)
	}
}

// grow makes room for the entries to come: up to hint, but not more than four
// times what is there.
func (x *Index) grow(hint int) {
	n := max(1024, 4*len(x.Entries))
	if hint > len(x.Entries) {
		n = min(n, hint)
	} else {
		n = max(1024, len(x.Entries)+len(x.Entries)/4)
	}
	grown := make([]Entry, len(x.Entries), n)
	copy(grown, x.Entries)
	x.Entries = grown
}

// entriesIn returns the number of entries that r seems to hold, 0 if that is
// not known.
func entriesIn(r io.Reader) int {
	var n int64
	switch r := r.(type) {
	case interface{ Len() int }:
		n = int64(r.Len())
	case interface{ Stat() (fs.FileInfo, error) }:
		if fi, err := r.Stat(); err == nil && fi.Mode().IsRegular() {
			n = fi.Size()
		}
	}
	return int(max(0, n-headerSize-tailSize) / entrySize)
}
