// Package dir is casync's .castr directory: a store in the local file system.
//
// Chunk ID is the file ID[:4]/ID.cacnk, compressed, or ID[:4]/ID, plain, below
// the store's directory, as casync, desync and any web server know it. Any
// number of processes may read, write and collect one store at the same time:
// a chunk file appears by a rename and is never changed.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
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

// desyncTemporary begins the names of desync's temporary files.
const desyncTemporary = ".tmp-cacnk"

// Options are the settings of [Open]. The zero value and nil mean the defaults.
type Options struct {
	// Create makes the directory when the first chunk is put. Without it, Open
	// fails if there is none.
	Create bool

	// Level is the compression level for chunks put plain, see
	// [cacnk.NewEncoder]; 0 means [cacnk.DefaultLevel].
	Level int

	// Plain stores chunks without compression.
	Plain bool

	// Durable makes chunks survive a power failure: they get their names only
	// after their bytes have reached the disk. They are written in batches of
	// up to 64 MiB, so that it does not take a sync for each.
	Durable bool
}

// Store is a .castr directory. It is safe for concurrent use.
type Store struct {
	path    string
	o       Options
	encoder func() (*cacnk.Encoder, error)

	batch batch

	mu      sync.Mutex
	writing map[chunker.ID]*writing // guarded by mu: chunks that this process is writing or has in the batch
}

// writing is the state of a chunk that is not in place yet.
type writing struct {
	batched bool          // written, and waits in the batch; guarded by Store.mu
	done    chan struct{} // closed when it is batched, published or given up
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Adder     = (*Store)(nil)
	_ store.Syncer    = (*Store)(nil)
	_ store.Replacer  = (*Store)(nil)
	_ store.Lister    = (*Store)(nil)
	_ store.Sizer     = (*Store)(nil)
	_ store.Opener    = (*Store)(nil)
	_ store.Remover   = (*Store)(nil)
	_ store.SetAsider = (*Store)(nil)
)

// Open returns the store in directory path.
func Open(path string, o *Options) (*Store, error) {
	s := &Store{path: filepath.Clean(path), writing: map[chunker.ID]*writing{}}
	if o != nil {
		s.o = *o
	}
	level := s.o.Level
	if level == 0 {
		level = cacnk.DefaultLevel
	}
	// An encoder has tables of some MiB, which readers of a store do not need.
	s.encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(level) })
	s.batch.s = s
	switch fi, err := os.Stat(s.path); {
	case err == nil && !fi.IsDir():
		return nil, &fs.PathError{Op: "open store", Path: path, Err: errors.New("not a directory")}
	case err == nil, errors.Is(err, fs.ErrNotExist) && s.o.Create:
		return s, nil
	default:
		return nil, fmt.Errorf("open store: %w", err)
	}
}

// String returns the path of the store.
func (s *Store) String() string { return s.path }

// name returns the path of a chunk file.
func (s *Store) name(id chunker.ID, suffix string) string {
	hex := id.String()
	return s.path + string(filepath.Separator) + hex[:4] + string(filepath.Separator) + hex + suffix
}

func (s *Store) fail(op, path string, id chunker.ID, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return &store.Error{Op: op, Loc: path, ID: id, Err: err}
}

// Get returns the chunk as it is stored. An unreadable form is an error that
// wraps [store.ErrDamaged].
func (s *Store) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if ctx.Err() != nil {
		return store.Chunk{}, context.Cause(ctx)
	}
	name := s.name(id, compressed)
	b, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) || err == errEmpty {
		plain := s.name(id, "")
		if b, perr := readFile(plain); perr == nil {
			return store.Chunk{ID: id, Data: b, Loc: plain}.Lent(), nil
		} else if !errors.Is(perr, fs.ErrNotExist) {
			return store.Chunk{}, s.fail("get", plain, id, perr)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return store.Chunk{}, &store.Error{Op: "get", Loc: s.path, ID: id, Err: fs.ErrNotExist}
	}
	if err != nil {
		return store.Chunk{}, s.fail("get", name, id, err)
	}
	codec, err := cacnk.Detect(b)
	if err != nil {
		bufpool.Put(b)
		return store.Chunk{}, s.fail("get", name, id, fmt.Errorf("%w: %w", store.ErrDamaged, err))
	}
	return store.Chunk{ID: id, Data: b, Codec: codec, Loc: name}.Lent(), nil
}

