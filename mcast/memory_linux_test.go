package mcast

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/testns"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
)

// numbered is a store of chunks that are made when they are asked for, and takes next
// to no memory.
type numbered struct {
	x      *index.Index
	sorted []uint32 // entries by their IDs
}

const numberedSize = 1024

func numberedChunk(n uint32) []byte {
	b := make([]byte, numberedSize)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], (uint64(n)<<16|uint64(i))*0x9e3779b97f4a7c15)
	}
	return b
}

func (m numbered) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	i, ok := slices.BinarySearchFunc(m.sorted, id, func(n uint32, id chunker.ID) int {
		return bytes.Compare(m.x.Entries[n].ID[:], id[:])
	})
	if !ok {
		return store.Chunk{}, &store.Error{Op: "get", Loc: "numbered", ID: id, Err: fs.ErrNotExist}
	}
	return store.Chunk{ID: id, Data: numberedChunk(m.sorted[i])}, nil
}

// TestMillionChunks serves an index of a million chunks, many groups of which are
// joined at once, in the memory of the index and 64 MiB.
func TestMillionChunks(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds and memory")
	}
	testns.Run(t, millionChunks) // in a process of its own
}

func millionChunks(t *testing.T) {
	const chunks = 1 << 20
	x := &index.Index{
		Header:  index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.Params{Min: 256, Avg: 1024, Max: 4096}},
		Entries: make([]index.Entry, chunks),
	}
	m := numbered{x, make([]uint32, chunks)}
	for i := range x.Entries {
		id := chunker.BLAKE3.Sum(numberedChunk(uint32(i)))
		x.Entries[i] = index.Entry{End: int64(i+1) * numberedSize, ID: id}
		m.sorted[i] = uint32(i)
	}
	slices.SortFunc(m.sorted, func(a, b uint32) int { return bytes.Compare(x.Entries[a].ID[:], x.Entries[b].ID[:]) })
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // as castor cast has it
	resident := func() int64 {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		var size, pages int64
		fmt.Sscan(string(b), &size, &pages)
		return pages * int64(os.Getpagesize())
	}
	runtime.GC()
	debug.FreeOSMemory()
	before := resident() // with the index

	net := newMemNet()
	s := NewSender([]SenderLink{net.sender()}, &SendOptions{Rate: 1e9 / 8})
	if err := s.SetOffers([]Offer{{x, m}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	ch := s.offered()[0]
	group := func(ord uint32) netip.Addr { return ch.wire.Group(wire.SiteScope, false, ord) }
	r := net.receiver(0)
	r.queue = make(chan Packet, 16) // it need not get them
	go func() {                     // somebody who only listens
		for {
			select {
			case <-r.queue:
			case <-ctx.Done():
				return
			}
		}
	}()
	r.Join(group(0), netip.Addr{})
	sentSoFar := func() int64 {
		net.mu.Lock()
		defer net.mu.Unlock()
		return net.bytes
	}
	peak := int64(0)
	for round, end := 0, time.Now().Add(time.Minute); round < 8 || sentSoFar() < 100<<20 && time.Now().Before(end); round++ {
		for i := range maxWindow {
			r.Join(group(ch.space.Ordinal(wire.Bucket, (round*maxWindow+i)%ch.space.Buckets())), netip.Addr{})
		}
		for range 20 {
			time.Sleep(25 * time.Millisecond)
			peak = max(peak, resident())
		}
		for i := range maxWindow {
			r.Leave(group(ch.space.Ordinal(wire.Bucket, (round*maxWindow+i)%ch.space.Buckets())), netip.Addr{})
		}
	}
	cancel()
	<-done
	sent := sentSoFar()
	t.Logf("%d buckets of 2^%d chunks; sent %d MiB; %d MiB above the index of %d MiB", ch.space.Buckets(), ch.space.Level, sent>>20, (peak-before)>>20, chunks*40>>20)
	if peak-before > 64<<20 {
		t.Errorf("%d MiB above the index, want at most 64", (peak-before)>>20)
	}
	if sent < 100<<20 {
		t.Errorf("only %d MiB were sent", sent>>20)
	}
	runtime.KeepAlive(x)
}

// TestManyWanted has a plan in which millions of chunks are missing, of which a channel
// is asked: it takes no list of them.
func TestManyWanted(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds and memory")
	}
	testns.Run(t, manyWanted) // in a process of its own
}

func manyWanted(t *testing.T) {
	const chunks = 1 << 20
	x := &index.Index{
		Header:  index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.Params{Min: 256, Avg: 1024, Max: 4096}},
		Entries: make([]index.Entry, chunks),
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		e.End = int64(i+1) * numberedSize
		binary.BigEndian.PutUint64(e.ID[:], uint64(i)*0x9e3779b97f4a7c15)
	}
	// A cache has every other chunk, and nobody sends.
	cached := func(id chunker.ID) bool { return id[7]%2 == 0 }
	asked := 0
	s := &Source{Root: x.Root(), Links: []ReceiverLink{newMemNet().receiver(0)}, Index: x, Alone: true, Options: ReceiveOptions{Wait: time.Millisecond}}
	defer s.Close()
	src := &store.Union{Sources: []store.Getter{&store.Cache{Local: hasOnly(cached), Source: s}}}
	before := heapSystem()
	err := store.Deliver(t.Context(), src, func(chunker.ID) bool { asked++; return true }, hasOnly(nil))
	if err != nil || !errors.Is(s.failed, ErrNoSender) {
		t.Fatalf("%v, %v", err, s.failed)
	}
	if asked != chunks {
		t.Errorf("asked about %d chunks, want %d", asked, chunks)
	}
	n := heapSystem() - before
	t.Logf("%.1f bytes for each chunk", float64(n)/chunks)
	if n > 8*chunks+(8<<20) {
		t.Errorf("%d bytes for %d chunks", n, chunks)
	}
	runtime.KeepAlive(x)
}

// hasOnly is a store that only says what it has.
type hasOnly func(id chunker.ID) bool

func (h hasOnly) Has(_ context.Context, id chunker.ID) (bool, error) { return h(id), nil }
func (h hasOnly) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	return store.Chunk{}, &store.Error{Op: "get", Loc: "nowhere", ID: id, Err: fs.ErrNotExist}
}
func (h hasOnly) Put(context.Context, store.Chunk) error { return nil }
