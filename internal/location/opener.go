package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
	"github.com/castorsync/castor/store/remote"
	"github.com/castorsync/castor/store/s3"
	"github.com/castorsync/castor/store/sftp"
	"github.com/castorsync/castor/store/transfer"
)

// Opener opens stores and indexes wherever they are. The zero value works, without any
// settings. It is safe for concurrent use. The context that a method is given must last as
// long as what the method returns.
type Opener struct {
	Config *config.Config
	Getenv func(string) string // nil: an empty environment
	Log    *slog.Logger        // nil: nobody is told

	servers transfer.Servers
}

// SourceStore is a store to get chunks from.
type SourceStore interface {
	store.Getter
	store.Sizer
	io.Closer
}

// SinkStore is a store to put chunks into, and to get them from. Further powers are found
// as those of any store.
type SinkStore interface {
	store.Store
	io.Closer
}

// StoreOptions are the settings of [Opener.Store]. The zero value and nil mean the
// defaults.
type StoreOptions struct {
	Create   bool // the store need not exist
	Level    int  // compression level; 0: as configured, or the usual one
	Plain    bool // put chunks without compression, even if it is not configured
	Durable  bool // what is put survives a power failure
	MaxChunk int  // greatest chunk in bytes; 0: the greatest that there may be
}

func (o *Opener) getenv(name string) string {
	if o.Getenv == nil {
		return ""
	}
	return o.Getenv(name)
}

// Source opens the store at loc for getting chunks of up to maxChunk bytes. Loc may be
// several stores that hold the same, a|b|c: see [store.Failover]. A store that is seen not
// to exist is a [NotFoundError].
func (o *Opener) Source(ctx context.Context, loc string, maxChunk int) (SourceStore, error) {
	members := splitGroup(loc)
	if len(members) > 1 {
		return o.group(ctx, loc, members, maxChunk)
	}
	p, err := parse(loc)
	if err != nil {
		return nil, err
	}
	return o.source(ctx, p, maxChunk)
}

func (o *Opener) source(ctx context.Context, p place, maxChunk int) (SourceStore, error) {
	return o.store(ctx, p, &StoreOptions{MaxChunk: maxChunk})
}

// Store opens the store at loc for putting chunks. A store that is seen not to exist is a
// [NotFoundError], unless so.Create says that it need not. Behind casync's protocol only
// castor takes chunks one by one; putting into another's is errors.ErrUnsupported.
func (o *Opener) Store(ctx context.Context, loc string, so *StoreOptions) (SinkStore, error) {
	if len(splitGroup(loc)) > 1 {
		return nil, &FormError{redactGroup(loc), errors.New("chunks are put into one store, not into a group")}
	}
	p, err := parse(loc)
	if err != nil {
		return nil, err
	}
	return o.store(ctx, p, so)
}

// fullStore is what every kind of store can do that is not only read.
type fullStore interface {
	SourceStore
	SinkStore
}

func (o *Opener) store(ctx context.Context, p place, so *StoreOptions) (fullStore, error) {
	var d StoreOptions
	if so != nil {
		d = *so
	}
	st := o.Config.Store(p.match())
	if d.Level == 0 {
		d.Level = st.Level
	}
	d.Plain = d.Plain || st.Uncompressed
	s, err := o.open(ctx, p, st, d)
	if err != nil {
		return nil, err
	}
	return store.Limit(s, store.Limits{Requests: st.Concurrency, Rate: st.Rate}).(fullStore), nil
}

