package s3

import (
	"fmt"
	"io"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// tooLargeError says that a body is longer than it may be.
type tooLargeError int64

func (e tooLargeError) Error() string {
	return fmt.Sprintf("%v: more than %d bytes", store.ErrDamaged, int64(e))
}

func (tooLargeError) Unwrap() error { return store.ErrDamaged }

// readBody reads r to its end into a buffer of bufpool. Length is what its sender
// says, of which net/http lets no more through; -1 if nothing. Memory is taken as
// bytes come, and not for more than limit.
func readBody(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, tooLargeError(limit)
	}
	room := int64(64 << 10)
	if length >= 0 {
		room = min(length, 1<<20)
	}
	b := bufpool.Get(int(room))[:0]
	for int64(len(b)) != length {
		if len(b) == cap(b) {
			more := append(bufpool.Get(int(min(2*int64(cap(b)), limit+1)))[:0], b...)
			bufpool.Put(b)
			b = more
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			err = tooLargeError(limit)
		case err == io.EOF && int64(len(b)) < length:
			err = io.ErrUnexpectedEOF
		case err == io.EOF, int64(len(b)) == length:
			return b, nil
		}
		if err != nil {
			bufpool.Put(b)
			return nil, err
		}
	}
	return b, nil
}
