package location

import (
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast/wire"
)

func TestParseMulticast(t *testing.T) {
	root := chunker.ID{1, 31: 2}
	for _, tt := range []struct {
		loc  string
		want Multicast
	}{
		{"mcast://", Multicast{}},
		{"mcast://eth0", Multicast{Interface: "eth0"}},
		{"mcast://eth0/" + root.String(), Multicast{Interface: "eth0", Root: root}},
		{"mcast:///" + root.String()[1:], Multicast{Name: root.String()[1:]}},
		{"mcast://eth0/os/stable", Multicast{Interface: "eth0", Name: "os/stable"}},
		{"mcast://eth0/a%3Fb%25%20c+d?port=5&scope=link", Multicast{Interface: "eth0", Name: "a?b% c+d", Port: 5, Scope: wire.LinkScope}},
	} {
		tt.want.Loc = tt.loc
		if got, err := ParseMulticast(tt.loc); err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.loc, got, err, tt.want)
		}
	}
	for _, loc := range []string{"eth0", "mcast://eth0/a%zz", "mcast://eth0/a?port=65536", "mcast://eth0/a?scope=world", "mcast://eth0/a?source=x", "mcast://eth0/a?key=x"} {
		if _, err := ParseMulticast(loc); err == nil || !strings.HasPrefix(err.Error(), loc) {
			t.Errorf("%s: error %v", loc, err)
		}
	}
}