func (o *Opener) open(ctx context.Context, p place, st config.Settings, so StoreOptions) (fullStore, error) {
	switch p.kind {
	case Directory:
		s, err := dir.Open(p.url, &dir.Options{Create: so.Create, Level: so.Level, Plain: so.Plain, Durable: so.Durable})
		return opened(s, notFound("store", p.loc, err))
	case Web:
		w, err := o.webOptions(st)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.loc, err)
		}
		w.MaxChunk, w.Level, w.Plain = so.MaxChunk, so.Level, so.Plain
		s, err := httpstore.Open(p.url, w)
		return opened(s, err)
	case S3:
		w, err := o.s3Options(st)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.loc, err)
		}
		w.MaxChunk, w.Level, w.Plain = so.MaxChunk, so.Level, so.Plain
		s, err := s3.Open(ctx, p.url, w)
		return opened(s, err)
	case SFTP:
		w := o.sftpOptions(st)
		w.MaxChunk, w.Level, w.Plain, w.Create, w.Durable = so.MaxChunk, so.Level, so.Plain, so.Create, so.Durable
		s, err := sftp.Open(ctx, p.url, w)
		return opened(s, notFound("store", p.loc, err))
	case Casync:
		s, err := remote.Open(ctx, p.url, o.remoteOptions(st))
		return opened(remoteStore{s}, err)
	}
	return nil, fmt.Errorf("location: internal error: no store of kind %q", p.kind)
}

// opened returns no store that is not nil with an error.
func opened[S fullStore](s S, err error) (fullStore, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// group opens a failover group. One member has to be there; the others may come later.
func (o *Opener) group(ctx context.Context, loc string, members []string, maxChunk int) (SourceStore, error) {
	f := &store.Failover{Verifier: &store.Verifier{Limit: maxChunk}, Log: o.Log}
	if maxChunk == 0 {
		f.Verifier.Limit = chunker.MaxSize
	}
	var all []*member
	for _, m := range members {
		p, err := parse(m)
		if err != nil {
			return nil, err
		}
		l := newMember(p.loc, func() (SourceStore, error) { return o.source(ctx, p, maxChunk) })
		all = append(all, l)
		f.Members = append(f.Members, l)
	}
	var errs []error
	for _, m := range all {
		_, err := m.get(ctx)
		if err == nil {
			return f, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		errs = append(errs, err)
	}
	return nil, noneOf(redactGroup(loc), errs)
}

// noneOf says that no member of a group could be opened; it is a NotFoundError only if that
// is so because none is there.
func noneOf(loc string, errs []error) error {
	var other error
	reasons := make([]string, len(errs))
	for i, err := range errs {
		reasons[i] = err.Error()
		if other == nil && !errors.Is(err, fs.ErrNotExist) {
			other = err
		}
	}
	text := "none of the group can be opened: " + strings.Join(reasons, "; ")
	if other == nil {
		return &NotFoundError{"store", loc, errors.New(text)}
	}
	return &groupError{"store " + loc + ": " + text, other}
}

// groupError is the error of several members.
type groupError struct {
	text string
	err  error // that of one which is there, as far as is known
}

func (e *groupError) Error() string { return e.text }
func (e *groupError) Unwrap() error { return e.err }

func redactGroup(loc string) string {
	members := strings.Split(loc, "|")
	for i, m := range members {
		members[i] = redact(m)
	}
	return strings.Join(members, "|")
}

// member is a store of a group. It is opened when it is first asked, and again if that
// failed.
type member struct {
	loc  string
	open func() (SourceStore, error)
	turn chan struct{} // holds an item while s is looked at
	s    SourceStore   // guarded by turn; nil: not open
}

func newMember(loc string, open func() (SourceStore, error)) *member {
	return &member{loc: loc, open: open, turn: make(chan struct{}, 1)}
}

func (m *member) get(ctx context.Context) (SourceStore, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if m.s == nil {
		s, err := m.open()
		if err != nil {
			return nil, err
		}
		m.s = s
	}
	return m.s, nil
}

// ready is get with an error that says nothing about a single chunk.
func (m *member) ready(ctx context.Context) (SourceStore, error) {
	s, err := m.get(ctx)
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		err = errors.New(err.Error())
	}
	return s, err
}

func (m *member) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	s, err := m.ready(ctx)
	if err != nil {
		return store.Chunk{}, err
	}
	return s.Get(ctx, id)
}

func (m *member) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	s, err := m.ready(ctx)
	if err != nil {
		return 0, err
	}
	return s.StoredSize(ctx, id)
}

func (m *member) String() string { return m.loc }

// Close closes the store if it is open.
func (m *member) Close() error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if m.s == nil {
		return nil
	}
	return m.s.Close()
}
