package treecache

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/atomicfile"
)

// A cache file is, little-endian:
//
//	magic    8 bytes
//	version  u32
//	digest   u32     of the chunks, as chunker.Digest numbers them
//	sizes    3 × u64 of the chunks: least, average, greatest
//	count    u64     of records
//	record…          u64 start, u32 size, 32 bytes id, 32 bytes fingerprint
//	sum      32 bytes BLAKE3 of all that
const (
	magic      = "castorTC"
	version    = 1
	headSize   = 8 + 4 + 4 + 3*8 + 8
	recordSize = 8 + 4 + 32 + 32
	sumSize    = 32
)

// maxRecords bounds the memory that a cache takes. It is enough for trees of 1 TiB
// with chunks of the usual size; of larger ones the beginning is remembered.
const maxRecords = 1 << 24

// errFormat says that a file is no cache that can be used.
var errFormat = errors.New("not a valid cache")

// Path returns the name in the directory dir of the cache of the tree at root, an
// absolute path, under the header of its index and the options. The cache of another
// tree or of other options has another name.
func Path(dir, root string, h index.Header, o *tree.PackOptions) string {
	if o == nil {
		o = &tree.PackOptions{}
	}
	sum := blake3.Sum256(fmt.Appendf(nil, "%q %d %v %q %d %d %t", root, h.Features, h.Params, o.Exclude, o.UIDShift, o.UIDRange, o.HardLinks))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".treecache")
}

// appendHead appends what is before the records.
func appendHead(b []byte, h index.Header, count int) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Features.Digest()))
	for _, n := range []int{h.Params.Min, h.Params.Avg, h.Params.Max, count} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// encode writes those of the records that are settled, up to maxRecords.
func encode(w io.Writer, h index.Header, records []record) error {
	left := 0
	for i := range records {
		if records[i].settled && left < maxRecords {
			left++
		}
	}
	hash := blake3.New()
	out := bufio.NewWriter(io.MultiWriter(w, hash))
	out.Write(appendHead(nil, h, left))
	var buf [recordSize]byte
	for i := 0; left > 0; i++ {
		r := &records[i]
		if !r.settled {
			continue
		}
		left--
		b := binary.LittleEndian.AppendUint64(buf[:0], r.start)
		b = binary.LittleEndian.AppendUint32(b, r.size)
		b = append(b, r.id[:]...)
		out.Write(append(b, r.print[:]...))
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(hash.Sum(nil))
	return err
}

// decode reads the records of a cache of size bytes that was made with the digest and
// the chunk sizes of h. It takes no more memory than some such cache of that size
// needs.
func decode(r io.Reader, size int64, h index.Header) ([]record, error) {
	n := size - int64(headSize+sumSize)
	if n < 0 || n%recordSize != 0 || n/recordSize > maxRecords {
		return nil, fmt.Errorf("%w: no cache has %d bytes", errFormat, size)
	}
	count := int(n / recordSize)
	hash := blake3.New()
	in := bufio.NewReader(r)
	var buf [max(headSize, recordSize)]byte
	read := func(n int) ([]byte, error) {
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return nil, err
		}
		hash.Write(buf[:n])
		return buf[:n], nil
	}
	head, err := read(headSize)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(head, appendHead(nil, h, count)) {
		return nil, fmt.Errorf("%w: of another version, other options or another length", errFormat)
	}
	records := make([]record, count)
	for i := range records {
		b, err := read(recordSize)
		if err != nil {
			return nil, err
		}
		records[i] = record{start: binary.LittleEndian.Uint64(b), size: binary.LittleEndian.Uint32(b[8:]), settled: true}
		copy(records[i].id[:], b[12:])
		copy(records[i].print[:], b[44:])
		if size := int64(records[i].size); size < 1 || size > int64(h.Params.Max) {
			return nil, fmt.Errorf("%w: a chunk of %d bytes", errFormat, size)
		}
	}
	var sum [sumSize]byte
	if _, err := io.ReadFull(in, sum[:]); err != nil {
		return nil, err
	}
	if !bytes.Equal(sum[:], hash.Sum(nil)) {
		return nil, fmt.Errorf("%w: damaged", errFormat)
	}
	return records, nil
}

// load reads the cache of that name.
func load(path string, h index.Header) ([]record, error) {
	// Nothing but a file is opened: opening others may wait, or do something.
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("is not a regular file")
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, err
	}
	if err := trust(fi); err != nil {
		return nil, err
	}
	return decode(f, fi.Size(), h)
}

// save writes the records to the cache of that name. It need not survive a power
// failure: what is left then has a wrong sum.
func save(path string, h index.Header, records []record) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := atomicfile.Create(path, false)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if err := encode(f, h, records); err != nil {
		return err
	}
	return f.Commit(false)
}
