package store_test

import (
	"errors"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// TestVerifier has chunks that different digests name, one after another.
func TestVerifier(t *testing.T) {
	all := &store.Verifier{Limit: 1000}
	one := &store.Verifier{Digests: []chunker.Digest{chunker.SHA256}, Limit: 1000}
	content := storetest.Random(1, 1000)
	for range 2 {
		for _, d := range chunker.Digests {
			c := store.Chunk{ID: d.Sum(content), Data: content}
			if v, err := all.Verify(c); err != nil {
				t.Errorf("%v: %v", d, err)
			} else if b, err := v.Open(d, 1000); err != nil || len(b) != 1000 {
				t.Errorf("%v: %d bytes, %v", d, len(b), err)
			}
			if _, err := one.Verify(c); (err == nil) != (d == chunker.SHA256) || err != nil && !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%v where only sha256 may name chunks: %v", d, err)
			}
			c.Data = content[1:]
			if _, err := all.Verify(c); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("%v, damaged: %v", d, err)
			}
		}
	}
	long := append(content, 0)
	if _, err := all.Verify(store.Chunk{ID: chunker.BLAKE3.Sum(long), Data: long}); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("too long: %v", err)
	}
}

// TestVerifierFallThrough has a union and a cache take chunks of any digest from where
// they are right.
func TestVerifierFallThrough(t *testing.T) {
	v := &store.Verifier{Limit: storetest.Limit}
	for _, d := range chunker.Digests {
		content := storetest.Random(7, 5000)
		c := store.Chunk{ID: d.Sum(content), Data: content}
		bad, good, local := new(storetest.Memory), new(storetest.Memory), new(storetest.Memory)
		for m, data := range map[*storetest.Memory][]byte{bad: content[1:], good: content} {
			if err := m.Put(t.Context(), store.Chunk{ID: c.ID, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		cache := &store.Cache{Local: local, Source: &store.Union{Sources: []store.Getter{bad, good}, Verifier: v}, Verifier: v}
		for range 2 {
			got, err := cache.Get(t.Context(), c.ID)
			if err != nil || len(got.Data) != len(content) || local.Len() != 1 {
				t.Errorf("%v: %d bytes, %v; %d in the cache", d, len(got.Data), err, local.Len())
			}
		}
	}
}
