package wire

import (
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/fec"
)

// Version is the version of the protocol, in every packet.
const Version = 1

// Type is what a packet is.
type Type uint8

const (
	AnnounceType Type = iota // what a channel carries, on its control group
	DataType                 // a symbol of an object, on the object's group
	ByeType                  // the sender stops, on the control group
	NameType                 // what a name stands for, on the channel of the name
	types
)

// HeaderSize is the size of the header of every packet, in bytes.
const HeaderSize = 24

// sealed is the flag of a packet whose body is encrypted.
const sealed = 1

// overhead is how much longer a sealed body is.
const overhead = 16

// ErrPacket is wrapped by every error about the content of a packet.
var ErrPacket = errors.New("not a valid packet")

func errPacket(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrPacket}, args...)...)
}

// Header is the header of a packet. The fields behind GroupSeq are those of a symbol
// and zero in other packets.
type Header struct {
	Type     Type
	Sealed   bool
	Session  Session
	Seq      uint32 // counts the packets of the session
	GroupSeq uint16 // counts those of the group, for estimating loss; wraps
	Ordinal  uint32 // of the group
	Length   uint32 // of the object, in bytes
	Block    uint16
	ESI      uint8 // number of the symbol in its block
}

func (h Header) append(b []byte) []byte {
	flags := byte(0)
	if h.Sealed {
		flags |= sealed
	}
	b = append(b, Version<<4|byte(h.Type), flags)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Session))
	b = binary.BigEndian.AppendUint32(b, h.Seq)
	b = binary.BigEndian.AppendUint16(b, h.GroupSeq)
	b = binary.BigEndian.AppendUint32(b, h.Ordinal)
	b = binary.BigEndian.AppendUint32(b, h.Length)
	b = binary.BigEndian.AppendUint16(b, h.Block)
	return append(b, h.ESI, 0)
}

// ParseHeader parses the header of a packet and returns what follows it.
func ParseHeader(p []byte) (h Header, body []byte, err error) {
	if len(p) < HeaderSize {
		return h, nil, errPacket("%d bytes", len(p))
	}
	if v := p[0] >> 4; v != Version {
		return h, nil, errPacket("version %d, known is %d", v, Version)
	}
	h = Header{
		Type:     Type(p[0] & 15),
		Sealed:   p[1]&sealed != 0,
		Session:  Session(binary.BigEndian.Uint32(p[2:])),
		Seq:      binary.BigEndian.Uint32(p[6:]),
		GroupSeq: binary.BigEndian.Uint16(p[10:]),
		Ordinal:  binary.BigEndian.Uint32(p[12:]),
		Length:   binary.BigEndian.Uint32(p[16:]),
		Block:    binary.BigEndian.Uint16(p[20:]),
		ESI:      p[22],
	}
	if h.Type >= types {
		return h, nil, errPacket("type %d", h.Type)
	}
	return h, p[HeaderSize:], nil
}

// nonce is different for every packet of a session, whose key no other session has.
func (h Header) nonce() (n [12]byte) {
	binary.BigEndian.PutUint32(n[4:], uint32(h.Session))
	binary.BigEndian.PutUint32(n[8:], h.Seq)
	return n
}

// seal encrypts the body b[from:] in place; what is before it in the packet, which
// starts at start, is authenticated.
func seal(a cipher.AEAD, h Header, b []byte, start, from int) []byte {
	if a == nil {
		return b
	}
	n := h.nonce()
	return a.Seal(b[:from], n[:], b[from:], b[start:from])
}

// open is the reverse of seal. The result is in dst's memory if that is large enough.
func open(a cipher.AEAD, h Header, dst, body, before []byte) ([]byte, error) {
	switch {
	case a == nil && h.Sealed:
		return nil, errPacket("it is encrypted, and there is no key")
	case a != nil && !h.Sealed:
		return nil, errPacket("it is not encrypted, and there is a key")
	case a == nil:
		return body, nil
	}
	n := h.nonce()
	plain, err := a.Open(dst[:0], n[:], body, before)
	if err != nil {
		return nil, errPacket("it was not encrypted with this key")
	}
	return plain, nil
}

// AppendData appends a symbol as a packet to b. With a cipher it is sealed.
func AppendData(b []byte, h Header, symbol []byte, a cipher.AEAD) []byte {
	h.Type, h.Sealed = DataType, a != nil
	start := len(b)
	b = h.append(b)
	return seal(a, h, append(b, symbol...), start, start+HeaderSize)
}

