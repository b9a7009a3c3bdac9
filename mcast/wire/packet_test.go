package wire_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/wire"
)

// Fixed inputs, also of the vectors.

var testSalt = wire.Salt{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}

func testRoot() (id chunker.ID) {
	for i := range id {
		id[i] = byte(0x40 + i)
	}
	return id
}

func testAnnounce() wire.Announce {
	return wire.Announce{
		Salt: testSalt, Root: testRoot(), Space: wire.Space{IndexBytes: 60104, Chunks: 1499, Level: 4},
		Symbol: 1344, Rate: 200e6, Share: 12.5e6, Cursor: 77, Lap: 3, Listeners: 5, URL: "https://example.org/store",
	}
}

func alwaysAnnounce() wire.Announce {
	n := testAnnounce()
	n.Always = true
	return n
}

func testName(signed bool) wire.Name {
	n := wire.Name{Name: "images/röd", Version: 258, Time: 1795190400, Root: testRoot(), Size: 1 << 40}
	if signed {
		n.Sign(testSigner())
	}
	return n
}

var (
	saltedHeader = wire.Header{Seq: 0x01020304, GroupSeq: 0x0506}
	dataHeader   = wire.Header{
		Session: testSalt.Session(), Seq: 0xfffffffe, GroupSeq: 0xffff, Ordinal: 0x7fffffff, Length: 0x12345678, Block: 0xabcd, ESI: 0xef,
	}
)

