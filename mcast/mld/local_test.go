package mld

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// What Linux 6.18 writes, of loopback interface 1 and another.
const (
	igmp6 = `1    lo              ff350000000000000000000080000001     1 00000004 0
1    lo              ff150000000000000000000000012345     2 00000004 0
1    lo              ff020000000000000000000000000001     1 0000000C 0
12   eth0            ff150000000000000000000000000012     1 00000004 0
`
	mcfilter6 = `Idx Device                Multicast Address                   Source Address    INC    EXC
  1     lo ff350000000000000000000080000001 20010db8000000000000000000000002      1      0
`
)

func TestLocalGroups(t *testing.T) {
	for _, tt := range []struct {
		name, filters string
		users         string // of the group with sources
		want          bool   // it is among the groups
	}{
		{"another source", mcfilter6, "1", false},
		{"another source, another interface", strings.ReplaceAll(mcfilter6, "\n  1 ", "\n 12 "), "1", true},
		{"another source, and another socket", mcfilter6, "2", true},
		{"ours", strings.ReplaceAll(mcfilter6, "0002 ", "0001 "), "1", true},
		{"no sources", "", "1", true},
		{"ours excluded", strings.ReplaceAll(mcfilter6, "0002      1      0", "0001      0      1"), "1", false},
		{"ours excluded by one of two", strings.ReplaceAll(mcfilter6, "0002      1      0", "0001      0      1"), "2", true},
		{"another excluded", strings.ReplaceAll(mcfilter6, "      1      0", "      0      1"), "1", true},
	} {
		groups := strings.Replace(igmp6, "     1 00000004", "     "+tt.users+" 00000004", 1)
		got, err := localGroups([]byte(groups), []byte(tt.filters), 1, netip.MustParseAddr("2001:db8::1"))
		var want []netip.Addr
		if tt.want {
			want = append(want, netip.MustParseAddr("ff35::8000:1"))
		}
		want = append(want, netip.MustParseAddr("ff15::1:2345"), netip.MustParseAddr("ff02::1"))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, want)
		}
	}
}

func TestLocalGroupsFormat(t *testing.T) {
	for _, tt := range []struct{ igmp6, mcfilter6 string }{
		{"1 lo ff02\n", ""},
		{"1 lo ff020000000000000000000000000001\n", ""},
		{"1 lo ff02000000000000000000000000000x 1 0000000C 0\n", ""},
		{"1 lo ff020000000000000000000000000001 x 0000000C 0\n", ""},
		{"\n", ""},
		{"", "1 lo ff020000000000000000000000000001\n"},
		{"", "1 lo ff02 ff02 1 0\n"},
		{"", "1 lo ff020000000000000000000000000001 ff02 1 0\n"},
		{"", "1 lo ff020000000000000000000000000001 ff020000000000000000000000000001 x 0\n"},
		{"", "1 lo ff020000000000000000000000000001 ff020000000000000000000000000001 1 x\n"},
	} {
		if got, err := localGroups([]byte(tt.igmp6), []byte(tt.mcfilter6), 1, netip.Addr{}); err == nil {
			t.Errorf("%q, %q: got %v", tt.igmp6, tt.mcfilter6, got)
		}
	}
}

func FuzzLocalGroups(f *testing.F) {
	f.Add([]byte(igmp6), []byte(mcfilter6), 1)
	f.Add([]byte(igmp6), []byte(""), 12)
	f.Fuzz(func(t *testing.T, igmp6, mcfilter6 []byte, index int) {
		got, err := localGroups(igmp6, mcfilter6, index, netip.MustParseAddr("2001:db8::2"))
		if err == nil && len(got)*32 > len(igmp6) {
			t.Errorf("%d groups in %d bytes", len(got), len(igmp6))
		}
	})
}