// DataSize returns the size of a packet with a symbol of the given size.
func DataSize(symbol int, a cipher.AEAD) int {
	if a != nil {
		symbol += overhead
	}
	return HeaderSize + symbol
}

// OpenData returns the symbol in packet p with header h. It is in the memory of p,
// whose content is lost.
func OpenData(h Header, p []byte, a cipher.AEAD) ([]byte, error) {
	return open(a, h, p[HeaderSize:HeaderSize], p[HeaderSize:], p[:HeaderSize])
}

// SymbolFor returns the greatest size of symbols that fit in packets of mtu bytes,
// IPv6 and UDP headers included and room for a seal left, with which it may be sealed
// or not.
func SymbolFor(mtu int) int {
	const headers = 40 + 8 + HeaderSize + overhead
	return min(max((mtu-headers)/fec.Align, 1), 255) * fec.Align
}

// Announce says what a channel carries and how.
type Announce struct {
	Salt      Salt
	Root      chunker.ID
	Space     Space
	Symbol    int    // size of symbols in bytes
	Rate      uint64 // of the sender, in bit/s
	Share     uint64 // of one group at most, in bit/s
	Cursor    uint32 // the group whose object was begun last
	Lap       uint32 // how often the cursor has gone round
	Listeners uint32 // hosts known to listen to the channel
	Always    bool   // pieces of the index and buckets are sent whether or not anybody listens
	URL       string // where chunks can be got otherwise; may be empty
}

// maxURL and maxName are the greatest lengths of the texts in packets, in bytes.
const (
	maxURL  = 255
	maxName = 255
)

const announceSize = 32 + 8 + 4 + 1 + 1 + 8 + 8 + 4 + 4 + 4 + 1 + 1

// always is the flag of an announcement for Always.
const always = 1

