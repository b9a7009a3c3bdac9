package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"sync"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// Put stores the chunk. A plain chunk is compressed, a compressed one stored as it
// is.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	_, err := s.Add(ctx, c)
	return err
}

// Add is Put and tells whether the chunk was new. It waits for another goroutine
// that is writing the chunk. If the connection breaks just when the chunk gets its
// name, it may be called old.
func (s *Store) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	if err := s.claim(ctx, c.ID); err != nil {
		return store.Added{}, err
	}
	defer s.unclaim(c.ID)
	// A file whose time of use cannot be recorded, being another user's, is
	// written anew: else a garbage collection might not see that it is in use.
	p, err := ask(ctx, s.pool, func(call *call) (presence, error) { return s.has(call, c.ID) })
	if err == nil && p == safe {
		return store.Added{}, nil
	}
	var n int64
	if err == nil {
		n, err = s.write(ctx, c, (*call).publish)
	}
	if err != nil {
		return store.Added{}, s.fail(ctx, "put", c.ID, err)
	}
	return store.Added{New: true, Stored: n}, nil
}

// Replace writes the chunk over what may be there.
func (s *Store) Replace(ctx context.Context, c store.Chunk) error {
	if err := s.claim(ctx, c.ID); err != nil {
		return err
	}
	defer s.unclaim(c.ID)
	_, err := s.write(ctx, c, func(call *call, from, to string) error { return call.replace(from, to) })
	if err == nil {
		other := compressed
		if s.suffix(c) == compressed {
			other = ""
		}
		err = s.pool.do(ctx, func(call *call) error { return call.remove(s.file(c.ID, other)) })
	}
	if err != nil {
		return s.fail(ctx, "replace", c.ID, err)
	}
	return nil
}

// suffix returns the suffix under which c is stored.
func (s *Store) suffix(c store.Chunk) string {
	if c.Codec == nil && s.o.Plain {
		return ""
	}
	return compressed
}

// write writes the chunk, which the caller has claimed, under a temporary name and
// calls rename. It returns the stored size.
func (s *Store) write(ctx context.Context, c store.Chunk, rename func(c *call, from, to string) error) (int64, error) {
	data, err := s.encode(c)
	if err != nil {
		return 0, err
	}
	name := s.file(c.ID, s.suffix(c))
	err = s.pool.do(ctx, func(call *call) error {
		tmp := temporaryName(s.file(c.ID, ""))
		err := s.writeFile(call, tmp, data)
		if err == nil {
			err = rename(call, tmp, name)
		}
		if err != nil {
			call.later(func() { call.remove(tmp) })
		}
		return err
	})
	if err == nil { // else the call may still be using it
		bufpool.Put(data)
	}
	if err == nil && s.o.Durable {
		s.unsynced.add(path.Dir(name))
	}
	return int64(len(data)), err
}

// temporaryName returns a new name for a file that becomes name.
func temporaryName(name string) string {
	return fmt.Sprintf("%s.%016x%s", name, rand.Uint64(), temporary)
}

// encode returns the form in which a chunk is stored, in a buffer of bufpool.
func (s *Store) encode(c store.Chunk) ([]byte, error) {
	if c.Codec != nil || s.o.Plain {
		b := bufpool.Get(len(c.Data))
		copy(b, c.Data)
		return b, nil
	}
	enc, err := s.encoder()
	if err != nil {
		return nil, err
	}
	return enc.Encode(bufpool.Get(cacnk.MaxEncoded(len(c.Data)))[:0], c.Data), nil
}

// writeFile writes a new file, and makes the directories above it if needed.
func (s *Store) writeFile(c *call, name string, data []byte) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := c.open(name, flags)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 3; try++ {
		// Again, because a garbage collection may remove the empty directory.
		if err := s.makePrefix(c, path.Dir(name)); err != nil {
			return err
		}
		f, err = c.open(name, flags)
	}
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.protect(f) })
	_, err = f.WriteAt(data, 0)
	wg.Wait()
	if err == nil && s.o.Durable {
		err = c.sync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// chmoder is a file on the server.
type chmoder interface {
	Stat() (fs.FileInfo, error)
	Chmod(fs.FileMode) error
}

// protect makes a new file read-only, but does not give anybody more permissions than
// the server gave. A server that cannot do it keeps the file as it is.
func (s *Store) protect(f chmoder) {
	mode := fs.FileMode(s.mode.Load())
	if mode == 0 {
		fi, err := checkInfo(f.Stat())
		if err != nil {
			return
		}
		mode = fi.Mode() & 0o444
		s.mode.Store(uint32(mode))
	}
	if mode != 0 {
		f.Chmod(mode)
	}
}

// makePrefix makes a directory for chunks, or fails if the store is not there.
func (s *Store) makePrefix(c *call, dir string) error {
	err := c.client.Mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) && s.o.Create {
		if err := c.client.MkdirAll(s.path); err != nil {
			return err
		}
		err = c.client.Mkdir(dir)
	}
	// That there is one already has no error of its own, so opening the file decides.
	if lost(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// remove removes a file, if it is there.
func (c *call) remove(name string) error {
	if err := c.client.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// claim waits until the caller is the one that writes the chunk.
func (s *Store) claim(ctx context.Context, id chunker.ID) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.mu.Lock()
		other := s.writing[id]
		if other == nil {
			s.writing[id] = make(chan struct{})
		}
		s.mu.Unlock()
		if other == nil {
			return nil
		}
		select {
		case <-other:
		case <-ctx.Done():
		}
	}
}

func (s *Store) unclaim(id chunker.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.writing[id])
	delete(s.writing, id)
}

// names is a set of paths.
type names struct {
	mu  sync.Mutex
	set map[string]bool // guarded by mu
}

func (n *names) add(names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.set == nil {
		n.set = map[string]bool{}
	}
	for _, name := range names {
		n.set[name] = true
	}
}

// take empties the set.
func (n *names) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for name := range n.set {
		all = append(all, name)
	}
	n.set = nil
	return all
}

// Sync returns when the chunks put so far will keep their names, if the store was
// opened as durable, and the server has fsync@openssh.com and lets directories be
// opened as files, as OpenSSH does on most systems. Their bytes are durable before.
func (s *Store) Sync(ctx context.Context) error {
	select {
	case s.syncing <- struct{}{}: // what another call has taken may be ours
		defer func() { <-s.syncing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	dirs := s.unsynced.take()
	if len(dirs) > 0 {
		dirs = append(dirs, s.path)
	}
	err := par.Each(ctx, maxCalls, len(dirs), func(ctx context.Context, i int) error {
		return s.pool.do(ctx, func(c *call) error { return c.syncDir(dirs[i]) })
	})
	if err != nil {
		s.unsynced.add(dirs...)
		return s.place.fail(ctx, "sync", err)
	}
	return nil
}
