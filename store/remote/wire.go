package remote

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
)

// The protocol is a stream of frames in each direction: the size of the frame, its
// type, and what the type says. All integers have 64 bits, little-endian.

// kind is the type of a frame.
type kind uint64

const (
	kindHello      kind = 0x3c71d0948ca5fbee
	kindIndex      kind = 0xb32a91dd2b3e27f8
	kindIndexEOF   kind = 0x4f0932f1043718f5
	kindArchive    kind = 0x95d6428a69eddcc5
	kindArchiveEOF kind = 0x450bef663f24cbad
	kindRequest    kind = 0x8ab427e0f89d9210
	kindChunk      kind = 0x5213dd180a84bc8c
	kindMissing    kind = 0xd010f9fac82b7b6c
	kindGoodbye    kind = 0xad205dbf1a3686c3
	kindAbort      kind = 0xe7d9136b7efea352

	// castor's own, which only those see who announced featureOffer.
	kindOffer  kind = 0x3a0f5d3c9e17b2c4 // ids that the client could send
	kindStored kind = 0x8d41e6a27bf0935d // an id that the store has
	kindSync   kind = 0x6b1f84d2c50e97a3 // asks whether all that was stored is durable, and says so
)

var kindNames = map[kind]string{
	kindHello: "HELLO", kindIndex: "INDEX", kindIndexEOF: "INDEX_EOF", kindArchive: "ARCHIVE", kindArchiveEOF: "ARCHIVE_EOF",
	kindRequest: "REQUEST", kindChunk: "CHUNK", kindMissing: "MISSING", kindGoodbye: "GOODBYE", kindAbort: "ABORT",
	kindOffer: "OFFER", kindStored: "STORED", kindSync: "SYNC",
}

func (k kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("frame of type %#x", uint64(k))
}

// features is what HELLO says: what a side has, and what it wants of the other.
type features uint64

const (
	readableStore features = 1 << iota
	writableStore
	readableIndex
	writableIndex
	readableArchive
	writableArchive
	pullChunks
	pullIndex
	pullArchive
	pushChunks
	pushIndex
	pushIndexChunks // the other side is to fetch what it lacks of the index
	pushArchive

	casyncFeatures = 1<<iota - 1
)

// Castor's addition to a push of chunks without an index: the server takes chunks
// one by one, and says what it has. A server announces it only to a client that did,
// for casync refuses what it does not know.
const featureOffer features = 1 << 32

// needs lists which service an operation needs.
var needs = []struct{ operation, service features }{
	{pullChunks, readableStore}, {pullIndex, readableIndex}, {pullArchive, readableArchive},
	{pushChunks, writableStore}, {pushIndex, writableIndex}, {pushArchive, writableArchive},
}

// probeText is a chunk that every server of castor has, by the name probeID: what
// casync answers to be missing.
const probeText = "castor answers an id each time it is asked for"

var probeID = chunker.SHA512256.Sum([]byte(probeText))

// Bounds, in bytes. maxFrame is casync's: a chunk that is longer as stored cannot be
// sent.
const (
	headSize    = 16
	maxFrame    = 16 << 20
	chunkHead   = headSize + 8 + idSize
	maxStored   = maxFrame - chunkHead
	maxPiece    = 64 << 10 // of an index or archive, in a frame
	maxBatch    = 2000     // ids in a frame that we send
	idSize      = len(chunker.ID{})
	maxReason   = 1024
	flagHigh    = 1 // of REQUEST: before others
	flagZipped  = 1 // of CHUNK: compressed
	maxErrno    = 1<<31 - 1
	errnoNoFile = 2 // ENOENT
	errnoIO     = 5 // EIO
	errnoProto  = 71
)

// errProtocol is wrapped by errors about what the other side may not send.
var errProtocol = errors.New("protocol error")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errProtocol}, args...)...)
}

// AbortError is what the other side says before it gives up.
type AbortError struct {
	Errno  uint64 // of Linux; 0 if there is none
	Reason string
}

func (e *AbortError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("the other side gave up: error number %d", e.Errno)
	}
	return "the other side gave up: " + e.Reason
}

func appendHead(b []byte, k kind, body int) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(headSize+body))
	return binary.LittleEndian.AppendUint64(b, uint64(k))
}

func appendHello(b []byte, f features) []byte {
	return binary.LittleEndian.AppendUint64(appendHead(b, kindHello, 8), uint64(f))
}

// appendEmpty appends a frame without a body.
func appendEmpty(b []byte, k kind) []byte { return appendHead(b, k, 0) }

// appendPiece appends a frame with a piece of an index or archive.
func appendPiece(b []byte, k kind, piece []byte) []byte {
	return append(appendHead(b, k, len(piece)), piece...)
}

func appendRequest(b []byte, flags uint64, ids []chunker.ID) []byte {
	b = binary.LittleEndian.AppendUint64(appendHead(b, kindRequest, 8+idSize*len(ids)), flags)
	return appendIDs(b, ids)
}

func appendOffer(b []byte, ids []chunker.ID) []byte {
	return appendIDs(appendHead(b, kindOffer, idSize*len(ids)), ids)
}

func appendIDs(b []byte, ids []chunker.ID) []byte {
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return b
}

// appendChunkHead appends a CHUNK up to its data, which has n bytes.
func appendChunkHead(b []byte, id chunker.ID, zipped bool, n int) []byte {
	flags := uint64(0)
	if zipped {
		flags = flagZipped
	}
	b = binary.LittleEndian.AppendUint64(appendHead(b, kindChunk, 8+idSize+n), flags)
	return append(b, id[:]...)
}

