// Package cacnk knows the forms that chunks take in casync's .cacnk files: zstd,
// which castor writes, and gzip and xz, which it reads.
package cacnk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// The codecs. A chunk file holds exactly one stream of one of them.
var (
	Zstd store.Codec = zstdCodec{}
	Gzip store.Codec = streamCodec{"gzip", openGzip}
	XZ   store.Codec = streamCodec{"xz", openXZ}
)

var (
	errTooLong  = errors.New("chunk is longer than it may be")
	errTrailing = errors.New("data behind the end of the stream")
)

// Detect returns the codec of a .cacnk file by its first bytes.
func Detect(b []byte) (store.Codec, error) {
	switch {
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd, nil
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return Gzip, nil
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ, nil
	case len(b) == 0:
		return nil, errors.New("empty chunk file")
	}
	return nil, fmt.Errorf("neither zstd nor gzip nor xz: begins with %x", b[:min(len(b), 6)])
}

// decoder decodes whole frames, as many at a time as there are CPUs. It never
// writes beyond the capacity of the buffer it is given.
var decoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(2*chunker.MaxSize),
		zstd.WithDecoderMaxWindow(2*chunker.MaxSize),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("cacnk: internal error: " + err.Error())
	}
	return d
}()

type zstdCodec struct{}

func (zstdCodec) Name() string { return "zstd" }

// Decode makes room for as much as the frame says, or for the most that it can
// hold if it says nothing, as casync's do.
func (zstdCodec) Decode(dst, src []byte, limit int) ([]byte, error) {
	n, exact, err := frame(src)
	if err != nil {
		return nil, err
	}
	if exact && n > uint64(limit) {
		return nil, errTooLong
	}
	room := int(min(n, uint64(limit)))
	if cap(dst) < room {
		dst = make([]byte, 0, room)
	}
	out, err := decoder.DecodeAll(src, dst[:0:min(cap(dst), limit)])
	if err != nil {
		return nil, err
	}
	return out, nil
}

// frame checks that src is a single whole zstd frame: the decoder would append
// further frames and pass over others. It returns the length of its content, or
// if the frame does not tell, a bound.
func frame(src []byte) (n uint64, exact bool, err error) {
	var h zstd.Header
	if err := h.Decode(src); err != nil {
		return 0, false, err
	}
	if h.Skippable {
		return 0, false, zstd.ErrMagicMismatch
	}
	const raw, rle, compressed, maxBlock = 0, 1, 2, 128 << 10
	rest := src[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return 0, false, io.ErrUnexpectedEOF
		}
		head := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		last = head&1 != 0
		stored := head >> 3
		switch head >> 1 & 3 {
		case raw:
			n += uint64(stored)
		case rle:
			n += uint64(stored)
			stored = 1
		case compressed:
			n += maxBlock
		}
		if rest = rest[3:]; len(rest) < stored {
			return 0, false, io.ErrUnexpectedEOF
		}
		rest = rest[stored:]
	}
	sum := 0
	if h.HasCheckSum {
		sum = 4
	}
	switch {
	case len(rest) < sum:
		return 0, false, io.ErrUnexpectedEOF
	case len(rest) > sum:
		return 0, false, errTrailing
	case h.HasFCS:
		return h.FrameContentSize, true, nil
	}
	return n, false, nil
}

// streamCodec reads a form with a streaming reader.
type streamCodec struct {
	name string
	open func(src *bytes.Reader, limit int) (io.Reader, error)
}

func (c streamCodec) Name() string { return c.name }

func (c streamCodec) Decode(dst, src []byte, limit int) ([]byte, error) {
	in := bytes.NewReader(src)
	r, err := c.open(in, limit)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(dst[:0])
	n, err := out.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if n > int64(limit) {
		return nil, errTooLong
	}
	if in.Len() > 0 {
		return nil, errTrailing
	}
	return out.Bytes(), nil
}

func openGzip(src *bytes.Reader, _ int) (io.Reader, error) {
	z, err := gzip.NewReader(src)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return z, nil
}

// DefaultLevel is the compression level of casync and desync.
const DefaultLevel = 3

// Encoder makes zstd chunks. It is safe for concurrent use.
type Encoder struct{ z *zstd.Encoder }

// NewEncoder returns an Encoder. The level is on zstd's scale from 1 to 22; the
// library has four: about 1, 3, 7 and 11.
func NewEncoder(level int) (*Encoder, error) {
	if level < 1 || level > 22 {
		return nil, fmt.Errorf("compression level %d: want 1 to 22", level)
	}
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(false)) // the chunk's ID checks more
	if err != nil {
		return nil, err
	}
	return &Encoder{z}, nil
}

// Encode appends the zstd form of plain to dst. The library recognises data
// that will not shrink within microseconds and wraps it as it is.
func (e *Encoder) Encode(dst, plain []byte) []byte { return e.z.EncodeAll(plain, dst) }

// MaxEncoded returns the greatest length of the zstd form of n bytes, for
// sizing buffers: a header, and three bytes for each block of 128 KiB.
func MaxEncoded(n int) int { return n + n>>15 + 64 }
