package archive

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
)

func TestACL(t *testing.T) {
	for name, tt := range map[string]struct {
		list *DefaultACL
		hex  string // as getfattr -e hex prints it, a field at a time
	}{
		"short": {&DefaultACL{UserObj: 7, GroupObj: 5, Other: 1, Mask: NoMask},
			"02000000" + "01000700ffffffff" + "04000500ffffffff" + "20000100ffffffff"},
		"named": {&DefaultACL{UserObj: 6, GroupObj: 4, Mask: 6, Users: []ACLEntry{{ID: 0, Perm: 4}, {ID: 1000, Perm: 6}}, Groups: []ACLEntry{{ID: 65534, Perm: 4}}},
			"02000000" + "01000600ffffffff" + "0200040000000000" + "02000600e8030000" + "04000400ffffffff" + "08000400feff0000" + "10000600ffffffff" + "20000000ffffffff"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hex.EncodeToString(tt.list.Encode()); got != tt.hex {
				t.Errorf("encoded:\n%s, want\n%s", got, tt.hex)
			}
			b, err := hex.DecodeString(tt.hex)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := DecodeACL(b); err != nil || !reflect.DeepEqual(got, tt.list) {
				t.Errorf("decoded: %+v, %v, want %+v", got, err, tt.list)
			}
			for n := range b {
				if _, err := DecodeACL(b[:n]); err == nil && (n%8 != 4) {
					t.Errorf("%d bytes are taken", n)
				}
			}
		})
	}
	mixed := &DefaultACL{Mask: 7, Users: []ACLEntry{{ID: 9, Name: "a", Perm: 1}, {ID: 2, Name: "b", Perm: 2}}}
	if got, err := DecodeACL(mixed.Encode()); err != nil || len(got.Users) != 2 || got.Users[0].ID != 2 {
		t.Errorf("entries in the order of names: %+v, %v", got, err)
	}
	if a, err := DecodeACL([]byte{2, 0, 0, 0}); a != nil || err != nil {
		t.Errorf("no entries: %+v, %v", a, err)
	}
}

// FuzzDecodeACL: what is taken is encoded as something that is taken, and means the same.
func FuzzDecodeACL(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0})
	f.Add((&DefaultACL{UserObj: 7, Mask: 7, Users: []ACLEntry{{ID: 1, Perm: 7}}, Groups: []ACLEntry{{ID: 2, Perm: 5}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeACL(b)
		if err != nil || a == nil {
			return
		}
		once := a.Encode()
		again, err := DecodeACL(once)
		if err != nil || !bytes.Equal(again.Encode(), once) {
			t.Errorf("%x: %+v, %v", b, again, err)
		}
	})
}
