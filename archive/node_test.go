package archive

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"
)

// rich returns a node of a type with all that it may have.
func rich(typ uint32) *Node {
	n := &Node{Mode: typ | 0o4751, UID: 1000, GID: 1001, MTime: 1500000001123456789, User: "ann", Group: "staff", SELinux: "a:b:c"}
	switch typ {
	case TypeSymlink:
		n.Mode, n.Target = typ|0o777, "to/x"
		return n
	case TypeBlock, TypeChar:
		n.Major, n.Minor = 7, 300
	case TypeRegular:
		n.FCaps, n.Size, n.ProjectID, n.Flags = []byte{1, 0, 0, 2}, 5, 42, FlagImmutable|FlagHidden
	case TypeDir:
		n.ProjectID, n.Flags = 7, Subvolume|FlagDirSync
		n.ACL.Default = &DefaultACL{UserObj: 7, GroupObj: 5, Mask: 7, Users: []ACLEntry{{ID: 2, Perm: 6}}, Groups: []ACLEntry{{ID: 4, Name: "adm", Perm: 4}}}
	}
	n.XAttrs = []XAttr{{"trusted.t", []byte("v")}, {"user.a", nil}, {"user.b", []byte{0, 255}}}
	n.ACL.Access = &AccessACL{GroupObj: 4, Users: []ACLEntry{{ID: 1, Name: "daemon", Perm: 7}, {ID: 12345, Perm: 1}}, Groups: []ACLEntry{{ID: 4, Name: "adm"}}}
	return n
}

var allTypes = []uint32{TypeRegular, TypeDir, TypeSymlink, TypeBlock, TypeChar, TypeFIFO, TypeSocket}

// typeNames are in the order of allTypes.
var typeNames = []string{"-file", "dir", "link", "wblock", "xchar", "yfifo", "zsocket"}