func testSymbol(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// samples are packets of all types by name.
func samples(k *wire.Key) map[string][]byte {
	empty := testAnnounce()
	empty.URL = ""
	longest := testAnnounce()
	longest.URL = strings.Repeat("u", 255)
	return map[string][]byte{
		"announcement":         must(wire.AppendAnnounce(nil, saltedHeader, testAnnounce(), k)),
		"announcement, ''":     must(wire.AppendAnnounce(nil, saltedHeader, empty, k)),
		"announcement, 255":    must(wire.AppendAnnounce(nil, saltedHeader, longest, k)),
		"announcement, always": must(wire.AppendAnnounce(nil, saltedHeader, alwaysAnnounce(), k)),
		"data":                 wire.AppendData(nil, dataHeader, testSymbol(128), k.AEAD(testSalt)),
		"bye":                  wire.AppendBye(nil, saltedHeader, testSalt, k),
		"name":                 must(wire.AppendName(nil, saltedHeader, testSalt, testName(false), k)),
		"name, signed":         must(wire.AppendName(nil, saltedHeader, testSalt, testName(true), k)),
	}
}

// open parses a packet of any type. It does not change p.
func open(p []byte, k *wire.Key) (any, error) {
	p = bytes.Clone(p)
	h, body, err := wire.ParseHeader(p)
	if err != nil {
		return nil, err
	}
	if len(body) != len(p)-wire.HeaderSize {
		return nil, errors.New("the body is not what is behind the header")
	}
	switch h.Type {
	case wire.AnnounceType:
		return wrap(wire.OpenAnnounce(h, p, k))
	case wire.DataType:
		return wrap(wire.OpenData(h, p, k.AEAD(testSalt)))
	case wire.ByeType:
		return nil, wire.OpenBye(h, p, k)
	default:
		return wrap(wire.OpenName(h, p, k))
	}
}

func wrap[T any](v T, err error) (any, error) { return v, err }

func keys() map[string]*wire.Key { return map[string]*wire.Key{"no key": nil, "key": testKey()} }

func TestRoundTrip(t *testing.T) {
	longest := testAnnounce()
	longest.URL = strings.Repeat("u", 255)
	empty := testAnnounce()
	empty.URL = ""
	want := map[string]any{
		"announcement": testAnnounce(), "announcement, ''": empty, "announcement, 255": longest, "announcement, always": alwaysAnnounce(),
		"data": testSymbol(128), "bye": nil, "name": testName(false), "name, signed": testName(true),
	}
	types := map[string]wire.Type{"data": wire.DataType, "bye": wire.ByeType, "name": wire.NameType, "name, signed": wire.NameType}
	for with, k := range keys() {
		for name, p := range samples(k) {
			h, _, err := wire.ParseHeader(p)
			if err != nil {
				t.Fatal(err)
			}
			wh := saltedHeader
			if name == "data" {
				wh = dataHeader
			}
			wh.Type, wh.Sealed, wh.Session = types[name], k != nil, testSalt.Session()
			if h != wh {
				t.Errorf("%s, %s: header %+v, want %+v", name, with, h, wh)
			}
			if got, err := open(p, k); err != nil || !reflect.DeepEqual(got, want[name]) {
				t.Errorf("%s, %s: %+v, %v, want %+v", name, with, got, err, want[name])
			}
		}
	}
}

// A packet is appended to what is there, whatever that is.
func TestAppend(t *testing.T) {
	const before = "before"
	for with, k := range keys() {
		check := func(what string, got, alone []byte) {
			if string(got) != before+string(alone) {
				t.Errorf("%s, %s: appended it is another packet", what, with)
			}
		}
		s := samples(k)
		b := func() []byte { return append(make([]byte, 0, 1000), before...) }
		check("announcement", must(wire.AppendAnnounce(b(), saltedHeader, testAnnounce(), k)), s["announcement"])
		check("data", wire.AppendData(b(), dataHeader, testSymbol(128), k.AEAD(testSalt)), s["data"])
		check("bye", wire.AppendBye(b(), saltedHeader, testSalt, k), s["bye"])
		check("name", must(wire.AppendName(b(), saltedHeader, testSalt, testName(true), k)), s["name, signed"])
		check("data in little memory", wire.AppendData([]byte(before), dataHeader, testSymbol(128), k.AEAD(testSalt)), s["data"])
		for _, size := range []int{64, 1344, 255 * 64} {
			p := wire.AppendData(nil, dataHeader, testSymbol(size), k.AEAD(testSalt))
			if got := wire.DataSize(size, k.AEAD(testSalt)); got != len(p) {
				t.Errorf("%s: DataSize of %d is %d, and the packet has %d", with, size, got, len(p))
			}
		}
	}
}

func TestTruncated(t *testing.T) {
	for with, k := range keys() {
		for name, p := range samples(k) {
			for n := range p {
				if got, err := open(p[:n], k); !errors.Is(err, wire.ErrPacket) && !(name == "data" && k == nil && n >= wire.HeaderSize) {
					t.Errorf("%s, %s: %d of %d bytes: %v, %v", name, with, n, len(p), got, err)
				}
			}
			if name == "data" && k == nil {
				continue // its symbol ends where the packet does
			}
			if got, err := open(append(bytes.Clone(p), 0), k); !errors.Is(err, wire.ErrPacket) {
				t.Errorf("%s, %s, and a byte: %v, %v", name, with, got, err)
			}
		}
	}
}

// Whatever bit of a sealed packet is changed, it is refused.
func TestTampered(t *testing.T) {
	k := testKey()
	for name, p := range samples(k) {
		for i := range p {
			for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
				q := bytes.Clone(p)
				q[i] ^= x
				if got, err := open(q, k); !errors.Is(err, wire.ErrPacket) {
					t.Errorf("%s with byte %d changed by %02x: %v, %v", name, i, x, got, err)
				}
			}
		}
	}
}

