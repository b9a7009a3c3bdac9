package config

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// write writes a file below dir and returns its name.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	name = filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// environ returns a Getenv of pairs.
func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// load loads one file.
func load(t *testing.T, text string, env ...string) (*Config, error) {
	t.Helper()
	return Load(Sources{Explicit: write(t, t.TempDir(), "config.toml", text), Getenv: environ(env...)})
}

func TestKeys(t *testing.T) {
	d := t.TempDir()
	in := func(name string) string { return filepath.Join(d, name) }
	for _, tt := range []struct {
		text string
		want Settings
	}{
		{`concurrency = 32`, Settings{Concurrency: 32}},
		{`timeout = "30s"`, Settings{Timeout: 30 * time.Second}},
		{`timeout = "250 ms"`, Settings{Timeout: 250 * time.Millisecond}},
		{`retries = 6`, Settings{Retries: 6}},
		{`retries = 0`, Settings{Retries: -1}},
		{`rate = "20M"`, Settings{Rate: 2500000}},
		{`uncompressed = true`, Settings{Uncompressed: true}},
		{`compression-level = 19`, Settings{Level: 19}},
		{`token-file = "t"`, Settings{Token: Secret{File: in("t")}}},
		{`token-env = "T"`, Settings{Token: Secret{Env: "T"}}},
		{"user = 'u'\npassword-file = 'p'", Settings{User: "u", Password: Secret{File: in("p")}}},
		{"user = 'u'\npassword-env = 'P'", Settings{User: "u", Password: Secret{Env: "P"}}},
		{`netrc = "n"`, Settings{Netrc: in("n")}},
		{`header = {X-Team = "os"}`, Settings{Header: map[string]string{"X-Team": "os"}}},
		{"header-file = 'h'\ncookie-file = 'c'", Settings{HeaderFile: Secret{File: in("h")}, Cookie: Secret{File: in("c")}}},
		{"client-cert = 'c'\nclient-key = 'k'\nca-file = 'a'", Settings{ClientCert: in("c"), ClientKey: in("k"), CAFile: in("a")}},
		{"http2 = true\nproxy = 'http://p:3128'", Settings{HTTP2: true, Proxy: "http://p:3128"}},
		{`proxy = "none"`, Settings{Proxy: "none"}},
		{"region = 'eu'\nlookup = 'dns'\nprofile = 'p'\ncredentials-file = 'f'", Settings{Region: "eu", Lookup: "dns", Profile: "p", CredentialsFile: in("f")}},
		{"access-key-env = 'A'\nsecret-key-file = 's'\nsession-token-env = 'T'", Settings{AccessKey: Secret{Env: "A"}, SecretKey: Secret{File: in("s")}, SessionToken: Secret{Env: "T"}}},
		{"access-key-file = 'a'\nsecret-key-env = 'S'\nsession-token-file = 't'", Settings{AccessKey: Secret{File: in("a")}, SecretKey: Secret{Env: "S"}, SessionToken: Secret{File: in("t")}}},
		{`anonymous = true`, Settings{Anonymous: true}},
		{"ssh-command = 'dbclient'\nssh-args = ['-p', '2222']\nremote-command = '/opt/casync'\nconnections = 3", Settings{SSHCommand: "dbclient", SSHArgs: []string{"-p", "2222"}, RemoteCommand: "/opt/casync", Connections: 3}},
		{``, Settings{}},
	} {
		name := write(t, d, "config.toml", "[store.\"x*\"]\n"+tt.text)
		c, err := Load(Sources{Explicit: name})
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := c.Store("xyz"); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.text, got, tt.want)
		}
		if got := c.Store("y"); !reflect.DeepEqual(got, Settings{}) {
			t.Errorf("%s: another store: got %+v", tt.text, got)
		}
	}
}

