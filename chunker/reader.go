package chunker

import "io"

// Reader cuts a stream one chunk at a time, on the caller's goroutine. Use
// [Parallel] or [ParallelReader] where speed matters. It is not safe for
// concurrent use.
type Reader struct {
	src   io.Reader
	split Splitter
	buf   []byte // capacity Params.Max or more; buf[at:end] is read and not yet returned
	at    int
	end   int
	err   error // from src; sticky, set by fill
}

// NewReader returns a Reader of r's chunks. It panics if p is not valid.
func NewReader(r io.Reader, p Params) *Reader {
	return &Reader{src: r, split: NewSplitter(p)}
}

// Next returns the next chunk. It is valid until the next call. At the end of
// the stream Next returns io.EOF alone; any other error of the underlying
// reader is returned as it is, without the bytes read before it.
func (r *Reader) Next() ([]byte, error) {
	if err := r.fill(); err != nil {
		return nil, err
	}
	n := r.split.Cut(r.buf[r.at:r.end])
	if n == 0 {
		return nil, io.EOF
	}
	r.at += n
	return r.buf[r.at-n : r.at], nil
}

// fill reads until the buffer holds a chunk of the greatest size or the stream
// has ended. The buffer grows with what has been read, so that a large maximum
// costs no memory on a small stream.
func (r *Reader) fill() error {
	if r.end-r.at >= r.split.limit {
		return nil
	}
	r.end = copy(r.buf, r.buf[r.at:r.end])
	r.at = 0
	for r.err == nil && r.end < r.split.limit {
		if r.end == len(r.buf) {
			grown := make([]byte, max(2*len(r.buf), 64<<10))
			copy(grown, r.buf)
			r.buf = grown
		}
		var n int
		n, r.err = readSome(r.src, r.buf[r.end:])
		r.end += n
	}
	if r.err == io.EOF || r.err == nil {
		return nil
	}
	return r.err
}

// readSome reads at least one byte or returns an error, io.ErrNoProgress from a
// stream that is stuck.
func readSome(r io.Reader, b []byte) (int, error) {
	for range 100 {
		if n, err := r.Read(b); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}
