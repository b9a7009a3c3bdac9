package location

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/remote"
	"github.com/castorsync/castor/store/s3"
	"github.com/castorsync/castor/store/sftp"
)

// webOptions returns how to ask a web server, secrets included.
func (o *Opener) webOptions(st config.Settings) (*httpstore.Options, error) {
	w := &httpstore.Options{HTTP2: st.HTTP2, Idle: st.Concurrency, User: st.User, Retries: st.Retries, Servers: &o.servers}
	w.Connect, w.Answer, w.Stall = times(st)
	var err error
	if w.Header, err = o.header(st); err != nil {
		return nil, err
	}
	switch {
	case !st.Token.IsZero():
		w.Token, err = o.Config.Read(st.Token)
	case st.User != "":
		w.Password, err = o.Config.Read(st.Password)
	case st.Authorization.IsZero():
		w.Netrc = o.netrc(st)
	}
	if err != nil {
		return nil, err
	}
	w.TLS, w.Proxy, err = network(st)
	return w, err
}

// netrc returns the name of the netrc file, "" if there can be none.
func (o *Opener) netrc(st config.Settings) string {
	name := cmp.Or(st.Netrc, o.getenv("NETRC"))
	home := o.getenv("HOME")
	if home == "" && runtime.GOOS == "windows" {
		home = o.getenv("USERPROFILE")
	}
	if name == "" && home != "" {
		name = filepath.Join(home, ".netrc")
	}
	return name
}

// header returns the headers that are sent with each request.
func (o *Opener) header(st config.Settings) (http.Header, error) {
	h := http.Header{}
	for k, v := range st.Header {
		h.Set(k, v)
	}
	if !st.HeaderFile.IsZero() {
		text, err := o.Config.Read(st.HeaderFile)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" || strings.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("%v: want lines such as Name: value", st.HeaderFile)
			}
			h.Set(name, strings.TrimSpace(value))
		}
	}
	for _, s := range []struct {
		name   string
		secret config.Secret
	}{{"Cookie", st.Cookie}, {"Authorization", st.Authorization}} {
		if s.secret.IsZero() {
			continue
		}
		v, err := o.Config.Read(s.secret)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(v, "\r\n") {
			return nil, fmt.Errorf("%v: want one line", s.secret)
		}
		h.Set(s.name, v)
	}
	return h, nil
}

// s3Options returns how to ask an S3 server, secrets included.
func (o *Opener) s3Options(st config.Settings) (*s3.Options, error) {
	w := &s3.Options{
		Profile: st.Profile, CredentialsFile: st.CredentialsFile, NoCredentials: st.Anonymous,
		Region: st.Region, Lookup: st.Lookup, Idle: st.Concurrency, Retries: st.Retries, Getenv: o.getenv, Servers: &o.servers,
	}
	w.Connect, w.Answer, w.Stall = times(st)
	for _, s := range []struct {
		to     *string
		secret config.Secret
	}{{&w.AccessKey, st.AccessKey}, {&w.SecretKey, st.SecretKey}, {&w.SessionToken, st.SessionToken}} {
		if s.secret.IsZero() {
			continue
		}
		var err error
		if *s.to, err = o.Config.Read(s.secret); err != nil {
			return nil, err
		}
	}
	var err error
	w.TLS, w.Proxy, err = network(st)
	return w, err
}

// sftpOptions returns how to reach an SFTP server.
func (o *Opener) sftpOptions(st config.Settings) *sftp.Options {
	return &sftp.Options{SSH: o.sshOptions(st), Connections: st.Connections, Stall: st.Timeout, Retries: st.Retries, Log: o.Log}
}

// remoteOptions returns how to reach the other end of casync's protocol.
func (o *Opener) remoteOptions(st config.Settings) *remote.Options {
	return &remote.Options{SSH: o.sshOptions(st), Command: st.RemoteCommand, Connections: st.Connections, Stall: st.Timeout, Retries: st.Retries}
}

func (o *Opener) sshOptions(st config.Settings) *sshexec.Options {
	return &sshexec.Options{Program: st.SSHCommand, Args: st.SSHArgs, Getenv: o.getenv, Log: o.Log}
}

// times returns the time to connect, for an answer to begin, and without progress; 0
// where the default holds.
func times(st config.Settings) (connect, answer, stall time.Duration) {
	if st.Timeout == 0 {
		return 0, 0, 0
	}
	return min(st.Timeout, 10*time.Second), st.Timeout, st.Timeout
}

// network returns what TLS and proxies are to be used; nil for the usual ones.
func network(st config.Settings) (*tls.Config, func(*http.Request) (*url.URL, error), error) {
	var c *tls.Config
	if st.CAFile != "" || st.ClientCert != "" || st.ClientKey != "" {
		var err error
		if c, err = httpstore.TLSConfig(st.CAFile, st.ClientCert, st.ClientKey); err != nil {
			return nil, nil, err
		}
	}
	switch st.Proxy {
	case "":
		return c, nil, nil
	case "none":
		return c, func(*http.Request) (*url.URL, error) { return nil, nil }, nil
	}
	u, err := url.Parse(st.Proxy)
	if err != nil {
		return nil, nil, errors.New("proxy: not a valid URL")
	}
	return c, http.ProxyURL(u), nil
}
