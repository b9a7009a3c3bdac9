package storetest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// Memory is a store in memory with every optional power. It holds chunks in the
// form in which they are put. The zero value is empty and ready for use; it must
// not be copied.
type Memory struct {
	mu     sync.Mutex
	chunks map[chunker.ID]stored // guarded by mu
}

type stored struct {
	data  []byte // never changed
	codec store.Codec
	used  time.Time
}

var (
	_ store.Store     = (*Memory)(nil)
	_ store.Adder     = (*Memory)(nil)
	_ store.Syncer    = (*Memory)(nil)
	_ store.Replacer  = (*Memory)(nil)
	_ store.Lister    = (*Memory)(nil)
	_ store.Sizer     = (*Memory)(nil)
	_ store.Remover   = (*Memory)(nil)
	_ store.SetAsider = (*Memory)(nil)
)

// String says what it is, for messages.
func (m *Memory) String() string { return "memory" }

// Len returns the number of chunks.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.chunks)
}

// find returns what is stored as id, or an error about op.
func (m *Memory) find(ctx context.Context, op string, id chunker.ID) (stored, error) {
	if ctx.Err() != nil {
		return stored{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.chunks[id]
	if !ok {
		return stored{}, &store.Error{Op: op, Loc: m.String(), ID: id, Err: fs.ErrNotExist}
	}
	return e, nil
}

// Get returns the chunk. Its Data must not be changed.
func (m *Memory) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	e, err := m.find(ctx, "get", id)
	if err != nil {
		return store.Chunk{}, err
	}
	return store.Chunk{ID: id, Data: e.data, Codec: e.codec, Loc: m.String()}, nil
}

// Has reports whether the chunk is there, and notes the use.
func (m *Memory) Has(ctx context.Context, id chunker.ID) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.chunks[id]
	if ok {
		e.used = time.Now()
		m.chunks[id] = e
	}
	return ok, nil
}

// Put stores a copy of the chunk.
func (m *Memory) Put(ctx context.Context, c store.Chunk) error {
	_, err := m.Add(ctx, c)
	return err
}

// Add is Put and tells whether the chunk was new.
func (m *Memory) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	return m.add(ctx, c, false)
}

// Replace stores the chunk over what may be there.
func (m *Memory) Replace(ctx context.Context, c store.Chunk) error {
	_, err := m.add(ctx, c, true)
	return err
}

func (m *Memory) add(ctx context.Context, c store.Chunk, over bool) (store.Added, error) {
	if ctx.Err() != nil {
		return store.Added{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chunks == nil {
		m.chunks = map[chunker.ID]stored{}
	}
	e, ok := m.chunks[c.ID]
	if e.used = time.Now(); ok && !over {
		m.chunks[c.ID] = e
		return store.Added{}, nil
	}
	m.chunks[c.ID] = stored{data: bytes.Clone(c.Data), codec: c.Codec, used: e.used}
	return store.Added{New: true, Stored: int64(len(c.Data))}, nil
}

// Sync does nothing: a chunk is in memory when Put returns.
func (m *Memory) Sync(context.Context) error { return nil }

// StoredSize returns the length of the chunk as it was put.
func (m *Memory) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	e, err := m.find(ctx, "stat", id)
	return int64(len(e.data)), err
}

// List enumerates the chunks that were there when it was called.
func (m *Memory) List(ctx context.Context, each func(store.Info) error) error {
	m.mu.Lock()
	all := make([]store.Info, 0, len(m.chunks))
	for id, e := range m.chunks {
		all = append(all, store.Info{ID: id, Size: int64(len(e.data)), Used: e.used})
	}
	m.mu.Unlock()
	for _, i := range all {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

// Remove deletes the chunk unless it has been used after since.
func (m *Memory) Remove(ctx context.Context, id chunker.ID, since time.Time) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.chunks[id]
	if !ok || e.used.After(since) {
		return false, nil
	}
	delete(m.chunks, id)
	return true, nil
}

// Sweep has nothing to do.
func (m *Memory) Sweep(context.Context, time.Time, bool) (int, error) { return 0, nil }

// SetAside forgets the chunk.
func (m *Memory) SetAside(ctx context.Context, id chunker.ID) (string, error) {
	if _, err := m.find(ctx, "set aside", id); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.chunks, id)
	return fmt.Sprintf("nowhere (was in %v)", m), nil
}
