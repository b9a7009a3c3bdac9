// Package config reads how stores are to be reached: castor's own files in TOML, and
// desync's. What each key means is told in docs/config.md.
//
// A [Config] maps the URL of a store to its [Settings]. Those are plain data; secrets
// are in them only as the names of files and variables, and are read when they are
// used, with [Config.Read].
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Settings say how a store is to be reached. Zero means that nothing was said.
type Settings struct {
	Concurrency int           // requests at once
	Timeout     time.Duration // for one request to be answered
	Retries     int           // how often a request is tried again; -1: never
	Rate        int64         // bytes a second, both ways

	Uncompressed bool // chunks are put plain
	Level        int  // compression level from 1 to 22

	// Web servers. One way to show who asks is set at most: Token, User with
	// Password, Authorization, or Netrc.
	Token         Secret // a bearer token
	User          string
	Password      Secret
	Authorization Secret // the whole header; only from desync's configuration
	Netrc         string // a file
	Header        map[string]string
	HeaderFile    Secret // further headers, one "Name: value" a line
	Cookie        Secret
	ClientCert    string // files in PEM
	ClientKey     string
	CAFile        string
	HTTP2         bool
	Proxy         string // a URL, or "none"

	// S3.
	Region          string
	Lookup          string // "auto", "dns" or "path"
	Profile         string
	CredentialsFile string
	AccessKey       Secret
	SecretKey       Secret
	SessionToken    Secret
	Anonymous       bool

	// SSH, of casync's protocol and SFTP.
	SSHCommand    string
	SSHArgs       []string
	RemoteCommand string // casync on the other side
	Connections   int
}

// Config is what the files say. It is safe for concurrent use, and nil is an empty one.
type Config struct {
	getenv  func(string) string
	log     *slog.Logger
	entries []entry  // the stronger ones last
	open    sync.Map // names of files with secrets of which it was told that everybody may read them
}

// entry is a section of a file: what it says of the stores whose URL fits.
type entry struct {
	pattern string
	file    string
	foreign bool // of desync's file: weaker than all of castor's
	keys    []string
	set     []func(*Settings) // in the order of keys
}

// Sources are where the configuration comes from.
type Sources struct {
	// Explicit is the one file to read, as --config names it. It must exist. If it is
	// empty, $CASTOR_CONFIG is asked, and then the usual files are read, which need
	// not exist.
	Explicit string
	// Getenv is the environment; nil is an empty one.
	Getenv func(string) string
	// System is the file for all users; "" means /etc/castor/config.toml.
	System string
	// Log is told of what is doubtful; nil means nobody is.
	Log *slog.Logger
}

// maxFile bounds what is read of a configuration file, in bytes.
const maxFile = 4 << 20

// Load reads the files. An error names the file and, if it can, the line.
func Load(s Sources) (*Config, error) {
	c := &Config{getenv: s.Getenv, log: s.Log}
	if c.getenv == nil {
		c.getenv = func(string) string { return "" }
	}
	if name := cmp.Or(s.Explicit, c.getenv("CASTOR_CONFIG")); name != "" {
		err := c.readTOML(name)
		c.order()
		return c, err
	}
	home := c.home()
	if home != "" {
		c.readDesync(filepath.Join(home, ".config", "desync", "config.json"))
	}
	files := []string{cmp.Or(s.System, "/etc/castor/config.toml")}
	if d := c.userDir(home); d != "" {
		files = append(files, filepath.Join(d, "castor", "config.toml"))
	}
	for _, name := range files {
		if err := c.readTOML(name); err != nil && !absent(err) {
			return nil, err
		}
	}
	c.order()
	return c, nil
}

// absent reports whether err says that there is no such file, or no such directory; or
// none that the user may look into, as where HOME is somebody else's.
func absent(err error) bool {
	e, ofFile := errors.AsType[*fs.PathError](err)
	if !ofFile {
		return false
	}
	if errors.Is(err, fs.ErrPermission) {
		_, err = os.Lstat(e.Path)
		return errors.Is(err, fs.ErrPermission)
	}
	return errors.Is(err, fs.ErrNotExist) || notDirectory(err)
}

// home returns the home directory, "" if there is none.
func (c *Config) home() string {
	home := c.getenv("HOME")
	if home == "" && runtime.GOOS == "windows" {
		home = c.getenv("USERPROFILE")
	}
	if !filepath.IsAbs(home) {
		return ""
	}
	return home
}

// userDir returns the directory of the user's configuration files, "" if there is none.
func (c *Config) userDir(home string) string {
	if d := c.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(d) { // others are to be ignored
		return d
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config")
}

// order sorts the entries: castor's are stronger than desync's, then those of longer
// patterns, then later ones.
func (c *Config) order() {
	slices.SortStableFunc(c.entries, func(a, b entry) int {
		if a.foreign != b.foreign {
			if a.foreign {
				return -1
			}
			return 1
		}
		return cmp.Compare(len(a.pattern), len(b.pattern))
	})
}

// Store returns what is said of the store or index at a URL: each key as the strongest
// entry has it that fits. See [Normal] for the form of URLs.
func (c *Config) Store(url string) Settings {
	var s Settings
	for _, e := range c.matching(url) {
		for _, g := range groups {
			if slices.ContainsFunc(e.keys, g.has) {
				g.clear(&s)
			}
		}
		for _, set := range e.set {
			set(&s)
		}
	}
	return s
}

// Match is an entry that fits a URL.
type Match struct {
	File    string
	Pattern string
	Keys    []string // that it sets, sorted
}

// Matches returns the entries that fit a URL, the strongest first.
func (c *Config) Matches(url string) []Match {
	var all []Match
	for _, e := range slices.Backward(c.matching(url)) {
		all = append(all, Match{e.file, e.pattern, slices.Sorted(slices.Values(e.keys))})
	}
	return all
}

func (c *Config) matching(url string) []entry {
	if c == nil {
		return nil
	}
	url = Normal(url)
	var fit []entry
	for _, e := range c.entries {
		if match(e.pattern, url) {
			fit = append(fit, e)
		}
	}
	return fit
}

// readFile returns the content of a configuration file.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAll(f, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func (c *Config) warn(msg string, args ...any) {
	if c != nil && c.log != nil {
		c.log.Warn(msg, args...)
	}
}
