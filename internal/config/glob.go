package config

import (
	"net/url"
	"strings"
)

// Normal returns the form of a URL in which patterns are compared with it: scheme and
// host in small letters, and without user, query, fragment and a slash at the end. What
// is no URL, such as a path, only loses that slash.
func Normal(loc string) string {
	scheme, rest, ok := strings.Cut(loc, "://")
	if ok {
		rest, _, _ = strings.Cut(rest, "?")
		rest, _, _ = strings.Cut(rest, "#")
		host, path, _ := strings.Cut(rest, "/")
		host = host[strings.LastIndexByte(host, '@')+1:]
		loc = strings.ToLower(scheme) + "://" + strings.ToLower(host)
		if unescaped, err := url.PathUnescape(path); err == nil {
			path = unescaped
		}
		if path != "" {
			loc += "/" + path
		}
	}
	if trimmed := strings.TrimRight(loc, "/"); trimmed != "" && !strings.HasSuffix(trimmed, ":") {
		return trimmed
	}
	return loc
}

// match reports whether a URL in normal form fits a pattern, in which * stands for any
// characters, slashes included, and ? for any one. A pattern that ends in /* also fits
// what is before that.
func match(pattern, url string) bool {
	if before, ok := strings.CutSuffix(pattern, "/*"); ok && glob(before, url) {
		return true
	}
	return glob(pattern, url)
}

// glob takes time in proportion to the product of the lengths at most: of all the stars,
// only the last one that was met needs to be tried with more.
func glob(pattern, s string) bool {
	p, i := 0, 0
	star, at := -1, 0 // the last star, and where in s it ended
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, at = p, i
			p++
		case p < len(pattern) && (pattern[p] == s[i] || pattern[p] == '?'):
			p++
			i++
		case star >= 0:
			at++
			p, i = star+1, at
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
