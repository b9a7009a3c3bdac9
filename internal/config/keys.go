package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/castorsync/castor/internal/units"
)

// file is a configuration file that is being read.
type file struct {
	c   *Config
	dir string // of the file
}

// parse turns a value of TOML into what it sets.
type parse func(f *file, v any) (func(*Settings), error)

// key makes a parse of a function that reads a value, and one that sets it.
func key[T any](read func(f *file, v any) (T, error), set func(*Settings, T)) parse {
	return func(f *file, v any) (func(*Settings), error) {
		x, err := read(f, v)
		if err != nil {
			return nil, err
		}
		return func(s *Settings) { set(s, x) }, nil
	}
}

// keys are the keys of a store.
var keys = map[string]parse{
	"concurrency": key(number(1, 10000), func(s *Settings, n int) { s.Concurrency = n }),
	"timeout":     key(duration, func(s *Settings, d time.Duration) { s.Timeout = d }),
	"retries": key(number(0, 1000), func(s *Settings, n int) {
		s.Retries = cmp.Or(n, -1)
	}),
	"rate": key(rate, func(s *Settings, n int64) { s.Rate = n }),

	"uncompressed":      key(boolean, func(s *Settings, v bool) { s.Uncompressed = v }),
	"compression-level": key(number(1, 22), func(s *Settings, n int) { s.Level = n }),

	"token-file":    key(fileSecret, func(s *Settings, v Secret) { s.Token = v }),
	"token-env":     key(envSecret, func(s *Settings, v Secret) { s.Token = v }),
	"user":          key(text, func(s *Settings, v string) { s.User = v }),
	"password-file": key(fileSecret, func(s *Settings, v Secret) { s.Password = v }),
	"password-env":  key(envSecret, func(s *Settings, v Secret) { s.Password = v }),
	"netrc":         key(path, func(s *Settings, v string) { s.Netrc = v }),
	"header":        key(header, func(s *Settings, v map[string]string) { s.Header = v }),
	"header-file":   key(fileSecret, func(s *Settings, v Secret) { s.HeaderFile = v }),
	"cookie-file":   key(fileSecret, func(s *Settings, v Secret) { s.Cookie = v }),
	"client-cert":   key(path, func(s *Settings, v string) { s.ClientCert = v }),
	"client-key":    key(path, func(s *Settings, v string) { s.ClientKey = v }),
	"ca-file":       key(path, func(s *Settings, v string) { s.CAFile = v }),
	"http2":         key(boolean, func(s *Settings, v bool) { s.HTTP2 = v }),
	"proxy":         key(proxy, func(s *Settings, v string) { s.Proxy = v }),

	"region":             key(text, func(s *Settings, v string) { s.Region = v }),
	"lookup":             key(lookup, func(s *Settings, v string) { s.Lookup = v }),
	"profile":            key(text, func(s *Settings, v string) { s.Profile = v }),
	"credentials-file":   key(path, func(s *Settings, v string) { s.CredentialsFile = v }),
	"access-key-file":    key(fileSecret, func(s *Settings, v Secret) { s.AccessKey = v }),
	"access-key-env":     key(envSecret, func(s *Settings, v Secret) { s.AccessKey = v }),
	"secret-key-file":    key(fileSecret, func(s *Settings, v Secret) { s.SecretKey = v }),
	"secret-key-env":     key(envSecret, func(s *Settings, v Secret) { s.SecretKey = v }),
	"session-token-file": key(fileSecret, func(s *Settings, v Secret) { s.SessionToken = v }),
	"session-token-env":  key(envSecret, func(s *Settings, v Secret) { s.SessionToken = v }),
	"anonymous":          key(boolean, func(s *Settings, v bool) { s.Anonymous = v }),

	"ssh-command":    key(text, func(s *Settings, v string) { s.SSHCommand = v }),
	"ssh-args":       key(words, func(s *Settings, v []string) { s.SSHArgs = v }),
	"remote-command": key(text, func(s *Settings, v string) { s.RemoteCommand = v }),
	"connections":    key(number(1, 100), func(s *Settings, n int) { s.Connections = n }),
}

// group is a set of keys of which a stronger entry replaces all if it has one: together
// they say who asks.
type group struct {
	keys  []string
	clear func(*Settings)
}

func (g group) has(key string) bool { return slices.Contains(g.keys, key) }

var groups = []group{
	{
		[]string{"token-file", "token-env", "user", "password-file", "password-env", "netrc", desyncAuth},
		func(s *Settings) {
			s.Token, s.User, s.Password, s.Netrc, s.Authorization = Secret{}, "", Secret{}, "", Secret{}
		},
	}, {
		[]string{"profile", "credentials-file", "access-key-file", "access-key-env", "secret-key-file", "secret-key-env", "session-token-file", "session-token-env", "anonymous", desyncS3},
		func(s *Settings) {
			s.Profile, s.CredentialsFile, s.Anonymous = "", "", false
			s.AccessKey, s.SecretKey, s.SessionToken = Secret{}, Secret{}, Secret{}
		},
	},
}

