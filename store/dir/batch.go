package dir

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/castorsync/castor/chunker"
)

// pending is a chunk that has been written under a temporary name.
type pending struct {
	id        chunker.ID
	tmp, name string
	size      int64
}

// A batch is published when it has grown to one of these.
const (
	batchBytes  = 64 << 20
	batchChunks = 4096
)

// batch collects written chunks so that one sync serves many: first all their
// bytes reach the disk, then they get their names. So there is no instant at
// which a power failure leaves a name without its bytes.
type batch struct {
	s *Store

	mu      sync.Mutex
	list    []pending
	bytes   int64
	running chan struct{} // closed when the batch being published is done; nil before the first
	err     error         // the first error, which takes chunks with it that were put
	told    time.Time     // when somebody was first told of it
}

// tellFor is how long everybody is told of an error: whoever put a chunk that it took
// along, and others put some as well, waits for it by then. Later it may be over.
const tellFor = time.Minute

// failure returns the error to tell. The caller holds b.mu.
func (b *batch) failure() error {
	switch {
	case b.err == nil:
	case b.told.IsZero():
		b.told = time.Now()
	case time.Since(b.told) > tellFor:
		b.err, b.told = nil, time.Time{}
	}
	return b.err
}

// add takes over a pending chunk. It waits only if the batch is full while the
// one before is still being published.
func (b *batch) add(ctx context.Context, p pending) error {
	b.mu.Lock()
	b.list = append(b.list, p)
	b.s.batched(p.id)
	b.bytes += p.size
	full := b.bytes >= batchBytes || len(b.list) >= batchChunks
	err := b.failure()
	b.mu.Unlock()
	if full && err == nil {
		return b.publish(ctx)
	}
	return err
}

// publish starts to publish what has been collected.
func (b *batch) publish(ctx context.Context) error {
	if err := b.wait(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.running:
	default:
		if b.running != nil {
			return nil // another goroutine was faster
		}
	}
	if len(b.list) == 0 {
		return nil
	}
	list := b.list
	b.list, b.bytes = nil, 0
	done := make(chan struct{})
	b.running = done
	go func() {
		defer close(done)
		err := b.s.publishAll(list)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.err == nil {
			b.err = err
		}
	}()
	return nil
}

// wait waits for the batch being published.
func (b *batch) wait(ctx context.Context) error {
	b.mu.Lock()
	running := b.running
	b.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure()
}

func (s *Store) publishAll(list []pending) error {
	err := s.syncBatch()
	for _, p := range list {
		if err != nil {
			os.Remove(p.tmp)
			s.doneWriting(p.id)
			continue
		}
		err = s.publish(p)
	}
	return err
}

// Sync returns when every chunk put so far has its name and, if the store was
// opened as durable, will keep it.
func (s *Store) Sync(ctx context.Context) error {
	if !s.o.Durable {
		return nil
	}
	// One batch is enough: it begins after the one that was being published, and what is
	// put meanwhile is for those who put it to wait for.
	if err := s.batch.publish(ctx); err != nil {
		return err
	}
	if err := s.batch.wait(ctx); err != nil {
		return err
	}
	return s.syncBatch()
}

// Close removes what is under way: chunks put since the last Sync may or may not
// be there afterwards. The store must not be used any more.
func (s *Store) Close() error {
	err := s.batch.wait(context.Background())
	s.batch.mu.Lock()
	defer s.batch.mu.Unlock()
	for _, p := range s.batch.list {
		os.Remove(p.tmp)
		s.doneWriting(p.id)
	}
	s.batch.list = nil
	return err
}
