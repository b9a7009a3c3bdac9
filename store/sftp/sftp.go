// Package sftp is a chunk store on an SFTP server, reached through the system's
// ssh: its keys, agent, known hosts and configuration apply.
//
// The layout is that of package dir, which may use the same directory on the
// server at the same time, as may casync and desync: chunk ID is the file
// ID[:4]/ID.cacnk, compressed, or ID[:4]/ID, plain. A file appears by a rename and is
// never changed. The time of a chunk's last use is the modification time of its
// file. New files get it from the server's clock, files found from the client's: the
// two may differ by less than the grace period of garbage collections.
//
// The server may be restricted to SFTP and to a directory. Version 3 of the protocol
// is enough; what OpenSSH adds is used where it is announced. Without
// posix-rename@openssh.com, replacing a file removes the old one first: readers may
// miss it for a moment, and lose it if the connection breaks just then. Without
// fsync@openssh.com nothing can be promised about power failures: Durable has no
// effect.
package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// Suffixes of files below the prefix directories.
const (
	compressed = ".cacnk" // a compressed chunk
	temporary  = ".tmp"   // a file on its way to be a chunk, as casync names it
	leaving    = ".gone"  // a chunk that garbage collection is removing
	aside      = ".bad"   // a damaged chunk that a check has moved aside
)

// Store is a chunk store on an SFTP server. It is safe for concurrent use.
//
// Calls are tried again when the connection breaks. One that was cancelled may still
// have its effect: what is on its way to the server is not called back.
type Store struct {
	place
	o       Options
	pool    *pool
	encoder func() (*cacnk.Encoder, error)

	plainFirst atomic.Bool   // the form that was found last: ask for it first
	mode       atomic.Uint32 // permissions of chunk files; 0: not known yet
	unsynced   names         // directories with new names since the last Sync
	syncing    chan struct{} // holds an item while a Sync is under way

	mu      sync.Mutex
	writing map[chunker.ID]chan struct{} // guarded by mu: chunks that this process is writing
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Adder     = (*Store)(nil)
	_ store.Syncer    = (*Store)(nil)
	_ store.Replacer  = (*Store)(nil)
	_ store.Lister    = (*Store)(nil)
	_ store.Sizer     = (*Store)(nil)
	_ store.Remover   = (*Store)(nil)
	_ store.SetAsider = (*Store)(nil)
	_ io.Closer       = (*Store)(nil)
)

// Open connects to the server of an sftp URL and returns the store in its directory:
// sftp://[user@]host[:port]/path, or /~/path for one below the directory in which
// sessions start, in most cases the user's home. The caller must close the store.
func Open(ctx context.Context, rawURL string, o *Options) (*Store, error) {
	pl, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	options := o.withDefaults()
	return open(ctx, pl, options, pl.dialer(&options))
}

func open(ctx context.Context, pl place, o Options, dial dialFunc) (*Store, error) {
	s := &Store{place: pl, o: o, syncing: make(chan struct{}, 1), writing: map[chunker.ID]chan struct{}{}}
	s.pool = newPool(ctx, pl.String(), &s.o, o.Connections, dial)
	s.encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(s.o.Level) })
	s.plainFirst.Store(s.o.Plain)
	err := s.pool.do(ctx, func(c *call) error {
		fi, err := c.stat(s.path)
		switch {
		case err == nil && !fi.IsDir():
			return errors.New("not a directory")
		case errors.Is(err, fs.ErrNotExist) && s.o.Create:
			return nil
		}
		return err
	})
	if err != nil {
		s.Close()
		return nil, pl.fail(ctx, "open store", err)
	}
	return s, nil
}

// Close ends the connections. Calls that are under way fail. The store must not be
// used any more.
func (s *Store) Close() error {
	s.pool.close()
	return nil
}

// file returns the path of a chunk file.
func (s *Store) file(id chunker.ID, suffix string) string {
	hex := id.String()
	return path.Join(s.path, hex[:4], hex+suffix)
}

// suffixes returns the endings that the name of a chunk may have, likely ones first.
func (s *Store) suffixes() [2]string {
	if s.plainFirst.Load() {
		return [2]string{"", compressed}
	}
	return [2]string{compressed, ""}
}

func (s *Store) fail(ctx context.Context, op string, id chunker.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if store.Missing(err) {
		err = fs.ErrNotExist
	}
	return &store.Error{Op: op, Loc: s.String(), ID: id, Err: err}
}

// Get returns the chunk as it is stored. An unreadable form is an error that wraps
// [store.ErrDamaged].
func (s *Store) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	c, err := ask(ctx, s.pool, func(c *call) (store.Chunk, error) { return s.get(c, id) })
	if err != nil {
		return store.Chunk{}, s.fail(ctx, "get", id, err)
	}
	return c, nil
}

func (s *Store) get(call *call, id chunker.ID) (store.Chunk, error) {
	err := fs.ErrNotExist
	for _, suffix := range s.suffixes() {
		name := s.file(id, suffix)
		b, rerr := call.readFile(name, s.o.maxStored())
		if rerr == errEmpty {
			err = rerr // the other form may be there
		}
		if errors.Is(rerr, fs.ErrNotExist) || rerr == errEmpty {
			continue
		}
		if rerr != nil {
			return store.Chunk{}, rerr
		}
		c := store.Chunk{ID: id, Data: b, Loc: s.locate(name)}
		if suffix == compressed {
			if c.Codec, rerr = cacnk.Detect(b); rerr != nil {
				bufpool.Put(b)
				return store.Chunk{}, fmt.Errorf("%w: %w", store.ErrDamaged, rerr)
			}
		}
		s.plainFirst.Store(suffix != compressed)
		return c.Lent(), nil
	}
	return store.Chunk{}, err
}

