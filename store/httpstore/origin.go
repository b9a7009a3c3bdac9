package httpstore

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// origin is the transport that adds what only the server of url may see: credentials,
// headers, the client certificate. Requests to where it redirects go without.
type origin struct {
	url           *url.URL
	authorization string
	header        http.Header
	own, away     *http.Transport
}

func (o *origin) RoundTrip(rq *http.Request) (*http.Response, error) {
	if !sameOrigin(rq.URL, o.url) {
		return o.away.RoundTrip(rq)
	}
	rq = rq.Clone(rq.Context())
	for k, v := range o.header {
		rq.Header[http.CanonicalHeaderKey(k)] = v
	}
	if host := rq.Header.Get("Host"); host != "" {
		rq.Host = host
	}
	if o.authorization != "" {
		rq.Header.Set("Authorization", o.authorization)
	}
	resp, err := o.own.RoundTrip(rq)
	if resp != nil {
		resp.Request = rq
	}
	return resp, err
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

var (
	errRedirect  = errors.New("redirected too often, or an upload elsewhere")
	errPlainHTTP = errors.New("redirected from https to http, which is not followed")
)

// checkRedirect follows the redirects of which nothing can come that a direct
// request could not.
func checkRedirect(rq *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10, rq.Method != via[0].Method:
		return errRedirect
	case via[0].URL.Scheme == "https" && rq.URL.Scheme != "https":
		return errPlainHTTP
	}
	rq.Header.Del("Referer") // has the query of the URL before
	return nil
}

// authorization returns the header with the credentials for u, "" if there are none.
func authorization(u *url.URL, o *Options) (string, error) {
	user, password := o.User, o.Password
	switch {
	case o.Token != "":
		if strings.ContainsAny(o.Token, "\r\n") {
			return "", errors.New("bearer token: more than one line")
		}
		return "Bearer " + o.Token, nil
	case user != "":
	case u.User != nil:
		user = u.User.Username()
		password, _ = u.User.Password()
	case o.Netrc != "":
		l, ok, err := netrcLogin(o.Netrc, u.Hostname())
		if !ok || err != nil {
			return "", err
		}
		user, password = l.user, l.password
	default:
		return "", nil
	}
	if strings.Contains(user, ":") {
		return "", fmt.Errorf("user name with a colon: basic authentication cannot carry it")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)), nil
}
