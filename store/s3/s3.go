// Package s3 is a chunk store in a bucket of S3 or of any server that speaks its
// protocol.
//
// Chunk ID is the object PREFIX/ID[:4]/ID.cacnk, compressed, or PREFIX/ID[:4]/ID,
// plain, as desync knows it and as a .castr directory that was copied into the bucket
// has it. Objects appear whole, and are never changed but by [Store.Replace].
//
// # URLs
//
// s3+http://HOST[:PORT]/BUCKET[/PREFIX] and s3+https://… name the server; with
// ?lookup=path or dns they say where the name of the bucket goes. In s3://BUCKET[/PREFIX]
// the server is AWS, or that of the environment's AWS_ENDPOINT_URL_S3 or
// AWS_ENDPOINT_URL.
//
// # Credentials
//
// The first of these is used: the keys of [Options]; the profile of Options;
// S3_ACCESS_KEY, S3_SECRET_KEY and S3_SESSION_TOKEN of the environment;
// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; the web identity of
// AWS_WEB_IDENTITY_TOKEN_FILE; the profile AWS_PROFILE, or "default", of AWS's files,
// with keys, credential_process or single sign-on, but not role_arn; the container's
// credentials; and, for endpoints of AWS, the machine's. Those that expire are renewed.
// Else requests are not signed, which is enough for public buckets.
//
// # Garbage collection
//
// The time of an object's last use is when it was last modified. Whoever finds a chunk
// that is older than half an hour renews that time before counting on it: by a copy of
// the object onto itself or, where a server keeps the time of those, by writing it
// again. A collection removes a chunk right after asking for its time again, and
// has those servers that can compare it once more as they delete. On others, AWS
// among them, a chunk is lost if it had not been used for the whole grace period, and is
// used in the very moment between a collection's question and its deletion: some
// milliseconds. The grace period counts by the clocks of this machine and of the server;
// servers refuse requests of clients that are off by more than a quarter of an hour.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// Store is a chunk store in a bucket. It is safe for concurrent use.
type Store struct {
	client  *client
	prefix  string // of the keys; empty or with a slash at its end
	loc     string // URL for messages
	limit   int    // greatest plain chunk in bytes
	write   form   // the form of what is put
	encoder func() (*cacnk.Encoder, error)

	prefer    atomic.Uint32 // the form that was there last: ask for it first
	expectNew atomic.Bool   // what is put will be new, as the last was
	careless  atomic.Bool   // the server takes no conditions on uploads
	probed    atomic.Bool   // careless has been found out
	timeless  atomic.Bool   // copying an object onto itself does not renew its time
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Adder     = (*Store)(nil)
	_ store.Replacer  = (*Store)(nil)
	_ store.Sizer     = (*Store)(nil)
	_ store.Remover   = (*Store)(nil)
	_ store.SetAsider = (*Store)(nil)
)

// Open returns the store at a URL, see the package comment for its forms. It finds
// credentials, for which it may have to ask services until ctx ends, but does not
// connect to the server.
func Open(ctx context.Context, rawURL string, o *Options) (*Store, error) {
	c, err := newClient(ctx, rawURL, o)
	if err != nil {
		return nil, err
	}
	s := &Store{client: c, loc: c.url(c.key), limit: c.o.MaxChunk}
	if c.key != "" {
		s.prefix = c.key + "/"
	}
	s.encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(c.o.Level) })
	if c.o.Plain {
		s.write = plain
	}
	s.prefer.Store(uint32(s.write))
	return s, nil
}

// String returns the URL of the store.
func (s *Store) String() string { return s.loc }

// Close closes idle connections. Calls that are under way go on.
func (s *Store) Close() error {
	s.client.close()
	return nil
}

func (s *Store) key(id chunker.ID, f form) string { return s.prefix + cacnk.Name(id, f) }

func (s *Store) fail(ctx context.Context, op string, id chunker.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if store.Missing(err) {
		err = fs.ErrNotExist
	}
	return &store.Error{Op: op, Loc: s.loc, ID: id, Err: err}
}