// appendID appends a MISSING or STORED.
func appendID(b []byte, k kind, id chunker.ID) []byte {
	return append(appendHead(b, k, idSize), id[:]...)
}

// appendAbort appends an ABORT with a reason without control characters.
func appendAbort(b []byte, errno uint64, reason string) []byte {
	reason = clean(reason)
	b = binary.LittleEndian.AppendUint64(appendHead(b, kindAbort, 8+len(reason)+1), errno)
	return append(append(b, reason...), 0)
}

// clean replaces control characters, and cuts what is too long.
func clean(s string) string {
	b := []byte(s[:min(len(s), maxReason)])
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return string(bytes.ToValidUTF8(b, nil))
}

// frame is a frame as it came. Only the fields of its kind are set.
type frame struct {
	kind     kind
	features features
	flags    uint64
	id       chunker.ID
	ids      []chunker.ID // valid until the next frame is read
	data     []byte       // of CHUNK, from bufpool: the caller's; of INDEX and ARCHIVE, valid until the next frame is read
	abort    *AbortError
}

// decoder reads frames.
type decoder struct {
	r     *bufio.Reader
	piece []byte
	ids   []chunker.ID
	head  [chunkHead]byte
}

func newDecoder(r io.Reader) *decoder { return &decoder{r: bufio.NewReaderSize(r, 128<<10)} }

// next reads a frame. At the end of the stream between two frames it returns io.EOF.
func (d *decoder) next() (f frame, err error) {
	h := d.head[:headSize]
	if _, err := io.ReadFull(d.r, h); err != nil {
		return f, err
	}
	size := binary.LittleEndian.Uint64(h)
	f.kind = kind(binary.LittleEndian.Uint64(h[8:]))
	if kindNames[f.kind] == "" {
		return f, protocolError("%v", f.kind)
	}
	if size < headSize || size > maxFrame || !f.kind.fits(int(size)-headSize) {
		return f, protocolError("%v of %d bytes", f.kind, size)
	}
	if err = d.body(&f, int(size)-headSize); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// fits reports whether a frame of the kind may have a body of n bytes.
func (k kind) fits(n int) bool {
	switch k {
	case kindHello:
		return n == 8
	case kindIndex, kindArchive:
		return n >= 1
	case kindIndexEOF, kindArchiveEOF, kindGoodbye, kindSync:
		return n == 0
	case kindRequest:
		return n >= 8+idSize && (n-8)%idSize == 0
	case kindOffer:
		return n >= idSize && n%idSize == 0
	case kindChunk:
		return n >= 8+idSize+1
	case kindMissing, kindStored:
		return n == idSize
	case kindAbort:
		return n >= 8+1
	}
	return false
}

// body reads the body of a frame, which has n bytes.
func (d *decoder) body(f *frame, n int) (err error) {
	word := func() (v uint64) {
		if err == nil {
			if _, err = io.ReadFull(d.r, d.head[:8]); err == nil {
				v = binary.LittleEndian.Uint64(d.head[:8])
			}
		}
		return v
	}
	switch f.kind {
	case kindHello:
		f.features = features(word())
	case kindIndex, kindArchive:
		f.data, err = d.bytes(n)
	case kindRequest:
		if f.flags = word(); err == nil && f.flags&^flagHigh != 0 {
			return protocolError("REQUEST with flags %#x", f.flags)
		}
		f.ids, err = d.readIDs((n-8)/idSize, err)
	case kindOffer:
		f.ids, err = d.readIDs(n/idSize, err)
	case kindChunk:
		if f.flags = word(); err == nil && f.flags&^flagZipped != 0 {
			return protocolError("CHUNK with flags %#x", f.flags)
		}
		if err == nil {
			_, err = io.ReadFull(d.r, f.id[:])
		}
		if err == nil {
			f.data, err = d.chunk(n - 8 - idSize)
		}
	case kindMissing, kindStored:
		_, err = io.ReadFull(d.r, f.id[:])
	case kindAbort:
		a := &AbortError{Errno: word()}
		var text []byte
		if err == nil {
			text, err = d.bytes(n - 8)
		}
		if err != nil {
			return err
		}
		if a.Errno >= maxErrno || text[len(text)-1] != 0 {
			return protocolError("ABORT is malformed")
		}
		a.Reason = clean(string(text[:len(text)-1]))
		f.abort = a
	}
	return err
}

// step is how much is read before more memory is taken.
const step = 256 << 10

// bytes reads n bytes into the decoder's own buffer.
func (d *decoder) bytes(n int) ([]byte, error) {
	d.piece = d.piece[:0]
	for len(d.piece) < n {
		at := len(d.piece)
		more := min(n-at, step)
		d.piece = append(d.piece, make([]byte, more)...)
		if _, err := io.ReadFull(d.r, d.piece[at:]); err != nil {
			return nil, err
		}
	}
	return d.piece, nil
}

func (d *decoder) readIDs(n int, err error) ([]chunker.ID, error) {
	d.ids = d.ids[:0]
	for range n {
		if err != nil {
			return nil, err
		}
		var id chunker.ID
		_, err = io.ReadFull(d.r, id[:])
		d.ids = append(d.ids, id)
	}
	return d.ids, err
}

// chunk reads n bytes into a buffer of bufpool, which grows as they come.
func (d *decoder) chunk(n int) ([]byte, error) {
	b := bufpool.Get(min(n, 1<<20))
	for at := 0; ; {
		if _, err := io.ReadFull(d.r, b[at:]); err != nil {
			bufpool.Put(b)
			return nil, err
		}
		if at = len(b); at == n {
			return b, nil
		}
		grown := bufpool.Get(min(n, 4*at))
		copy(grown, b)
		bufpool.Put(b)
		b = grown
	}
}