// TestErrors has the line and the reason of what is wrong.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"[store.\"x\"]\nconcurency = 1", `:2: store.x.concurency: unknown key: is concurrency meant?`},
		{"[store.x]\ntoken_file = 't'", `:2: store.x.token_file: unknown key: is token-file meant?`},
		{"[store.x]\n\n\nfoo = 1", ":4: store.x.foo: unknown key"},
		{"a = 1\n", ":1: a: unknown key: want sections such as"},
		{"# c\n[stores.x]\n", ":2: stores.x: unknown key"},
		{"store = 1", ":1: store: want a section"},
		{"[store]\nx = 1", ":2: store.x: want a section"},
		{"[[store.x]]\nretries = 1", "store.x: want a section"},
		{"[store.x]\nretries = 1\nretries = 2", ":3: "},
		{"[store.x]\nretries = \"1\"", ":2: store.x.retries: want a number from 0 to 1000"},
		{"[store.x]\nretries = -1", "want a number from 0 to 1000"},
		{"[store.x]\nconcurrency = 0", "want a number from 1 to 10000"},
		{"[store.x]\ntimeout = 30", `want a time of up to a day such as "30s"`},
		{"[store.x]\ntimeout = \"-1s\"", "want a time"},
		{"[store.x]\nrate = 5", "want bits a second"},
		{"[store.x]\nrate = \"much\"", ":2: store.x.rate: rate \"much\": want bits a second"},
		{"[store.x]\nuncompressed = 1", "want true or false"},
		{"[store.x]\ncompression-level = 23", "want a number from 1 to 22"},
		{"[store.x]\ntoken-file = ''", "want a string, not empty"},
		{"[store.x]\ntoken-env = 'A=B'", "want the name of an environment variable"},
		{"[store.x]\ntoken = 'hunter2'", ":2: store.x.token: unknown key"},
		{"[store.x]\ntoken-env = 'A'\ntoken-file = 'a'", ":1: store.x: token-file and token-env exclude each other"},
		{"[store.x]\ntoken-env = 'A'\nuser = 'u'\npassword-env = 'P'", "exclude each other"},
		{"[store.x]\nuser = 'u'", "user needs password-file"},
		{"[store.x]\npassword-env = 'u'", "those need user"},
		{"[store.x]\nclient-cert = 'u'", "client-cert and client-key need each other"},
		{"[store.x]\naccess-key-env = 'u'", "need each other"},
		{"[store.x]\nsession-token-env = 'u'", "session-token-… needs"},
		{"[store.x]\nanonymous = true\nprofile = 'u'", "anonymous needs no credentials"},
		{"[store.x]\naccess-key-env = 'u'\nsecret-key-env = 's'\nprofile = 'u'", "exclude each other"},
		{"[store.x]\nheader = {Authorization = 'Bearer hunter2'}", "secrets belong in files"},
		{"[store.x]\nheader = {'a b' = 'c'}", "is not the name of a header"},
		{"[store.x]\nheader = {a = 1}", "a: want a string"},
		{"[store.x.header]\na = \"b\\nc\"", ":1: store.x.header: a: want a string"},
		{"[store.x]\nheader = 'a: b'", "want a table of headers"},
		{"[store.x]\nproxy = 'http://u:hunter2@p'", "secrets do not belong in this file"},
		{"[store.x]\nproxy = 'p:3128'", `want "none", or a URL`},
		{"[store.x]\nlookup = 'virtual'", `want "auto", "dns" or "path"`},
		{"[store.x]\nssh-args = '-v'", "want a list of strings"},
		{"[store.x]\nssh-args = [1]", "want a list of strings"},
		{"[store.\"\"]\nretries = 1", "an empty pattern"},
		{"[store.\"https://u:hunter2@example.com/*\"]\nretries = 1", "a pattern has no user"},
		{"[store.x", ":1: "},
		{"[store.x]\nnetrc = '~/n'", "there is no home directory"},
	} {
		_, err := load(t, tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "config.toml:") {
			t.Errorf("%q: got error %v, want one with %q", tt.text, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") && !strings.Contains(tt.text, "@example") {
			t.Errorf("%q: a secret is in the error: %v", tt.text, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	d := t.TempDir()
	system := write(t, d, "etc/config.toml", `
[store."https://cdn.example.com/*"]
concurrency = 32
retries = 1
token-env = "SYSTEM"
[store."https://*"]
concurrency = 4
timeout = "1m"
`)
	write(t, d, "xdg/castor/config.toml", `
[store."https://*"]
timeout = "2m"
concurrency = 5
[store."https://cdn.example.com/*"]
retries = 2
user = "u"
password-env = "P"
`)
	write(t, d, "home/.config/castor/config.toml", `
[store."https://*"]
timeout = "3m"
`)
	write(t, d, "home/.config/desync/config.json", `{"store-options": {"https://cdn.example.com/very/long/path": {"error-retry": 9, "n": 7, "ca-cert": "/ca.pem"}}}`)
	explicit := write(t, d, "own.toml", "[store.'*']\nretries = 7")
	home, xdg := filepath.Join(d, "home"), filepath.Join(d, "xdg")
	const url = "https://cdn.example.com/very/long/path"
	for _, tt := range []struct {
		name     string
		explicit string
		env      []string
		want     Settings
	}{
		{"system alone", "", nil, Settings{Concurrency: 32, Retries: 1, Timeout: time.Minute, Token: Secret{Env: "SYSTEM"}}},
		{"with home", "", []string{"HOME", home}, Settings{Concurrency: 32, Retries: 1, Timeout: 3 * time.Minute, Token: Secret{Env: "SYSTEM"}, CAFile: "/ca.pem"}},
		{"with XDG", "", []string{"XDG_CONFIG_HOME", xdg}, Settings{Concurrency: 32, Retries: 2, Timeout: 2 * time.Minute, User: "u", Password: Secret{Env: "P"}}},
		{"with both", "", []string{"HOME", home, "XDG_CONFIG_HOME", xdg}, Settings{Concurrency: 32, Retries: 2, Timeout: 2 * time.Minute, User: "u", Password: Secret{Env: "P"}, CAFile: "/ca.pem"}},
		{"relative XDG", "", []string{"HOME", home, "XDG_CONFIG_HOME", "xdg"}, Settings{Concurrency: 32, Retries: 1, Timeout: 3 * time.Minute, Token: Secret{Env: "SYSTEM"}, CAFile: "/ca.pem"}},
		{"explicit", explicit, []string{"HOME", home, "CASTOR_CONFIG", system}, Settings{Retries: 7}},
		{"variable", "", []string{"HOME", home, "CASTOR_CONFIG", explicit}, Settings{Retries: 7}},
	} {
		c, err := Load(Sources{Explicit: tt.explicit, System: system, Getenv: environ(tt.env...)})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := c.Store(url); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
	c, err := Load(Sources{System: system, Getenv: environ("XDG_CONFIG_HOME", xdg)})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range c.Matches(url) {
		got = append(got, fmt.Sprintf("%s %s %v", filepath.Base(filepath.Dir(m.File)), m.Pattern, m.Keys))
	}
	want := []string{
		"castor https://cdn.example.com/* [password-env retries user]", "etc https://cdn.example.com/* [concurrency retries token-env]",
		"castor https://* [concurrency timeout]", "etc https://* [concurrency timeout]",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got matches %q, want %q", got, want)
	}
}

func TestLoadNothing(t *testing.T) {
	d := t.TempDir()
	notDir := write(t, d, "file", "")
	for _, s := range []Sources{
		{System: filepath.Join(d, "absent.toml")},
		{System: filepath.Join(d, "absent.toml"), Getenv: environ("HOME", filepath.Join(d, "absent"))},
		{System: filepath.Join(d, "absent.toml"), Getenv: environ("HOME", notDir)},
		{System: filepath.Join(d, "absent.toml"), Getenv: environ("HOME", "relative")},
	} {
		c, err := Load(s)
		if err != nil || !reflect.DeepEqual(c.Store("https://example.com"), Settings{}) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for _, s := range []Sources{
		{Explicit: filepath.Join(d, "absent.toml")},
		{Getenv: environ("CASTOR_CONFIG", filepath.Join(d, "absent.toml"))},
		{Explicit: d},
		{System: write(t, d, "large.toml", strings.Repeat("#", maxFile+1))},
	} {
		if _, err := Load(s); err == nil || !strings.Contains(err.Error(), "configuration: ") {
			t.Errorf("%+v: got error %v", s, err)
		}
	}
	var none *Config
	if got := none.Store("x"); !reflect.DeepEqual(got, Settings{}) || none.Matches("x") != nil {
		t.Errorf("no configuration: got %+v", got)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, url string
		want         bool
	}{
		{"https://cdn.example.com/*", "https://cdn.example.com/a/b", true},
		{"https://cdn.example.com/*", "https://cdn.example.com/", true},
		{"https://cdn.example.com/*", "https://cdn.example.com", true},
		{"https://cdn.example.com/*", "https://cdn.example.com.evil.org/a", false},
		{"https://cdn.example.com/*", "http://cdn.example.com/a", false},
		{"https://*.example.com/*", "https://a.b.example.com/c", true},
		{"https://*.example.com/*", "https://example.com/c", false},
		{"https://example.com/a", "https://example.com/a/", true},
		{"https://example.com/a", "https://example.com/a/b", false},
		{"https://example.com/a", "HTTPS://u:p@Example.COM/a?x=y#z", true},
		{"https://example.com/a b", "https://example.com/a%20b", true},
		{"https://example.com/A", "https://example.com/a", false},
		{"http://[::1]:8080/*", "http://[::1]:8080/x", true},
		{"s3://bucket/*", "s3://bucket", true},
		{"/srv/*", "/srv/store.castr", true},
		{"/srv/*", "/srv", true},
		{"*", "anything/at/all", true},
		{"*", "", true},
		{"?", "ab", false},
		{"a?c", "abc", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-b-b", false},
		{"**", "x", true},
		{"", "", true},
		{"", "x", false},
		{strings.Repeat("a*", 50) + "b", strings.Repeat("a", 5000), false}, // in no time
	} {
		if got := match(tt.pattern, Normal(tt.url)); got != tt.want {
			t.Errorf("%s, %s: got %v", tt.pattern, tt.url, got)
		}
	}
}

func TestSecrets(t *testing.T) {
	d := t.TempDir()
	creds := filepath.Join(d, "credentials")
	write(t, creds, "token", "from systemd\n")
	write(t, d, "etc/token", "from beside\n")
	write(t, d, "etc/other", "  two words \r\n\n")
	write(t, d, "home/own", "from home")
	write(t, d, "etc/empty", "\n")
	write(t, d, "etc/large", strings.Repeat("x", maxSecret+1))
	for _, tt := range []struct{ key, env, want, err string }{
		{"token-file = 'token'", "", "from beside", ""},
		{"token-file = 'token'", creds, "from systemd", ""},
		{"token-file = 'other'", creds, "two words", ""},
		{"token-file = '../etc/token'", creds, "from beside", ""},
		{"token-file = '~/own'", "", "from home", ""},
		{"token-env = 'TOKEN'", "", "from env", ""},
		{"token-env = 'OTHER'", "", "", "environment variable OTHER: it is empty"},
		{"token-file = 'empty'", "", "", "it is empty"},
		{"token-file = 'absent'", "", "", "no such file"},
		{"token-file = 'large'", "", "", "too large"},
	} {
		name := write(t, d, "etc/config.toml", "[store.'*']\n"+tt.key)
		c, err := Load(Sources{Explicit: name, Getenv: environ("HOME", filepath.Join(d, "home"), "TOKEN", "from env\n", "CREDENTIALS_DIRECTORY", tt.env)})
		if err != nil {
			t.Errorf("%s: %v", tt.key, err)
			continue
		}
		got, err := c.Read(c.Store("x").Token)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && tt.err != "no such file" && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %q, %v, want %q, %q", tt.key, got, err, tt.want, tt.err)
		}
	}
}

func TestSecretForAll(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes mean nothing")
	}
	d := t.TempDir()
	name := write(t, d, "token", "hunter2")
	var log bytes.Buffer
	c := &Config{log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, mode := range []os.FileMode{0o600, 0o640, 0o644} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		if got, err := c.Read(Secret{File: name}); got != "hunter2" || err != nil {
			t.Errorf("%v: got %q, %v", mode, got, err)
		}
		if warned := strings.Contains(log.String(), name); warned != (mode == 0o644) || strings.Contains(log.String(), "hunter2") {
			t.Errorf("%v: logged %q", mode, &log)
		}
	}
	log.Reset()
	if _, err := c.Read(Secret{File: name}); err != nil || log.Len() > 0 {
		t.Errorf("once more: %v, logged %q", err, &log)
	}
}

func TestDesync(t *testing.T) {
	d := t.TempDir()
	write(t, d, ".config/desync/config.json", `{
  "http-timeout": 5000000000,
  "s3-credentials": {
    "http://127.0.0.1:9000": {"access-key": "MYACCESSKEY", "secret-key": "hunter2", "aws-region": "us-west-3"},
    "https://s3.example.com": {"aws-credentials-file": "/home/u/creds", "aws-profile": "p"}
  },
  "store-options": {
    "https://example.com/a/*": {
      "n": 20, "client-cert": "/c.pem", "client-key": "/k.pem", "ca-cert": "/ca.pem", "http-auth": "Bearer hunter2",
      "http-cookie": "a=hunter2", "timeout": 1500000000, "error-retry": 0, "error-retry-base-interval": 1, "skip-verify": true,
      "trust-insecure": true, "encryption": true, "encryption-key": "00"
    },
    "/srv/plain/": {"uncompressed": true, "timeout": -1}
  },
  "oci-credentials": {"x": {}}, "anything": [1]
}`)
	var log bytes.Buffer
	c, err := Load(Sources{System: filepath.Join(d, "absent"), Getenv: environ("HOME", d), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	where := " in " + filepath.Join(d, ".config", "desync", "config.json")
	for url, want := range map[string]Settings{
		"https://example.com/a/b": {
			Concurrency: 20, ClientCert: "/c.pem", ClientKey: "/k.pem", CAFile: "/ca.pem", Timeout: 1500 * time.Millisecond, Retries: -1,
			Authorization: Secret{value: "Bearer hunter2", where: "http-auth" + where}, Cookie: Secret{value: "a=hunter2", where: "http-cookie" + where},
		},
		"https://example.com/b": {Timeout: 5 * time.Second},
		"s3+http://127.0.0.1:9000/bucket/prefix": {
			AccessKey: Secret{value: "MYACCESSKEY", where: "s3-credentials" + where}, SecretKey: Secret{value: "hunter2", where: "s3-credentials" + where}, Region: "us-west-3",
		},
		"s3+https://s3.example.com/b": {CredentialsFile: "/home/u/creds", Profile: "p"},
	} {
		got := c.Store(url)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", url, got, want)
		}
		for _, s := range []string{fmt.Sprintf("%+v", got), fmt.Sprintf("%#v", got), fmt.Sprint(got.SecretKey, got.Cookie)} {
			if strings.Contains(s, "hunter2") {
				t.Errorf("%s: a secret is printed: %s", url, s)
			}
		}
		if !got.Cookie.IsZero() {
			if v, err := c.Read(got.Cookie); v != "a=hunter2" || err != nil {
				t.Errorf("cookie: got %q, %v", v, err)
			}
		}
	}
	if runtime.GOOS != "windows" && !c.Store("/srv/plain").Uncompressed {
		t.Error("options of a path are not found")
	}
	for _, want := range []string{"trust-insecure", "encrypted"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("logged %q, want %q", &log, want)
		}
	}
	log.Reset()
	write(t, d, ".config/desync/config.json", `{"store-options": 1}`)
	if _, err := Load(Sources{System: filepath.Join(d, "absent"), Getenv: environ("HOME", d), Log: slog.New(slog.NewTextHandler(&log, nil))}); err != nil || !strings.Contains(log.String(), "not used") {
		t.Errorf("a malformed file: %v, logged %q", err, &log)
	}
}

func FuzzTOML(f *testing.F) {
	for _, s := range []string{
		"", "[store.\"https://x/*\"]\nretries = 1", "store = 1", "[store.x]\nheader = {a = 'b'}\nssh-args = ['a']", "[[store.x]]",
		"[store.x]\ntimeout = \"1 s\"\nrate = '1M'", "store.x.retries = 1\nstore.y.retries = 2", "[store.'a.b']\nuser = 'x'\npassword-env = 'y'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := &Config{getenv: environ()}
		entries, err := parseTOML(s, &file{c: c, dir: "/etc"})
		if err != nil {
			return
		}
		c.entries = entries
		c.order()
		for _, e := range entries {
			c.Store(e.pattern)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("a*b?", "aXbc")
	f.Add("*/*", "/")
	f.Fuzz(func(t *testing.T, pattern, url string) {
		n := Normal(url)
		if Normal(n) != n && !strings.ContainsAny(url, "%@?#") {
			t.Errorf("%q: normal form %q is %q in normal form", url, n, Normal(n))
		}
		if wider := "*" + strings.TrimSuffix(pattern, "/*") + "*"; match(pattern, n) && !match(wider, n) {
			t.Errorf("%q fits %q, and %q does not", pattern, n, wider)
		}
	})
}
