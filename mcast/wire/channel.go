// Package wire has what castor's multicast sends: which groups a channel consists
// of, and the packets, appended and parsed. It does no I/O. docs/multicast.md is its
// specification.
package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/chunker"
)

// KeySize is the length of a network key in bytes.
const KeySize = 128

// Key is the secret that the hosts of a channel share. Without it, neither the
// groups of a channel can be told nor its packets read or forged. A nil *Key stands
// for no key.
type Key [KeySize]byte

// Salt is what a sender draws at random when it starts, and again before it would
// use a sequence number twice.
type Salt [16]byte

// Session names a run of a sender in every packet.
type Session uint32

// Session returns the session of a sender with salt s.
func (s Salt) Session() Session { return Session(binary.BigEndian.Uint32(s[:])) }

// derive fills out from a context and parts by BLAKE3's key derivation. All parts but
// the last must be of a fixed length for each context.
func derive(out []byte, context string, parts ...[]byte) {
	h := blake3.NewDeriveKey(context)
	for _, p := range parts {
		h.Write(p)
	}
	h.Digest().Read(out)
}

// The contexts of key derivation; each use has its own.
const (
	rootContext   = "castor 2026 multicast channel of a root v1"
	nameContext   = "castor 2026 multicast channel of a name v1"
	packetContext = "castor 2026 multicast packet key v1"
)

// AEAD returns the cipher for the packets of a sender with the given salt; nil for
// no key.
func (k *Key) AEAD(salt Salt) cipher.AEAD {
	if k == nil {
		return nil
	}
	var key [16]byte
	derive(key[:], packetContext, salt[:], k[:])
	b, err := aes.NewCipher(key[:])
	if err == nil {
		var a cipher.AEAD
		if a, err = cipher.NewGCM(b); err == nil {
			return a
		}
	}
	panic(fmt.Sprintf("wire: AES-128-GCM: %v", err)) // the sizes are constants
}

func (k *Key) bytes() []byte {
	if k == nil {
		return nil
	}
	return k[:]
}

// Channel is a set of groups.
type Channel struct {
	tag [8]byte // in the addresses of its groups
	mix uint32  // where its ordinals begin, below 2^31
}

// OfRoot returns the channel on which the index with the given Merkle root and its
// chunks are sent.
func OfRoot(root chunker.ID, k *Key) Channel { return channel(rootContext, root[:], k.bytes()) }

// OfName returns the channel on which a name is announced. A nil signer stands for an
// unsigned name.
func OfName(name string, signer ed25519.PublicKey, k *Key) Channel {
	var pub [ed25519.PublicKeySize]byte
	copy(pub[:], signer)
	keyed := byte(0)
	if k != nil {
		keyed = 1
	}
	return channel(nameContext, pub[:], []byte{keyed}, k.bytes(), []byte(name))
}

func channel(context string, parts ...[]byte) (c Channel) {
	var b [12]byte
	derive(b[:], context, parts...)
	copy(c.tag[:], b[:])
	c.mix = binary.BigEndian.Uint32(b[8:]) & maxOrdinal
	return c
}

// Scope is how far packets may go: the scope field of multicast addresses (RFC 4291,
// 2.7; RFC 7346).
type Scope uint8

const (
	LinkScope   Scope = 0x2
	SiteScope   Scope = 0x5
	OrgScope    Scope = 0x8
	GlobalScope Scope = 0xe
)

var scopes = []struct {
	Scope
	name string
	hops int
}{{LinkScope, "link", 1}, {SiteScope, "site", 16}, {OrgScope, "org", 32}, {GlobalScope, "global", 64}}

// ParseScope returns the scope with the given name: link, site, org or global.
func ParseScope(name string) (Scope, error) {
	for _, s := range scopes {
		if s.name == name {
			return s.Scope, nil
		}
	}
	return 0, fmt.Errorf("scope %q: want link, site, org or global", name)
}

func (s Scope) String() string {
	for _, t := range scopes {
		if t.Scope == s {
			return t.name
		}
	}
	return fmt.Sprintf("scope %d", uint8(s))
}

// Hops returns the hop limit of packets in the scope.
func (s Scope) Hops() int {
	for _, t := range scopes {
		if t.Scope == s {
			return t.hops
		}
	}
	return 1
}

// maxOrdinal is the greatest number of a group within a channel.
const maxOrdinal = 1<<31 - 1

// protocol tells castor's groups from other transient ones.
const protocol = 0xca57

