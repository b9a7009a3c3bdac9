package archive

import (
	"strings"
	"testing"
)

func TestPresets(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Features
	}{
		{"best", 0x1fffffe26},
		{"unix", 0x1f09},
		{"fat", 0xe0c0},
		{"chattr", 0x3ff0000},
		{"fat-attrs", 0xe000},
		{"privileged", 0x1ec414407},
		{"all", 1<<33 - 1},
		{"quota-projid", 0x100000000},
		{"2sec-time", 0x40},
		{"flag-projinherit,16bit-uids", 0x2000001},
	} {
		if f, err := ParseFeatures(tt.name); err != nil || f != tt.want {
			t.Errorf("%s: %#x, want %#x; %v", tt.name, uint64(f), uint64(tt.want), err)
		}
	}
	for _, s := range []string{"", "unix,", "UNIX", "exclude-file", "unix xattrs"} {
		if _, err := ParseFeatures(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

// What casync 2 wrote for options of which no archive is among the vectors.
func TestSelected(t *testing.T) {
	for options, want := range map[string]Features{
		"--with=fuse":                         0xb000000013efff22,
		"--with=privileged":                   0xb0000001ec414406,
		"--without=privileged":                0xb000000013aebb20,
		"--without=all":                       0xb000000000000000,
		"--with=unix --without=all":           0xb000000000000000,
		"--digest=sha256":                     0x90000001ffeffe26,
		"--exclude-nodump=no":                 0x30000001fffffe26,
		"--with=unix --with=permissions":      0xb000000000001f09,
		"--with=subvolume-ro":                 0xb00000000c000000,
		"--with=2sec-time --with=sec-time":    0xb000000000000008,
		"--with=read-only --with=permissions": 0xb000000000000100,
	} {
		if f := featuresOf(t, options); f != want {
			t.Errorf("%s: %#x, want %#x", options, uint64(f), uint64(want))
		}
	}
}

func TestFeaturesString(t *testing.T) {
	f := Unix | SHA512256 | 1<<40
	want := "16bit-uids,sec-time,permissions,symlinks,device-nodes,fifos,sockets,sha512-256,0x10000000000"
	if got := f.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	parsed, err := ParseFeatures(Best.String())
	if err != nil || parsed != Best {
		t.Errorf("%#x, want %#x; %v", uint64(parsed), uint64(Best), err)
	}
}

func TestValidate(t *testing.T) {
	for f, want := range map[Features]string{
		0:                      "",
		Best:                   "",
		Best | BLAKE3:          "",
		BLAKE3 | SHA512256:     "two digests",
		1 << 33:                "unknown",
		1 << 58:                "unknown",
		UID16 | UID32:          "not normalized",
		ACLs:                   "not normalized",
		ACLs | UserNames:       "",
		ExcludeNoDump:          "",
		ExcludeNoDump | Chattr: "not normalized",
		^Features(0):           "unknown",
	} {
		if err := f.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%#x: %v, want %q", uint64(f), err, want)
		}
	}
}

func TestReplay(t *testing.T) {
	for _, tt := range []struct{ archive, mask, want Features }{
		{Best, All, Best},
		{Best, Unix, UID32 | NSecTime | Permissions | Symlinks | DeviceNodes | FIFOs | Sockets},
		{Unix, Best, UID32 | NSecTime | Permissions | Symlinks | DeviceNodes | FIFOs | Sockets},
		{Best, 0, 0},
		{FAT, SecTime | ReadOnly, NSecTime | ReadOnly},
		{ACLs | UserNames, ReadOnly, ReadOnly},
		{Subvolume | SubvolumeRO, Subvolume, Subvolume},
	} {
		if got := tt.archive.Replay(tt.mask); got != tt.want {
			t.Errorf("%v of %v: %v, want %v", tt.mask, tt.archive, got, tt.want)
		}
	}
}

func TestMTime(t *testing.T) {
	for _, tt := range []struct {
		f        Features
		in, want int64
		word     uint64
	}{
		{0, 12345, 0, 0},
		{NSecTime, 1500000001123456789, 1500000001123456789, 1500000001123456789},
		{USecTime, 1500000001123456789, 1500000001123456000, 1500000001123456000},
		{SecTime, 1500000001123456789, 1500000001000000000, 1500000001000000000},
		{TwoSecTime, 1500000001123456789, 1500000000000000000, 1500000000000000000},
		{NSecTime, -1500000000, -1500000000, 1<<64 - 1500000000},
		{NSecTime, -1, -2, 1<<64 - 2}, // all bits set is reserved
		// Rounded down modulo 2^64, which is no multiple of a second.
		{SecTime, -5e9, -5e9, 18446744068e9},
		{SecTime, -4.8e9, -5e9, 18446744068e9},
		{SecTime, -0.5e9, -709551616, 18446744073e9},
		{SecTime, 0.5e9, 0, 0},
		{SecTime, -1e9, -1e9, 18446744072e9},
	} {
		if got := tt.f.MTime(tt.in); got != tt.want {
			t.Errorf("%v of %d: %d, want %d", tt.f, tt.in, got, tt.want)
		}
		if got := tt.f.encodeTime(tt.in); got != tt.word {
			t.Errorf("%v of %d: word %d, want %d", tt.f, tt.in, got, tt.word)
		}
	}
}

func FuzzMTime(f *testing.F) {
	f.Add(int64(-1))
	f.Add(int64(-1 << 63))
	f.Fuzz(func(t *testing.T, ns int64) {
		for _, f := range []Features{NSecTime, USecTime, SecTime, TwoSecTime, 0} {
			kept := f.MTime(ns)
			if again := f.MTime(kept); again != kept {
				t.Errorf("%v of %d: %d, and of that %d", f, ns, kept, again)
			}
			if g := int64(f.granularity()); g > 0 && ns != -1 && (kept-ns >= g || ns-kept >= g) {
				t.Errorf("%v of %d: %d", f, ns, kept)
			}
		}
	})
}
