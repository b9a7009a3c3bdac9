package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/testneed"
)

// TestUnpackFileSystems restores what only some file systems have, twice, and
// shares storage where they can.
func TestUnpackFileSystems(t *testing.T) {
	for _, tt := range []struct {
		fstype string
		make   func(t testing.TB, dir string)
		change func(t testing.TB, dir string)
	}{
		{"btrfs", func(t testing.TB, dir string) {
			command(t, "btrfs", "-q", "subvolume", "create", dir+"/sub")
			command(t, "btrfs", "-q", "subvolume", "create", dir+"/subro")
			must(t, os.WriteFile(dir+"/subro/f", []byte("x"), 0o644), os.WriteFile(dir+"/nocow", bytes.Repeat([]byte("n"), 1<<20), 0o644))
			must(t, os.Remove(dir+"/nocow"), os.WriteFile(dir+"/nocow", nil, 0o644))
			command(t, "chattr", "+C", dir+"/nocow")
			command(t, "btrfs", "property", "set", "-ts", dir+"/subro", "ro", "true")
		}, func(t testing.TB, dir string) {
			command(t, "btrfs", "property", "set", "-ts", dir+"/subro", "ro", "false")
			must(t, os.WriteFile(dir+"/subro/f", []byte("y"), 0o644), os.WriteFile(dir+"/subro/more", nil, 0o644))
			command(t, "btrfs", "property", "set", "-ts", dir+"/subro", "ro", "true")
		}},
		{"xfs", func(t testing.TB, dir string) {
			must(t, os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/f", []byte("q"), 0o644), os.WriteFile(dir+"/d/none", nil, 0o644))
			command(t, "chattr", "-p", "4242", dir+"/f")
			command(t, "chattr", "-p", "7", dir+"/d")
			command(t, "chattr", "+P", dir+"/d")
		}, func(t testing.TB, dir string) {
			command(t, "chattr", "-p", "1", dir+"/f")
			must(t, os.Remove(dir+"/d/none"))
		}},
	} {
		t.Run(tt.fstype, func(t *testing.T) {
			mnt := mounted(t, tt.fstype)
			src, dest := mnt+"/src", mnt+"/dest"
			must(t, os.Mkdir(src, 0o755))
			tt.make(t, src)
			large := bytes.Repeat([]byte("0123456789abcdef"), 256<<10)
			must(t, os.WriteFile(src+"/large", large, 0o644))
			data := packOnce(t, src, defaultFeatures, nil)
			for i := range 3 {
				if i == 2 {
					tt.change(t, dest)
				}
				if _, problems := unpack(t, data, dest, &UnpackOptions{Delete: true, Strict: true}); len(problems) > 0 {
					t.Error(problems)
				}
				equal(t, packOnce(t, dest, defaultFeatures, nil), data)
			}
			shares(t, data, src, dest, mnt)
		})
	}
}

// shares changes a block of a large file, and has the rest of it shared: with what
// is there, or with another tree.
func shares(t *testing.T, data []byte, src, dest, mnt string) {
	t.Helper()
	for what, tt := range map[string]struct {
		dest string
		o    UnpackOptions
		want int64
	}{
		"what is there": {dest, UnpackOptions{}, 4<<20 - 4096},
		"a basis":       {mnt + "/new", UnpackOptions{Basis: []string{t.TempDir(), src}}, 4<<20 - 4096},
		"no":            {mnt + "/no", UnpackOptions{Basis: []string{src}, NoReflink: true}, 0},
	} {
		must(t, writeAt(src+"/large", 1<<20+5))
		if what == "what is there" {
			must(t, writeAt(dest+"/large", 1<<20+5), writeAt(src+"/large", 1<<20+5))
		}
		stats, _ := unpack(t, data, tt.dest, &tt.o)
		if stats.Shared != tt.want {
			t.Errorf("%s: %d bytes are shared, want %d", what, stats.Shared, tt.want)
		}
		if what != "what is there" {
			must(t, writeAt(src+"/large", 1<<20+5))
		}
		if !bytes.Equal(read(t, tt.dest+"/large"), read(t, src+"/large")) {
			t.Errorf("%s: other content", what)
		}
	}
}

// TestUnpackPoor extracts to a file system that has no attributes: what it lacks is
// told, and the rest is there.
func TestUnpackPoor(t *testing.T) {
	testneed.Root(t)
	mnt := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(mnt, 0o755))
	if err := unix.Mount("ramfs", mnt, "ramfs", 0, ""); err != nil {
		testneed.Missing(t, "needs to mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(mnt, 0)) })
	src := sample(t)
	data := packOnce(t, src, defaultFeatures, nil)
	for range 2 {
		stats, problems := unpack(t, data, mnt+"/x", nil)
		what := map[string]int{}
		for _, p := range problems {
			what[p.What]++
		}
		if what["attribute user.a"] != 1 || what["attribute user.dir"] != 1 || what["attribute user.f"] != 1 || len(what) != 3 || stats.Files != 205 {
			t.Errorf("%+v, %v", stats, what)
		}
		const f = archive.Unix | archive.SHA512256
		equal(t, packOnce(t, mnt+"/x", f, nil), packOnce(t, src, f, nil))
	}
	_, _, err := tryUnpack(t, data, mnt+"/strict", &UnpackOptions{Strict: true})
	if err == nil || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "attribute user.") {
		t.Errorf("strict: got %v", err)
	}
}

// TestUnpackFull ends with an error when there is no space left.
func TestUnpackFull(t *testing.T) {
	testneed.Root(t)
	mnt := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(mnt, 0o755))
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=2m"); err != nil {
		testneed.Missing(t, "needs to mount: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(mnt, 0)) })
	data := packOnce(t, sample(t), defaultFeatures, nil)
	for range 2 {
		if _, _, err := tryUnpack(t, data, mnt+"/x", nil); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v", err)
		}
	}
}

