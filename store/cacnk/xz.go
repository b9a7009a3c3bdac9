package cacnk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads an xz file of one block, as casync writes it. The library's own
// reader would allocate whatever dictionary the file asks for, up to 4 GiB, while
// a chunk needs none longer than itself; and it takes some truncated files for
// whole ones. The check sums of header and content are not looked at: the chunk's
// ID checks more.
type xzReader struct {
	src   *bytes.Reader
	lzma  io.Reader
	check byte  // what kind of check sum follows the block
	n     int64 // plain bytes read
}

var errXZ = errors.New("not an xz file of one block")

const xzHeader = 12 // bytes of the stream header: magic, flags, check sum

// xzChecks has the size of each kind of check sum.
var xzChecks = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

func openXZ(src *bytes.Reader, limit int) (io.Reader, error) {
	var head [xzHeader + 1]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	check, size := head[7], head[xzHeader]
	if head[6] != 0 || int(check) >= len(xzChecks) || size == 0 {
		return nil, errXZ
	}
	block := make([]byte, 4*int(size)+3) // the rest of the block header
	if _, err := io.ReadFull(src, block); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	dict, err := xzDict(block)
	if err != nil {
		return nil, err
	}
	dict = max(min(dict, int64(limit)), lzma.MinDictCap)
	r, err := lzma.Reader2Config{DictCap: int(dict)}.NewReader2(src)
	if err != nil {
		return nil, err
	}
	return &xzReader{src: src, lzma: r, check: check}, nil
}

// xzDict returns the size of the dictionary from a block header, of which b
// lacks the first byte.
func xzDict(b []byte) (int64, error) {
	flags, b := b[0], b[1:]
	if flags&0x3f != 0 {
		return 0, errXZ // more than one filter
	}
	for _, bit := range []byte{0x40, 0x80} { // sizes, which the index repeats
		if flags&bit != 0 {
			_, n := binary.Uvarint(b)
			b = b[max(n, 0):]
		}
	}
	const lzma2 = 0x21
	if len(b) < 3 || b[0] != lzma2 || b[1] != 1 {
		return 0, errXZ
	}
	return lzma.DecodeDictCap(b[2])
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.lzma.Read(p)
	x.n += int64(n)
	if err == io.EOF {
		err = x.end()
	}
	return n, err
}

// end reads what follows the content, of which everything but the check sum is
// known, and returns io.EOF if it is there.
func (x *xzReader) end() error {
	stored := x.src.Size() - int64(x.src.Len()) - xzHeader // of the block, with its header
	sum := xzChecks[x.check]
	index := binary.AppendUvarint([]byte{0, 1}, uint64(stored)+uint64(sum))
	index = binary.AppendUvarint(index, uint64(x.n))
	index = append(index, make([]byte, -len(index)&3)...)
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, 0, x.check)
	want := append(make([]byte, -stored&3), make([]byte, sum)...)
	want = append(want, index...)
	want = binary.LittleEndian.AppendUint32(want, crc32.ChecksumIEEE(footer))
	want = append(append(want, footer...), "YZ"...)

	got := make([]byte, len(want))
	if _, err := io.ReadFull(x.src, got); err != nil {
		return io.ErrUnexpectedEOF
	}
	clear(got[-stored&3:][:sum])
	if !bytes.Equal(got, want) {
		return errXZ
	}
	return io.EOF
}