func TestWrongKey(t *testing.T) {
	other := testKey()
	other[0]++
	for name := range samples(nil) {
		for _, tt := range []struct {
			what string
			p    []byte
			k    *wire.Key
		}{
			{"sealed, no key", samples(testKey())[name], nil},
			{"sealed, another key", samples(testKey())[name], other},
			{"not sealed, a key", samples(nil)[name], testKey()},
		} {
			if got, err := open(tt.p, tt.k); !errors.Is(err, wire.ErrPacket) {
				t.Errorf("%s, %s: %v, %v", name, tt.what, got, err)
			}
		}
	}
	// A symbol of another session, whose key is another.
	p := samples(testKey())["data"]
	h, _, err := wire.ParseHeader(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.OpenData(h, bytes.Clone(p), testKey().AEAD(wire.Salt{1})); !errors.Is(err, wire.ErrPacket) {
		t.Errorf("with the cipher of another session: %v", err)
	}
}

func TestHeaderRefuses(t *testing.T) {
	p := samples(nil)["data"]
	for v := range 16 {
		for typ := range 16 {
			p[0] = byte(v<<4 | typ)
			_, _, err := wire.ParseHeader(p)
			if ok := v == wire.Version && typ <= int(wire.NameType); (err == nil) != ok {
				t.Errorf("version %d, type %d: %v", v, typ, err)
			}
		}
	}
}

func TestAnnounceRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(n *wire.Announce)
	}{
		{"level", func(n *wire.Announce) { n.Space.Level = wire.MaxLevel + 1 }},
		{"chunks", func(n *wire.Announce) { n.Space.Chunks = math.MaxInt32 }},
		{"index", func(n *wire.Announce) { n.Space.IndexBytes = math.MaxInt64 }},
		{"negative index", func(n *wire.Announce) { n.Space.IndexBytes = -1 }},
		{"symbol", func(n *wire.Announce) { n.Symbol = 0 }},
	} {
		n := testAnnounce()
		tt.change(&n)
		p := must(wire.AppendAnnounce(nil, saltedHeader, n, nil))
		if got, err := open(p, nil); !errors.Is(err, wire.ErrPacket) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(n *wire.Announce)
	}{
		{"long URL", func(n *wire.Announce) { n.URL = strings.Repeat("u", 256) }},
		{"odd symbol", func(n *wire.Announce) { n.Symbol = 100 }},
		{"large symbol", func(n *wire.Announce) { n.Symbol = 256 * fec.Align }},
	} {
		n := testAnnounce()
		tt.change(&n)
		if b, err := wire.AppendAnnounce([]byte("x"), saltedHeader, n, nil); err == nil || string(b) != "x" {
			t.Errorf("%s: appended %d bytes, %v", tt.name, len(b), err)
		}
	}
	n := testName(false)
	n.Name = strings.Repeat("n", 256)
	if b, err := wire.AppendName([]byte("x"), saltedHeader, testSalt, n, nil); err == nil || string(b) != "x" {
		t.Errorf("long name: appended %d bytes, %v", len(b), err)
	}
}

// The session in the header has to be that of the salt, also without a key.
func TestSaltAndSession(t *testing.T) {
	for name, p := range samples(nil) {
		if name == "data" {
			continue
		}
		for i := 2; i < 6; i++ {
			q := bytes.Clone(p)
			q[i] ^= 1
			if got, err := open(q, nil); !errors.Is(err, wire.ErrPacket) {
				t.Errorf("%s with another session: %v, %v", name, got, err)
			}
		}
	}
}

func TestSymbolFor(t *testing.T) {
	for mtu := 0; mtu < 20000; mtu++ {
		size := wire.SymbolFor(mtu)
		if size%fec.Align != 0 || size < fec.Align || size > 255*fec.Align {
			t.Fatalf("MTU %d: symbols of %d", mtu, size)
		}
		p := 40 + 8 + wire.DataSize(size, testKey().AEAD(testSalt))
		if p > mtu && size > fec.Align {
			t.Fatalf("MTU %d: packets of %d", mtu, p)
		}
		if p+fec.Align <= mtu && size < 255*fec.Align {
			t.Fatalf("MTU %d: packets of only %d", mtu, p)
		}
	}
	if got := wire.SymbolFor(1500); got != 1408 {
		t.Errorf("MTU 1500: symbols of %d", got)
	}
}

