package tarfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/castorsync/castor/archive"
)

// formatACL returns the text of a list as GNU tar writes it, a line an entry. As star
// does, it adds the number to an entry that has a name, if there are numbers:
// user:lisa:rw-:1001.
func formatACL(d *archive.DefaultACL, numbers bool) string {
	var b strings.Builder
	part := func(tag string, perm archive.ACLPerm, entries []archive.ACLEntry) {
		fmt.Fprintf(&b, "%s::%s\n", tag, formatPerm(perm))
		for _, e := range entries {
			fmt.Fprintf(&b, "%s:%s\n", tag, formatACLEntry(e, numbers))
		}
	}
	part("user", d.UserObj, d.Users)
	part("group", d.GroupObj, d.Groups)
	if d.Mask != archive.NoMask {
		part("mask", d.Mask, nil)
	}
	part("other", d.Other, nil)
	return b.String()
}

func formatACLEntry(e archive.ACLEntry, numbers bool) string {
	switch {
	case numbers && e.Name == "":
		return fmt.Sprintf("%d:%s", e.ID, formatPerm(e.Perm))
	case numbers:
		return fmt.Sprintf("%s:%s:%d", quoteName(e.Name), formatPerm(e.Perm), e.ID)
	case e.Name == "":
		return "root:" + formatPerm(e.Perm) // whose name is never stored
	}
	return quoteName(e.Name) + ":" + formatPerm(e.Perm)
}

func formatPerm(p archive.ACLPerm) string {
	b := []byte("rwx")
	for i := range b {
		if p>>(2-i)&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}

// quoteName writes what separates fields and entries as libacl does, as octal numbers
// behind a backslash.
func quoteName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; strings.IndexByte(":,# \t\n\r\\", c) >= 0 {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unquoteName(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return strings.Clone(s) // of a text that is not kept
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// aclEntry is a named entry as a text has it. Id is -1 if the text has a name alone.
type aclEntry struct {
	name string // "" if the text has a number alone
	id   int64
}

// parseACL parses a list in the text form of GNU tar, star and libarchive. Resolve
// completes its entries. It returns nil for an empty text.
func parseACL(text string, resolve func(e aclEntry, group bool) (archive.ACLEntry, error)) (*archive.DefaultACL, error) {
	p := &aclParser{d: &archive.DefaultACL{Mask: archive.NoMask}, seen: map[string]bool{}, resolve: resolve}
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line, _, _ = strings.Cut(line, "#") // what it comes to, as a comment
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("%.100q: %w", line, err)
		}
	}
	named := len(p.d.Users)+len(p.d.Groups) > 0
	switch {
	case len(p.seen) == 0 && !named:
		return nil, nil
	case !p.seen["user"] || !p.seen["group"] || !p.seen["other"]:
		return nil, errors.New("want entries for the owner, the group and others")
	case named && !p.seen["mask"]:
		return nil, errors.New("users or groups, but no mask")
	}
	return p.d, nil
}

type aclParser struct {
	d       *archive.DefaultACL
	seen    map[string]bool // tags with an entry that names nobody
	resolve func(e aclEntry, group bool) (archive.ACLEntry, error)
}

// line takes in one entry.
func (p *aclParser) line(line string) error {
	fields := strings.Split(strings.TrimPrefix(line, "default:"), ":")
	perm, who, err := parseACLEntry(fields)
	if err != nil {
		return err
	}
	var one *archive.ACLPerm
	var list *[]archive.ACLEntry
	tag := fields[0]
	switch tag {
	case "user", "u":
		tag, one, list = "user", &p.d.UserObj, &p.d.Users
	case "group", "g":
		tag, one, list = "group", &p.d.GroupObj, &p.d.Groups
	case "mask", "m":
		tag, one = "mask", &p.d.Mask
	case "other", "o":
		tag, one = "other", &p.d.Other
	default:
		return errors.New("want user, group, mask or other")
	}
	switch {
	case who == nil && p.seen[tag]:
		return errors.New("a second time")
	case who == nil:
		p.seen[tag], *one = true, perm
		return nil
	case list == nil:
		return errors.New("this takes no name")
	}
	e, err := p.resolve(*who, tag == "group")
	if err != nil {
		return err
	}
	e.Perm = perm
	*list = append(*list, e)
	return nil
}

// parseACLEntry parses TAG:WHO:PERMISSIONS, or with :NUMBER behind it. Who is nil
// where the entry names nobody.
func parseACLEntry(fields []string) (perm archive.ACLPerm, who *aclEntry, err error) {
	if len(fields) == 2 && (fields[0] == "other" || fields[0] == "mask") {
		fields = []string{fields[0], "", fields[1]} // as Solaris has it
	}
	if len(fields) != 3 && len(fields) != 4 {
		return 0, nil, errors.New("want TAG:NAME:PERMISSIONS")
	}
	if perm, err = parsePerm(fields[2]); err != nil {
		return 0, nil, err
	}
	if fields[1] == "" {
		return perm, nil, nil
	}
	number := func(s string) (int64, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		return int64(n), err
	}
	who = &aclEntry{id: -1}
	if n, err := number(fields[1]); err == nil {
		who.id = n
		return perm, who, nil
	}
	who.name = unquoteName(fields[1])
	if len(fields) == 4 {
		if who.id, err = number(fields[3]); err != nil {
			return 0, nil, err
		}
	}
	return perm, who, nil
}

func parsePerm(s string) (p archive.ACLPerm, err error) {
	for i := range len(s) {
		switch s[i] {
		case 'r':
			p |= 4
		case 'w':
			p |= 2
		case 'x':
			p |= 1
		case '-':
		default:
			return 0, fmt.Errorf("permissions %.10q", s)
		}
	}
	return p, nil
}
