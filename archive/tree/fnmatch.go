package tree

import "strings"

// fnmatch says whether name matches the glob pattern as POSIX defines it, byte by
// byte as in the C locale: * ? [set] and \ to escape. A leading dot of the name is
// matched by a dot only. It takes time in proportion to the product of the lengths
// at most.
func fnmatch(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && !strings.HasPrefix(strings.TrimPrefix(pattern, `\`), ".") {
		return false
	}
	p, n := 0, 0
	star, mark := -1, 0 // where to go on after the latest *, and from where in name
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p+1, n
			p++
			continue
		}
		if used := matchOne(pattern[p:], name[n]); used > 0 {
			p += used
			n++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne returns how many bytes of the pattern match the byte c, 0 if they do
// not.
func matchOne(pattern string, c byte) int {
	if pattern == "" {
		return 0
	}
	switch pattern[0] {
	case '?':
		return 1
	case '\\':
		if len(pattern) > 1 && pattern[1] == c {
			return 2
		}
		return 0
	case '[':
		if match, used, ok := matchSet(pattern, c); ok {
			if match {
				return used
			}
			return 0
		}
	}
	if pattern[0] == c {
		return 1
	}
	return 0
}

// matchSet says whether c is in the set [...] that pattern begins with, and how
// long the set is. If it has no end it is no set.
func matchSet(pattern string, c byte) (match bool, used int, ok bool) {
	i := 1
	negated := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negated {
		i++
	}
	for first := true; ; first = false {
		if i >= len(pattern) {
			return false, 0, false
		}
		if pattern[i] == ']' && !first {
			return match != negated, i + 1, true
		}
		if class, size := className(pattern[i:]); size > 0 {
			in, known := inClass(class, c)
			if !known {
				return false, 0, false
			}
			match = match || in
			i += size
			continue
		}
		lo, size := setByte(pattern[i:])
		if size == 0 {
			return false, 0, false
		}
		i += size
		hi := lo
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			if hi, size = setByte(pattern[i+1:]); size == 0 {
				return false, 0, false
			}
			i += 1 + size
		}
		match = match || lo <= c && c <= hi
	}
}

// setByte returns the byte that s, inside a set, begins with, and how long it is
// written.
func setByte(s string) (c byte, size int) {
	switch {
	case len(s) >= 5 && (s[:2] == "[." && s[3:5] == ".]" || s[:2] == "[=" && s[3:5] == "=]"):
		return s[2], 5
	case s[0] == '\\' && len(s) > 1:
		return s[1], 2
	case s[0] == '\\':
		return 0, 0
	}
	return s[0], 1
}

// className returns the name in the [:name:] that s begins with.
func className(s string) (name string, size int) {
	rest, ok := strings.CutPrefix(s, "[:")
	if !ok {
		return "", 0
	}
	name, _, ok = strings.Cut(rest, ":]")
	if !ok {
		return "", 0
	}
	for i := range len(name) {
		if name[i] < 'a' || name[i] > 'z' {
			return "", 0
		}
	}
	return name, len(name) + 4
}

func inClass(class string, c byte) (in, known bool) {
	lower, upper, digit := c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9'
	switch class {
	case "lower":
		return lower, true
	case "upper":
		return upper, true
	case "digit":
		return digit, true
	case "alpha":
		return lower || upper, true
	case "alnum":
		return lower || upper || digit, true
	case "xdigit":
		return digit || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F', true
	case "blank":
		return c == ' ' || c == '\t', true
	case "space":
		return c == ' ' || c >= '\t' && c <= '\r', true
	case "cntrl":
		return c < ' ' || c == 0x7f, true
	case "print":
		return c >= ' ' && c < 0x7f, true
	case "graph":
		return c > ' ' && c < 0x7f, true
	case "punct":
		return c > ' ' && c < 0x7f && !lower && !upper && !digit, true
	}
	return false, false
}