// maxFile is the greatest chunk file that is read: the largest chunk, wrapped
// uncompressed.
const maxFile = chunker.MaxSize + chunker.MaxSize>>8 + 1024

var errEmpty = fmt.Errorf("%w: empty file", store.ErrDamaged)

// readFile reads a regular file into a buffer of bufpool. Anything else under a
// chunk's name counts as absent: casync marks chunks known to be
// missing by a symbolic link to /dev/null.
func readFile(name string) ([]byte, error) {
	f, size, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := bufpool.Get(int(size))
	if _, err := io.ReadFull(f, b); err != nil {
		bufpool.Put(b)
		return nil, err
	}
	return b, nil
}

// openFile opens the file of a chunk, and returns its size.
func openFile(name string) (*os.File, int64, error) {
	f, err := openNoFollow(name)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fs.ErrNotExist
	case fi.Size() == 0:
		err = errEmpty
	case fi.Size() > maxFile:
		err = fmt.Errorf("%w: file of %d bytes", store.ErrDamaged, fi.Size())
	default:
		return f, fi.Size(), nil
	}
	f.Close()
	return nil, 0, err
}

// OpenChunk opens the file of the chunk, the compressed one if there are two.
func (s *Store) OpenChunk(ctx context.Context, id chunker.ID) (store.File, error) {
	if ctx.Err() != nil {
		return store.File{}, context.Cause(ctx)
	}
	name := s.name(id, compressed)
	f, size, err := openFile(name)
	if errors.Is(err, fs.ErrNotExist) || err == errEmpty {
		plain := s.name(id, "")
		f, size, perr := openFile(plain)
		if perr == nil {
			return store.File{File: f, Size: size, Plain: true}, nil
		}
		if !errors.Is(perr, fs.ErrNotExist) {
			return store.File{}, s.fail("open", plain, id, perr)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return store.File{}, &store.Error{Op: "open", Loc: s.path, ID: id, Err: fs.ErrNotExist}
	}
	if err != nil {
		return store.File{}, s.fail("open", name, id, err)
	}
	return store.File{File: f, Size: size}, nil
}

// find returns the file of a chunk, in either form. Empty files do not count: a
// power failure leaves them behind where chunks are written without a sync.
func (s *Store) find(id chunker.ID) (string, fs.FileInfo, error) {
	for _, suffix := range []string{compressed, ""} {
		name := s.name(id, suffix)
		fi, err := os.Lstat(name)
		if err == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
			return name, fi, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, s.fail("stat", name, id, err)
		}
	}
	return "", nil, &store.Error{Op: "stat", Loc: s.path, ID: id, Err: fs.ErrNotExist}
}

