package tarfile

import (
	"reflect"
	"strings"
	"testing"

	"github.com/castorsync/castor/archive"
)

func TestACL(t *testing.T) {
	resolve := func(e aclEntry, group bool) (archive.ACLEntry, error) {
		m := &importer{f: all.Normalize(), users: owners{f: all, known: map[string]uint32{"lisa": 7}}, groups: owners{f: all}}
		return m.resolve(e, group)
	}
	list := &archive.DefaultACL{
		UserObj: 7, GroupObj: 5, Other: 0, Mask: 7,
		Users:  []archive.ACLEntry{{ID: 7, Name: "lisa", Perm: 6}, {ID: 1000, Perm: 4}},
		Groups: []archive.ACLEntry{{ID: 12, Name: "a b", Perm: 1}},
	}
	small := &archive.DefaultACL{UserObj: 6, GroupObj: 4, Other: 4, Mask: archive.NoMask}
	for _, tt := range []struct {
		name, text string
		want       *archive.DefaultACL
		err        string
	}{
		{"ours", formatACL(list, true), list, ""},
		{"GNU tar", "user::rwx\nuser:lisa:rw-\nuser:1000:r--\ngroup::r-x\ngroup:12:--x\nmask::rwx\nother::---\n", &archive.DefaultACL{
			UserObj: 7, GroupObj: 5, Mask: 7, Users: list.Users, Groups: []archive.ACLEntry{{ID: 12, Perm: 1}},
		}, ""},
		{"star", "user::rwx,user:lisa:rw-:7,user:1000:r--:1000,group::r-x,group:a\\040b:--x:12,mask::rwx,other::---", list, ""},
		{"effective", "user::rw-\ngroup::r--\t#effective:---\nother::r--\n", small, ""},
		{"short", "u::rw,g::r,o::r", small, ""},
		{"Solaris", "default:user::rw-,default:group::r--,default:other:r--", small, ""},
		{"empty", "", nil, ""},
		{"unknown", "user:bart:r--", nil, `there is no number for the name "bart"`},
		{"parts", "user::rwx\ngroup::rwx", nil, "want entries for the owner, the group and others"},
		{"twice", "user::rwx\nuser::r--", nil, "a second time"},
		{"no mask", "user::rwx\nuser:1:r--\ngroup::r-x\nother::r-x", nil, "no mask"},
		{"named mask", "mask:1:r--", nil, "this takes no name"},
		{"tag", "everyone::r--", nil, "want user, group, mask or other"},
		{"permissions", "user::rwz", nil, `permissions "rwz"`},
		{"fields", "user", nil, "want TAG:NAME:PERMISSIONS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseACL(tt.text, resolve)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// Without numbers, entries are of names alone.
func TestACLNames(t *testing.T) {
	list := &archive.DefaultACL{Mask: 7, Users: []archive.ACLEntry{{Name: ""}, {Name: "lisa", Perm: 4}}}
	want := "user::---\nuser:root:---\nuser:lisa:r--\ngroup::---\nmask::rwx\nother::---\n"
	if got := formatACL(list, false); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