func TestNameSignature(t *testing.T) {
	signer := testSigner().Public().(ed25519.PublicKey)
	n := testName(true)
	if !n.Verify(signer) {
		t.Fatal("a signed name is refused")
	}
	got, err := open(must(wire.AppendName(nil, saltedHeader, testSalt, n, nil)), nil)
	if err != nil || !got.(wire.Name).Verify(signer) {
		t.Errorf("after sending, a signed name is refused: %v", err)
	}
	for _, tt := range []struct {
		what   string
		change func(n *wire.Name)
	}{
		{"name", func(n *wire.Name) { n.Name += "x" }},
		{"shorter name", func(n *wire.Name) { n.Name = n.Name[1:] }},
		{"version", func(n *wire.Name) { n.Version++ }},
		{"time", func(n *wire.Name) { n.Time++ }},
		{"root", func(n *wire.Name) { n.Root[31] ^= 1 }},
		{"size", func(n *wire.Name) { n.Size-- }},
		{"no signer", func(n *wire.Name) { n.Signer = nil }},
		{"another signer", func(n *wire.Name) { n.Signer = make([]byte, ed25519.PublicKeySize) }},
		{"no signature", func(n *wire.Name) { n.Signature = nil }},
		{"short signature", func(n *wire.Name) { n.Signature = n.Signature[1:] }},
		{"signature", func(n *wire.Name) { n.Signature = bytes.Clone(n.Signature); n.Signature[0] ^= 1 }},
	} {
		m := testName(true)
		if tt.change(&m); m.Verify(signer) {
			t.Errorf("%s changed: it still counts as signed", tt.what)
		}
	}
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	for what, key := range map[string]ed25519.PublicKey{"another key": other, "no key": nil, "a short key": signer[1:]} {
		if n.Verify(key) {
			t.Errorf("%s: it counts as signed", what)
		}
	}
	if testName(false).Verify(nil) || testName(false).Verify(make([]byte, ed25519.PublicKeySize)) {
		t.Error("an unsigned name counts as signed")
	}
	// Signed by another one for himself: no good for who wants ours.
	m := testName(false)
	m.Sign(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if m.Verify(signer) || !m.Verify(other) {
		t.Error("a signature counts for another signer")
	}
}

// Every bit of what is sent of a signed name counts.
func TestNameTampered(t *testing.T) {
	signer := testSigner().Public().(ed25519.PublicKey)
	p := samples(nil)["name, signed"]
	for i := wire.HeaderSize + len(testSalt); i < len(p); i++ {
		for bit := range 8 {
			q := bytes.Clone(p)
			q[i] ^= 1 << bit
			if got, err := open(q, nil); err == nil && got.(wire.Name).Verify(signer) {
				t.Errorf("with bit %d of byte %d changed it still counts as signed", bit, i)
			}
		}
	}
}

// FuzzParse has packets from anybody parsed. What parses is appended anew as the same
// bytes, except for fields that mean nothing.
func FuzzParse(f *testing.F) {
	for _, k := range keys() {
		for _, p := range samples(k) {
			f.Add(p)
			f.Add(p[:len(p)/2])
			f.Add(p[:wire.HeaderSize])
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, k := range keys() {
			again, err := reencode(p, k)
			if err != nil {
				if !errors.Is(err, wire.ErrPacket) {
					t.Errorf("error %v does not wrap ErrPacket", err)
				}
				continue
			}
			if want := meaning(p); !bytes.Equal(again, want) {
				t.Errorf("appended anew:\ngot  % x\nwant % x", again, want)
			}
		}
	})
}

// reencode parses a packet and appends what it says.
func reencode(p []byte, k *wire.Key) ([]byte, error) {
	p = bytes.Clone(p)
	h, _, err := wire.ParseHeader(p)
	if err != nil {
		return nil, err
	}
	salt := func() wire.Salt { return wire.Salt(p[wire.HeaderSize:]) }
	switch h.Type {
	case wire.AnnounceType:
		n, err := wire.OpenAnnounce(h, p, k)
		if err != nil {
			return nil, err
		}
		if n.Space.Check() != nil || n.Symbol <= 0 {
			return nil, errors.New("an announcement that cannot be is accepted")
		}
		return wire.AppendAnnounce(nil, h, n, k)
	case wire.DataType:
		symbol, err := wire.OpenData(h, p, k.AEAD(testSalt))
		if err != nil {
			return nil, err
		}
		return wire.AppendData(nil, h, bytes.Clone(symbol), k.AEAD(testSalt)), nil
	case wire.ByeType:
		if err := wire.OpenBye(h, p, k); err != nil {
			return nil, err
		}
		return wire.AppendBye(nil, h, salt(), k), nil
	}
	n, err := wire.OpenName(h, p, k)
	if err != nil {
		return nil, err
	}
	return wire.AppendName(nil, h, salt(), n, k)
}

// meaning returns the packet, which is valid, with zeros where receivers do not look.
func meaning(p []byte) []byte {
	p = bytes.Clone(p)
	p[1] &= 1
	p[23] = 0
	t := wire.Type(p[0] & 15)
	if t != wire.DataType {
		clear(p[12:24])
	}
	if t == wire.AnnounceType && p[1] == 0 {
		p[114] &= 1
	}
	const signer = wire.HeaderSize + 16 + 56
	if t == wire.NameType && p[1] == 0 && [32]byte(p[signer:]) == [32]byte{} {
		clear(p[signer+32:][:64])
	}
	return p
}