// ask calls try with the forms in which the chunk may be, until it is there.
func (s *Store) ask(try func(form) error) error {
	first := form(s.prefer.Load())
	err := try(first)
	if store.Missing(err) {
		if err = try(1 - first); err == nil {
			s.prefer.Store(uint32(1 - first))
		}
	}
	return err
}

// Get returns the chunk as it is stored. A form that is not known is an error that
// wraps [store.ErrDamaged].
func (s *Store) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	var c store.Chunk
	err := s.ask(func(f form) error {
		b, err := s.client.get(ctx, s.key(id, f), cacnk.MaxStored(s.limit))
		if err != nil {
			return err
		}
		c = store.Chunk{ID: id, Data: b, Loc: s.client.url(s.key(id, f))}
		if f == compressed {
			if c.Codec, err = cacnk.Detect(b); err != nil {
				bufpool.Put(b)
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
		}
		return nil
	})
	if err != nil {
		return store.Chunk{}, s.fail(ctx, "get", id, err)
	}
	return c.Lent(), nil
}

// find returns the object of a chunk, in either form.
func (s *Store) find(ctx context.Context, id chunker.ID) (o object, f form, err error) {
	err = s.ask(func(g form) error {
		f = g
		o, err = s.client.stat(ctx, s.key(id, g))
		return err
	})
	return o, f, err
}

// StoredSize returns the length of what Get would move.
func (s *Store) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	o, _, err := s.find(ctx, id)
	if err == nil && o.size < 0 {
		err = fmt.Errorf("server does not tell sizes: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return 0, s.fail(ctx, "stat", id, err)
	}
	return o.size, nil
}

// Has reports whether the store has the chunk, and keeps that from garbage
// collection for its grace period, where writing is allowed.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	o, f, err := s.find(ctx, id)
	st := absent
	if err == nil {
		st, err = s.use(ctx, s.key(id, f), f, o)
	}
	if st == stale {
		err = s.rewrite(ctx, s.key(id, f), f)
	}
	switch {
	case err == nil:
		return st != absent, nil
	case store.Missing(err):
		return false, nil
	}
	return false, s.fail(ctx, "stat", id, err)
}

// refreshAfter is the age from which on the use of a chunk is recorded. A make that
// ends within the grace period of a garbage collection, less this, has all its chunks.
const refreshAfter = 30 * time.Minute

// state is what is known of a chunk in the store.
type state uint8

const (
	absent state = iota
	stale        // it is there, and may be collected
	fresh        // it is there for the grace period
)

// use records that the object o is in use, if the server can do that by itself.
func (s *Store) use(ctx context.Context, key string, f form, o object) (state, error) {
	if time.Since(o.used) <= refreshAfter {
		return fresh, nil
	}
	if s.timeless.Load() {
		return stale, nil
	}
	t, err := s.client.renew(ctx, key, o, contentType(f))
	switch {
	case err == nil && t.After(o.used), status(err) == http.StatusPreconditionFailed: // somebody has written it
		return fresh, nil
	case store.Missing(err):
		return absent, nil
	case err == nil, refused(err):
		s.timeless.Store(true)
		return stale, nil
	}
	return absent, err
}

// rewrite reads an object and writes it again, so that it was modified now. That the
// server does not allow that, or what is there is no chunk, is no error.
func (s *Store) rewrite(ctx context.Context, key string, f form) error {
	b, err := s.client.get(ctx, key, cacnk.MaxStored(s.limit))
	if errors.Is(err, store.ErrDamaged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer bufpool.Put(b)
	err = s.client.put(ctx, key, bytes.NewReader(b), int64(len(b)), contentType(f), false)
	if refused(err) {
		return nil
	}
	return err
}

// refused reports whether the server does not do what it was asked, as opposed to
// having failed.
func refused(err error) bool { return status(err) >= 300 && !temporary(err) }

// Put stores the chunk. A plain chunk is compressed, a compressed one stored as it is,
// unless the store is to be plain.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	_, err := s.Add(ctx, c)
	return err
}

