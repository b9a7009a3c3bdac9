package httpstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// login is an entry of a netrc file.
type login struct{ user, password string }

// maxNetrc bounds what is read of a netrc file, in bytes.
const maxNetrc = 1 << 20

// netrcLogin returns the login for host in a netrc file. A file that is not there is
// an empty one.
func netrcLogin(file, host string) (login, bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return login{}, false, nil
	}
	if err != nil {
		return login{}, false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNetrc))
	if err != nil {
		return login{}, false, fmt.Errorf("%s: %w", file, err)
	}
	l, ok := parseNetrc(string(b), host)
	return l, ok, nil
}

// parseNetrc returns the first entry for host, or the default one. Macros, which end
// with an empty line, and comments are passed over, as are words nobody knows.
func parseNetrc(s, host string) (login, bool) {
	var words []string
	macro := false
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if macro = macro && len(fields) > 0; macro {
			continue
		}
		for _, w := range fields {
			if macro = w == "macdef"; macro || strings.HasPrefix(w, "#") && !wantsValue(words) {
				break
			}
			words = append(words, w)
		}
	}
	var l login
	mine := false
	for len(words) > 0 {
		key := words[0]
		words = words[1:]
		if key == "machine" || key == "default" {
			if mine {
				break
			}
			mine = key == "default"
		}
		if len(words) == 0 || key == "default" {
			continue
		}
		switch key {
		case "machine":
			mine = strings.EqualFold(words[0], host)
		case "login":
			if mine {
				l.user = words[0]
			}
		case "password":
			if mine {
				l.password = words[0]
			}
		case "account":
		default:
			continue
		}
		words = words[1:]
	}
	return l, mine && l != login{}
}

// wantsValue reports whether the next word is a value, which may begin with a #.
func wantsValue(words []string) bool {
	if len(words) == 0 {
		return false
	}
	switch words[len(words)-1] {
	case "machine", "login", "password", "account":
		return true
	}
	return false
}
