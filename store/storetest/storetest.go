// Package storetest checks stores. [Run] is what every backend must pass,
// [Memory] is the simplest store that does, and [Faulty] is any store going
// wrong in the way a test wants.
package storetest

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// Digest names the chunks that this package makes.
const Digest = chunker.SHA512256

// Limit is enough for every chunk that this package makes.
const Limit = 256 << 10

// Chunk returns a plain chunk of size bytes that depends on seed. Half of it
// compresses well, half not at all.
func Chunk(seed uint64, size int) store.Chunk {
	b := Random(seed, size)
	for i := size / 2; i < size; i++ {
		b[i] = "castor"[i%6]
	}
	return Plain(b)
}

// Plain returns the chunk with content b.
func Plain(b []byte) store.Chunk { return store.Chunk{ID: Digest.Sum(b), Data: b} }

// Random returns size bytes that depend on seed and do not compress.
func Random(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, size)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Run checks that what open returns is a store as package store describes it.
// Each call of open must return an empty store, and close it by t.Cleanup if
// need be. Optional powers are checked where the store has them. With -short
// the suite leaves out what takes more than a moment; it is meant for -race too.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, s store.Store)
	}{
		{"Missing", testMissing},
		{"Content", testContent},
		{"Stored", testStored},
		{"PutTwice", testPutTwice},
		{"NotRetained", testNotRetained},
		{"Independent", testIndependent},
		{"Concurrent", testConcurrent},
		{"Cancelled", testCancelled},
		{"CancelledMidway", testCancelledMidway},
		{"Add", testAdd},
		{"StoredSize", testStoredSize},
		{"Replace", testReplace},
		{"SetAside", testSetAside},
		{"List", testList},
		{"ListStops", testListStops},
		{"Check", testCheck},
		{"Remove", testRemove},
		{"Sweep", testSweep},
		{"GC", testGC},
		{"Many", testMany},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open(t)) })
	}
}

// power returns s as a T, or skips the test.
func power[T any](t *testing.T, s store.Store) T {
	t.Helper()
	p, ok := s.(T)
	if !ok {
		t.Skipf("%T has not this power", s)
	}
	return p
}

// put puts chunks and waits until they are in s.
func put(t *testing.T, s store.Store, chunks ...store.Chunk) {
	t.Helper()
	for _, c := range chunks {
		if err := s.Put(t.Context(), c); err != nil {
			t.Fatalf("Put of %d bytes: %v", len(c.Data), err)
		}
	}
	if err := store.Sync(t.Context(), s); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

// check fails the test unless s has c, plain, and says so.
func check(t *testing.T, s store.Store, c store.Chunk) {
	t.Helper()
	if has, err := s.Has(t.Context(), c.ID); err != nil || !has {
		t.Errorf("Has of a chunk of %d bytes = %v, %v, want true", len(c.Data), has, err)
	}
	if err := same(t.Context(), s, c); err != nil {
		t.Errorf("chunk of %d bytes: %v", len(c.Data), err)
	}
}

// same gets c, which is plain, from s and returns an error if that is not it.
func same(ctx context.Context, s store.Getter, c store.Chunk) error {
	got, err := s.Get(ctx, c.ID)
	if err != nil {
		return err
	}
	defer func() { got.Release() }()
	if got.ID != c.ID {
		return errors.New("Get returned a chunk with another ID")
	}
	b, err := got.Open(Digest, Limit)
	if err == nil && string(b) != string(c.Data) {
		err = errors.New("content differs although it has the right digest")
	}
	return err
}

// checkMissing fails the test unless err says that chunk id is not there, in
// the way that callers and users need.
func checkMissing(t *testing.T, what string, id chunker.ID, err error) {
	t.Helper()
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		t.Errorf("%s of a missing chunk: error %v, want one that wraps fs.ErrNotExist", what, err)
	case errors.Is(err, store.ErrDamaged):
		t.Errorf("%s of a missing chunk: error %v wraps store.ErrDamaged", what, err)
	case !strings.Contains(err.Error(), id.String()):
		t.Errorf("%s of a missing chunk: error %q does not name the chunk", what, err)
	}
}

// checkGone fails the test unless s lacks chunk id.
func checkGone(t *testing.T, s store.Store, id chunker.ID) {
	t.Helper()
	c, err := s.Get(t.Context(), id)
	checkMissing(t, "Get", id, err)
	if c.Data != nil {
		t.Errorf("Get of a missing chunk returned %d bytes", len(c.Data))
	}
	if has, err := s.Has(t.Context(), id); has || err != nil {
		t.Errorf("Has of a missing chunk = %v, %v, want false", has, err)
	}
}
