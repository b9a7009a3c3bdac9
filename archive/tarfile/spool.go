package tarfile

import (
	"context"
	"io"
	"os"
)

// spool holds contents in a temporary file, which has no name where the system allows
// that. Its zero value is empty and makes the file when it is needed.
type spool struct {
	f     *os.File
	named bool
	size  int64
	buf   []byte
}

// spoolBlock is the size in bytes of what is copied at once. Blocks of zeros are holes.
const spoolBlock = 256 << 10

// add appends size bytes of r and returns where they are.
func (s *spool) add(ctx context.Context, r io.Reader, size int64) (off int64, err error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	off = s.size
	for left := size; left > 0; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		b := s.buf[:min(left, spoolBlock)]
		if _, err := io.ReadFull(r, b); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if !zeros(b) {
			if _, err := s.f.WriteAt(b, s.size); err != nil {
				return 0, err
			}
		}
		s.size += int64(len(b))
		left -= int64(len(b))
	}
	return off, nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func (s *spool) open() (err error) {
	if s.f != nil {
		return nil
	}
	if s.f, err = os.CreateTemp("", "castor-tar-"); err != nil {
		return err
	}
	s.named = os.Remove(s.f.Name()) != nil
	s.buf = make([]byte, spoolBlock)
	return nil
}

// seal makes all that was added readable, holes at the end included.
func (s *spool) seal() error {
	s.buf = nil
	if s.f == nil {
		return nil
	}
	return s.f.Truncate(s.size)
}

// ReadAt implements [io.ReaderAt].
func (s *spool) ReadAt(b []byte, off int64) (int, error) { return s.f.ReadAt(b, off) }

func (s *spool) close() {
	if s.f == nil {
		return
	}
	s.f.Close() // nobody needs it any more
	if s.named {
		os.Remove(s.f.Name())
	}
}
