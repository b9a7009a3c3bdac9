package s3

import (
	"context"
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// source is a place where there may be credentials.
type source struct {
	name string
	// get returns an empty value if there are none. An error is for what was meant
	// to be there and cannot be used: going on to another place would be a surprise.
	get func(*credentials.CredContext) (credentials.Value, error)
}

// findCredentials looks for credentials in all places, in order, and returns the
// first, which renew themselves. Without any, requests are anonymous.
func findCredentials(ctx context.Context, o *Options, aws bool) (creds *credentials.Credentials, anonymous bool, err error) {
	if o.NoCredentials {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), true, nil
	}
	p := &provider{client: &http.Client{Timeout: o.Connect + o.Answer}}
	cc := &credentials.CredContext{Context: ctx}
	for _, s := range sources(o, aws) {
		p.source = s
		err := p.renew(cc)
		if err != nil {
			if ctx.Err() != nil {
				return nil, false, context.Cause(ctx)
			}
			return nil, false, err
		}
		if p.value.AccessKeyID != "" {
			return credentials.New(p), false, nil
		}
	}
	return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), true, nil
}

// sources returns the places to look at. The variables with which AWS's own
// programs find files, roles and metadata are read from o and, by minio-go, from the
// environment of the process.
func sources(o *Options, aws bool) []source {
	if o.AccessKey != "" || o.SecretKey != "" {
		return []source{keys("the configuration", o.AccessKey, o.SecretKey, o.SessionToken)}
	}
	if o.Profile != "" || o.CredentialsFile != "" {
		return []source{profile(o)}
	}
	env := o.Getenv
	all := []source{
		keys("S3_ACCESS_KEY and S3_SECRET_KEY", env("S3_ACCESS_KEY"), env("S3_SECRET_KEY"), env("S3_SESSION_TOKEN")),
		keys("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN")),
	}
	if file := env("AWS_WEB_IDENTITY_TOKEN_FILE"); file != "" {
		m := &credentials.IAM{Region: env("AWS_REGION"), Endpoint: env("AWS_ENDPOINT_URL_STS")}
		m.EKSIdentity.TokenFile = file
		m.EKSIdentity.RoleARN = env("AWS_ROLE_ARN")
		m.EKSIdentity.RoleSessionName = env("AWS_ROLE_SESSION_NAME")
		all = append(all, source{"the web identity of AWS_WEB_IDENTITY_TOKEN_FILE", m.RetrieveWithCredContext})
	}
	all = append(all, profile(o))
	relative, full := env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), env("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	switch {
	case relative != "" || full != "":
		m := &credentials.IAM{Client: metadataClient(5 * time.Second)}
		m.Container.CredentialsRelativeURI = relative
		m.Container.CredentialsFullURI = full
		m.Container.AuthorizationToken = env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") // so minio-go calls the file, too
		all = append(all, source{"the container", m.RetrieveWithCredContext})
	case aws && !strings.EqualFold(env("AWS_EC2_METADATA_DISABLED"), "true"):
		// Not for other endpoints: their users have no metadata service, and where
		// nothing answers it takes two seconds to find out.
		all = append(all, metadata(&credentials.IAM{
			Client:   metadataClient(time.Second),
			Endpoint: strings.TrimRight(env("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/"),
		}))
	}
	return all
}

// metadataClient returns a client for services of the machine, which no proxy
// reaches.
func metadataClient(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
}

// keys are the credentials in name.
func keys(name, access, secret, token string) source {
	return source{name, func(*credentials.CredContext) (credentials.Value, error) {
		if (access == "") != (secret == "") {
			return credentials.Value{}, errors.New("want the access key and the secret key, and there is only one of them")
		}
		return credentials.Value{AccessKeyID: access, SecretAccessKey: secret, SessionToken: token}, nil
	}}
}

// profile is what AWS's files have: keys, a program that tells them, or a session of
// single sign-on.
func profile(o *Options) source {
	name := o.Profile
	if name == "" {
		name = o.Getenv("AWS_PROFILE")
	}
	wanted := name != "" || o.CredentialsFile != ""
	if name == "" {
		name = "default"
	}
	f := &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: name}
	return source{fmt.Sprintf("profile %q of AWS", name), func(cc *credentials.CredContext) (credentials.Value, error) {
		v, err := f.RetrieveWithCredContext(cc)
		switch {
		case err != nil && !wanted && (errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "does not exist")):
			return credentials.Value{}, nil // neither the files nor the profile need be there
		case err == nil && wanted && v.AccessKeyID == "":
			return v, errors.New("there are no keys in it")
		}
		return v, err
	}}
}

// metadata is the service of a machine at AWS. That it does not answer, or has no
// role for the machine, is no error.
func metadata(m *credentials.IAM) source {
	found := false
	return source{"the metadata service", func(cc *credentials.CredContext) (credentials.Value, error) {
		v, err := m.RetrieveWithCredContext(cc)
		if err != nil && !found && cc.Context.Err() == nil {
			return credentials.Value{}, nil
		}
		found = err == nil
		return v, err
	}}
}

// provider keeps the credentials of one source, and asks for new ones when four
// fifths of their time are over. If that fails, the old ones are used to their end.
// Package credentials calls it from one goroutine at a time.
type provider struct {
	source source
	client *http.Client // to services on the network
	value  credentials.Value
	next   time.Time // when to ask again; zero: never
}

// retryCredentials is the pause after failing to get new credentials.
const retryCredentials = 20 * time.Second

func (p *provider) renew(cc *credentials.CredContext) error {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	v, err := p.source.get(&credentials.CredContext{Client: p.client, Context: ctx})
	now := time.Now()
	if err != nil {
		if p.value.Expiration.After(now) {
			p.next = now.Add(retryCredentials)
			return nil
		}
		return transfer.Forever(fmt.Errorf("credentials of %s: %w", p.source.name, clean(err)))
	}
	v.SignerType = credentials.SignatureV4
	p.value, p.next = v, time.Time{}
	if !v.Expiration.IsZero() {
		p.next = now.Add(v.Expiration.Sub(now) / 5 * 4)
	}
	return nil
}

// RetrieveWithCredContext returns credentials that have not expired.
func (p *provider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	if err := p.renew(cc); err != nil {
		return credentials.Value{}, err
	}
	return p.value, nil
}

// Retrieve is RetrieveWithCredContext for older callers.
func (p *provider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

// IsExpired reports whether it is time for new credentials.
func (p *provider) IsExpired() bool { return !p.next.IsZero() && !time.Now().Before(p.next) }
