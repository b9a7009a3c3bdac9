package cacnk_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/storetest"
)

// files returns the names of files that match, of which there must be some.
func files(tb testing.TB, pattern string) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join("..", "..", "testdata", filepath.FromSlash(pattern)))
	if err != nil || len(names) == 0 {
		tb.Fatalf("no file matches %s: %v", pattern, err)
	}
	return names
}

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestVectors decodes chunk files that casync wrote. The directory's name says
// which digest names them, and how they are compressed.
func TestVectors(t *testing.T) {
	for _, dir := range files(t, "casync/store/*.castr") {
		name := strings.TrimSuffix(filepath.Base(dir), ".castr")
		t.Run(name, func(t *testing.T) {
			i := strings.LastIndex(name, "-")
			digest, err := chunker.ParseDigest(name[:i])
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files(t, "casync/store/"+name+".castr/*/*.cacnk") {
				id, err := chunker.ParseID(strings.TrimSuffix(filepath.Base(file), ".cacnk"))
				if err != nil {
					t.Fatal(err)
				}
				b := read(t, file)
				codec, err := cacnk.Detect(b)
				if err != nil || codec.Name() != name[i+1:] {
					t.Errorf("%s: Detect = %v, %v", file, codec, err)
					continue
				}
				c := store.Chunk{ID: id, Data: b, Codec: codec, Loc: file}
				if _, err := c.Open(digest, chunker.MaxSize); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// content returns some things that chunks may hold.
func content() map[string][]byte {
	all := map[string][]byte{}
	for _, n := range []int{1, 2, 100, 4096, 128<<10 - 1, 128 << 10, 128<<10 + 1, 256 << 10, 1 << 20} {
		all[fmt.Sprint("zeros ", n)] = make([]byte, n)
		all[fmt.Sprint("random ", n)] = storetest.Random(uint64(n), n)
		all[fmt.Sprint("half ", n)] = storetest.Chunk(uint64(n), n).Data
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	for _, level := range []int{1, 3, 7, 19} {
		t.Run(fmt.Sprint(level), func(t *testing.T) {
			e, err := cacnk.NewEncoder(level)
			if err != nil {
				t.Fatal(err)
			}
			for what, plain := range content() {
				z := e.Encode([]byte("before"), plain)
				z, ok := bytes.CutPrefix(z, []byte("before"))
				if !ok {
					t.Fatalf("%s: Encode does not append", what)
				}
				if n := cacnk.MaxEncoded(len(plain)); len(z) > n {
					t.Errorf("%s: %d bytes, more than MaxEncoded = %d", what, len(z), n)
				}
				if c, err := cacnk.Detect(z); err != nil || c != cacnk.Zstd {
					t.Errorf("%s: Detect = %v, %v", what, c, err)
				}
				for _, room := range []int{0, 1, len(plain) - 1, len(plain), 2 * len(plain)} {
					got, err := cacnk.Zstd.Decode(make([]byte, 0, room), z, len(plain))
					if err != nil || !bytes.Equal(got, plain) {
						t.Errorf("%s: with room for %d: %d bytes, error %v", what, room, len(got), err)
					}
				}
				if _, err := cacnk.Zstd.Decode(nil, z, len(plain)-1); err == nil {
					t.Errorf("%s: no error about a chunk one byte too long", what)
				}
			}
		})
	}
}

func TestEncoderUsesRoom(t *testing.T) {
	e, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		t.Fatal(err)
	}
	plain := storetest.Random(1, 256<<10)
	room := make([]byte, 0, cacnk.MaxEncoded(len(plain)))
	if got := e.Encode(room, plain); &got[0] != &room[:1][0] {
		t.Error("Encode allocates although there is room for MaxEncoded bytes")
	}
}

func TestNewEncoder(t *testing.T) {
	for _, level := range []int{-1, 0, 23, 100} {
		if _, err := cacnk.NewEncoder(level); err == nil || !strings.Contains(err.Error(), "want 1 to 22") {
			t.Errorf("level %d: error %v", level, err)
		}
	}
	for _, level := range []int{1, 22} {
		if _, err := cacnk.NewEncoder(level); err != nil {
			t.Errorf("level %d: %v", level, err)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string // name, or what the error contains
	}{
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"\x28\xb5\x2f\xfd\x00rest", "zstd"},
		{"\x1f\x8b", "gzip"},
		{"\x1f\x8b\x08\x00", "gzip"},
		{"\xfd7zXZ\x00", "xz"},
		{"", "empty"},
		{"\x28\xb5\x2f", "begins with 28b52f"},
		{"\x1f", "begins with 1f"},
		{"\xfd7zXZ", "begins with fd377a585a"},
		{"\x50\x2a\x4d\x18\x00\x00\x00\x00", "begins with 502a4d180000"}, // zstd's skippable frame
		{"plain content", "begins with 706c61696e20"},
	} {
		c, err := cacnk.Detect([]byte(tt.in))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = c.Name()
		}
		if (err == nil) != (len(tt.want) <= 4) || !strings.Contains(got, tt.want) {
			t.Errorf("Detect(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// forms compress b in every form that some writer of chunks may choose.
func forms(tb testing.TB, b []byte) map[string][]byte {
	tb.Helper()
	all := map[string][]byte{}
	write := func(name string, open func(io.Writer) (io.WriteCloser, error)) {
		var buf bytes.Buffer
		w, err := open(&buf)
		half := len(b) / 2
		if err == nil {
			_, err = w.Write(b[:half])
		}
		if z, ok := w.(*zstd.Encoder); ok && err == nil {
			err = z.Flush() // else it knows the content's size
		}
		if err == nil {
			_, err = w.Write(b[half:])
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		all[name] = buf.Bytes()
	}
	e, err := cacnk.NewEncoder(cacnk.DefaultLevel)
	if err != nil {
		tb.Fatal(err)
	}
	all["zstd"] = e.Encode(nil, b)
	write("zstd streamed", func(w io.Writer) (io.WriteCloser, error) { // without the content's size, as casync's
		return zstd.NewWriter(w, zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
	})
	write("zstd with checksum", func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(1))
	})
	write("gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	for name, sum := range map[string]byte{"xz": xz.CRC64, "xz with crc32": xz.CRC32, "xz with sha256": xz.SHA256} {
		write(name, func(w io.Writer) (io.WriteCloser, error) {
			return xz.WriterConfig{DictCap: 1 << 20, CheckSum: sum}.NewWriter(w)
		})
	}
	write("xz without check", func(w io.Writer) (io.WriteCloser, error) {
		return xz.WriterConfig{DictCap: 1 << 20, NoCheckSum: true}.NewWriter(w)
	})
	return all
}

// decode decodes z by what Detect says.
func decode(dst, z []byte, limit int) ([]byte, error) {
	c, err := cacnk.Detect(z)
	if err != nil {
		return nil, err
	}
	return c.Decode(dst, z, limit)
}

func TestForms(t *testing.T) {
	for what, plain := range content() {
		if len(plain) > 256<<10 || testing.Short() && len(plain) > 4096 {
			continue // xz is slow
		}
		for form, z := range forms(t, plain) {
			for _, room := range []int{0, len(plain), 256 << 10} {
				got, err := decode(make([]byte, 0, room), z, len(plain))
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%s, %s, room for %d: %d bytes, error %v", what, form, room, len(got), err)
				}
			}
			if got, err := decode(nil, z, len(plain)-1); err == nil {
				t.Errorf("%s, %s: %d bytes, no error about a chunk one byte too long", what, form, len(got))
			}
		}
	}
}

// TestTruncated cuts streams everywhere, near the ends byte by byte.
func TestTruncated(t *testing.T) {
	for form, z := range forms(t, storetest.Chunk(1, 5000).Data) {
		for n := 0; n < len(z); n++ {
			if n > 100 && n < len(z)-100 && n%37 != 0 {
				continue
			}
			if got, err := decode(nil, z[:n], 5000); err == nil {
				t.Errorf("%s: first %d of %d bytes give %d bytes and no error", form, n, len(z), len(got))
			}
		}
	}
}

// TestTrailing puts something behind the stream. casync refuses it: a chunk file
// is exactly one stream.
func TestTrailing(t *testing.T) {
	plain := storetest.Chunk(1, 5000).Data
	more := forms(t, []byte("more"))
	for form, z := range forms(t, plain) {
		tails := map[string][]byte{
			"a zero":          {0},
			"two bytes":       []byte("\n\n"),
			"three bytes":     []byte("abc"),
			"four zeros":      {0, 0, 0, 0}, // xz calls this padding
			"a magic":         {0x28, 0xb5, 0x2f, 0xfd},
			"text":            []byte("some text behind it"),
			"skippable frame": {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0},
			"another stream":  more[form],
			"itself":          z,
		}
		for what, tail := range tails {
			for _, limit := range []int{5000, 1 << 20} {
				if got, err := decode(nil, append(bytes.Clone(z), tail...), limit); err == nil {
					t.Errorf("%s with %s behind it, limit %d: %d bytes and no error", form, what, limit, len(got))
				}
			}
		}
	}
}

// TestSkippable puts what zstd passes over before the stream, or in its place.
func TestSkippable(t *testing.T) {
	z := forms(t, []byte("content"))["zstd"]
	for _, skip := range []string{"\x50\x2a\x4d\x18\x01\x00\x00\x00x", "\x5f\x2a\x4d\x18\x03\x00\x00\x00\x01\x00\x00"} {
		for _, b := range [][]byte{[]byte(skip), append([]byte(skip), z...)} {
			if got, err := cacnk.Zstd.Decode(nil, b, 100); err == nil {
				t.Errorf("%x: %q and no error", b, got)
			}
		}
	}
}

// TestXZTail changes what follows the content, but for its check sum.
func TestXZTail(t *testing.T) {
	z := forms(t, storetest.Chunk(1, 5000).Data)["xz"]
	const tail = 12 + 4 + 8 // footer; index: check sum; two numbers of two bytes and more
	for i := len(z) - tail; i < len(z); i++ {
		b := bytes.Clone(z)
		b[i] ^= 0x10
		if got, err := cacnk.XZ.Decode(nil, b, 5000); err == nil {
			t.Errorf("byte %d of %d changed: %d bytes and no error", i, len(z), len(got))
		}
	}
}

// TestFlipped flips every bit of streams. What is decoded then, if anything, is
// caught by the chunk's ID; here only panics and excess count.
func TestFlipped(t *testing.T) {
	plain := storetest.Chunk(1, 300).Data
	for form, z := range forms(t, plain) {
		for i := range 8 * len(z) {
			b := bytes.Clone(z)
			b[i/8] ^= 1 << (i % 8)
			for _, c := range []store.Codec{cacnk.Zstd, cacnk.Gzip, cacnk.XZ} {
				if got, err := c.Decode(nil, b, 300); err == nil && len(got) > 300 {
					t.Fatalf("%s, bit %d flipped: %d bytes", form, i, len(got))
				}
			}
		}
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	f() // fill pools
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// enough is what decoding a chunk of up to limit bytes may allocate in all.
func enough(limit int) int64 { return int64(4*limit + 1<<20) }

// TestBomb decodes what becomes far more than is asked for.
func TestBomb(t *testing.T) {
	const limit = 256 << 10
	zeros := make([]byte, 64<<20)
	if testing.Short() {
		zeros = zeros[:2<<20]
	}
	for form, z := range forms(t, zeros) {
		t.Run(form, func(t *testing.T) {
			var err error
			n := allocated(func() { _, err = decode(make([]byte, 0, limit), z, limit) })
			if err == nil {
				t.Errorf("no error about a chunk of %d bytes", len(zeros))
			}
			if n > enough(limit) {
				t.Errorf("refusing %d bytes allocates %d bytes", len(z), n)
			}
		})
	}
}

// TestGreedyHeaders decodes streams that claim to need much memory.
func TestGreedyHeaders(t *testing.T) {
	plain := storetest.Chunk(1, 5000).Data
	all := forms(t, plain)
	zs := all["zstd streamed"]
	if zs[4] != 0 {
		t.Fatalf("frame header %x: has more than a window", zs[:6])
	}
	window := bytes.Clone(zs)
	window[5] = 18 << 3                                                           // 256 MiB
	size := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0} // of 4 GiB
	for _, tt := range []struct {
		name string
		z    []byte
		ok   bool
	}{
		{"zstd, window of 256 MiB", window, true},
		{"zstd, content of 4 GiB", size, false},
		{"xz, dictionary of 64 MiB", withDict(t, all["xz"], 28), true},
		{"xz, dictionary of 4 GiB", withDict(t, all["xz"], 40), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			var err error
			n := allocated(func() { got, err = decode(nil, tt.z, 5000) })
			if (err == nil) != tt.ok || tt.ok && !bytes.Equal(got, plain) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
			if n > enough(5000) {
				t.Errorf("decoding allocates %d bytes", n)
			}
		})
	}
}

// withDict returns the xz stream z with another dictionary size in the header of
// its first block.
func withDict(t *testing.T, z []byte, prop byte) []byte {
	t.Helper()
	z = bytes.Clone(z)
	h := z[12 : 12+4*(int(z[12])+1)]
	i := bytes.Index(h, []byte{0x21, 0x01})
	if i < 0 {
		t.Fatalf("block header %x: no LZMA2 filter", h)
	}
	h[i+2] = prop
	binary.LittleEndian.PutUint32(h[len(h)-4:], crc32.ChecksumIEEE(h[:len(h)-4]))
	return z
}

// TestReuse decodes into one buffer again and again, as chunks are fetched.
func TestReuse(t *testing.T) {
	plain := storetest.Chunk(1, 64<<10).Data
	z := forms(t, plain)["zstd"]
	dst := make([]byte, 0, 256<<10)
	n := testing.AllocsPerRun(100, func() {
		if b, err := cacnk.Zstd.Decode(dst, z, 256<<10); err != nil || &b[0] != &dst[:1][0] {
			t.Fatalf("not decoded in place: %v", err)
		}
	})
	if n > 4 {
		t.Errorf("decoding into a buffer makes %v allocations", n)
	}
}

// FuzzDecode gives all codecs any bytes: they must not panic or exceed the
// limit, and what decodes must do so again, whatever room there is.
func FuzzDecode(f *testing.F) {
	for _, name := range files(f, "casync/store/*.castr/*/*.cacnk") {
		if b := read(f, name); len(b) < 2000 {
			f.Add(b, 4096)
		}
	}
	for _, b := range [][]byte{[]byte("c"), make([]byte, 3000), storetest.Chunk(1, 1000).Data} {
		for _, z := range forms(f, b) {
			f.Add(z, len(b))
			f.Add(append(z, z...), 2*len(b))
		}
	}
	f.Fuzz(func(t *testing.T, z []byte, limit int) {
		limit &= 1<<20 - 1
		cacnk.Detect(z)
		for _, c := range []store.Codec{cacnk.Zstd, cacnk.Gzip, cacnk.XZ} {
			got, err := c.Decode(nil, z, limit)
			if err != nil {
				continue
			}
			if len(got) > limit {
				t.Fatalf("%s: %d bytes, limit %d", c.Name(), len(got), limit)
			}
			again, err := c.Decode(make([]byte, 0, limit), z, limit)
			if err != nil || !bytes.Equal(again, got) {
				t.Fatalf("%s: %d bytes, but %d with more room, error %v", c.Name(), len(got), len(again), err)
			}
			if len(got) > 0 {
				if _, err := c.Decode(nil, z, len(got)-1); err == nil {
					t.Fatalf("%s: %d bytes in spite of a lower limit", c.Name(), len(got))
				}
			}
			if _, err := c.Decode(nil, append(bytes.Clone(z), 0), limit); err == nil {
				t.Fatalf("%s: accepts a byte behind the stream", c.Name())
			}
		}
	})
}
