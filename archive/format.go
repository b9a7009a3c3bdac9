package archive

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Escape returns s as lists of casync show it: white space, control characters,
// all that is not ASCII, backslash and # are octal numbers behind a backslash.
func Escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Printable returns s as messages show it: what could play tricks on a terminal, and bytes
// that are not UTF-8, become octal numbers behind a backslash, everything else stays.
func Printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || !unicode.IsPrint(r) {
			for i := range n {
				fmt.Fprintf(&b, `\%03o`, s[i])
			}
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// showPath returns a path as it is listed.
func showPath(path string) string {
	if path == "" {
		return "."
	}
	return Escape(path)
}

// ModeString returns a mode as ls shows it, but the sticky bit of directories
// only.
func ModeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[1+i] = '-'
		}
	}
	switch mode & TypeMask {
	case TypeRegular:
		b[0] = '-'
	case TypeDir:
		b[0] = 'd'
	case TypeSymlink:
		b[0] = 'l'
	case TypeBlock:
		b[0] = 'b'
	case TypeChar:
		b[0] = 'c'
	case TypeFIFO:
		b[0] = 'p'
	case TypeSocket:
		b[0] = 's'
	}
	special := func(bit uint32, at int, with, without byte) {
		switch {
		case mode&bit == 0:
		case b[at] == '-':
			b[at] = without
		default:
			b[at] = with
		}
	}
	special(0o4000, 3, 's', 'S')
	special(0o2000, 6, 's', 'S')
	if mode&TypeMask == TypeDir {
		special(0o1000, 9, 't', 'T')
	}
	return string(b)
}

// ListLine returns the line of casync's list for a node.
func ListLine(path string, n *Node) string { return ModeString(n.Mode) + " " + showPath(path) }

// Digest is a digest and its name as mtree files have it, such as "sha256". The
// zero value is none.
type Digest struct {
	Name string
	Sum  []byte
}

// MtreeLine returns the line of casync's mtree for a node of an archive with the
// features f. The digest is that of a regular file's content.
func MtreeLine(path string, n *Node, f Features, d Digest) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s type=%s mode=%04o", showPath(path), mtreeType(n), n.Perm())
	if n.IsRegular() {
		fmt.Fprintf(&b, " size=%d", n.Size)
	}
	if n.IsSymlink() {
		fmt.Fprintf(&b, " link=%s", Escape(n.Target))
	}
	if n.IsDevice() {
		fmt.Fprintf(&b, " device=linux,%d,%d", n.Major, n.Minor)
	}
	if f.Any(uids) {
		fmt.Fprintf(&b, " uid=%d gid=%d", n.UID, n.GID)
	}
	if name := f.ownerName(n.User, n.UID); name != "" {
		fmt.Fprintf(&b, " uname=%s", Escape(name))
	}
	if name := f.ownerName(n.Group, n.GID); name != "" {
		fmt.Fprintf(&b, " gname=%s", Escape(name))
	}
	b.WriteString(mtreeFlags(n, f))
	if f.Any(times) {
		fmt.Fprintf(&b, " time=%s", mtreeTime(n.MTime))
	}
	if n.IsRegular() && d.Sum != nil {
		fmt.Fprintf(&b, " %sdigest=%x", d.Name, d.Sum)
	}
	return b.String()
}

// ownerName returns the name of a user or group: that which is stored, or root's,
// which never is.
func (f Features) ownerName(stored string, id uint32) string {
	if stored == "" && f.Has(UserNames) && id == 0 {
		return "root"
	}
	return stored
}

func mtreeType(n *Node) string {
	switch n.Type() {
	case TypeSymlink:
		return "link"
	case TypeDir:
		return "dir"
	case TypeSocket:
		return "socket"
	case TypeChar:
		return "char"
	case TypeBlock:
		return "block"
	case TypeFIFO:
		return "fifo"
	}
	return "file"
}

