package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/castorsync/castor/internal/sshexec"
)

// place is a path on a server.
type place struct {
	host sshexec.Host
	path string // as the server takes it: absolute, or relative to where sessions start
	loc  string // the URL up to the path, for messages
}

// parse takes an sftp URL apart.
func parse(rawURL string) (place, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error has the URL in it, and that perhaps a password.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return place{}, fmt.Errorf("not a URL: %w", err)
	}
	loc := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String()
	host := u.Host
	if u.User != nil {
		loc = (&url.URL{Scheme: u.Scheme, User: url.User(u.User.Username()), Host: u.Host}).String()
		host = u.User.Username() + "@" + host
	}
	if _, ok := u.User.Password(); ok {
		return place{}, fmt.Errorf("%s: a password in the URL is not used: ssh has keys and agents", loc)
	}
	switch {
	case u.Scheme != "sftp" || u.Hostname() == "" || u.Opaque != "":
		return place{}, fmt.Errorf("%s: want sftp:// and a host", loc)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return place{}, fmt.Errorf("%s%s: write %%3F for ? and %%23 for # in a path", loc, u.Path)
	case u.Path == "":
		return place{}, fmt.Errorf("%s: want a path behind the host, such as /~/castor.castr", loc)
	case strings.ContainsRune(u.Path, 0):
		return place{}, fmt.Errorf("%s: the path has a zero byte", loc)
	}
	h, err := sshexec.ParseHost(host)
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", loc, err)
	}
	p := u.Path
	if rest, ok := strings.CutPrefix(p+"/", "/~/"); ok {
		p = strings.TrimLeft(rest, "/")
	}
	return place{host: h, path: path.Clean(p), loc: loc}, nil
}

// String returns the URL of the place.
func (pl place) String() string { return pl.locate(pl.path) }

// locate returns the URL of a file on the same server.
func (pl place) locate(name string) string {
	if !path.IsAbs(name) {
		name = path.Join("/~", name)
	}
	return pl.loc + (&url.URL{Path: name}).EscapedPath()
}

// fail makes an error about the place.
func (pl place) fail(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case errors.Is(err, ErrNoDirectory):
		err = ErrNoDirectory
	case errors.Is(err, fs.ErrNotExist):
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: op, Path: pl.String(), Err: err}
}

// dialer returns what connects to the server.
func (pl place) dialer(o *Options) dialFunc {
	var ssh sshexec.Options
	if o.SSH != nil {
		ssh = *o.SSH
	}
	silent := ssh
	silent.Args = append(slices.Clone(ssh.Args), "-oBatchMode=yes")
	return func(ctx context.Context, further bool) (io.ReadWriteCloser, error) {
		options := &ssh
		if further {
			options = &silent
		}
		conn, err := sshexec.Subsystem(ctx, pl.host, "sftp", options)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
}
