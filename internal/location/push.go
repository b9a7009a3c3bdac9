package location

import (
	"context"
	"errors"
	"io"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/remote"
)

// Push writes an index of size bytes to index, and the chunks of it that the other side
// lacks to a store on the same host, both reached with casync's protocol. It is the only way
// to put chunks where casync is on the other side.
func (o *Opener) Push(ctx context.Context, index, sink string, x io.ReaderAt, size int64, src store.Getter) (remote.PushStats, error) {
	to, err := parse(index)
	if err != nil {
		return remote.PushStats{}, err
	}
	s, err := parse(sink)
	if err != nil {
		return remote.PushStats{}, err
	}
	if to.kind != Casync || s.kind != Casync {
		return remote.PushStats{}, &FormError{to.loc, errors.New("an index and its chunks are pushed to one host, ssh:// or HOST:PATH")}
	}
	return remote.Push(ctx, to.url, s.url, x, size, src, o.remoteOptions(o.Config.Store(to.match())))
}
