// Package store has the words for places that hold chunks, and what can be done
// with any of them: ask several in order, keep a cache, copy, check, collect
// garbage. The places themselves are packages below this one.
//
// A [Getter] is a source of chunks and a [Putter] a sink. Optional powers are
// further small interfaces; the package functions of the same names use them
// where they exist and fall back or return errors.ErrUnsupported where not.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
)

// Getter is a source of chunks. Get returns the chunk id in the form in which
// the source holds it and does not verify it: [Chunk.Open] does. A chunk that
// the source does not have is an error that wraps fs.ErrNotExist. Get is safe
// for concurrent use and returns promptly when ctx ends.
type Getter interface {
	Get(ctx context.Context, id chunker.ID) (Chunk, error)
}

// Putter is a sink of chunks. Put may assume that the chunk is what its ID says,
// keeps no reference to its data, and does nothing if the sink has the chunk. A
// chunk is in the sink whole or not at all. After Put the chunk may still be on
// its way: see [Sync]. Put is safe for concurrent use.
type Putter interface {
	Put(ctx context.Context, c Chunk) error
}

// Store holds chunks. Has counts as a use of the chunk: garbage collection
// leaves it alone for a grace period.
type Store interface {
	Getter
	Putter
	Has(ctx context.Context, id chunker.ID) (bool, error)
}

// Codec is a form in which chunks are stored.
type Codec interface {
	// Name is the usual name of the format, such as "zstd".
	Name() string
	// Decode appends the plain form of src to dst, which is empty and may have
	// to grow. It returns an error if that is longer than limit bytes, and takes
	// not much more memory than limit for it.
	Decode(dst, src []byte, limit int) ([]byte, error)
}

// Chunk is a chunk in the form in which somebody stores it. It is immutable.
type Chunk struct {
	ID    chunker.ID
	Data  []byte
	Codec Codec  // nil: Data is the plain bytes
	Loc   string // where it comes from, for messages

	plain []byte // the verified plain bytes, if non-nil
	lent  []byte // from bufpool: what Release gives back
	own   []byte // from bufpool: backs plain
}

// Lent returns c with the promise that Data is a buffer of internal/bufpool,
// which [Chunk.Release] may give back.
func (c Chunk) Lent() Chunk {
	c.lent = c.Data
	return c
}

// Release gives the buffers of c back. Neither c nor what Open returned may be
// used afterwards. A call is never necessary, and at most one is allowed.
func (c Chunk) Release() {
	bufpool.Put(c.lent)
	bufpool.Put(c.own)
}

// ErrDamaged is wrapped by the error about a chunk whose content is not what its
// ID says.
var ErrDamaged = errors.New("chunk is damaged")

// Verify decodes c and checks its content against its ID with digest d. It
// returns c with the plain bytes at hand for [Chunk.Open], or an error that
// wraps [ErrDamaged]; that includes chunks longer than limit bytes.
func (c Chunk) Verify(d chunker.Digest, limit int) (Chunk, error) {
	return c.verify(limit, func(id chunker.ID, plain []byte) error {
		if len(plain) > limit {
			return fmt.Errorf("%w: more than %d bytes", ErrDamaged, limit)
		}
		if sum := d.Sum(plain); sum != id {
			return fmt.Errorf("%w: content has %s %v", ErrDamaged, d, sum)
		}
		return nil
	})
}

