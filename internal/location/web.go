package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
)

// isWeb reports whether loc is an http or https URL.
func isWeb(loc string) bool {
	return strings.HasPrefix(loc, "http://") || strings.HasPrefix(loc, "https://")
}

// webOptions returns how to ask a web server for loc.
func webOptions(loc string, maxChunk int) (*httpstore.Options, error) {
	u, err := url.Parse(loc)
	if err != nil {
		return nil, errors.New("not a valid URL") // the error would repeat all of it
	}
	if u.User != nil {
		return nil, fmt.Errorf("%s: credentials do not belong on a command line: put them into ~/.netrc", u.Redacted())
	}
	netrc := os.Getenv("NETRC")
	if home, err := os.UserHomeDir(); netrc == "" && err == nil {
		netrc = filepath.Join(home, ".netrc")
	}
	return &httpstore.Options{MaxChunk: maxChunk, Netrc: netrc}, nil
}

// SourceStore is a store to get chunks from.
type SourceStore interface {
	store.Getter
	store.Sizer
	io.Closer
}

// Source opens the store at loc, a path or an http or https URL, for getting chunks of
// up to maxChunk bytes.
func Source(loc string, maxChunk int) (SourceStore, error) {
	if !isWeb(loc) {
		s, err := Store(loc, nil)
		if err != nil {
			return nil, err // not a nil *dir.Store
		}
		return s, nil
	}
	o, err := webOptions(loc, maxChunk)
	if err != nil {
		return nil, err
	}
	return httpstore.Open(loc, o)
}

var _ SourceStore = (*dir.Store)(nil)

// openWebIndex opens the index at an http or https URL.
func openWebIndex(ctx context.Context, loc string) (io.ReadCloser, error) {
	o, err := webOptions(loc, 0)
	if err != nil {
		return nil, err
	}
	r, err := httpstore.GetIndex(ctx, loc, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{"index", loc, err}
	}
	return r, err
}