// TestUnpackMask restores only some of what an archive has.
func TestUnpackMask(t *testing.T) {
	testneed.Root(t)
	src := sample(t)
	must(t, os.Lchown(src+"/d/x", 7, 7), unix.Setxattr(src+"/d/x", "trusted.x", nil, 0), unix.Chmod(src+"/d", 0o2750))
	full := packOnce(t, src, defaultFeatures, nil)
	for _, f := range []archive.Features{
		archive.NSecTime, archive.SecTime, archive.Permissions, archive.ReadOnly, archive.UID32, archive.UserNames, archive.Symlinks, archive.FIFOs,
		archive.XAttrs, archive.Permissions | archive.UID32 | archive.NSecTime, archive.ACLs,
	} {
		t.Run(f.String(), func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), "x")
			must(t, os.MkdirAll(dest+"/d", 0o755), os.Symlink("mine", dest+"/link"))
			if _, problems := unpack(t, full, dest, &UnpackOptions{Mask: f, Delete: true}); len(problems) > 0 {
				t.Error(problems)
			}
			if !f.Has(archive.Symlinks) {
				if s, err := os.Readlink(dest + "/link"); err != nil || s != "mine" {
					t.Errorf("the link that was not to be restored: %q, %v", s, err)
				}
			}
			g := (f | archive.SHA512256).Normalize()
			equal(t, packOnce(t, dest, g, nil), packOnce(t, src, g, nil))
		})
	}
}

// TestUnpackOwners shifts the numbers of owners, and finds them by name.
func TestUnpackOwners(t *testing.T) {
	testneed.Root(t)
	src := t.TempDir()
	ids := []int{0, 1, 2, 70000, 131072, 65536}
	for i, id := range ids {
		name := src + "/" + string(rune('a'+i))
		must(t, os.WriteFile(name, nil, 0o644), os.Lchown(name, id, id))
	}
	both := packOnce(t, src, archive.UID32|archive.UserNames, nil)
	if _, problems := unpack(t, both, t.TempDir()+"/x", &UnpackOptions{Mask: archive.UserNames}); len(problems) != 3 || problems[0].Err != errUnknownName {
		t.Errorf("owners without names: %v", problems)
	}
	for _, tt := range []struct {
		f           archive.Features
		shift, size uint32
		want        []uint32
		problem     error
	}{
		{archive.UID32, 0, 0, []uint32{0, 1, 2, 70000, 131072, 65536}, nil},
		{archive.UID32, 100000, 65536, []uint32{100000, 100001, 100002, 104464, 100000, 100000}, nil},
		{archive.UID32 | archive.UserNames, 100000, 65536, []uint32{100000, 1, 2, 104464, 100000, 100000}, nil},
		{archive.UserNames, 0, 0, []uint32{0, 1, 2, 70000, 131072, 65536}, nil},
		{archive.UID32, 1<<32 - 65536, 0, []uint32{4294901760, 4294901761, 4294901762, 0, 0, 0}, errNoID},
	} {
		data := packOnce(t, src, tt.f, nil)
		dest := t.TempDir() + "/x"
		_, problems := unpack(t, data, dest, &UnpackOptions{UIDShift: tt.shift, UIDRange: tt.size})
		var got []uint32
		for i := range ids {
			var st unix.Stat_t
			must(t, unix.Stat(dest+"/"+string(rune('a'+i)), &st))
			got = append(got, st.Uid)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v, %d, %d: got %d, want %d", tt.f, tt.shift, tt.size, got, tt.want)
		}
		for _, p := range problems {
			if !errors.Is(p.Err, tt.problem) {
				t.Errorf("%v", &p)
			}
		}
	}
}

// TestUnpackTwice runs two at once for a directory: the second is refused.
func TestUnpackTwice(t *testing.T) {
	data := manyFiles(t, 100)
	dest := t.TempDir() + "/x"
	refused := 0
	o := &UnpackOptions{NoSync: true, Progress: func(s UnpackStats) {
		if s.Nodes == 50 {
			_, err := Unpack(t.Context(), archive.NewReader(bytes.NewReader(data)), dest, &UnpackOptions{NoSync: true})
			if err != nil && strings.Contains(err.Error(), "another extraction is under way") {
				refused++
			}
		}
	}}
	_, err := Unpack(t.Context(), archive.NewReader(bytes.NewReader(data)), dest, o)
	must(t, err)
	if refused == 0 {
		t.Error("not refused")
	}
	o.Progress, o.NoSync = nil, false
	_, err = Unpack(t.Context(), archive.NewReader(bytes.NewReader(data)), dest, o)
	must(t, err)
}