// AppendAnnounce appends an announcement as a packet to b. Only Seq and GroupSeq of
// h are used.
func AppendAnnounce(b []byte, h Header, n Announce, k *Key) ([]byte, error) {
	if len(n.URL) > maxURL {
		return b, fmt.Errorf("the URL %q is longer than %d bytes", n.URL, maxURL)
	}
	if n.Symbol%fec.Align != 0 || n.Symbol/fec.Align > 255 {
		return b, fmt.Errorf("symbols of %d bytes", n.Symbol)
	}
	return appendSalted(b, h, AnnounceType, n.Salt, k, func(b []byte) []byte {
		b = append(b, n.Root[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(n.Space.IndexBytes))
		b = binary.BigEndian.AppendUint32(b, uint32(n.Space.Chunks))
		b = append(b, byte(n.Space.Level), byte(n.Symbol/fec.Align))
		b = binary.BigEndian.AppendUint64(b, n.Rate)
		b = binary.BigEndian.AppendUint64(b, n.Share)
		b = binary.BigEndian.AppendUint32(b, n.Cursor)
		b = binary.BigEndian.AppendUint32(b, n.Lap)
		b = binary.BigEndian.AppendUint32(b, n.Listeners)
		flags := byte(0)
		if n.Always {
			flags |= always
		}
		b = append(b, flags, byte(len(n.URL)))
		return append(b, n.URL...)
	}), nil
}

// appendSalted appends a packet whose salt, in clear, comes before its body.
func appendSalted(b []byte, h Header, t Type, s Salt, k *Key, body func([]byte) []byte) []byte {
	h = Header{Type: t, Sealed: k != nil, Session: s.Session(), Seq: h.Seq, GroupSeq: h.GroupSeq}
	start := len(b)
	b = append(h.append(b), s[:]...)
	from := len(b)
	return seal(k.AEAD(s), h, body(b), start, from)
}

// openSalted is the reverse of appendSalted.
func openSalted(h Header, p []byte, k *Key) (s Salt, body []byte, err error) {
	const before = HeaderSize + len(s)
	if len(p) < before {
		return s, nil, errPacket("%d bytes", len(p))
	}
	copy(s[:], p[HeaderSize:])
	if s.Session() != h.Session {
		return s, nil, errPacket("salt and session differ")
	}
	body, err = open(k.AEAD(s), h, nil, p[before:], p[:before])
	return s, body, err
}

// OpenAnnounce parses the announcement in packet p with header h.
func OpenAnnounce(h Header, p []byte, k *Key) (n Announce, err error) {
	s, b, err := openSalted(h, p, k)
	if err != nil {
		return n, err
	}
	if len(b) < announceSize || len(b) != announceSize+int(b[announceSize-1]) {
		return n, errPacket("an announcement of %d bytes", len(b))
	}
	n = Announce{
		Salt: s,
		Root: chunker.ID(b[:32]),
		Space: Space{
			IndexBytes: int64(binary.BigEndian.Uint64(b[32:])),
			Chunks:     int(binary.BigEndian.Uint32(b[40:])),
			Level:      int(b[44]),
		},
		Symbol:    int(b[45]) * fec.Align,
		Rate:      binary.BigEndian.Uint64(b[46:]),
		Share:     binary.BigEndian.Uint64(b[54:]),
		Cursor:    binary.BigEndian.Uint32(b[62:]),
		Lap:       binary.BigEndian.Uint32(b[66:]),
		Listeners: binary.BigEndian.Uint32(b[70:]),
		Always:    b[74]&always != 0,
		URL:       string(b[announceSize:]),
	}
	if err := n.Space.Check(); err != nil {
		return n, errPacket("%v", err)
	}
	if n.Symbol == 0 {
		return n, errPacket("symbols of 0 bytes")
	}
	return n, nil
}

// Bye says that a sender stops. Only Seq and GroupSeq of h are used.
func AppendBye(b []byte, h Header, s Salt, k *Key) []byte {
	return appendSalted(b, h, ByeType, s, k, func(b []byte) []byte { return b })
}

// OpenBye checks the packet p with header h, which says that a sender stops.
func OpenBye(h Header, p []byte, k *Key) error {
	_, b, err := openSalted(h, p, k)
	if err == nil && len(b) != 0 {
		err = errPacket("%d bytes too many", len(b))
	}
	return err
}

// Name says which index a name stands for.
type Name struct {
	Name    string
	Version uint64 // grows with every change
	Time    int64  // of that version, in seconds since 1970
	Root    chunker.ID
	Size    int64 // of the content, in bytes

	Signer    ed25519.PublicKey // nil: not signed
	Signature []byte            // over what is before it, see [Name.Sign]
}

const nameSize = 8 + 8 + 32 + 8 + ed25519.PublicKeySize + ed25519.SignatureSize + 1

// signed returns what the signature of n is made over.
func (n Name) signed() []byte {
	b := []byte("castor 2026 multicast name v1\x00")
	return append(n.appendFacts(b), n.Name...)
}

func (n Name) appendFacts(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, n.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(n.Time))
	b = append(b, n.Root[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(n.Size))
}

// Sign signs n with Ed25519.
func (n *Name) Sign(key ed25519.PrivateKey) {
	n.Signer = key.Public().(ed25519.PublicKey)
	n.Signature = ed25519.Sign(key, n.signed())
}

// Verify reports whether signer has signed n.
func (n Name) Verify(signer ed25519.PublicKey) bool {
	return len(signer) == ed25519.PublicKeySize && n.Signer.Equal(signer) && ed25519.Verify(signer, n.signed(), n.Signature)
}

// AppendName appends a name as a packet to b. Only Seq and GroupSeq of h are used.
func AppendName(b []byte, h Header, s Salt, n Name, k *Key) ([]byte, error) {
	if len(n.Name) > maxName {
		return b, fmt.Errorf("the name %q is longer than %d bytes", n.Name, maxName)
	}
	return appendSalted(b, h, NameType, s, k, func(b []byte) []byte {
		var signer [ed25519.PublicKeySize]byte
		var signature [ed25519.SignatureSize]byte
		copy(signer[:], n.Signer)
		copy(signature[:], n.Signature)
		b = n.appendFacts(b)
		b = append(b, signer[:]...)
		b = append(b, signature[:]...)
		b = append(b, byte(len(n.Name)))
		return append(b, n.Name...)
	}), nil
}

// OpenName parses the name in packet p with header h. It does not verify a
// signature.
func OpenName(h Header, p []byte, k *Key) (n Name, err error) {
	_, b, err := openSalted(h, p, k)
	if err != nil {
		return n, err
	}
	if len(b) < nameSize || len(b) != nameSize+int(b[nameSize-1]) {
		return n, errPacket("a name of %d bytes", len(b))
	}
	n = Name{
		Version: binary.BigEndian.Uint64(b),
		Time:    int64(binary.BigEndian.Uint64(b[8:])),
		Root:    chunker.ID(b[16:48]),
		Size:    int64(binary.BigEndian.Uint64(b[48:])),
		Name:    string(b[nameSize:]),
	}
	if n.Size < 0 {
		return n, errPacket("content of %d bytes", n.Size)
	}
	if signer := b[56:88]; [32]byte(signer) != [32]byte{} {
		n.Signer = append(n.Signer, signer...)
		n.Signature = append(n.Signature, b[88:152]...)
	}
	return n, nil
}
