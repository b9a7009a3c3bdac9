package wire_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/fec"
	"github.com/castorsync/castor/mcast/wire"
)

var update = flag.Bool("update", false, "write testdata/castor/multicast.json anew")

// multicastVectors is testdata/castor/multicast.json.
type multicastVectors struct {
	Rule        string            `json:"rule"`
	Channels    []channelVector   `json:"channels"`
	Groups      []spaceVector     `json:"groups"`
	Packets     []packetVector    `json:"packets"`
	Repair      []repairVector    `json:"repair"`
	Directories []directoryVector `json:"directories"`
}

type channelVector struct {
	Root   string        `json:"root,omitempty"`
	Name   *string       `json:"name,omitempty"`
	Signer string        `json:"signer,omitempty"`
	Keyed  bool          `json:"keyed"`
	Groups []groupVector `json:"groups"`
}

type groupVector struct {
	Scope   string `json:"scope"`
	SSM     bool   `json:"ssm"`
	Ordinal uint32 `json:"ordinal"`
	Address string `json:"address"`
}

type spaceVector struct {
	IndexBytes int64  `json:"index_bytes"`
	Chunks     int    `json:"chunks"`
	Level      int    `json:"level"`
	Ordinal    uint32 `json:"ordinal"`
	Kind       string `json:"kind"`
	Number     int    `json:"number"`
	From       int    `json:"from"`
	To         int    `json:"to"`
}

type packetVector struct {
	Packet string `json:"packet"`
	Keyed  bool   `json:"keyed"`
	Bytes  string `json:"bytes"`
}

type repairVector struct {
	K      int    `json:"k"`
	Symbol int    `json:"symbol"`
	SHA256 string `json:"sha256"`
}

type directoryVector struct {
	Parts [][2]int `json:"parts"`
	Bytes string   `json:"bytes"`
}

const vectorsRule = "Defined in docs/multicast.md. Everywhere: byte i of the network key is i, and byte i of the seed of the Ed25519 key; " +
	"byte i of the salt is a0+i; byte i of the root in packets is 40+i (hexadecimal). " +
	"packets: announcement is of an index of 60104 bytes with 1499 chunks at level 4, symbols of 1344 bytes, rate 200000000, share 12500000, " +
	"cursor 77, lap 3, 5 listeners, not always unless it says so, URL https://example.org/store; " +
	"data has session a0a1a2a3, sequence number fffffffe, group sequence number ffff, ordinal 7fffffff, object length 12345678, block abcd, symbol number ef (hexadecimal) " +
	"and a symbol of 128 bytes, byte i being (i·i >> 3) mod 256; the others have sequence number 01020304 and group sequence number 0506; " +
	"name is images/röd in UTF-8, version 258, time 1795190400, size 2^40. " +
	"repair: the SHA-256 of the k repair symbols one after the other, for k source symbols of symbol bytes, byte i of them together being (i·i >> 3) mod 256. " +
	"directories: form and length of each part."

func TestVectors(t *testing.T) {
	got := multicastVectors{Rule: vectorsRule}
	signer := testSigner().Public().(ed25519.PublicKey)
	add := func(v channelVector, c wire.Channel) {
		for _, scope := range allScopes {
			for _, ssm := range []bool{false, true} {
				for _, ord := range []uint32{0, 1, 1000, maxOrdinal} {
					v.Groups = append(v.Groups, groupVector{scope.String(), ssm, ord, c.Group(scope, ssm, ord).String()})
				}
			}
		}
		got.Channels = append(got.Channels, v)
	}
	for _, k := range []*wire.Key{nil, testKey()} {
		for _, root := range []chunker.ID{{}, testRoot()} {
			add(channelVector{Root: root.String(), Keyed: k != nil}, wire.OfRoot(root, k))
		}
		for _, name := range []string{"", "images/röd"} {
			add(channelVector{Name: &name, Keyed: k != nil}, wire.OfName(name, nil, k))
			add(channelVector{Name: &name, Signer: hex.EncodeToString(signer), Keyed: k != nil}, wire.OfName(name, signer, k))
		}
		p := samples(k)
		for _, name := range []string{"announcement", "announcement, always", "data", "bye", "name", "name, signed"} {
			got.Packets = append(got.Packets, packetVector{name, k != nil, hex.EncodeToString(p[name])})
		}
	}
	for _, s := range []wire.Space{{IndexBytes: 104}, {IndexBytes: 60104, Chunks: 1499, Level: 4}, {IndexBytes: 3<<20 + 24, Chunks: 70000, Level: 10}} {
		pieces, buckets := s.IndexPieces(), s.Buckets()
		for _, ord := range []int{0, 1, pieces, 1 + pieces, pieces + buckets, 1 + pieces + buckets, s.Total() - 1} {
			if k, i, ok := s.Kind(uint32(ord)); ok {
				from, to := s.ChunkRange(uint32(ord))
				got.Groups = append(got.Groups, spaceVector{s.IndexBytes, s.Chunks, s.Level, uint32(ord), k.String(), i, from, to})
			}
		}
	}
	for _, v := range []repairVector{{K: 1, Symbol: 64}, {K: 2, Symbol: 64}, {K: 3, Symbol: 128}, {K: 57, Symbol: 1152}, {K: 64, Symbol: 1408}, {K: 65, Symbol: 1408}, {K: 128, Symbol: 1408}} {
		source := testSymbol(v.K * v.Symbol)
		repair := make([]byte, len(source))
		fec.Repair(repair, source, v.Symbol)
		sum := sha256.Sum256(repair)
		v.SHA256 = hex.EncodeToString(sum[:])
		got.Repair = append(got.Repair, v)
	}
	for _, parts := range [][]wire.Part{nil, {{Form: wire.Plain, Length: 1<<28 - 1}}, someParts} {
		v := directoryVector{Parts: [][2]int{}}
		for _, p := range parts {
			v.Parts = append(v.Parts, [2]int{int(p.Form), p.Length})
		}
		v.Bytes = hex.EncodeToString(must(wire.AppendDirectory(nil, parts)))
		got.Directories = append(got.Directories, v)
	}

	const path = "../../testdata/castor/multicast.json"
	if *update {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "\t")
		if err := e.Encode(got); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want multicastVectors
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if got.Rule != want.Rule {
		t.Errorf("rule %q, want %q", got.Rule, want.Rule)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"channels", got.Channels, want.Channels}, {"groups", got.Groups, want.Groups}, {"packets", got.Packets, want.Packets},
		{"repair symbols", got.Repair, want.Repair}, {"directories", got.Directories, want.Directories},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tt.what, tt.got, tt.want)
		}
	}
}

