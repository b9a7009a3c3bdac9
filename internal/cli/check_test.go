package cli

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/storetest"
)

// TestCheckRepair repairs chunks of which something is wrong. One that only cannot be read
// may be right: it is never moved aside.
func TestCheckRepair(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	mirror := &storetest.Memory{}
	if err := mirror.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		others  []store.Getter
		damaged bool
		done    string // how it begins
		left    bool   // the chunk is there in the end
		err     string
	}{
		{"damaged", nil, true, "moved to ", false, "1 of 9 chunks are damaged, 0 replaced, 1 moved aside"},
		{"unread", nil, false, "", true, "0 of 9 chunks are damaged, 1 could not be read, 0 replaced"},
		{"damaged, mirror", []store.Getter{mirror}, true, "replaced", true, ""},
		{"unread, mirror", []store.Getter{mirror}, false, "replaced", true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := dir.Open(t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Put(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			var n checkCounts
			n.add(tt.damaged)
			done, err := n.repair(t.Context(), s, tt.others, c.ID, tt.damaged)
			if err != nil || !strings.HasPrefix(done, tt.done) || done == "" != (tt.done == "") {
				t.Errorf("%q, %v, want %q", done, err, tt.done)
			}
			if _, err := s.Get(t.Context(), c.ID); errors.Is(err, fs.ErrNotExist) == tt.left {
				t.Errorf("the chunk afterwards: %v", err)
			}
			if tt.err != "" {
				if err := n.err("store", 9); !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
			} else if n.replaced != 1 {
				t.Errorf("%+v", n)
			}
		})
	}
}