// found is a chunk file.
type found struct {
	name string
	fi   fs.FileInfo
}

// find returns the file of a chunk, in either form. Empty files do not count: a
// power failure leaves them behind where chunks are written without a sync.
func (s *Store) find(c *call, id chunker.ID) (found, error) {
	var all [2]found
	var errs [2]error
	var wg sync.WaitGroup
	for i, suffix := range s.suffixes() {
		all[i].name = s.file(id, suffix)
		wg.Go(func() { all[i].fi, errs[i] = c.lstat(all[i].name) })
	}
	wg.Wait()
	for i, err := range errs {
		if err == nil && isChunk(all[i].fi) {
			return all[i], nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return found{}, err
		}
	}
	return found{}, fs.ErrNotExist
}

func isChunk(fi fs.FileInfo) bool { return fi.Mode().IsRegular() && fi.Size() > 0 }

// used returns until when at most a file may have been used: the protocol has whole
// seconds.
func used(fi fs.FileInfo) time.Time { return fi.ModTime().Add(time.Second - 1) }

// StoredSize returns the size of the chunk's file.
func (s *Store) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	f, err := ask(ctx, s.pool, func(c *call) (found, error) { return s.find(c, id) })
	if err != nil {
		return 0, s.fail(ctx, "stat", id, err)
	}
	return f.fi.Size(), nil
}

// refreshAfter is the age from which on the use of a chunk is recorded in its
// modification time. A make that ends within the grace period of a garbage
// collection, less this, has all its chunks.
const refreshAfter = 30 * time.Minute

// Has reports whether the store has the chunk, and keeps that from garbage
// collection for its grace period, where the file may be changed.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	p, err := ask(ctx, s.pool, func(c *call) (presence, error) { return s.has(c, id) })
	if err != nil {
		return false, s.fail(ctx, "stat", id, err)
	}
	return p != absent, nil
}

// presence is whether a chunk is there.
type presence int

const (
	absent presence = iota
	unsafe          // there, but its use cannot be recorded
	safe            // from garbage collection for the grace period
)

// has looks for a chunk and records its use.
func (s *Store) has(c *call, id chunker.ID) (presence, error) {
	f, err := s.find(c, id)
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		return absent, err
	}
	now := time.Now()
	if now.Sub(f.fi.ModTime()) <= refreshAfter {
		return safe, nil
	}
	// A file that vanishes meanwhile was collected, so the chunk is not here. Its
	// name may even go between the server's looking it up and changing the time,
	// which succeeds; so look again. Other failures mean that the file is not ours
	// to change.
	err = c.touch(f.name, now)
	if err == nil {
		_, err = c.lstat(f.name)
	}
	switch {
	case lost(err):
		return absent, err
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return unsafe, nil
	}
	return safe, nil
}

// guess is how much of a file is asked for before its size is known, in bytes. More
// costs little if a file is shorter, and less another round trip if it is longer.
const guess = 128 << 10

var errEmpty = fmt.Errorf("%w: empty file", store.ErrDamaged)

// readFile reads a regular file of up to limit bytes into a buffer of bufpool, in
// two round trips if it is not longer than guess. Anything else under a chunk's name
// counts as absent: casync marks chunks known to be missing by a symbolic link to
// /dev/null.
func (c *call) readFile(name string, limit int64) ([]byte, error) {
	f, err := c.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	c.later(func() { f.Close() })
	b := bufpool.Get(guess)
	clear(b) // the client counts it as data if the server says "fine" in place of some
	var fi fs.FileInfo
	var serr error
	var wg sync.WaitGroup
	wg.Go(func() { fi, serr = fstat(f) })
	n, err := f.ReadAt(b, 0)
	wg.Wait()
	switch {
	case serr != nil:
		err = serr
	case !fi.Mode().IsRegular():
		err = fs.ErrNotExist
	case fi.Size() == 0:
		err = errEmpty
	case fi.Size() < 0 || fi.Size() > limit:
		err = fmt.Errorf("%w: file of %d bytes, and at most %d may be", store.ErrDamaged, uint64(fi.Size()), limit)
	case int64(n) > fi.Size():
		err = fmt.Errorf("%w: file of %d bytes has more", store.ErrDamaged, fi.Size())
	case err == io.EOF:
		err = nil // its time is told by the size: a server may answer with less than was asked for
	}
	if err != nil {
		bufpool.Put(b)
		return nil, err
	}
	size := int(fi.Size())
	if size > len(b) {
		whole := bufpool.Get(size)
		copy(whole, b[:n])
		bufpool.Put(b)
		b = whole
	}
	b = b[:size]
	if err := readOn(f, b, n); err != nil {
		bufpool.Put(b)
		return nil, err
	}
	return b, nil
}

// readOn reads a file into b from n on: at once, and where the server answers with
// less than was asked for, piece by piece.
func readOn(f io.ReaderAt, b []byte, n int) error {
	piece := len(b)
	for n < len(b) {
		m, err := f.ReadAt(b[n:min(len(b), n+piece)], int64(n))
		n += m
		switch {
		case err == io.EOF && piece > packet:
			piece = packet
		case err == io.EOF, err == nil && m == 0:
			return fmt.Errorf("%w: file ends after %d bytes of %d", io.ErrUnexpectedEOF, n, len(b))
		case err != nil:
			return err
		}
	}
	return nil
}
