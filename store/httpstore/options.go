package httpstore

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/transfer"
)

// Options are the settings of a client. The zero value and nil mean the defaults.
type Options struct {
	// MaxChunk is the greatest size of a plain chunk in bytes; 0 means
	// [chunker.MaxSize]. More is neither read nor kept.
	MaxChunk int
	// Plain uploads chunks without compression, and asks for them so first.
	Plain bool
	// Level is the compression level of uploads, see [cacnk.NewEncoder]; 0 means
	// [cacnk.DefaultLevel].
	Level int

	// Credentials: the first of these that is given is sent, to the host of the
	// URL alone, whatever redirects say.
	Token    string // a bearer token
	User     string // of basic authentication, with Password
	Password string
	// (then the user and password in the URL)
	Netrc string // a file in the form of ~/.netrc, which need not exist

	// Header is sent with each request, to the host of the URL alone.
	Header http.Header
	// TLS has certificates and authorities, see [TLSConfig]. It is not changed.
	TLS *tls.Config
	// Proxy returns the proxy for a request; nil means http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// HTTP2 allows HTTP/2. One connection carries everything then.
	HTTP2 bool
	// Idle is the number of connections kept open for the next request; 0 means 64.
	Idle int

	// Connect is the time to connect to the server, and again to agree on TLS; 0
	// means 10 s.
	Connect time.Duration
	// Answer is the time from the end of a request to the head of its answer; 0
	// means 30 s.
	Answer time.Duration
	// Stall is the time in which 16 KiB of a body must move; 0 means 30 s.
	Stall time.Duration

	// Servers is what clients have in common: where one of them has had an answer, all
	// wait for the server if it cannot be reached later. Otherwise that is an error at
	// once. Nil means that this client stands alone.
	Servers *transfer.Servers

	// Retries is how often a request is tried again that failed for a reason that
	// may pass; 0 means 6, a negative number 0.
	Retries int
	// Backoff is the pause before the first retry, less up to half of it at random.
	// It doubles each time, up to 10 s; 0 means 200 ms.
	Backoff time.Duration
	// MaxRetryAfter is the longest pause that a server may ask for; 0 means one
	// minute.
	MaxRetryAfter time.Duration
}

// withDefaults returns a copy of o without zeros that stand for something else.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.MaxChunk = cmp.Or(d.MaxChunk, chunker.MaxSize)
	d.Level = cmp.Or(d.Level, cacnk.DefaultLevel)
	d.Idle = cmp.Or(d.Idle, 64)
	d.Connect = cmp.Or(d.Connect, 10*time.Second)
	d.Answer = cmp.Or(d.Answer, 30*time.Second)
	d.Stall = cmp.Or(d.Stall, 30*time.Second)
	d.Retries = max(cmp.Or(d.Retries, 6), 0)
	d.Backoff = cmp.Or(d.Backoff, 200*time.Millisecond)
	d.MaxRetryAfter = cmp.Or(d.MaxRetryAfter, time.Minute)
	if d.Proxy == nil {
		d.Proxy = http.ProxyFromEnvironment
	}
	return d
}

// TLSConfig reads PEM files: authorities that are trusted instead of the system's,
// and a client certificate with its key. Empty names are left out.
func TLSConfig(caFile, certFile, keyFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", caFile)
		}
	}
	if (certFile == "") != (keyFile == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