// mtreeFlags says of each attribute that mtree knows and f keeps whether it is
// set. As casync does, it calls all set on nodes that have no attributes, such as
// symlinks.
func mtreeFlags(n *Node, f Features) string {
	var list []string
	for _, a := range []struct {
		f    Features
		name string
	}{
		{FlagHidden, "hidden"},
		{FlagSystem, "system"},
		{FlagArchive, "archive"},
		{FlagAppend, "sappend"},
		{FlagNoDump, "nodump"},
		{FlagImmutable, "simmutable"},
	} {
		switch {
		case !f.Has(a.f):
		case n.Flags.Has(a.f) || !n.IsRegular() && !n.IsDir():
			list = append(list, a.name)
		default:
			list = append(list, "no"+a.name)
		}
	}
	if list == nil {
		return ""
	}
	return " flags=" + strings.Join(list, ",")
}

// mtreeTime returns seconds since 1970 as a decimal number.
func mtreeTime(ns int64) string {
	sign, abs := "", uint64(ns)
	if ns < 0 {
		sign, abs = "-", -abs
	}
	return fmt.Sprintf("%s%d.%09d", sign, abs/1e9, abs%1e9)
}

// Stat is what [Stat.Text] says about a node besides its metadata.
type Stat struct {
	Features Features
	Offset   int64          // of the ENTRY record
	Zone     *time.Location // for times; nil is UTC
	Content  []byte         // digest of a regular file's content; nil is not shown
	Records  []byte         // digest of all records of a node that is no directory; nil is not shown
}

// Text returns the lines of casync's stat for a node.
func (s *Stat) Text(path string, n *Node) string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%8s: "+format+"\n", append([]any{label}, args...)...)
	}
	f := s.Features
	line("File", "%s", showPath(path))
	line("Mode", "%s", ModeString(n.Mode))
	if n.IsRegular() || n.IsDir() {
		line("FileAttr", "%s", flagLetters(n, "SDiadAcNCP", FlagSync, FlagDirSync, FlagImmutable, FlagAppend, FlagNoDump,
			FlagNoATime, FlagCompr, FlagNoComp, FlagNoCOW, FlagProjInherit))
		line("FATAttr", "%s", flagLetters(n, "hsa", FlagHidden, FlagSystem, FlagArchive))
	}
	line("Offset", "%d", s.Offset)
	if f.Any(times) {
		t := n.Time()
		if s.Zone != nil {
			t = t.In(s.Zone)
		}
		line("Time", "%s", t.Format("2006-01-02 15:04:05.000000000"))
	}
	if n.IsRegular() {
		line("Size", "%d", n.Size)
	}
	f.owner(line, "User", n.User, n.UID)
	f.owner(line, "Group", n.Group, n.GID)
	if n.ProjectID != 0 {
		line("ProjID", "%d", n.ProjectID)
	}
	if n.IsSymlink() {
		line("Target", "%s", Escape(n.Target))
	}
	if n.IsDevice() {
		line("Device", "%d:%d", n.Major, n.Minor)
	}
	for _, x := range n.XAttrs {
		line("XAttr", "%s → %s", Escape(x.Name), Escape(string(x.Value)))
	}
	if n.IsRegular() && s.Content != nil {
		line("Digest", "%s", hex.EncodeToString(s.Content))
	}
	if !n.IsDir() && s.Records != nil {
		line("HLDigest", "%s", hex.EncodeToString(s.Records))
	}
	return b.String()
}

// owner writes the line of an owner by name and number, as far as f keeps them.
func (f Features) owner(line func(label, format string, args ...any), label, stored string, id uint32) {
	name := Escape(f.ownerName(stored, id))
	switch {
	case f.Any(uids) && name != "":
		line(label, "%s (%d)", name, id)
	case f.Any(uids):
		line(label, "%d", id)
	case name != "":
		line(label, "%s", name)
	}
}

// flagLetters returns the letters of the flags that are set, and - for each that
// is not.
func flagLetters(n *Node, letters string, flags ...Features) string {
	b := []byte(letters)
	for i, f := range flags {
		if !n.Flags.Has(f) {
			b[i] = '-'
		}
	}
	return string(b)
}
