package remote

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/castorsync/castor/internal/sshexec"
)

// Location is a path on another host.
type Location struct {
	Host sshexec.Host
	Path string // relative ones begin where the user's shell there does
}

// Is reports whether s is of one of the forms that [ParseLocation] parses, well-formed
// or not.
func Is(s string) bool {
	if strings.HasPrefix(s, "ssh://") {
		return true
	}
	_, _, ok := cutHost(s)
	return ok
}

// ParseLocation parses ssh://[user@]host[:port]/path and, as casync has it,
// [user@]host:path. In the first form ~ as the first element of the path is the home
// directory of the user, and %xx stands for a byte.
func ParseLocation(s string) (l Location, err error) {
	if rest, ok := strings.CutPrefix(s, "ssh://"); ok {
		l, err = parseURL(rest)
	} else if host, file, ok := cutHost(s); ok {
		l.Host, err = sshexec.ParseHost(host)
		l.Path = file
	} else {
		err = errors.New("want ssh://[user@]host[:port]/path or host:path")
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return Location{}, fmt.Errorf("%s: %w", redact(s), err)
	}
	return l, nil
}

func parseURL(s string) (l Location, err error) {
	host, file, ok := strings.Cut(s, "/")
	if !ok {
		return l, errors.New("no path")
	}
	if user, _, ok := strings.Cut(host, "@"); ok && strings.Contains(user, ":") {
		return l, errors.New("a password in a URL is not used: ssh asks for it, or takes keys")
	}
	if strings.ContainsAny(file, "?#") {
		return l, errors.New("? and # must be written as %3F and %23")
	}
	if host, err = url.PathUnescape(host); err != nil {
		return l, err
	}
	if l.Host, err = sshexec.ParseHost(host); err != nil {
		return l, err
	}
	if file, err = url.PathUnescape(file); err != nil {
		return l, err
	}
	if home, ok := strings.CutPrefix(file, "~/"); ok {
		l.Path = home
	} else {
		l.Path = "/" + file
	}
	return l, nil
}

// cutHost cuts casync's form at the colon behind the host. What has a slash before it
// is a path, and what has one letter a drive of Windows.
func cutHost(s string) (host, file string, ok bool) {
	end := 0
	if open := strings.IndexByte(s, '['); open == 0 || open > 0 && s[open-1] == '@' {
		if end = strings.IndexByte(s, ']'); end < 0 {
			return "", "", false
		}
	}
	colon := strings.IndexByte(s[end:], ':')
	if colon < 0 {
		return "", "", false
	}
	host, file = s[:end+colon], s[end+colon+1:]
	if len(host) < 2 || file == "" || strings.ContainsAny(host, `/\`) || strings.HasPrefix(file, "//") {
		return "", "", false
	}
	return host, file, true
}

func (l Location) check() error {
	switch {
	case l.Path == "" || l.Path == "/":
		return errors.New("no path")
	case strings.ContainsRune(l.Path, 0):
		return errors.New("NUL byte in the path")
	}
	return nil
}

// arg returns the path as an argument that no program takes for anything else.
func (l Location) arg() string {
	if strings.HasPrefix(l.Path, "-") {
		return "./" + l.Path
	}
	return l.Path
}

// String returns the URL that [ParseLocation] parses.
func (l Location) String() string {
	host := strings.ReplaceAll(l.Host.String(), "%", "%25")
	file := (&url.URL{Path: "/" + strings.TrimPrefix(l.Path, "/")}).EscapedPath()
	if !strings.HasPrefix(l.Path, "/") {
		file = "/~" + file
	}
	return "ssh://" + host + file
}

// sibling returns the location of a file beside l.
func (l Location) sibling(name string) Location {
	return Location{l.Host, path.Join(path.Dir(l.Path), name)}
}

// redact returns s without a password.
func redact(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	host, file, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 && strings.Contains(host[:at], ":") {
		return scheme + "://…@" + host[at+1:] + "/" + file
	}
	return s
}
