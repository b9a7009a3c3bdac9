package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Secret is where a secret is. The zero value is none.
type Secret struct {
	File  string // the path of a file
	Env   string // the name of an environment variable
	value string // the secret itself, of desync's configuration
	where string // what the value is called in messages
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s == Secret{} }

// String names the place, never the secret.
func (s Secret) String() string {
	switch {
	case s.File != "":
		return "file " + s.File
	case s.Env != "":
		return "environment variable " + s.Env
	case s.value != "":
		return s.where
	}
	return "none"
}

// GoString is String: a secret is not printed with %#v either.
func (s Secret) GoString() string { return s.String() }

// LogValue is String for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// maxSecret bounds the file of a secret, in bytes.
const maxSecret = 64 << 10

// Read returns the secret, without white space at its end. That it is empty is an
// error, and so is a variable that is not set. A file that everybody may read is told
// to the log.
func (c *Config) Read(s Secret) (string, error) {
	var v string
	switch {
	case s.File != "":
		b, err := c.readSecret(s.File)
		if err != nil {
			return "", fmt.Errorf("secret: %w", err)
		}
		v = string(b)
	case s.Env != "" && c != nil:
		v = c.getenv(s.Env)
	default:
		v = s.value
	}
	if v = strings.TrimRight(v, " \t\r\n"); v == "" {
		return "", fmt.Errorf("secret: %v: it is empty", s)
	}
	return v, nil
}

// first reports whether it was not called with that name before.
func (c *Config) first(name string) bool {
	if c == nil {
		return false
	}
	_, before := c.open.LoadOrStore(name, true)
	return !before
}

func (c *Config) readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && runtime.GOOS != "windows" && fi.Mode().IsRegular() && fi.Mode()&0o004 != 0 && c.first(name) {
		c.warn("everybody may read a file with a secret", "file", name, "mode", fi.Mode().Perm().String())
	}
	b, err := readAll(f, maxSecret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return bytes.TrimSpace(b), nil
}

var errTooLarge = errors.New("file is too large")

// readAll reads up to limit bytes; more is an error.
func readAll(r io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = errTooLarge
	}
	return b, err
}

// path returns the file that name stands for in a configuration file in directory dir:
// ~/ is the home directory; what is not absolute is looked for among the credentials
// that systemd hands over, and else is beside the configuration file.
func (c *Config) path(name, dir string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home := c.home()
		if home == "" {
			return "", fmt.Errorf("%s: there is no home directory", name)
		}
		return filepath.Join(home, rest), nil
	}
	if filepath.IsAbs(name) {
		return name, nil
	}
	if d := c.getenv("CREDENTIALS_DIRECTORY"); d != "" && filepath.IsLocal(name) {
		given := filepath.Join(d, name)
		if _, err := os.Stat(given); err == nil {
			return given, nil
		}
	}
	return filepath.Join(dir, name), nil
}
