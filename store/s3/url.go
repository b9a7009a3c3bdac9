package s3

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// awsEndpoint is what AWS answers on for all regions; minio-go makes the region's
// own host of it.
const awsEndpoint = "https://s3.amazonaws.com"

// place is what a URL says.
type place struct {
	base     string   // the URL up to the bucket, for messages
	endpoint *url.URL // scheme and host alone
	bucket   string
	key      string // the rest, without slashes around it; may be ""
	lookup   minio.BucketLookupType
}

// parse reads a URL of either form. Getenv tells the endpoint of s3:// URLs.
func parse(rawURL string, getenv func(string) string) (place, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error has the URL in it, and that a password perhaps.
		return place{}, fmt.Errorf("not a URL: %w", clean(err))
	}
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
	p, err := parseURL(u, getenv)
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", shown, err)
	}
	return p, nil
}

var errForm = errors.New("want s3://BUCKET[/PREFIX], s3+http://HOST/BUCKET[/PREFIX] or s3+https://HOST/BUCKET[/PREFIX]")

func parseURL(u *url.URL, getenv func(string) string) (place, error) {
	switch {
	case u.Opaque != "" || u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		return place{}, errForm
	case u.User != nil:
		return place{}, errors.New("credentials do not belong in a URL; see the environment variables S3_ACCESS_KEY and S3_SECRET_KEY, or the configuration")
	case u.Fragment != "":
		return place{}, errors.New("a URL of S3 has no #fragment; write %23 for #")
	}
	var p place
	rest := strings.Trim(u.Path, "/")
	switch u.Scheme {
	case "s3":
		if u.Host != u.Hostname() {
			return place{}, errForm
		}
		var err error
		if p.endpoint, err = environEndpoint(getenv); err != nil {
			return place{}, err
		}
		p.bucket, p.key = u.Hostname(), rest
		p.base = "s3://" + p.bucket
	case "s3+http", "s3+https":
		p.endpoint = &url.URL{Scheme: strings.TrimPrefix(u.Scheme, "s3+"), Host: u.Host}
		p.bucket, p.key, _ = strings.Cut(rest, "/")
		p.key = strings.TrimLeft(p.key, "/")
		p.base = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/" + p.bucket}).String()
	default:
		return place{}, errForm
	}
	if p.bucket == "" {
		return place{}, errForm
	}
	if err := s3utils.CheckValidBucketName(p.bucket); err != nil {
		return place{}, fmt.Errorf("bucket %q: %w", p.bucket, err)
	}
	if err := checkKey(p.key); err != nil {
		return place{}, err
	}
	return p, p.readQuery(u)
}

// environEndpoint returns the endpoint of s3:// URLs.
func environEndpoint(getenv func(string) string) (*url.URL, error) {
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		v := getenv(name)
		if v == "" {
			continue
		}
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("%s: want http://HOST[:PORT] or https://HOST[:PORT]", name)
		}
		return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
	}
	return url.Parse(awsEndpoint)
}

// maxKey is the greatest length of a key in S3, less what the name of a chunk takes.
const maxKey = 1024 - 128

// checkKey refuses what is not kept as it is on the way to all servers.
func checkKey(key string) error {
	switch {
	case len(key) > maxKey:
		return fmt.Errorf("more than %d bytes behind the bucket", maxKey)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl):
		return errors.New("control characters or bytes that are not UTF-8 behind the bucket")
	case key == "":
		return nil
	}
	for e := range strings.SplitSeq(key, "/") {
		if e == "" || e == "." || e == ".." {
			return fmt.Errorf("%q is no name between slashes", e)
		}
	}
	return nil
}

func (p *place) readQuery(u *url.URL) error {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("the query is malformed")
	}
	for k, v := range q {
		if k != "lookup" || len(v) != 1 {
			return errors.New("want no query but ?lookup=path, dns or auto")
		}
		if p.lookup, err = parseLookup(v[0]); err != nil {
			return err
		}
	}
	return nil
}

func parseLookup(s string) (minio.BucketLookupType, error) {
	switch s {
	case "", "auto":
		return minio.BucketLookupAuto, nil
	case "path":
		return minio.BucketLookupPath, nil
	case "dns":
		return minio.BucketLookupDNS, nil
	}
	return 0, fmt.Errorf("lookup %q: want path, dns or auto", s)
}

// url returns the URL of an object for messages.
func (p *place) url(key string) string {
	if key == "" {
		return p.base
	}
	return p.base + (&url.URL{Path: "/" + key}).EscapedPath()
}

func (p *place) aws() bool { return s3utils.IsAmazonEndpoint(*p.endpoint) }

// region returns where the bucket is, as far as can be said without asking.
func (p *place) region(o *Options) string {
	for _, r := range []string{
		o.Region, o.Getenv("S3_REGION"), o.Getenv("AWS_REGION"), o.Getenv("AWS_DEFAULT_REGION"),
		s3utils.GetRegionFromURL(*p.endpoint),
	} {
		if r != "" {
			return r
		}
	}
	return "us-east-1"
}
