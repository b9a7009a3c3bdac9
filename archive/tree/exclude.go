package tree

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// excludeFile is the name of the files with patterns, as casync has it.
	excludeFile = ".caexclude"
	// maxExcludeFile is their greatest size in bytes.
	maxExcludeFile = 1 << 20
)

// rule is one pattern of what to leave out, or what is left of it in a directory
// below the one it was given for.
type rule struct {
	negative bool
	dirOnly  bool     // matches directories only
	anywhere bool     // applies to all directories below as well; has one part
	parts    []string // globs of the names on the path, at least one
}

// parseRule parses a pattern: with a slash in it, it is a path from the directory
// it is given for, otherwise a name anywhere below. A slash at the end makes it
// match directories only, an exclamation mark in front what is kept in any case.
func parseRule(s string) (rule, error) {
	s, negative := strings.CutPrefix(s, "!")
	r := rule{negative: negative, anywhere: !strings.Contains(s, "/"), dirOnly: strings.HasSuffix(s, "/")}
	for part := range strings.SplitSeq(s, "/") {
		switch part {
		case "":
			continue // slashes count as one
		case ".", "..":
			return rule{}, fmt.Errorf("pattern %.256q has the name %q in it", s, part)
		}
		r.parts = append(r.parts, part)
	}
	if r.parts == nil {
		return rule{}, errors.New("pattern without a name")
	}
	return r, nil
}

// parseRules parses the text of an exclude file: a pattern a line; empty lines and
// those that begin with # say nothing.
func parseRules(text string) ([]rule, error) {
	var rules []rule
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line = strings.Trim(line, " \t") // casync keeps a carriage return, too
		if line == "" || line[0] == '#' {
			continue
		}
		if strings.IndexByte(line, 0) >= 0 {
			return nil, fmt.Errorf("line %d: pattern with a zero byte", n)
		}
		r, err := parseRule(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// exclude applies the rules of a directory to a name in it. It returns whether the
// name is left out and, for a directory, the rules that apply inside. What one rule
// keeps no other leaves out, wherever either comes from.
func exclude(rules []rule, name string, dir bool) (out bool, inside []rule) {
	kept := false
	for _, r := range rules {
		if r.anywhere && dir {
			inside = append(inside, r)
		}
		last := len(r.parts) == 1
		if !dir && (r.dirOnly || !last) || !fnmatch(r.parts[0], name) {
			continue
		}
		switch {
		case !last:
			r.parts = r.parts[1:]
			inside = append(inside, r)
		case r.negative:
			kept = true
		default:
			out = true
		}
	}
	return out && !kept, inside
}
