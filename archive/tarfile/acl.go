package tarfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/castorsync/castor/archive"
)

// formatACL returns the text of a list as GNU tar writes it, a line an entry. As star
// does, it adds the number to an entry that has a name: user:lisa:rw-:1001. Features
// say whether there are numbers.
func formatACL(d *archive.DefaultACL, numbers bool) string {
	var b strings.Builder
	line := func(tag, who string, p archive.ACLPerm) {
		fmt.Fprintf(&b, "%s:%s:%s", tag, who, formatPerm(p))
	}
	list := func(tag string, entries []archive.ACLEntry) {
		for _, e := range entries {
			name := e.Name
			if name == "" && !numbers {
				name = "root" // which is never stored
			}
			if name == "" {
				line(tag, strconv.FormatUint(uint64(e.ID), 10), e.Perm)
			} else {
				line(tag, quoteName(name), e.Perm)
				if numbers {
					fmt.Fprintf(&b, ":%d", e.ID)
				}
			}
			b.WriteByte('\n')
		}
	}
	line("user", "", d.UserObj)
	b.WriteByte('\n')
	list("user", d.Users)
	line("group", "", d.GroupObj)
	b.WriteByte('\n')
	list("group", d.Groups)
	if d.Mask != archive.NoMask {
		line("mask", "", d.Mask)
		b.WriteByte('\n')
	}
	line("other", "", d.Other)
	b.WriteByte('\n')
	return b.String()
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
	d := &archive.DefaultACL{Mask: archive.NoMask}
	const userObj, groupObj, other, mask = 1, 2, 4, 8
	seen := 0
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		fields := strings.Split(strings.TrimPrefix(line, "default:"), ":")
		perm, e, err := parseACLEntry(fields)
		if err != nil {
			return nil, fmt.Errorf("%.100q: %w", line, err)
		}
		tag, part := fields[0], 0
		var set *archive.ACLPerm
		var list *[]archive.ACLEntry
		switch tag {
		case "user", "u":
			part, set, list = userObj, &d.UserObj, &d.Users
		case "group", "g":
			part, set, list = groupObj, &d.GroupObj, &d.Groups
		case "mask", "m":
			part, set = mask, &d.Mask
		case "other", "o":
			part, set = other, &d.Other
		default:
			return nil, fmt.Errorf("%.100q: want user, group, mask or other", line)
		}
		switch {
		case e == nil && seen&part != 0:
			return nil, fmt.Errorf("%.100q: a second time", line)
		case e == nil:
			seen |= part
			*set = perm
		case list == nil:
			return nil, fmt.Errorf("%.100q: this takes no name", line)
		default:
			entry, err := resolve(*e, part == groupObj)
			if err != nil {
				return nil, fmt.Errorf("%.100q: %w", line, err)
			}
			entry.Perm = perm
			*list = append(*list, entry)
		}
	}
	switch {
	case seen == 0 && len(d.Users)+len(d.Groups) == 0:
		return nil, nil
	case seen&(userObj|groupObj|other) != userObj|groupObj|other:
		return nil, errors.New("want entries for the owner, the group and others")
	case d.Mask == archive.NoMask && len(d.Users)+len(d.Groups) > 0:
		return nil, errors.New("users or groups, but no mask")
	}
	return d, nil
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
