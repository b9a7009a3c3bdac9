package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitOptions(t *testing.T) {
	for _, tt := range []struct {
		s    string
		want []string
	}{
		{"", []string{""}},
		{"ro,store=a", []string{"ro", "store=a"}},
		{`store=a\,b\\,fill,`, []string{`store=a,b\`, "fill", ""}},
		{`a\`, []string{`a\`}},
	} {
		if got := splitOptions(tt.s); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.s, got, tt.want)
		}
	}
}

func TestMountedName(t *testing.T) {
	for _, tt := range []struct{ loc, want string }{
		{"v1.caibx", "v1"},
		{"dir/disk.img.caibx", "disk.img"},
		{"https://example.com/a/v%201.caibx?x=y", "v 1"},
		{"mcast://eth0/stable", "stable"},
		{"index", "index"},
		{".caibx", "blob"},
		{"-", "blob"},
		{"https://example.com/", "blob"},
	} {
		if got := mountedName(tt.loc); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.loc, got, tt.want)
		}
	}
}

func TestHelperArgs(t *testing.T) {
	root := Commands()
	for _, tt := range []struct{ args, want []string }{
		{[]string{"v1.caibx", "/mnt", "-o", "rw,fill"}, []string{"mount", "--daemon", "-o", "rw,fill", "--", "v1.caibx", "/mnt"}},
		{[]string{"mount", "v1.caibx", "-o", "ro"}, []string{"mount", "v1.caibx", "-o", "ro"}},
		{[]string{"v1.caibx", "/mnt"}, []string{"v1.caibx", "/mnt"}},
		{[]string{"-q", "mount", "-o", "ro"}, []string{"-q", "mount", "-o", "ro"}},
	} {
		if got := helperArgs(root, tt.args); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestMountReadWrite(t *testing.T) {
	for options, want := range map[string]bool{"rw": true, "noexec,rw": true, "ro": false, "noexec": false} {
		o := castor(t, t.TempDir(), "mount", "-o", options, "v1.caibx", "absent")
		if o.code == 0 || strings.Contains(o.stderr, "can only be read") != want {
			t.Errorf("-o %s: exit code %d, %q", options, o.code, o.stderr)
		}
	}
}
