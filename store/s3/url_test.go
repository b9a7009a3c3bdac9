package s3

import (
	"net/url"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/castorsync/castor/store/cacnk"
)

// environ makes a function as os.Getenv of pairs.
func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestParse(t *testing.T) {
	none := environ()
	for _, tt := range []struct {
		url                      string
		env                      func(string) string
		endpoint, bucket, key    string
		lookup                   minio.BucketLookupType
		canonical, region, error string
	}{
		{"s3+http://host/bucket", none, "http://host", "bucket", "", 0, "s3+http://host/bucket", "us-east-1", ""},
		{"s3+https://host:9000/bucket/", none, "https://host:9000", "bucket", "", 0, "s3+https://host:9000/bucket", "us-east-1", ""},
		{"s3+https://[::1]:9000/bucket/a/b/", none, "https://[::1]:9000", "bucket", "a/b", 0, "s3+https://[::1]:9000/bucket/a/b", "us-east-1", ""},
		{"s3+https://host/bucket/a%20b%2fc%23", none, "https://host", "bucket", "a b/c#", 0, "s3+https://host/bucket/a%20b/c%23", "us-east-1", ""},
		{"s3+https://host/bucket/p?lookup=path", none, "https://host", "bucket", "p", minio.BucketLookupPath, "s3+https://host/bucket/p", "us-east-1", ""},
		{"s3+https://host/bucket/p?lookup=dns", none, "https://host", "bucket", "p", minio.BucketLookupDNS, "s3+https://host/bucket/p", "us-east-1", ""},
		{"s3+https://host/bucket/p?lookup=auto", none, "https://host", "bucket", "p", minio.BucketLookupAuto, "s3+https://host/bucket/p", "us-east-1", ""},
		{"s3+https://s3.eu-west-1.amazonaws.com/bucket", none, "https://s3.eu-west-1.amazonaws.com", "bucket", "", 0, "s3+https://s3.eu-west-1.amazonaws.com/bucket", "eu-west-1", ""},
		{"s3+https://host/bucket", environ("AWS_REGION", "a", "S3_REGION", "b"), "https://host", "bucket", "", 0, "s3+https://host/bucket", "b", ""},
		{"s3+https://host/bucket", environ("AWS_DEFAULT_REGION", "a"), "https://host", "bucket", "", 0, "s3+https://host/bucket", "a", ""},
		{"s3://bucket/p", none, awsEndpoint, "bucket", "p", 0, "s3://bucket/p", "us-east-1", ""},
		{"s3://bucket", environ("AWS_ENDPOINT_URL", "http://a:1", "AWS_ENDPOINT_URL_S3", "https://b:2/"), "https://b:2", "bucket", "", 0, "s3://bucket", "us-east-1", ""},
		{"s3://bucket", environ("AWS_ENDPOINT_URL", "http://a:1"), "http://a:1", "bucket", "", 0, "s3://bucket", "us-east-1", ""},

		{url: "s3://bucket", env: environ("AWS_ENDPOINT_URL", "a:1"), error: "AWS_ENDPOINT_URL: want"},
		{url: "s3://bucket", env: environ("AWS_ENDPOINT_URL", "http://a/b"), error: "AWS_ENDPOINT_URL: want"},
		{url: "s3://bucket:80/p", error: "want s3://"},
		{url: "s3+http://host", error: "want s3://"},
		{url: "s3+http://host/", error: "want s3://"},
		{url: "s3+http:host/bucket", error: "want s3://"},
		{url: "s3+ftp://host/bucket", error: "want s3://"},
		{url: "http://host/bucket", error: "want s3://"},
		{url: "", error: "want s3://"},
		{url: "s3+http://user:hunter2@host/bucket", error: "credentials do not belong in a URL"},
		{url: "s3+http://user:hunter2@host:x/bucket", error: "not a URL"},
		{url: "s3://AKIA:hunter2@bucket", error: "credentials do not belong in a URL"},
		{url: "s3+http://host/b", error: "bucket"},
		{url: "s3+http://host/UPPER_CASE!/p", error: "bucket"},
		{url: "s3+http://host/bucket/a//b", error: "no name between slashes"},
		{url: "s3+http://host/bucket/../b", error: "no name between slashes"},
		{url: "s3+http://host/bucket/a%0ab", error: "control characters"},
		{url: "s3+http://host/bucket/%ff", error: "not UTF-8"},
		{url: "s3+http://host/bucket/" + strings.Repeat("x", 1000), error: "more than"},
		{url: "s3+http://host/bucket?lookup=no", error: `lookup "no"`},
		{url: "s3+http://host/bucket?region=x", error: "want no query but"},
		{url: "s3+http://host/bucket?lookup=dns&lookup=path", error: "want no query but"},
		{url: "s3+http://host/bucket?%zz", error: "malformed"},
		{url: "s3+http://host/bucket#x", error: "no #fragment"},
	} {
		if tt.env == nil {
			tt.env = none
		}
		p, err := parse(tt.url, tt.env)
		if tt.error != "" || err != nil {
			if err == nil || tt.error == "" || !strings.Contains(err.Error(), tt.error) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: error %v, want one with %q and without secrets", tt.url, err, tt.error)
			}
			continue
		}
		if got := p.endpoint.String(); got != tt.endpoint || p.bucket != tt.bucket || p.key != tt.key || p.lookup != tt.lookup {
			t.Errorf("%s: %s, bucket %q, key %q, lookup %v", tt.url, got, p.bucket, p.key, p.lookup)
		}
		if got := p.url(p.key); got != tt.canonical {
			t.Errorf("%s: in messages %s, want %s", tt.url, got, tt.canonical)
		}
		o := Options{Getenv: tt.env}
		if got := p.region(&o); got != tt.region {
			t.Errorf("%s: region %q, want %q", tt.url, got, tt.region)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"s3+http://host/bucket", "s3+https://[::1]:9000/bucket/a/b?lookup=path", "s3://bucket/p", "s3://u:p@bucket/",
		"s3+http://host/bucket/a%20b%2fc%23", "s3+http://host//bucket//a/", "s3+http://host/bucket?lookup=dns#f", "s3:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parse(s, environ())
		if err != nil {
			if u, uerr := url.Parse(s); uerr == nil && u.User != nil && strings.Contains(err.Error(), u.User.String()+"@") {
				t.Errorf("%q: error %q has credentials in it", s, err)
			}
			return
		}
		if p.bucket == "" || strings.Contains(p.bucket, "/") || p.endpoint.User != nil || p.endpoint.Path != "" {
			t.Errorf("%q: %+v", s, p)
		}
		again, err := parse(p.url(p.key), environ())
		if err != nil || again.bucket != p.bucket || again.key != p.key || *again.endpoint != *p.endpoint {
			t.Errorf("%q is %q in messages, which is something else: %+v, %v", s, p.url(p.key), again, err)
		}
	})
}

func FuzzChunkName(f *testing.F) {
	f.Add("f671/f671c4ef868c563fede17a381dc41595f912a18853fa848aa49ab9477981d73a.cacnk")
	f.Add("f671/f671c4ef868c563fede17a381dc41595f912a18853fa848aa49ab9477981d73a")
	f.Fuzz(func(t *testing.T, s string) {
		if id, form, ok := cacnk.ParseName(s); ok && cacnk.Name(id, form) != s {
			t.Errorf("%q is taken for chunk %v in form %v", s, id, form)
		}
	})
}