// verify is Verify with a function that checks the plain bytes.
func (c Chunk) verify(limit int, check func(id chunker.ID, plain []byte) error) (Chunk, error) {
	if c.plain != nil && len(c.plain) <= limit {
		return c, nil
	}
	plain := c.Data
	if c.Codec != nil {
		// Enough for what compresses as chunks do; the codec makes room for more.
		c.own = bufpool.Get(min(limit, max(4*len(c.Data), 256<<10)))
		var err error
		if plain, err = c.Codec.Decode(c.own[:0], c.Data, limit); err != nil {
			return c, &Error{Op: "decode", Loc: c.Loc, ID: c.ID, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
		}
	}
	if err := check(c.ID, plain); err != nil {
		return c, &Error{Op: "verify", Loc: c.Loc, ID: c.ID, Err: err}
	}
	if plain == nil {
		plain = []byte{}
	}
	c.plain = plain
	return c, nil
}

// Open returns the plain bytes of c after checking them as [Chunk.Verify] does.
// They are valid until c is released.
func (c *Chunk) Open(d chunker.Digest, limit int) ([]byte, error) {
	v, err := c.Verify(d, limit)
	*c = v
	if err != nil {
		return nil, err
	}
	return v.plain, nil
}

// Error is an error about one chunk in one place.
type Error struct {
	Op  string // what was tried: "get", "put", …
	Loc string // path or URL
	ID  chunker.ID
	Err error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s chunk %v: %s: %v", e.Op, e.ID, e.Loc, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Added tells what [Add] did.
type Added struct {
	New    bool  // the store did not have the chunk
	Stored int64 // bytes that it takes in the store, if new
}

// Adder is the power to put a chunk and tell whether it was new. The chunk must
// be plain or in a form that the store can hold.
type Adder interface {
	Add(ctx context.Context, c Chunk) (Added, error)
}

// Add puts c into s if s does not have it.
func Add(ctx context.Context, s Store, c Chunk) (Added, error) {
	if a, ok := s.(Adder); ok {
		return a.Add(ctx, c)
	}
	if has, err := s.Has(ctx, c.ID); has || err != nil {
		return Added{}, err
	}
	if err := s.Put(ctx, c); err != nil {
		return Added{}, err
	}
	return Added{New: true, Stored: int64(len(c.Data))}, nil
}

// Syncer is the power to wait until what was put is durable.
type Syncer interface {
	Sync(ctx context.Context) error
}

// Sync returns after every chunk put so far is in s for good: it would survive a
// power failure, if s was told to care for that. An index may be written only
// after it. A store without the power has done so in Put.
func Sync(ctx context.Context, s Putter) error {
	if y, ok := s.(Syncer); ok {
		return y.Sync(ctx)
	}
	return nil
}

// Replacer is the power to put a chunk in place of a damaged one.
type Replacer interface {
	Replace(ctx context.Context, c Chunk) error
}

// Replace puts c, even if s has a chunk of that name.
func Replace(ctx context.Context, s Putter, c Chunk) error {
	if r, ok := s.(Replacer); ok {
		return r.Replace(ctx, c)
	}
	return errors.ErrUnsupported
}

// Info describes a stored chunk.
type Info struct {
	ID   chunker.ID
	Size int64     // bytes as stored
	Used time.Time // when it was last put or asked for, as far as the store knows
}

// Lister is the power to enumerate chunks. List calls each, from one goroutine
// and in any order, until each returns an error, which List then returns.
type Lister interface {
	List(ctx context.Context, each func(Info) error) error
}

// Sizer is the power to tell the stored size of a chunk without reading it. A
// missing chunk is an error that wraps fs.ErrNotExist.
type Sizer interface {
	StoredSize(ctx context.Context, id chunker.ID) (int64, error)
}

// StoredSize returns the number of bytes that getting a chunk would move, or
// errors.ErrUnsupported.
func StoredSize(ctx context.Context, g Getter, id chunker.ID) (int64, error) {
	if s, ok := g.(Sizer); ok {
		return s.StoredSize(ctx, id)
	}
	return 0, errors.ErrUnsupported
}

// Opener is the power to open a chunk as the file in which it lies. A missing chunk
// is an error that wraps fs.ErrNotExist. Whoever opens it closes it.
type Opener interface {
	OpenChunk(ctx context.Context, id chunker.ID) (File, error)
}

// File is an open file that holds a chunk and nothing else. Its content is not
// verified, not even for being a known form.
type File struct {
	*os.File
	Size  int64 // in bytes
	Plain bool  // as opposed to compressed in one way or other
}

// Missing reports whether err says that a chunk is not there, as opposed to any
// other reason for not getting it.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