// richArchive returns an archive with a node of each type.
func richArchive(t testing.TB, f Features) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, f)
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, typ uint32) {
		n := rich(typ)
		f.Strip(n)
		if typ == TypeDir {
			err = w.Enter(name, n)
		} else {
			err = w.Add(name, n, strings.NewReader("hello"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	leave := func() {
		if err := w.Leave(); err != nil {
			t.Fatal(err)
		}
	}
	add("", TypeDir)
	for i, typ := range allTypes {
		if !f.Stores(typ) {
			continue
		}
		add(typeNames[i], typ)
		if typ == TypeDir {
			add("in", TypeRegular)
			leave()
		}
	}
	leave()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Whatever the features, what Strip leaves can be written, is read as it was, and
// is left alone by Strip.
func TestStrip(t *testing.T) {
	sets := []Features{0, Best, Unix, FAT, FUSE.Normalize(), Best | BLAKE3, (All &^ Privileged).Normalize(), UserNames, ACLs | UserNames, USecTime}
	for _, n := range selectable {
		sets = append(sets, n.f.Normalize())
	}
	for _, f := range sets {
		b := richArchive(t, f)
		nodes, err := readAll(b)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		walked, err := walkTree(b)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		equalFound(t, walked, nodes)
		for _, got := range nodes {
			want := rich(got.Node.Type())
			f.Strip(want)
			if !got.Node.Equal(want) {
				t.Errorf("%v, %s:\ngot  %+v\nwant %+v", f, got.Path, got.Node, want)
			}
			if f.Strip(want); !got.Node.Equal(want) {
				t.Errorf("%v, %s: stripped twice: %+v", f, got.Path, want)
			}
		}
		again, err := reencode(bytes.NewReader(b))
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v: written again: %d bytes, want %d; %v", f, len(again), len(b), err)
		}
	}
}

func TestEqual(t *testing.T) {
	for name, change := range map[string]func(n *Node){
		"mode":       func(n *Node) { n.Mode ^= 1 },
		"flags":      func(n *Node) { n.Flags ^= FlagSync },
		"xattr":      func(n *Node) { n.XAttrs[1].Value = []byte("x") },
		"acl":        func(n *Node) { n.ACL.Access.Users[0].Perm ^= 1 },
		"no acl":     func(n *Node) { n.ACL.Access = nil },
		"default":    func(n *Node) { n.ACL.Default.Mask = NoMask },
		"no default": func(n *Node) { n.ACL.Default = nil },
		"fcaps":      func(n *Node) { n.FCaps = []byte{1} },
	} {
		a, b := rich(TypeDir), rich(TypeDir)
		if !a.Equal(b) {
			t.Fatal("not equal")
		}
		if change(b); a.Equal(b) || b.Equal(a) {
			t.Errorf("%s: equal", name)
		}
	}
}

func TestFileMode(t *testing.T) {
	for mode, want := range map[uint32]fs.FileMode{
		TypeRegular | 0o4755: fs.ModeSetuid | 0o755,
		TypeDir | 0o3777:     fs.ModeDir | fs.ModeSetgid | fs.ModeSticky | 0o777,
		TypeSymlink | 0o777:  fs.ModeSymlink | 0o777,
		TypeChar | 0o600:     fs.ModeDevice | fs.ModeCharDevice | 0o600,
		TypeBlock | 0o600:    fs.ModeDevice | 0o600,
		TypeFIFO:             fs.ModeNamedPipe,
		TypeSocket:           fs.ModeSocket,
	} {
		if got := (&Node{Mode: mode}).FileMode(); got != want {
			t.Errorf("%#o: %v, want %v", mode, got, want)
		}
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{
		TypeRegular | 0o7777: "-rwsrwsrwx", // no sticky bit of files
		TypeRegular | 0o6644: "-rwSr-Sr--",
		TypeDir | 0o1776:     "drwxrwxrwT",
		TypeDir | 0o1777:     "drwxrwxrwt",
		TypeSocket:           "s---------",
		TypeChar | 0o123:     "c--x-w--wx",
	} {
		if got := ModeString(mode); got != want {
			t.Errorf("%#o: %s, want %s", mode, got, want)
		}
	}
}

// What neither a Writer takes nor a Reader.
func TestCheck(t *testing.T) {
	f := Best
	long := strings.Repeat("x", 256)
	for _, tt := range []struct {
		name   string
		f      Features
		typ    uint32
		change func(n *Node)
	}{
		{"unknown bits", f, TypeRegular, func(n *Node) { n.Mode |= 1 << 20 }},
		{"no type", f, TypeRegular, func(n *Node) { n.Mode &= 0o777 }},
		{"symlink's mode", f, TypeSymlink, func(n *Node) { n.Mode &^= 1 }},
		{"flags on fifo", f, TypeFIFO, func(n *Node) { n.Flags = FlagSync }},
		{"file as subvolume", f, TypeRegular, func(n *Node) { n.Flags = Subvolume }},
		{"other flag", f, TypeRegular, func(n *Node) { n.Flags = Symlinks }},
		{"uid 65535", f, TypeRegular, func(n *Node) { n.UID = 65535 }},
		{"gid 2^32-1", f, TypeRegular, func(n *Node) { n.GID = 1<<32 - 1 }},
		{"root by name", f, TypeRegular, func(n *Node) { n.User = "root" }},
		{"user with colon", f, TypeRegular, func(n *Node) { n.User = "a:b" }},
		{"long group", f, TypeRegular, func(n *Node) { n.Group = long }},
		{"xattr namespace", f, TypeRegular, func(n *Node) { n.XAttrs[0].Name = "security.selinux" }},
		{"xattr without name", f, TypeRegular, func(n *Node) { n.XAttrs[0].Name = "trusted." }},
		{"xattr NUL", f, TypeRegular, func(n *Node) { n.XAttrs[0].Name = "trusted.a\x00b" }},
		{"xattr long name", f, TypeRegular, func(n *Node) { n.XAttrs[0].Name = "trusted." + long }},
		{"xattr long value", f, TypeRegular, func(n *Node) { n.XAttrs[0].Value = make([]byte, MaxXAttrValue+1) }},
		{"xattr order", f, TypeRegular, func(n *Node) { n.XAttrs[0].Name = "user.c" }},
		{"xattr on symlink", f, TypeSymlink, func(n *Node) { n.XAttrs = []XAttr{{Name: "user.a"}} }},
		{"ACL on symlink", f, TypeSymlink, func(n *Node) { n.ACL.Access = &AccessACL{} }},
		{"ACL permissions", f, TypeRegular, func(n *Node) { n.ACL.Access.GroupObj = 8 }},
		{"ACL user permissions", f, TypeRegular, func(n *Node) { n.ACL.Access.Users[0].Perm = 8 }},
		{"ACL order", f, TypeRegular, func(n *Node) { n.ACL.Access.Users[0].ID = 12345 }},
		{"ACL number", f, TypeRegular, func(n *Node) { n.ACL.Access.Users[1].ID = 65535 }},
		{"ACL name", f, TypeRegular, func(n *Node) { n.ACL.Access.Users[1].Name = "root" }},
		{"default ACL of file", f, TypeRegular, func(n *Node) { n.ACL.Default = &DefaultACL{Mask: NoMask} }},
		{"default ACL without mask", f, TypeDir, func(n *Node) { n.ACL.Default.Mask = NoMask }},
		{"default ACL permissions", f, TypeDir, func(n *Node) { n.ACL.Default.Other = 9 }},
		{"long label", f, TypeRegular, func(n *Node) { n.SELinux = strings.Repeat("x", 4096) }},
		{"large capabilities", f, TypeRegular, func(n *Node) { n.FCaps = make([]byte, MaxFCaps+1) }},
		{"capabilities of fifo", f, TypeFIFO, func(n *Node) { n.FCaps = []byte{1} }},
		{"project of fifo", f, TypeFIFO, func(n *Node) { n.ProjectID = 1 }},
		{"no target", f, TypeSymlink, func(n *Node) { n.Target = "" }},
		{"long target", f, TypeSymlink, func(n *Node) { n.Target = strings.Repeat("x", 4096) }},
		{"target of file", f, TypeRegular, func(n *Node) { n.Target = "x" }},
		{"device of file", f, TypeRegular, func(n *Node) { n.Minor = 1 }},
		{"major", f, TypeBlock, func(n *Node) { n.Major = 4096 }},
		{"minor", f, TypeChar, func(n *Node) { n.Minor = 1 << 20 }},
		{"size of fifo", f, TypeFIFO, func(n *Node) { n.Size = 1 }},
		{"negative size", f, TypeRegular, func(n *Node) { n.Size = -1 }},
		{"16 bits", Unix, TypeRegular, func(n *Node) { n.UID = 70000 }},
		{"no numbers", SecTime, TypeRegular, func(n *Node) { n.GID = 1 }},
		{"no names", Unix, TypeRegular, func(n *Node) { n.User = "ann" }},
		{"no xattrs", Unix, TypeRegular, func(n *Node) { n.XAttrs = []XAttr{{Name: "user.a"}} }},
		{"no label", Unix, TypeRegular, func(n *Node) { n.SELinux = "x" }},
		{"mode without permissions", SecTime, TypeRegular, func(n *Node) { n.Mode ^= 1 }},
		{"time not rounded", Unix, TypeRegular, func(n *Node) { n.MTime++ }},
		{"no time", UID16, TypeRegular, func(n *Node) { n.MTime = 1 }},
		{"reserved time", f, TypeRegular, func(n *Node) { n.MTime = -1 }},
	} {
		n := rich(tt.typ)
		tt.f.Strip(n)
		if err := tt.f.check(n); err != nil {
			t.Fatalf("%s: %v before the change", tt.name, err)
		}
		tt.change(n)
		if err := tt.f.check(n); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
		// A reader must not take it either, if it can be written at all.
		var got Features
		read, err := readNode(&NewReader(bytes.NewReader(tt.f.appendNode(nil, n))).src, &got, true)
		if err == nil && read.Equal(n) {
			t.Errorf("%s: was read", tt.name)
		}
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"", ".", "..", "a/b", "/", "a\x00", strings.Repeat("x", 256)} {
		if checkName(s) == nil {
			t.Errorf("%q: no error", s)
		}
	}
	for _, s := range []string{"...", " ", "\xff", "\n", strings.Repeat("x", 255)} {
		if err := checkName(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The vectors of the authors of SipHash: of 0, 1, 2, … under the key 0 to 15.
func TestSipHash(t *testing.T) {
	const k0, k1 = 0x0706050403020100, 0x0f0e0d0c0b0a0908
	in := make([]byte, 16)
	for i := range in {
		in[i] = byte(i)
	}
	for n, want := range []uint64{
		0x726fdb47dd0e0e31, 0x74f839c593dc67fd, 0x0d6c8009d9a94f5a, 0x85676696d7fb7e2d,
		0xcf2794e0277187b7, 0x18765564cd99a68d, 0xcbc9466e58fee3ce, 0xab0200f58b01d137,
		0x93f5f5799a932462, 0x9e0082df0ba9e4b0, 0x7a5dbbc594ddb9f3, 0xf4b32f46226bada7,
		0x751e8fbc860ee5fb, 0x14ea5627c0843d90, 0xf723ca908e7af2ee, 0xa129ca6149be45e5,
	} {
		if got := sipHash(k0, k1, string(in[:n])); got != want {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}

// The places of a table are a search tree, complete from the left.
func TestTreeRank(t *testing.T) {
	for n := range 300 {
		seen := make([]bool, n)
		for i := range n {
			r := treeRank(i, n)
			if r < 0 || r >= n || seen[r] {
				t.Fatalf("place %d of %d: %d", i, n, r)
			}
			seen[r] = true
			if l := 2*i + 1; l < n && treeRank(l, n) >= r {
				t.Fatalf("place %d of %d: not greater than what is left of it", i, n)
			}
			if l := 2*i + 2; l < n && treeRank(l, n) <= r {
				t.Fatalf("place %d of %d: not less than what is right of it", i, n)
			}
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", ""},
		{"plain name #1", "plain name #1"},
		{"größe.txt", "größe.txt"},
		{"a\x1b[31mb\r\n", `a\033[31mb\015\012`},
		{"\xff\xfe", `\377\376`},
		{"c1 \u009b", `c1 \302\233`},
		{"bidi \u202e", `bidi \342\200\256`},
	} {
		if got := Printable(tt.s); got != tt.want {
			t.Errorf("Printable(%q) = %q, want %q", tt.s, got, tt.want)
		}
	}
}