// Group returns the address of a group of c: any-source, or for ssm source-specific.
// Its last 32 bits, which become the link-layer address, are in the range for dynamic
// groups (RFC 3307, 4.3) and differ between all groups of a channel.
func (c Channel) Group(s Scope, ssm bool, ord uint32) netip.Addr {
	var a [16]byte
	a[0] = 0xff
	if ssm {
		a[1] = 0x30 | byte(s) // FF3x::/32, RFC 4607; no room for a tag
	} else {
		a[1] = 0x10 | byte(s)
		copy(a[2:], c.tag[:])
		binary.BigEndian.PutUint16(a[10:], protocol)
	}
	binary.BigEndian.PutUint32(a[12:], 1<<31|(c.mix+ord)&maxOrdinal)
	return netip.AddrFrom16(a)
}

// Ordinal is the reverse of [Channel.Group]. It reports whether group may be one of
// c's: of source-specific ones only the range tells, see [Space.Total].
func (c Channel) Ordinal(group netip.Addr) (ord uint32, ok bool) {
	a := group.As16()
	low := binary.BigEndian.Uint32(a[12:])
	if a[0] != 0xff || low>>31 == 0 || !group.Is6() {
		return 0, false
	}
	ord = (low - c.mix) & maxOrdinal
	switch a[1] >> 4 {
	case 1:
		return ord, [8]byte(a[2:10]) == c.tag && binary.BigEndian.Uint16(a[10:]) == protocol
	case 3:
		return ord, [10]byte(a[2:12]) == [10]byte{}
	}
	return 0, false
}

// IndexObjectSize is how many bytes of an index file one object holds; the last one
// may hold fewer.
const IndexObjectSize = 1 << 20

// Space numbers the groups of the channel of a root. Each group carries one object:
// the announcements, a piece of the index file, a bucket of 2^Level consecutive
// chunks, or a single chunk. Chunks count from 0 in the order in which they first
// occur in the index.
type Space struct {
	IndexBytes int64 // size of the index file
	Chunks     int   // distinct ones
	Level      int
}

// MaxLevel is the greatest level of a bucket.
const MaxLevel = 20

// ErrSpace is returned for a space that cannot be.
var ErrSpace = errors.New("more groups than a channel has")

// Check returns ErrSpace if the numbers of s are out of range.
func (s Space) Check() error {
	if s.Level < 0 || s.Level > MaxLevel || s.Chunks < 0 || s.Chunks > 1<<30 || s.IndexBytes < 0 || s.IndexBytes > 1<<36 {
		return ErrSpace
	}
	// An int of 32 bits may not hold the sum.
	if 1+int64(s.IndexPieces())+int64(s.Buckets())+int64(s.Chunks) > maxOrdinal {
		return ErrSpace
	}
	return nil
}

// Kind is what a group carries.
type Kind uint8

const (
	Control Kind = iota
	IndexPiece
	Bucket
	SingleChunk
)

func (k Kind) String() string {
	return [...]string{"control", "index piece", "bucket", "chunk"}[k]
}

// IndexPieces returns the number of pieces of the index.
func (s Space) IndexPieces() int {
	return int((s.IndexBytes + IndexObjectSize - 1) / IndexObjectSize)
}

// Buckets returns the number of buckets.
func (s Space) Buckets() int { return (s.Chunks + 1<<s.Level - 1) >> s.Level }

// Total returns the number of groups of a space that is valid.
func (s Space) Total() int { return 1 + s.IndexPieces() + s.Buckets() + s.Chunks }

// Ordinal returns the number of the group that carries number i of a kind.
func (s Space) Ordinal(k Kind, i int) uint32 {
	n := 0
	switch k {
	case IndexPiece:
		n = 1 + i
	case Bucket:
		n = 1 + s.IndexPieces() + i
	case SingleChunk:
		n = 1 + s.IndexPieces() + s.Buckets() + i
	}
	return uint32(n)
}

// Kind is the reverse of [Space.Ordinal]. It reports whether there is such a group.
func (s Space) Kind(ord uint32) (k Kind, i int, ok bool) {
	if ord == 0 || ord > maxOrdinal {
		return Control, 0, ord == 0
	}
	i = int(ord)
	i--
	if i < s.IndexPieces() {
		return IndexPiece, i, true
	}
	i -= s.IndexPieces()
	if i < s.Buckets() {
		return Bucket, i, true
	}
	i -= s.Buckets()
	return SingleChunk, i, i < s.Chunks
}

// ChunkRange returns the chunks from (included) to (excluded) that a group carries;
// none for the control group and pieces of the index.
func (s Space) ChunkRange(ord uint32) (from, to int) {
	switch k, i, ok := s.Kind(ord); {
	case ok && k == Bucket:
		return i << s.Level, min((i+1)<<s.Level, s.Chunks)
	case ok && k == SingleChunk:
		return i, i + 1
	}
	return 0, 0
}

// LevelFor returns the level at which buckets of chunks of avg bytes have about
// size bytes.
func LevelFor(size, avg int64) int {
	ratio := max(size, 1) * 4 / (max(avg, 1) * 3) // the middle between two powers, about
	return min(max(bits.Len64(uint64(ratio))-1, 0), MaxLevel)
}
