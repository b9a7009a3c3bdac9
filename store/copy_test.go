package store_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

func TestCopy(t *testing.T) {
	var chunks []store.Chunk
	var ids []chunker.ID
	var stored int64
	for i := range 30 {
		c := compressed(t, storetest.Chunk(uint64(i), 10+30*i))
		chunks, ids = append(chunks, c), append(ids, c.ID)
		if i >= 10 {
			stored += int64(len(c.Data))
		}
	}
	dst := &storetest.Faulty{Source: memory(t, chunks[:10]...)}
	src := &storetest.Faulty{Source: memory(t, chunks...)}
	var last store.Copied
	calls := 0
	got, err := store.Copy(t.Context(), dst, src, ids, storetest.Digest, 1000, 4, func(c store.Copied) { last, calls = c, calls+1 })
	if want := (store.Copied{Present: 10, Copied: 20, Bytes: stored}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if last != got || calls != len(ids) {
		t.Errorf("progress called %d times, at last with %+v", calls, last)
	}
	if n, m, y := src.Count("get"), dst.Count("put"), dst.Count("sync"); n != 20 || m != 20 || y != 1 {
		t.Errorf("%d calls of Get, %d of Put, %d of Sync, want 20, 20, 1", n, m, y)
	}
	for _, c := range chunks {
		if got, err := dst.Get(t.Context(), c.ID); err != nil || string(got.Data) != string(c.Data) {
			t.Errorf("copied chunk has %d bytes, error %v, want it as the source holds it", len(got.Data), err)
		}
	}
}

func TestCopyFails(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	for _, tt := range []struct {
		name     string
		dst, src store.Store
		err      error
	}{
		{"missing", memory(t), memory(t), fs.ErrNotExist},
		{"damaged", memory(t), faulty(t, "get", storetest.Flip(1), c), store.ErrDamaged},
		{"swapped", memory(t), faulty(t, "get", storetest.Swap(storetest.Chunk(2, 1000)), c), store.ErrDamaged},
		{"get fails", memory(t), faulty(t, "get", storetest.Fail(errStop), c), errStop},
		{"has fails", faulty(t, "has", storetest.Fail(errStop)), memory(t, c), errStop},
		{"put fails", faulty(t, "put", storetest.Fail(errStop)), memory(t, c), errStop},
		{"sync fails", faulty(t, "sync", storetest.Fail(errStop)), memory(t, c), errStop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := store.Copy(t.Context(), tt.dst, tt.src, []chunker.ID{c.ID}, storetest.Digest, 1000, 2, nil)
			if !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			if m, ok := tt.dst.(*storetest.Memory); ok && m.Len() != 0 {
				t.Errorf("%d chunks copied", m.Len())
			}
		})
	}
}

func TestCopyCancelled(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	if _, err := store.Copy(cancelled(t), memory(t), memory(t, c), []chunker.ID{c.ID}, storetest.Digest, 1000, 2, nil); err != errStop {
		t.Errorf("cancelled before: %v, want the cause", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	src := faulty(t, "get", storetest.Cancel(cancel, errStop), c)
	if _, err := store.Copy(ctx, memory(t), src, []chunker.ID{c.ID}, storetest.Digest, 1000, 2, nil); err != errStop {
		t.Errorf("cancelled midway: %v, want the cause", err)
	}
}
