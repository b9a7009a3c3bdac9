package location

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/castorsync/castor/internal/typo"
	"github.com/castorsync/castor/store/remote"
)

// Kind is how a place is reached.
type Kind string

// The kinds of places.
const (
	Directory Kind = "directory" // or a file in one
	Web       Kind = "http"
	S3        Kind = "s3"
	SFTP      Kind = "sftp"
	Casync    Kind = "ssh"   // casync's protocol over ssh
	Group     Kind = "group" // several, of which one is asked
)

// place is what a user wrote for a store or an index.
type place struct {
	kind Kind
	loc  string // as it was written, less what may be secret
	url  string // for the backend; a path and HOST:PATH are as they were written
}

// archive reports whether p is, by its name, an archive and no index: casync's protocol has
// words of its own for that.
func (p place) archive() bool { return strings.HasSuffix(p.url, ".catar") }

// FormError says that a string is no store or index, or none that can do what is wanted.
type FormError struct {
	Loc string // less what may be secret
	Err error
}

func (e *FormError) Error() string { return fmt.Sprintf("%s: %v", e.Loc, e.Err) }
func (e *FormError) Unwrap() error { return e.Err }

// forms lists what users may write.
const forms = "a path, http:// or https://, s3:// or s3+https://, sftp://, ssh:// or HOST:PATH, and mcast:// where chunks come from"

// schemes holds the kind of each scheme.
var schemes = map[string]Kind{
	"http": Web, "https": Web, "s3": S3, "s3+http": S3, "s3+https": S3, "sftp": SFTP, "ssh": Casync,
}

// advice says what to write for schemes of other programs.
var advice = map[string]string{
	"file":      "write the path alone",
	"scp":       "write ssh:// or sftp://",
	"ftp":       "FTP is not supported; mount it, or write http:// or sftp://",
	"rsync":     "rsync is not supported; write ssh:// or sftp://",
	"gs":        "write s3+https://storage.googleapis.com/BUCKET with an HMAC key",
	"oci+http":  "registries are not supported",
	"oci+https": "registries are not supported",
	"mcast":     "a multicast channel cannot be used here",
}

// parse tells the kind of place that a string names. The rule for HOST:PATH is casync's:
// there is a colon before any slash, and what is before it could be a host, but is
// neither the letter of a drive nor does a file have the whole name.
func parse(loc string) (place, error) {
	scheme, _, isURL := strings.Cut(loc, "://")
	if isURL && isScheme(scheme) {
		p := place{loc: redact(loc), url: loc}
		var known bool
		if p.kind, known = schemes[scheme]; !known {
			return p, &FormError{p.loc, unknownScheme(scheme)}
		}
		if p.kind == Casync {
			if _, err := remote.ParseLocation(loc); err != nil {
				return p, err
			}
			return p, nil
		}
		u, err := url.Parse(loc)
		switch {
		case err != nil:
			return p, &FormError{p.loc, errors.New("not a valid URL")} // the error would repeat all of it
		case u.User != nil && p.kind == Web:
			return p, &FormError{p.loc, errors.New("credentials do not belong on a command line: put them into ~/.netrc, or see castor help config")}
		}
		return p, nil
	}
	if loc == "" {
		return place{}, &FormError{`""`, errors.New("want " + forms)}
	}
	if _, ok := hostPath(loc); ok {
		for _, scheme := range []string{"http", "https"} { // no name of a host
			if rest, one := strings.CutPrefix(loc, scheme+":/"); one {
				return place{}, &FormError{loc, fmt.Errorf("did you mean %s://%s?", scheme, rest)}
			}
		}
		return place{kind: Casync, loc: loc, url: loc}, nil
	}
	return place{kind: Directory, loc: loc, url: loc}, nil
}

// hostPath takes HOST:PATH apart.
func hostPath(loc string) (remote.Location, bool) {
	if strings.HasPrefix(loc, "ssh://") || !remote.Is(loc) {
		return remote.Location{}, false
	}
	l, err := remote.ParseLocation(loc)
	if err != nil {
		return l, false
	}
	_, err = os.Lstat(loc)
	return l, err != nil
}

// isScheme reports whether s could be the scheme of a URL: a path may have a :// in it.
func isScheme(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("+-.", r)
	})
}

func unknownScheme(scheme string) error {
	if a, ok := advice[scheme]; ok {
		return fmt.Errorf("%s:// is not known here: %s", scheme, a)
	}
	known := []string{"http", "https", "s3", "s3+http", "s3+https", "sftp", "ssh", "mcast"}
	if k := typo.Nearest(strings.ToLower(scheme), known); k != "" {
		return fmt.Errorf("%s:// is not known: is %s:// meant?", scheme, k)
	}
	return fmt.Errorf("%s:// is not known: want %s", scheme, forms)
}

// match returns what the patterns of the configuration are compared with.
func (p place) match() string {
	if p.kind != Directory {
		if l, ok := hostPath(p.url); ok && p.kind == Casync {
			return l.String()
		}
		return p.url
	}
	abs, err := filepath.Abs(p.url)
	if err != nil {
		return p.url
	}
	return filepath.ToSlash(abs)
}

// redact returns a URL less what may be secret: the user and the query.
func redact(loc string) string {
	scheme, rest, ok := strings.Cut(loc, "://")
	if !ok {
		return loc
	}
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")
	host, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(host, '@'); at >= 0 {
		user, _, secret := strings.Cut(host[:at], ":")
		switch {
		case secret:
			user += ":xxxxx"
		case scheme == "http" || scheme == "https":
			user = "xxxxx" // in most cases a token
		}
		host = user + "@" + host[at+1:]
	}
	if slash {
		host += "/"
	}
	return scheme + "://" + host + path
}

// splitGroup returns the members of a failover group a|b|c; one if it is none. A file
// that has the whole name is none.
func splitGroup(loc string) []string {
	if !strings.Contains(loc, "|") {
		return []string{loc}
	}
	if _, err := os.Lstat(loc); err == nil {
		return []string{loc}
	}
	members := strings.Split(loc, "|")
	for i := range members {
		members[i] = strings.TrimSpace(members[i])
	}
	return members
}
