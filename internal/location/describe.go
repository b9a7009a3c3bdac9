package location

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/store"
)

// Description is what can be told of a store without changing it.
type Description struct {
	Loc  string // as it was written, less what may be secret
	Kind Kind
	URL  string // in full: an absolute path, or a URL

	Config      []config.Match // entries that fit, the strongest first
	Credentials []string       // the names of places where there are some, in the order of their use

	Reachable bool
	Latency   time.Duration // of the first question, in most cases with connecting
	Writable  Answer
	Err       error // why it is not reachable

	Members []Description // of a group, which has little else
}

// Answer is yes, no, or unknown, where only trying could tell.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Describe tells what the store at loc is, and tries to reach it. An error means that loc is
// no store, or that ctx has ended; what is wrong with the store is in the description.
func (o *Opener) Describe(ctx context.Context, loc string) (Description, error) {
	members := splitGroup(loc)
	if len(members) == 1 {
		p, err := parse(loc)
		if err != nil {
			return Description{}, err
		}
		return o.describe(ctx, p)
	}
	d := Description{Loc: redactGroup(loc), Kind: Group, URL: redactGroup(loc), Writable: No}
	for _, m := range members {
		p, err := parse(m)
		if err != nil {
			return Description{}, err
		}
		one, err := o.describe(ctx, p)
		if err != nil {
			return Description{}, err
		}
		d.Members = append(d.Members, one)
		if one.Reachable && !d.Reachable {
			d.Reachable, d.Latency = true, one.Latency
		}
	}
	if !d.Reachable {
		d.Err = errors.New("none of the group can be reached")
	}
	return d, nil
}

func (o *Opener) describe(ctx context.Context, p place) (Description, error) {
	st := o.Config.Store(p.match())
	d := Description{
		Loc: p.loc, Kind: p.kind, URL: redact(p.url), Writable: Unknown,
		Config: o.Config.Matches(p.match()), Credentials: o.credentials(p, st),
	}
	switch p.kind {
	case Directory:
		if abs, err := filepath.Abs(p.url); err == nil {
			d.URL = abs
		}
		d.Writable = writable(p.url)
	}
	d.Latency, d.Err = o.ask(ctx, p)
	if ctx.Err() != nil {
		return Description{}, context.Cause(ctx)
	}
	d.Reachable = d.Err == nil
	return d, nil
}

// maxAsk is how long a store may take to be described, retries included.
const maxAsk = 20 * time.Second

// ask asks the store about a chunk that is not there.
func (o *Opener) ask(ctx context.Context, p place) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxAsk, fmt.Errorf("no answer within %v", maxAsk))
	defer cancel()
	s, err := o.source(ctx, p, 0)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	begin := time.Now()
	_, err = s.StoredSize(ctx, chunker.ID{})
	if errors.Is(err, errors.ErrUnsupported) {
		var c store.Chunk
		c, err = s.Get(ctx, chunker.ID{})
		c.Release()
	}
	if store.Missing(err) {
		err = nil
	}
	if e, ok := errors.AsType[*store.Error](err); ok {
		err = e.Err // it is not about that chunk
	}
	return time.Since(begin), err
}

// credentials names the places where there are credentials for p.
func (o *Opener) credentials(p place, st config.Settings) []string {
	var names []string
	add := func(name string, has bool) {
		if has {
			names = append(names, name)
		}
	}
	secret := func(what string, s config.Secret) { add(fmt.Sprintf("%s from %v", what, s), !s.IsZero()) }
	switch p.kind {
	case Web:
		secret("token", st.Token)
		add(fmt.Sprintf("user %s, password from %v", st.User, st.Password), st.User != "")
		secret("authorization", st.Authorization)
		if len(names) == 0 {
			name := o.netrc(st)
			_, err := os.Stat(name)
			add("netrc "+name, name != "" && err == nil)
		}
		secret("cookie", st.Cookie)
		secret("headers", st.HeaderFile)
		add("client certificate "+st.ClientCert, st.ClientCert != "")
	case S3:
		switch {
		case st.Anonymous:
		case !st.AccessKey.IsZero():
			names = append(names, fmt.Sprintf("access key from %v, secret key from %v", st.AccessKey, st.SecretKey))
		case st.Profile != "" || st.CredentialsFile != "":
			names = append(names, strings.TrimSpace("profile "+st.Profile+" "+st.CredentialsFile))
		default:
			add("environment variables S3_ACCESS_KEY and S3_SECRET_KEY", o.getenv("S3_ACCESS_KEY") != "")
			add("environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", o.getenv("AWS_ACCESS_KEY_ID") != "")
			add("environment variable AWS_WEB_IDENTITY_TOKEN_FILE", o.getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "")
			add("profile "+o.getenv("AWS_PROFILE"), o.getenv("AWS_PROFILE") != "")
		}
	}
	return names
}

// writable reports whether chunks can be put into a directory.
func writable(name string) Answer {
	fi, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Unknown // it may be created
	case err != nil || !fi.IsDir():
		return No
	}
	return access(name)
}