// Add is Put and tells whether the chunk was new. It does not look for a chunk in the
// form that the store does not write.
func (s *Store) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	a, err := s.add(ctx, c)
	if err != nil {
		return store.Added{}, s.fail(ctx, "put", c.ID, err)
	}
	return a, nil
}

// add asks for the chunk first if the last one was there, and else uploads it on the
// condition that it is new: mostly, that takes one request.
func (s *Store) add(ctx context.Context, c store.Chunk) (store.Added, error) {
	key := s.key(c.ID, s.write)
	e := encoding{s: s, c: c}
	defer e.release()
	for range 3 { // a chunk may come and go between the requests
		if !s.expectNew.Load() || s.careless.Load() {
			st, err := s.look(ctx, key)
			switch {
			case err != nil:
				return store.Added{}, err
			case st == fresh:
				return store.Added{}, nil
			case st == stale:
				_, err := s.upload(ctx, key, &e, false)
				return store.Added{}, err
			}
			s.expectNew.Store(true)
		}
		onlyNew := !s.careless.Load()
		n, err := s.upload(ctx, key, &e, onlyNew)
		switch {
		case err == nil:
			return store.Added{New: true, Stored: n}, s.probe(ctx, key, &e)
		case status(err) == http.StatusPreconditionFailed:
			s.expectNew.Store(false)
		case onlyNew && unknown(err):
			s.careless.Store(true)
		default:
			return store.Added{}, err
		}
	}
	n, err := s.upload(ctx, key, &e, false)
	return store.Added{New: true, Stored: n}, err
}

// look returns the state of the object, and records that it is in use.
func (s *Store) look(ctx context.Context, key string) (state, error) {
	o, err := s.client.stat(ctx, key)
	if store.Missing(err) {
		return absent, nil
	}
	if err != nil {
		return absent, err
	}
	return s.use(ctx, key, s.write, o)
}

// upload returns the length of what it has put.
func (s *Store) upload(ctx context.Context, key string, e *encoding, onlyNew bool) (int64, error) {
	data, err := e.data()
	if err != nil {
		return 0, err
	}
	n := int64(len(data))
	return n, s.client.put(ctx, key, bytes.NewReader(data), n, contentType(s.write), onlyNew)
}

// probe uploads, once in the life of s, what has just been uploaded: a server that
// takes it passes over conditions without a word.
func (s *Store) probe(ctx context.Context, key string, e *encoding) error {
	if s.careless.Load() || s.probed.Swap(true) {
		return nil
	}
	_, err := s.upload(ctx, key, e, true)
	if err == nil {
		s.careless.Store(true)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Replace writes the chunk over what may be there.
func (s *Store) Replace(ctx context.Context, c store.Chunk) error {
	e := encoding{s: s, c: c}
	defer e.release()
	_, err := s.upload(ctx, s.key(c.ID, s.write), &e, false)
	if err == nil {
		_, err = s.client.removeIf(ctx, s.key(c.ID, 1-s.write), func(object) bool { return true })
	}
	if err != nil {
		return s.fail(ctx, "replace", c.ID, err)
	}
	return nil
}

// encoding is a chunk in the form in which it is put, made when that is needed.
type encoding struct {
	s   *Store
	c   store.Chunk
	out []byte
	buf []byte // of bufpool: backs out
}

func (e *encoding) data() ([]byte, error) {
	s := e.s
	switch {
	case e.out != nil:
	case s.write == plain && e.c.Codec != nil:
		var err error
		if e.out, err = e.c.Codec.Decode(nil, e.c.Data, s.limit); err != nil {
			return nil, err
		}
	case s.write == compressed && e.c.Codec == nil:
		enc, err := s.encoder()
		if err != nil {
			return nil, err
		}
		e.buf = bufpool.Get(cacnk.MaxEncoded(len(e.c.Data)))
		e.out = enc.Encode(e.buf[:0], e.c.Data)
	default:
		e.out = e.c.Data
	}
	return e.out, nil
}

func (e *encoding) release() { bufpool.Put(e.buf) }