// StoredSize returns the size of the chunk's file.
func (s *Store) StoredSize(_ context.Context, id chunker.ID) (int64, error) {
	_, fi, err := s.find(id)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// refreshAfter is the age from which on the use of a chunk is recorded in its
// modification time. A make that ends within the grace period of a garbage
// collection, less this, has all its chunks.
const refreshAfter = 30 * time.Minute

// Has reports whether the store has the chunk, and keeps that from garbage
// collection for its grace period: the modification time is the time of last
// use, where the file may be changed. It waits for another goroutine that is
// writing the chunk.
func (s *Store) Has(ctx context.Context, id chunker.ID) (bool, error) {
	if batched, err := s.await(ctx, id); batched || err != nil {
		return batched, err
	}
	has, _, err := s.has(id)
	return has, err
}

// has reports whether the chunk is there, and whether it is safe from garbage
// collection for the grace period.
func (s *Store) has(id chunker.ID) (has, safe bool, err error) {
	name, fi, err := s.find(id)
	if store.Missing(err) {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if time.Since(fi.ModTime()) <= refreshAfter {
		return true, true, nil
	}
	// A file that vanishes meanwhile was collected, so the chunk is not here. Its
	// name may even go between the system's looking it up and changing the time,
	// which succeeds; so look again. Other failures mean that the file is not ours
	// to change.
	err = os.Chtimes(name, time.Time{}, time.Now())
	if err == nil {
		_, err = os.Lstat(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	return true, err == nil, nil
}

// Put stores the chunk. A plain chunk is compressed, a compressed one stored as
// it is.
func (s *Store) Put(ctx context.Context, c store.Chunk) error {
	_, err := s.Add(ctx, c)
	return err
}

// Add is Put and tells whether the chunk was new. It waits for another goroutine
// that is writing the chunk.
func (s *Store) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	if mine, err := s.claim(ctx, c.ID); !mine {
		return store.Added{}, err
	}
	// A file whose time of use cannot be recorded, being another user's, is
	// written anew: else a garbage collection might not see that it is in use.
	if _, safe, err := s.has(c.ID); safe || err != nil {
		s.doneWriting(c.ID)
		return store.Added{}, err
	}
	return s.write(ctx, c)
}

// Replace writes the chunk over what may be there.
func (s *Store) Replace(ctx context.Context, c store.Chunk) error {
	mine, err := s.claim(ctx, c.ID)
	if mine {
		_, err = s.write(ctx, c)
	}
	if err != nil {
		return err
	}
	other := compressed
	if s.suffix(c) == compressed {
		other = ""
	}
	if err := os.Remove(s.name(c.ID, other)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("replace", s.name(c.ID, other), c.ID, err)
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

// write writes the chunk, which the caller has claimed.
func (s *Store) write(ctx context.Context, c store.Chunk) (store.Added, error) {
	p, err := s.writeTemporary(c)
	if err != nil {
		s.doneWriting(c.ID)
		return store.Added{}, err
	}
	if s.o.Durable {
		err = s.batch.add(ctx, p)
	} else {
		err = s.publish(p)
	}
	if err != nil {
		return store.Added{}, err
	}
	return store.Added{New: true, Stored: p.size}, nil
}

func (s *Store) writeTemporary(c store.Chunk) (pending, error) {
	data := c.Data
	if c.Codec == nil && !s.o.Plain {
		enc, err := s.encoder()
		if err != nil {
			return pending{}, err
		}
		buf := bufpool.Get(cacnk.MaxEncoded(len(data)))
		defer bufpool.Put(buf)
		data = enc.Encode(buf[:0], data)
	}
	tmp := fmt.Sprintf("%s.%016x%s", s.name(c.ID, ""), rand.Uint64(), temporary)
	if err := s.writeFile(tmp, data); err != nil {
		return pending{}, s.fail("put", tmp, c.ID, err)
	}
	return pending{id: c.ID, tmp: tmp, name: s.name(c.ID, s.suffix(c)), size: int64(len(data))}, nil
}

// publish gives a chunk its name.
func (s *Store) publish(p pending) error {
	defer s.doneWriting(p.id)
	if err := os.Rename(p.tmp, p.name); err != nil {
		os.Remove(p.tmp)
		return s.fail("put", p.name, p.id, err)
	}
	return nil
}

// writeFile writes a new file, and makes the directories above it if needed.
func (s *Store) writeFile(name string, data []byte) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(name, flags, 0o444)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 3; try++ {
		// Again, because a garbage collection may remove the empty directory.
		if err := s.makePrefix(filepath.Dir(name)); err != nil {
			return err
		}
		f, err = os.OpenFile(name, flags, 0o444)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && s.o.Durable && !batchSyncs {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(name)
	}
	return err
}

func (s *Store) makePrefix(dir string) error {
	if s.o.Create {
		return os.MkdirAll(dir, 0o777)
	}
	if err := os.Mkdir(dir, 0o777); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// await waits while another goroutine is writing the chunk, and reports whether
// the batch has it then.
func (s *Store) await(ctx context.Context, id chunker.ID) (batched bool, err error) {
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		s.mu.Lock()
		w := s.writing[id]
		batched := w != nil && w.batched
		s.mu.Unlock()
		if w == nil || batched {
			return batched, nil
		}
		select {
		case <-w.done:
		case <-ctx.Done():
		}
	}
}

// claim makes the caller the one that writes the chunk, unless the batch has it.
// It ends with doneWriting or batched.
func (s *Store) claim(ctx context.Context, id chunker.ID) (bool, error) {
	for {
		if batched, err := s.await(ctx, id); batched || err != nil {
			return false, err
		}
		s.mu.Lock()
		free := s.writing[id] == nil
		if free {
			s.writing[id] = &writing{done: make(chan struct{})}
		}
		s.mu.Unlock()
		if free {
			return true, nil
		}
	}
}

// batched notes that the batch has the chunk.
func (s *Store) batched(id chunker.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writing[id]
	w.batched = true
	close(w.done)
}

// doneWriting notes that the chunk is in place, or given up.
func (s *Store) doneWriting(id chunker.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.writing[id]; !w.batched {
		close(w.done)
	}
	delete(s.writing, id)
}
