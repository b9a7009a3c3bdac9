// Package httpstore is a chunk store behind a web server: the client, which is a
// [store.Store] for http and https URLs, and the [Handler], which serves any source
// of chunks to such clients, to casync, desync, curl and caches between them.
//
// Chunk ID is the resource ID[:4]/ID.cacnk, compressed, or ID[:4]/ID, plain, below
// the URL of the store, as if a .castr directory lay there. Bytes flow through in
// the form in which they are held: the client does not verify what it gets, see
// [store.Chunk.Verify], and the handler decodes only what it must: uploads, and
// chunks that are asked for in the form in which they are not held.
package httpstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// Store is a chunk store on a web server. It is safe for concurrent use. Writing
// to it needs a server that takes PUT.
type Store struct {
	client  *client
	base    *url.URL // without a slash at the end of its path
	loc     string   // base for messages
	limit   int      // greatest plain chunk in bytes
	plain   bool     // put chunks plain
	encoder func() (*cacnk.Encoder, error)

	prefer  atomic.Uint32  // the form that answered last: ask for it first
	refused [2]atomic.Bool // forms that the server does not know, by form
}

var (
	_ store.Store = (*Store)(nil)
	_ store.Adder = (*Store)(nil)
	_ store.Sizer = (*Store)(nil)
)

// Open returns the store at an http or https URL. It does not connect. Credentials
// in the URL are used as [Options] says, and left out of every message; so is its
// query, which is sent with each request.
func Open(rawURL string, o *Options) (*Store, error) {
	c, u, err := newClient(rawURL, o)
	if err != nil {
		return nil, err
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	s := &Store{client: c, base: u, loc: redact(u), limit: c.o.MaxChunk, plain: c.o.Plain}
	s.encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(c.o.Level) })
	if s.plain {
		s.prefer.Store(uint32(plain))
	}
	return s, nil
}

// String returns the URL of the store without credentials.
func (s *Store) String() string { return s.loc }

// Close closes idle connections. Calls that are under way go on.
func (s *Store) Close() error {
	s.client.close()
	return nil
}

func (s *Store) url(id chunker.ID, f form) *url.URL { return s.base.JoinPath(cacnk.Name(id, f)) }

func (s *Store) fail(ctx context.Context, op string, id chunker.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if op != "put" && store.Missing(err) {
		err = fs.ErrNotExist
	}
	return &store.Error{Op: op, Loc: s.loc, ID: id, Err: err}
}

// ask calls try with the forms in which the server may have a chunk, until one is
// there. A chunk may be in either form whatever the others are in, so a miss costs
// two requests, except with servers that say that they have both forms or none.
func (s *Store) ask(try func(form) error) error {
	first := form(s.prefer.Load())
	var missed error
	for _, f := range []form{first, 1 - first} {
		if s.refused[f].Load() && !s.refused[1-f].Load() { // one that refuses both contradicts itself
			continue
		}
		err := try(f)
		if err == nil {
			s.prefer.Store(uint32(f))
			return nil
		}
		status, _ := errors.AsType[*StatusError](err)
		switch {
		case status != nil && status.Code == http.StatusBadRequest:
			// As desync's server says of the form that it is not configured for.
			if store.Missing(missed) {
				s.refused[f].Store(true)
				return missed
			}
			missed = err
		case status == nil || !store.Missing(err): // the cause of a context may be anything
			return err
		case status.bothForms:
			return err
		default:
			if missed != nil && !store.Missing(missed) {
				s.refused[1-f].Store(true)
			}
			missed = err
		}
	}
	return missed
}

// Get returns the chunk as the server holds it. A form that is not known is an
// error that wraps [store.ErrDamaged].
func (s *Store) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if ctx.Err() != nil {
		return store.Chunk{}, context.Cause(ctx)
	}
	var c store.Chunk
	err := s.ask(func(f form) error {
		b, err := s.client.get(ctx, s.url(id, f), cacnk.MaxStored(s.limit))
		if err != nil {
			return err
		}
		c = store.Chunk{ID: id, Data: b, Loc: s.loc + "/" + cacnk.Name(id, f)}
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

// StoredSize returns the length of what Get would move.
func (s *Store) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var n int64
	err := s.ask(func(f form) (err error) {
		n, err = s.client.head(ctx, s.url(id, f))
		return err
	})
	if err == nil && n < 0 {
		err = fmt.Errorf("server does not tell sizes: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return 0, s.fail(ctx, "stat", id, err)
	}
	return n, nil
}

// Has reports whether the server has the chunk.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	_, err := s.StoredSize(ctx, id)
	switch {
	case err == nil, errors.Is(err, errors.ErrUnsupported) && !isStatus(err):
		return true, nil
	case store.Missing(err):
		return false, nil
	}
	return false, err
}

// Put uploads the chunk. A server that takes no uploads is an error that wraps
// errors.ErrUnsupported, one that does not allow them fs.ErrPermission.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	_, err := s.put(ctx, c)
	return err
}

// Add is Put and tells whether the chunk was new.
func (s *Store) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	if has, err := s.Has(ctx, c.ID); has || err != nil {
		return store.Added{}, err
	}
	n, err := s.put(ctx, c)
	if err != nil {
		return store.Added{}, err
	}
	return store.Added{New: true, Stored: int64(n)}, nil
}

// put returns the length of what it has uploaded.
func (s *Store) put(ctx context.Context, c store.Chunk) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	f := compressed
	if s.plain || s.refused[compressed].Load() {
		f = plain
	}
	data, buf, err := s.encode(c, f)
	defer bufpool.Put(buf)
	if err == nil {
		err = s.client.put(ctx, s.url(c.ID, f), bytes.NewReader(data), int64(len(data)))
	}
	if err != nil {
		return 0, s.fail(ctx, "put", c.ID, err)
	}
	return len(data), nil
}

// encode returns c in form f, and the buffer of bufpool that may back it.
func (s *Store) encode(c store.Chunk, f form) (data, buf []byte, err error) {
	switch {
	case f == plain && c.Codec != nil:
		data, err = c.Codec.Decode(nil, c.Data, s.limit)
		return data, nil, err
	case f == compressed && c.Codec == nil:
		enc, err := s.encoder()
		if err != nil {
			return nil, nil, err
		}
		buf = bufpool.Get(cacnk.MaxEncoded(len(c.Data)))
		return enc.Encode(buf[:0], c.Data), buf, nil
	}
	return c.Data, nil, nil
}
