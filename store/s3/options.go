package s3

import (
	"cmp"
	"crypto/tls"
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
	// Plain stores chunks without compression, and looks for them so first.
	Plain bool
	// Level is the compression level of uploads, see [cacnk.NewEncoder]; 0 means
	// [cacnk.DefaultLevel].
	Level int

	// AccessKey, SecretKey and SessionToken are used before any others that are
	// found; see the package comment for those.
	AccessKey    string
	SecretKey    string
	SessionToken string
	// Profile and CredentialsFile choose what is read from AWS's files of
	// credentials. If either is given no other place is looked at.
	Profile         string
	CredentialsFile string
	// NoCredentials sends requests without a signature.
	NoCredentials bool
	// Getenv returns variables of the environment; nil means os.Getenv.
	Getenv func(string) string

	// Region is where the bucket is, in the server's words. "" means S3_REGION,
	// AWS_REGION or AWS_DEFAULT_REGION, what the host of the URL says, or
	// us-east-1. A server that names another one is believed.
	Region string
	// Lookup says where the bucket's name goes, if the URL does not: "path", "dns"
	// for the host's name, or "auto", which is dns for the endpoints of AWS and
	// Google; "" means auto.
	Lookup string

	// TLS has certificates and authorities. It is not changed.
	TLS *tls.Config
	// Proxy returns the proxy for a request; nil means http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Idle is the number of connections kept open for the next request; 0 means
	// 128.
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
}

// withDefaults returns a copy of o without zeros that stand for something else.
func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	d.MaxChunk = cmp.Or(d.MaxChunk, chunker.MaxSize)
	d.Level = cmp.Or(d.Level, cacnk.DefaultLevel)
	d.Idle = cmp.Or(d.Idle, 128)
	d.Connect = cmp.Or(d.Connect, 10*time.Second)
	d.Answer = cmp.Or(d.Answer, 30*time.Second)
	d.Stall = cmp.Or(d.Stall, 30*time.Second)
	d.Retries = max(cmp.Or(d.Retries, 6), 0)
	d.Backoff = cmp.Or(d.Backoff, 200*time.Millisecond)
	if d.Getenv == nil {
		d.Getenv = os.Getenv
	}
	if d.Proxy == nil {
		d.Proxy = http.ProxyFromEnvironment
	}
	return d
}