// naiveGroup is the definition in docs/multicast.md, word for word and without a line
// of the code that it checks.
func naiveGroup(context string, scope byte, ssm bool, ord uint32, material ...[]byte) string {
	var c [12]byte
	blake3.DeriveKey(context, bytes.Join(material, nil), c[:])
	low := 1<<31 + (binary.BigEndian.Uint32(c[8:])%(1<<31)+ord)%(1<<31)
	a := [16]byte{0: 0xff, 1: 0x30 + scope}
	if !ssm {
		a[1] = 0x10 + scope
		copy(a[2:], c[:8])
		a[10], a[11] = 0xca, 0x57
	}
	binary.BigEndian.PutUint32(a[12:], low)
	return netip.AddrFrom16(a).String()
}

func TestGroupNaive(t *testing.T) {
	const ofRoot, ofName = "castor 2026 multicast channel of a root v1", "castor 2026 multicast channel of a name v1"
	root, signer, name := testRoot(), testSigner().Public().(ed25519.PublicKey), "images/röd"
	key, nobody := testKey()[:], make([]byte, 32)
	for _, ssm := range []bool{false, true} {
		for _, ord := range []uint32{0, 1, 1 << 30, maxOrdinal} {
			for _, tt := range []struct {
				c    wire.Channel
				want string
			}{
				{wire.OfRoot(root, nil), naiveGroup(ofRoot, 5, ssm, ord, root[:])},
				{wire.OfRoot(root, testKey()), naiveGroup(ofRoot, 5, ssm, ord, root[:], key)},
				{wire.OfName(name, nil, nil), naiveGroup(ofName, 5, ssm, ord, nobody, []byte{0}, []byte(name))},
				{wire.OfName(name, signer, nil), naiveGroup(ofName, 5, ssm, ord, signer, []byte{0}, []byte(name))},
				{wire.OfName(name, nil, testKey()), naiveGroup(ofName, 5, ssm, ord, nobody, []byte{1}, key, []byte(name))},
				{wire.OfName(name, signer, testKey()), naiveGroup(ofName, 5, ssm, ord, signer, []byte{1}, key, []byte(name))},
			} {
				if got := tt.c.Group(wire.SiteScope, ssm, ord).String(); got != tt.want {
					t.Errorf("group %d: %s, want %s", ord, got, tt.want)
				}
			}
		}
	}
}

// TestLayoutNaive looks for the fields of packets where the tables of docs/multicast.md
// say that they are, and opens a seal as the text says.
func TestLayoutNaive(t *testing.T) {
	for _, tt := range []struct {
		packet string
		offset int
		want   string // hexadecimal
	}{
		{"data", 0, "1100" + "a0a1a2a3" + "fffffffe" + "ffff" + "7fffffff" + "12345678" + "abcd" + "ef" + "00"},
		{"announcement", 0, "1000" + "a0a1a2a3" + "01020304" + "0506" + "000000000000000000000000" + "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf" + "4041"},
		{"announcement", 72, "000000000000eac8" + "000005db" + "04" + "15" + "000000000bebc200" + "0000000000bebc20" + "0000004d" + "00000003" + "00000005" + "00" + "19" + hex.EncodeToString([]byte("https://example.org/store"))},
		{"announcement, always", 114, "01"},
		{"bye", 0, "1200" + "a0a1a2a3" + "01020304" + "0506" + "000000000000000000000000" + "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"},
		{"name", 0, "1300"},
		{"name", 40, "0000000000000102" + "000000006b006e80" + "4041"},
		{"name", 88, "0000010000000000" + "0000"},
		{"name", 192, "0b" + hex.EncodeToString([]byte("images/röd"))},
		{"name, signed", 96, hex.EncodeToString(testSigner().Public().(ed25519.PublicKey))},
	} {
		p := samples(nil)[tt.packet]
		if got := hex.EncodeToString(p[tt.offset:min(len(p), tt.offset+len(tt.want)/2)]); got != tt.want {
			t.Errorf("%s at %d: %s, want %s", tt.packet, tt.offset, got, tt.want)
		}
	}
	var key [16]byte
	blake3.DeriveKey("castor 2026 multicast packet key v1", append(bytes.Clone(testSalt[:]), testKey()[:]...), key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	for name, sealed := range samples(testKey()) {
		from := 40
		if name == "data" {
			from = 24
		}
		plain := samples(nil)[name]
		got, err := gcm.Open(nil, append(make([]byte, 4), sealed[2:10]...), sealed[from:], sealed[:from])
		if err != nil || !bytes.Equal(got, plain[from:]) || len(sealed) != len(plain)+16 || sealed[1] != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
