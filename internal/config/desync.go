package config

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of what an entry of desync's has that castor's files have no key for.
const (
	desyncAuth = "http-auth"
	desyncS3   = "s3-credentials"
)

// desyncConfig is what has a meaning here of desync's configuration file.
type desyncConfig struct {
	HTTPTimeout    int64                  `json:"http-timeout"` // nanoseconds; of old versions
	HTTPErrorRetry *int                   `json:"http-error-retry"`
	S3             map[string]desyncLogin `json:"s3-credentials"`
	Stores         map[string]desyncStore `json:"store-options"`
}

type desyncLogin struct {
	AccessKey string `json:"access-key"`
	SecretKey string `json:"secret-key"`
	File      string `json:"aws-credentials-file"`
	Profile   string `json:"aws-profile"`
	Region    string `json:"aws-region"`
}

type desyncStore struct {
	N             int    `json:"n"`
	ClientCert    string `json:"client-cert"`
	ClientKey     string `json:"client-key"`
	CACert        string `json:"ca-cert"`
	HTTPAuth      string `json:"http-auth"`
	HTTPCookie    string `json:"http-cookie"`
	Timeout       int64  `json:"timeout"` // nanoseconds; negative: none
	ErrorRetry    *int   `json:"error-retry"`
	Uncompressed  bool   `json:"uncompressed"`
	TrustInsecure bool   `json:"trust-insecure"`
	Encryption    bool   `json:"encryption"`
}

// readDesync adds the entries of desync's configuration file. It belongs to another
// program: if it cannot be read, that is told to the log and no error.
func (c *Config) readDesync(name string) {
	b, err := readFile(name)
	if absent(err) {
		return
	}
	var d desyncConfig
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		c.warn("desync's configuration is not used", "file", name, "error", err)
		return
	}
	for _, e := range c.desyncEntries(&d, name) {
		e.file, e.foreign = name, true
		c.entries = append(c.entries, e)
	}
}

func (c *Config) desyncEntries(d *desyncConfig, name string) []entry {
	var all []entry
	for _, pattern := range []string{"http://*", "https://*"} {
		var e entry
		e.pattern = pattern
		e.timing(d.HTTPTimeout, d.HTTPErrorRetry)
		if len(e.keys) > 0 {
			all = append(all, e)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(d.S3)) {
		all = append(all, d.S3[host].entry(host, name))
	}
	for _, pattern := range slices.Sorted(maps.Keys(d.Stores)) {
		o := d.Stores[pattern]
		if o.TrustInsecure {
			c.warn("trust-insecure of desync's configuration is not heeded: name the server's authority in ca-file", "store", Normal(pattern))
		}
		if o.Encryption {
			c.warn("encrypted stores of desync's are not supported", "store", Normal(pattern))
		}
		all = append(all, o.entry(pattern, name))
	}
	return all
}

// add notes a key and what it sets.
func (e *entry) add(key string, set func(*Settings)) {
	e.keys, e.set = append(e.keys, key), append(e.set, set)
}

// timing adds a time-out in nanoseconds, if it is one, and retries.
func (e *entry) timing(timeout int64, retries *int) {
	if timeout > 0 {
		e.add("timeout", func(s *Settings) { s.Timeout = time.Duration(timeout) })
	}
	if retries != nil {
		n := max(min(*retries, 1000), 0)
		if n == 0 {
			n = -1
		}
		e.add("retries", func(s *Settings) { s.Retries = n })
	}
}

// entry returns the credentials for an endpoint, https://host[:port], which are used for
// all that is there.
func (l desyncLogin) entry(host, file string) entry {
	e := entry{pattern: "s3+" + strings.TrimRight(Normal(host), "/") + "/*"}
	secret := func(v string) Secret {
		if v == "" {
			return Secret{}
		}
		return Secret{value: v, where: desyncS3 + " in " + file}
	}
	e.add(desyncS3, func(s *Settings) {
		s.AccessKey, s.SecretKey = secret(l.AccessKey), secret(l.SecretKey)
		s.CredentialsFile, s.Profile = l.File, l.Profile
	})
	if l.Region != "" {
		e.add("region", func(s *Settings) { s.Region = l.Region })
	}
	return e
}

func (o desyncStore) entry(pattern, file string) entry {
	e := entry{pattern: Normal(pattern)}
	if !strings.Contains(pattern, "://") && !strings.HasPrefix(pattern, "*") {
		if abs, err := filepath.Abs(pattern); err == nil {
			e.pattern = filepath.ToSlash(abs)
		}
	}
	if o.N > 0 {
		e.add("concurrency", func(s *Settings) { s.Concurrency = min(o.N, 10000) })
	}
	if o.ClientCert != "" && o.ClientKey != "" {
		e.add("client-cert", func(s *Settings) { s.ClientCert, s.ClientKey = o.ClientCert, o.ClientKey })
	}
	if o.CACert != "" {
		e.add("ca-file", func(s *Settings) { s.CAFile = o.CACert })
	}
	if o.HTTPAuth != "" {
		e.add(desyncAuth, func(s *Settings) { s.Authorization = Secret{value: o.HTTPAuth, where: desyncAuth + " in " + file} })
	}
	if o.HTTPCookie != "" {
		e.add("cookie-file", func(s *Settings) { s.Cookie = Secret{value: o.HTTPCookie, where: "http-cookie in " + file} })
	}
	if o.Uncompressed {
		e.add("uncompressed", func(s *Settings) { s.Uncompressed = true })
	}
	e.timing(o.Timeout, o.ErrorRetry)
	return e
}
