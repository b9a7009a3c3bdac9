package remote

import (
	"fmt"
	"sync"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

var encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(cacnk.DefaultLevel) })

// encode returns a chunk in the form in which it is sent: compressed, for casync's
// clients keep what they get as it is. buf backs data if it is from bufpool.
func encode(c *store.Chunk) (data []byte, zipped bool, buf []byte, err error) {
	switch c.Codec {
	case cacnk.Zstd, cacnk.Gzip, cacnk.XZ:
		data = c.Data
	case nil:
		e, err := encoder()
		if err != nil {
			return nil, false, nil, err
		}
		buf = bufpool.Get(cacnk.MaxEncoded(len(c.Data)))
		data = e.Encode(buf[:0], c.Data)
	default:
		return nil, false, nil, fmt.Errorf("%s is no form that the protocol knows", c.Codec.Name())
	}
	if len(data) > maxStored {
		bufpool.Put(buf)
		return nil, false, nil, fmt.Errorf("%d bytes as stored: the protocol carries up to %d", len(data), maxStored)
	}
	return data, true, buf, nil
}
