package location

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store/remote"
)

// remoteStore is a store behind casync's protocol, which tells no sizes.
type remoteStore struct{ *remote.Store }

func (remoteStore) StoredSize(context.Context, chunker.ID) (int64, error) {
	return 0, errors.ErrUnsupported
}

// remoteFile opens what get gets with casync's protocol. It waits for the first byte: only
// then is it known that the file is there.
func remoteFile(ctx context.Context, get func(context.Context, string, *remote.Options) (io.ReadCloser, error), url string, o *remote.Options) (io.ReadCloser, error) {
	r, err := get(ctx, url, o)
	if err != nil {
		return nil, err
	}
	b := bufio.NewReaderSize(r, 64<<10)
	if _, err := b.Peek(1); err != nil && err != io.EOF {
		r.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{b, r}, nil
}