// check says what does not go together in one entry.
func check(s *Settings, has func(string) bool) error {
	for _, both := range [][2]string{
		{"token-file", "token-env"}, {"password-file", "password-env"}, {"access-key-file", "access-key-env"},
		{"secret-key-file", "secret-key-env"}, {"session-token-file", "session-token-env"},
	} {
		if has(both[0]) && has(both[1]) {
			return fmt.Errorf("%s and %s exclude each other", both[0], both[1])
		}
	}
	ways := 0
	for _, set := range []bool{!s.Token.IsZero(), s.User != "" || !s.Password.IsZero(), s.Netrc != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New("token-…, user and netrc exclude each other")
	case (s.User == "") != s.Password.IsZero():
		return errors.New("user needs password-file or password-env, and those need user")
	case s.AccessKey.IsZero() != s.SecretKey.IsZero():
		return errors.New("access-key-… and secret-key-… need each other")
	case s.SecretKey.IsZero() && !s.SessionToken.IsZero():
		return errors.New("session-token-… needs access-key-… and secret-key-…")
	case s.Anonymous && (!s.SecretKey.IsZero() || s.Profile != "" || s.CredentialsFile != ""):
		return errors.New("anonymous needs no credentials")
	case !s.SecretKey.IsZero() && (s.Profile != "" || s.CredentialsFile != ""):
		return errors.New("access-key-…, and profile or credentials-file, exclude each other")
	case (s.ClientCert == "") != (s.ClientKey == ""):
		return errors.New("client-cert and client-key need each other")
	}
	return nil
}

func text(_ *file, v any) (string, error) {
	s, ok := v.(string)
	if !ok || s == "" || strings.ContainsAny(s, "\x00\r\n") {
		return "", errors.New("want a string, not empty and of one line")
	}
	return s, nil
}

func boolean(_ *file, v any) (bool, error) {
	b, ok := v.(bool)
	if !ok {
		return false, errors.New("want true or false")
	}
	return b, nil
}

func number(least, most int) func(*file, any) (int, error) {
	return func(_ *file, v any) (int, error) {
		n, ok := v.(int64)
		if !ok || n < int64(least) || n > int64(most) {
			return 0, fmt.Errorf("want a number from %d to %d", least, most)
		}
		return int(n), nil
	}
}

// duration reads what time.Duration or units.Duration writes.
func duration(_ *file, v any) (time.Duration, error) {
	s, _ := v.(string)
	d, err := time.ParseDuration(strings.ReplaceAll(s, " ", ""))
	if err != nil || d <= 0 || d > 24*time.Hour {
		return 0, errors.New(`want a time of up to a day such as "30s" or "1m30s"`)
	}
	return d, nil
}

// rate reads bits a second, and returns bytes a second.
func rate(_ *file, v any) (int64, error) {
	s, ok := v.(string)
	if !ok {
		return 0, errors.New(`want bits a second such as "200M"`)
	}
	bits, err := units.ParseRate(s)
	if err != nil {
		return 0, err
	}
	return max(int64(bits/8), 1), nil
}

func words(f *file, v any) ([]string, error) {
	list, ok := v.([]any)
	var all []string
	for _, x := range list {
		s, err := text(f, x)
		ok = ok && err == nil
		all = append(all, s)
	}
	if !ok {
		return nil, errors.New(`want a list of strings such as ["-p", "2222"]`)
	}
	return all, nil
}

func header(f *file, v any) (map[string]string, error) {
	table, ok := v.(map[string]any)
	all := map[string]string{}
	for name, x := range table {
		s, err := text(f, x)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		switch strings.ToLower(name) {
		case "authorization", "proxy-authorization", "cookie":
			return nil, fmt.Errorf("%s: secrets belong in files: use token-file, user and password-file, cookie-file or header-file", name)
		}
		if !validHeader(name) {
			return nil, fmt.Errorf("%q is not the name of a header", name)
		}
		all[name] = s
	}
	if !ok {
		return nil, errors.New(`want a table of headers such as {X-Team = "os"}`)
	}
	return all, nil
}

// validHeader reports whether name is a token of HTTP.
func validHeader(name string) bool {
	const others = "!#$%&'*+-.^_`|~"
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}

func proxy(f *file, v any) (string, error) {
	s, err := text(f, v)
	if err != nil || s == "none" {
		return s, err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme):
		return "", errors.New(`want "none", or a URL that begins with http://, https:// or socks5://`)
	case u.User != nil:
		return "", errors.New("secrets do not belong in this file: name the proxy in the variable HTTPS_PROXY")
	}
	return s, nil
}

func lookup(_ *file, v any) (string, error) {
	s, _ := v.(string)
	if s != "auto" && s != "dns" && s != "path" {
		return "", errors.New(`want "auto", "dns" or "path"`)
	}
	return s, nil
}

func path(f *file, v any) (string, error) {
	s, err := text(f, v)
	if err != nil {
		return "", err
	}
	return f.c.path(s, f.dir)
}

func fileSecret(f *file, v any) (Secret, error) {
	s, err := path(f, v)
	return Secret{File: s}, err
}

func envSecret(f *file, v any) (Secret, error) {
	s, err := text(f, v)
	if err == nil && strings.Contains(s, "=") {
		err = errors.New("want the name of an environment variable")
	}
	return Secret{Env: s}, err
}
