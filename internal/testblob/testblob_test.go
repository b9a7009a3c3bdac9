package testblob

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"
)

// Every vector stands on these bytes: a blob that drifts must fail here, where
// the reason is plain.
func TestBlob(t *testing.T) {
	var names []string
	for _, tt := range []struct {
		name   string
		size   int
		sha256 string
	}{
		{"empty", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"one", 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
		{"b47", 47, "8459385d5554941307e5d8c54e1d93b97d999dd6adcc62b39bed1ea35127ef02"},
		{"b48", 48, "89b6a2782b6f19d80add1bfffe0322314692e1d8bad6533c9748303cb168bf21"},
		{"b16383", 16383, "25e9d73f195a73dc29ae47925cb5923c3091acf451339577ce04b66d98cf76bd"},
		{"b16384", 16384, "9279779f5c31136dec18cf804e5ecfa7a988dbba53a6ecf0d303aca50811fe64"},
		{"b16385", 16385, "318394c14f41d0f3e345329915e617db73e71555d793bf7c5b398f849bdba5f0"},
		{"rnd1m", 1 << 20, "38e24b03f9382aa86684bea2b6a3f581812fd191686f38aa8dce261c08f317b1"},
		{"text1m", 1 << 20, "48e58ddd64fc3c2b56b85995094a55b630ebe6a6a67b46fd01ed1ea2aff2c19b"},
		{"zero1m", 1 << 20, "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"},
		{"mixed", 1_300_000, "ef4411c42b3b70bcd311c6bf1cef24c8777ef698a1fb1049f579262ea86be1dc"},
		{"mixed-edited", 1_299_008, "bb68718ad6f81400ffc969944b4ef46bf42449e5ad1d5ab65aef581c60e5561b"},
	} {
		names = append(names, tt.name)
		b := Blob(tt.name)
		if len(b) != tt.size {
			t.Errorf("%s: got %d bytes, want %d", tt.name, len(b), tt.size)
		}
		sum := sha256.Sum256(b)
		if got := hex.EncodeToString(sum[:]); got != tt.sha256 {
			t.Errorf("%s: got SHA-256 %s, want %s", tt.name, got, tt.sha256)
		}
	}
	if got := Names(); !slices.Equal(got, names) {
		t.Errorf("Names() = %q, want %q", got, names)
	}
}

func TestBlobUnknown(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Blob of an unknown name returned, want a panic")
		}
	}()
	Blob("no such blob")
}
