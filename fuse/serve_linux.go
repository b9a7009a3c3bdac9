//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// rootIno is the inode number of the root. No node of an archive but the root has an
// offset as small.
const rootIno = 1

// serving is a mounted FS from inside.
type serving struct {
	*FS
	mounted time.Time
	log     *slog.Logger
	show    func(Stats) any
	nodes   *nodes   // of a tree
	reading sync.Map // *openDir that have begun to be read
	whole   *os.File // that the kernel reads by itself; nil if it does not

	reads, readBytes, lookups, listed, failed, interrupted atomic.Int64

	mu     sync.Mutex
	logged map[string]time.Time // when a failure was logged; guarded by mu
}

func newServing(f *FS, o *Options) *serving {
	s := &serving{FS: f, mounted: time.Now(), log: o.Log, show: o.Stats, nodes: newNodes(maxNodes), logged: map[string]time.Time{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

func (s *serving) root() gofs.InodeEmbedder {
	if s.tree == nil {
		return &fileRoot{s: s}
	}
	return &treeNode{s: s, item: s.tree.Root()}
}

func (s *serving) hasACLs() bool { return s.tree != nil && s.tree.Features().Has(archive.ACLs) }

func (s *serving) stats() Stats {
	return Stats{
		Reads: s.reads.Load(), ReadBytes: s.readBytes.Load(),
		Lookups: s.lookups.Load(), Listed: s.listed.Load(),
		Failed: s.failed.Load(), Interrupted: s.interrupted.Load(),
		Passthrough: s.whole != nil,
	}
}

// statsAttr returns the value of StatsAttr. Its size changes rarely, as programs ask
// for that first.
func (s *serving) statsAttr() []byte {
	var v any = s.stats()
	if s.show != nil {
		v = s.show(s.stats())
	}
	b, err := json.Marshal(v)
	if err != nil {
		b = nil // statistics are not worth failing for
	}
	for len(b)%1024 != 0 {
		b = append(b, ' ')
	}
	return b
}

func (s *serving) statfs(out *gofuse.StatfsOut) {
	const block = 4096
	*out = gofuse.StatfsOut{Blocks: uint64(s.size+block-1) / block, Bsize: block, Frsize: block, NameLen: archive.MaxName}
}

// read answers a read of the content from off on.
func (s *serving) read(ctx context.Context, p []byte, off int64) (gofuse.ReadResult, syscall.Errno) {
	r := begin(ctx)
	defer r.end()
	n, err := readAt(r, s.content, p, off)
	if err != nil && err != io.EOF {
		return nil, s.errno("read", "", err)
	}
	s.reads.Add(1)
	s.readBytes.Add(int64(n))
	return gofuse.ReadResultData(p[:n]), 0
}

// contextReaderAt is the power to end a read when its context does.
type contextReaderAt interface {
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
}

func readAt(ctx context.Context, content io.ReaderAt, p []byte, off int64) (int, error) {
	if c, ok := content.(contextReaderAt); ok {
		return c.ReadAtContext(ctx, p, off)
	}
	return content.ReadAt(p, off)
}

// logAgain is how long a failure that comes again is not logged, and logKinds how many
// different ones are known.
const (
	logAgain = time.Minute
	logKinds = 1024
)

// errno returns what to answer to a request that has failed, and logs it.
func (s *serving) errno(what, path string, err error) syscall.Errno {
	if errors.Is(err, errInterrupted) {
		s.interrupted.Add(1)
		return syscall.EINTR
	}
	s.failed.Add(1)
	kind := what + path
	if id, ok := chunkOf(err); ok {
		kind = id.String()
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.logged[kind]; ok && now.Sub(last) < logAgain {
		return syscall.EIO
	}
	if len(s.logged) >= logKinds {
		clear(s.logged)
	}
	s.logged[kind] = now
	attrs := []any{"error", err}
	if path != "" {
		attrs = []any{"path", path, "error", err}
	}
	s.log.Warn(what+" failed", attrs...)
	return syscall.EIO
}

// chunkOf returns the chunk that an error is about.
func chunkOf(err error) (chunker.ID, bool) {
	if e, ok := errors.AsType[*store.NotFoundError](err); ok {
		return e.ID, true
	}
	if e, ok := errors.AsType[*store.Error](err); ok {
		return e.ID, true
	}
	return chunker.ID{}, false
}

// xattr answers a request for the value of an attribute, or of the list of names.
func xattr(value, dest []byte) (uint32, syscall.Errno) {
	if len(value) > len(dest) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), 0
}
