package fec

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestLayout checks that the blocks of an object are its symbols, each once and in
// order.
func TestLayout(t *testing.T) {
	for _, size := range []int64{0, 1, 63, 64, 65, 128 * 64, 128*64 + 1, 1 << 20, 1<<20 + 12345} {
		for _, symbol := range []int{64, 1152, 1408, 8896} {
			l := NewLayout(size, symbol)
			if l.Padded() < size || l.Padded() >= size+int64(symbol) {
				t.Errorf("%+v: padded to %d", l, l.Padded())
			}
			at := 0
			for b := range l.Blocks {
				k := l.Source(b)
				if l.First(b) != at || k < 1 || k > MaxSource || k > l.Longest() || k < l.Longest()-1 {
					t.Errorf("%+v: block %d begins at %d and has %d, want begin %d", l, b, l.First(b), k, at)
				}
				at += k
			}
			if at != l.Symbols {
				t.Errorf("%+v: blocks have %d symbols", l, at)
			}
		}
	}
}

// TestDecode decodes from any k of the 2k symbols.
func TestDecode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range []int{1, 2, 3, 15, 57, 100, 127, 128} {
		for _, symbol := range []int{64, 1408} {
			t.Run(fmt.Sprintf("%d of %d", k, symbol), func(t *testing.T) {
				source := noise(k*symbol, byte(k))
				repair := make([]byte, k*symbol)
				Repair(repair, source, symbol)
				all := append(bytes.Clone(source), repair...)
				for range 20 {
					got := noise(k*symbol, 99) // what is there before does not matter
					b := NewBlock(got, symbol)
					for _, esi := range r.Perm(2 * k) {
						useful := b.Add(uint8(esi), all[esi*symbol:][:symbol])
						if b.Add(uint8(esi), all[esi*symbol:][:symbol]) {
							t.Fatal("a symbol was taken twice")
						}
						if !useful && !b.Full() {
							t.Fatalf("symbol %d was not taken", esi)
						}
						if b.Full() {
							break
						}
					}
					if b.Count() != k || b.Need() != 0 {
						t.Fatalf("has %d and needs %d", b.Count(), b.Need())
					}
					if err := b.Decode(); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, source) {
						t.Fatal("decoded wrongly")
					}
				}
			})
		}
	}
}

func TestAddRefuses(t *testing.T) {
	b := NewBlock(make([]byte, 3*64), 64)
	for _, tt := range []struct {
		esi    uint8
		length int
	}{{0, 63}, {0, 65}, {0, 0}, {6, 64}, {255, 64}} {
		if b.Add(tt.esi, make([]byte, tt.length)) {
			t.Errorf("took symbol %d of %d bytes", tt.esi, tt.length)
		}
	}
}

// TestVectors pins the code: another implementation must compute the same repair
// symbols.
func TestVectors(t *testing.T) {
	for _, tt := range []struct {
		k, symbol int
		sum       string
	}{
		{1, 64, "343cc4158d1f9ec0cbdf168c971b34ab96beacc4aab93a9fcdd2ca54499b6b5c"},
		{2, 64, "1d9fb14affb140d1332d77f25e036d6c814a605d5bfeb5976f148466719ee8dc"},
		{57, 1152, "32a988ce0384077495dea0265a443c592be2e2eee90bd70d89627580f2b5f2c8"},
		{100, 1408, "2dd92c9ff00353eac14bd5fc7648d7117854242577632167e54e2c42b08ee424"},
		{128, 1408, "28e25f0cf4f1cb02649c71b5a18bf99f90eea8793fa9cf6bf7c3eb1203a25949"},
	} {
		source := make([]byte, tt.k*tt.symbol)
		for i := range source {
			source[i] = byte(i * i >> 3)
		}
		repair := make([]byte, len(source))
		Repair(repair, source, tt.symbol)
		sum := sha256.Sum256(repair)
		if got := hex.EncodeToString(sum[:]); got != tt.sum {
			t.Errorf("repair symbols of %d × %d have SHA-256 %s, want %s", tt.k, tt.symbol, got, tt.sum)
		}
	}
}

func FuzzBlock(f *testing.F) {
	f.Add(uint8(3), []byte{0, 1, 2, 3, 4, 5})
	f.Add(uint8(127), []byte{255, 0, 9})
	f.Fuzz(func(t *testing.T, n uint8, order []byte) {
		k := int(n)%MaxSource + 1
		source := noise(k*64, n)
		repair := make([]byte, len(source))
		Repair(repair, source, 64)
		all := append(bytes.Clone(source), repair...)
		got := make([]byte, len(source))
		b := NewBlock(got, 64)
		for _, esi := range order {
			if int(esi) < 2*k {
				b.Add(esi, all[int(esi)*64:][:64])
			} else if b.Add(esi, all[:64]) {
				t.Fatalf("took symbol %d of %d", esi, 2*k)
			}
		}
		if b.Full() {
			if err := b.Decode(); err != nil || !bytes.Equal(got, source) {
				t.Fatalf("decoded wrongly: %v", err)
			}
		}
	})
}

func BenchmarkRepair(b *testing.B) {
	source, repair := noise(128*1408, 1), make([]byte, 128*1408)
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		Repair(repair, source, 1408)
	}
}

func BenchmarkDecode(b *testing.B) {
	source, repair := noise(128*1408, 1), make([]byte, 128*1408)
	Repair(repair, source, 1408)
	b.SetBytes(int64(len(source)))
	for b.Loop() {
		d := NewBlock(source, 1408)
		for i := range 128 {
			if i%20 != 0 {
				d.Add(uint8(i), source[i*1408:][:1408])
			} else {
				d.Add(uint8(128+i), repair[i*1408:][:1408])
			}
		}
		d.Decode()
	}
}

// What a collection of garbage finds is not made anew: that took longer than to encode.
func TestRepairAllocates(t *testing.T) {
	const symbol = 1408
	source, repair := make([]byte, MaxSource*symbol), make([]byte, MaxSource*symbol)
	Repair(repair, source, symbol)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		runtime.GC()
		runtime.GC()
		Repair(repair, source, symbol)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 10*64<<10 {
		t.Errorf("%d bytes allocated for ten blocks of %d", n, len(source))
	}
}
