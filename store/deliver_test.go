package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// sender is a source that brings some chunks and cannot be asked for one.
type sender struct {
	chunks []store.Chunk // that it brings
	name   string
	asked  *[]string             // names of senders, as they are asked
	want   []chunker.ID          // what it was asked for last
	fail   error                 // what it returns when it has brought all
	before func(i int)           // called before chunk i is put
	mu     sync.Mutex            // guards gets
	gets   []chunker.ID          // that Get was asked for
	ctx    func(context.Context) // called with the context of Deliver
}

var _ store.Deliverer = (*sender)(nil)

var errNotAsked = errors.New("chunks come only as a whole")

func (s *sender) Get(_ context.Context, id chunker.ID) (store.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets = append(s.gets, id)
	return store.Chunk{}, &store.Error{Op: "receive", Loc: s.name, ID: id, Err: errNotAsked}
}

func (s *sender) Deliver(ctx context.Context, wanted func(chunker.ID) bool, sink store.Putter) error {
	_, all := some(20)
	want := slices.DeleteFunc(all, func(id chunker.ID) bool { return !wanted(id) })
	if len(want) == 0 {
		return nil
	}
	s.want = want
	if s.asked != nil {
		*s.asked = append(*s.asked, s.name)
	}
	if s.ctx != nil {
		s.ctx(ctx)
	}
	err := par.Each(ctx, 4, len(s.chunks), func(ctx context.Context, i int) error {
		if s.before != nil {
			s.before(i)
		}
		if !slices.Contains(want, s.chunks[i].ID) {
			return nil
		}
		v, err := s.chunks[i].Verify(storetest.Digest, storetest.Limit)
		if err != nil {
			return nil // as if it had not come
		}
		return sink.Put(ctx, v)
	})
	if err == nil {
		err = s.fail
	}
	return err
}

// lacks says which of ids a store does not have yet.
func lacks(m interface {
	Has(context.Context, chunker.ID) (bool, error)
}, ids []chunker.ID) func(chunker.ID) bool {
	return func(id chunker.ID) bool {
		has, _ := m.Has(context.Background(), id)
		return slices.Contains(ids, id) && !has
	}
}

// some returns n chunks and their IDs, of 20 at most.
func some(n int) (chunks []store.Chunk, ids []chunker.ID) {
	for i := range n {
		c := storetest.Chunk(uint64(100+i), 500+i)
		chunks, ids = append(chunks, c), append(ids, c.ID)
	}
	return chunks, ids
}

// checkHas checks that a store has exactly the chunks.
func checkHas(t *testing.T, what string, m *storetest.Memory, chunks []store.Chunk) {
	t.Helper()
	if m.Len() != len(chunks) {
		t.Errorf("%s: %d chunks, want %d", what, m.Len(), len(chunks))
	}
	for i, c := range chunks {
		if has, err := m.Has(context.Background(), c.ID); err != nil || !has {
			t.Errorf("%s lacks chunk %d: %v", what, i, err)
		}
	}
}

func TestDeliver(t *testing.T) {
	chunks, ids := some(10)
	for _, tt := range []struct {
		name string
		from store.Getter
		want []store.Chunk
	}{
		{"who cannot", memory(t, chunks...), nil},
		{"sender", &sender{chunks: chunks}, chunks},
		{"sender of a part", &sender{chunks: chunks[3:5]}, chunks[3:5]},
		{"union of stores", &store.Union{Sources: []store.Getter{memory(t, chunks...)}}, nil},
		{"empty union", &store.Union{}, nil},
		{"cache of a store", &store.Cache{Local: memory(t), Source: memory(t, chunks...)}, nil},
		{"cache of a sender", &store.Cache{Local: memory(t), Source: &sender{chunks: chunks}}, chunks},
		{"union in a cache", &store.Cache{Local: memory(t), Source: &store.Union{Sources: []store.Getter{&sender{chunks: chunks[:5]}, &sender{chunks: chunks[4:]}}}}, chunks},
	} {
		got := memory(t)
		if err := store.Deliver(t.Context(), tt.from, lacks(got, ids), got); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		checkHas(t, tt.name, got, tt.want)
	}
	s := &sender{chunks: chunks, fail: errStop}
	if err := store.Deliver(t.Context(), s, lacks(memory(t), nil), memory(t)); err != nil {
		t.Errorf("asked for nothing: %v", err)
	}
}

// Sources are asked in order: senders for what nobody before them has or has brought.
func TestUnionDeliver(t *testing.T) {
	chunks, ids := some(10)
	var asked []string
	first := &sender{name: "first", asked: &asked, chunks: chunks[2:6]}
	second := &sender{name: "second", asked: &asked, chunks: chunks[5:9]}
	late := &storetest.Faulty{Source: memory(t, chunks...)}
	u := &store.Union{
		Sources:  []store.Getter{memory(t, chunks[:2]...), first, memory(t, chunks[6]), second, late},
		Verifier: store.VerifyWith(storetest.Digest, storetest.Limit),
	}
	got := memory(t)
	if err := u.Deliver(t.Context(), lacks(got, ids), got); err != nil {
		t.Fatal(err)
	}
	if want := []string{"first", "second"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	if want := ids[2:]; !slices.Equal(first.want, want) {
		t.Errorf("the first sender is asked for %d chunks, want %d", len(first.want), len(want))
	}
	if want := append([]chunker.ID{}, ids[7:]...); !slices.Equal(second.want, want) {
		t.Errorf("the second sender is asked for %d chunks, want %d", len(second.want), len(want))
	}
	checkHas(t, "the sink", got, append(slices.Clone(chunks[2:6]), chunks[7:9]...))
	if n := len(late.Calls()); n != 0 {
		t.Errorf("the store behind all senders has %d calls", n)
	}
	// The rest one by one; senders are asked and have nothing more.
	for i, c := range chunks {
		checkGet(t, u, c)
		if _, ok := slices.BinarySearch([]int{0, 1}, i); !ok && !slices.Contains(first.gets, c.ID) {
			t.Errorf("chunk %d: the first sender is passed over", i)
		}
	}
}

// A store that cannot tell, or fails, is no reason not to receive a chunk.
func TestUnionDeliverUncertain(t *testing.T) {
	chunks, ids := some(4)
	for name, before := range map[string]store.Getter{
		"cannot tell": getOnly{memory(t, chunks...)},
		"fails":       faulty(t, "has", storetest.Fail(errStop), chunks...),
	} {
		s, got := &sender{chunks: chunks}, memory(t)
		u := &store.Union{Sources: []store.Getter{before, s}}
		if err := u.Deliver(t.Context(), lacks(got, ids), got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		checkHas(t, name, got, chunks)
	}
}

// A sender need not be waited for when others have everything.
func TestUnionDeliverNothingLeft(t *testing.T) {
	chunks, ids := some(4)
	for name, before := range map[string]store.Getter{"store": memory(t, chunks...), "sender": &sender{chunks: chunks}} {
		var asked []string
		u := &store.Union{Sources: []store.Getter{before, &sender{name: "needless", asked: &asked}}}
		got := memory(t)
		if err := u.Deliver(t.Context(), lacks(got, ids), got); err != nil {
			t.Fatal(err)
		}
		if len(asked) != 0 {
			t.Errorf("%s: a sender is asked for no chunks", name)
		}
	}
}

// What a cache or a union before a sender has is left to it as well.
func TestUnionDeliverNested(t *testing.T) {
	chunks, ids := some(4)
	for name, before := range map[string]store.Getter{
		"cache": &store.Cache{Local: memory(t, chunks[:2]...), Source: memory(t), Verifier: store.VerifyWith(storetest.Digest, storetest.Limit)},
		"union": &store.Union{Sources: []store.Getter{memory(t, chunks[0]), memory(t, chunks[1])}, Verifier: store.VerifyWith(storetest.Digest, storetest.Limit)},
	} {
		s := &sender{chunks: chunks}
		u := &store.Union{Sources: []store.Getter{before, s}}
		got := memory(t)
		if err := u.Deliver(t.Context(), lacks(got, ids), got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.want, ids[2:]) {
			t.Errorf("%s: the sender behind it is asked for %d chunks, want 2", name, len(s.want))
		}
	}
}

func TestCacheDeliver(t *testing.T) {
	chunks, ids := some(6)
	local, got := memory(t, chunks[:2]...), memory(t)
	s := &sender{chunks: chunks[1:5]}
	c, log := cache(local, s)
	if err := c.Deliver(t.Context(), lacks(got, ids), got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.want, ids[2:]) {
		t.Errorf("the source is asked for %d chunks, want %d", len(s.want), 4)
	}
	checkHas(t, "the sink", got, chunks[2:5])
	checkHas(t, "the cache", local, chunks[:5])
	for _, ch := range chunks[:5] {
		checkGet(t, c, ch)
	}
	if _, err := c.Get(t.Context(), ids[5]); !errors.Is(err, errNotAsked) {
		t.Errorf("what did not come: %v", err)
	}
	if n, _ := c.Hits(); n != 5 {
		t.Errorf("%d hits, want 5", n)
	}
	if log.Len() > 0 {
		t.Errorf("logged %q", log)
	}
}

// A cache that cannot keep chunks says so, and they are delivered all the same.
func TestCacheDeliverFull(t *testing.T) {
	chunks, ids := some(3)
	c, log := cache(faulty(t, "put", storetest.Fail(errStop)), &sender{chunks: chunks})
	got := memory(t)
	if err := c.Deliver(t.Context(), lacks(got, ids), got); err != nil {
		t.Fatal(err)
	}
	checkHas(t, "the sink", got, chunks)
	if log.Len() == 0 {
		t.Error("nobody is told")
	}
}

func TestCopyDeliver(t *testing.T) {
	chunks, ids := some(20)
	dst := memory(t, chunks[:3]...)
	rest := &storetest.Faulty{Source: memory(t, chunks[10:]...)}
	s := &sender{chunks: chunks[3:10]}
	src := &store.Union{Sources: []store.Getter{s, rest}, Verifier: store.VerifyWith(storetest.Digest, storetest.Limit)}
	given := slices.Clone(ids)
	calls, last := 0, store.Copied{}
	sum, err := store.Copy(t.Context(), dst, src, given, storetest.Digest, storetest.Limit, 4, func(c store.Copied) {
		calls++
		if c.Present < last.Present || c.Copied < last.Copied || c.Bytes < last.Bytes || c.Present+c.Copied != calls {
			t.Errorf("call %d of progress: %+v after %+v", calls, c, last)
		}
		last = c
	})
	if err != nil {
		t.Fatal(err)
	}
	bytes := int64(0)
	for _, c := range chunks[3:] {
		bytes += int64(len(c.Data))
	}
	if want := (store.Copied{Present: 3, Copied: 17, Bytes: bytes}); sum != want || last != want {
		t.Errorf("copied %+v, progress %+v, want %+v", sum, last, want)
	}
	checkHas(t, "the copy", dst, chunks)
	if !slices.Equal(s.want, ids[3:]) {
		t.Errorf("the sender is asked for %d chunks, want 17", len(s.want))
	}
	if n := rest.Count("get"); n != 10 {
		t.Errorf("the store is asked for %d chunks, want 10", n)
	}
	if !slices.Equal(given, ids) {
		t.Error("the list of chunks is changed")
	}
	// All is there: nobody is asked.
	s.want = nil
	if sum, err := store.Copy(t.Context(), dst, src, ids, storetest.Digest, storetest.Limit, 4, nil); err != nil || sum.Present != 20 || sum.Copied != 0 || s.want != nil {
		t.Errorf("again: %+v, %v, the sender is asked for %d", sum, err, len(s.want))
	}
}

// Neither a damaged chunk that comes nor one that does not spoils the copy.
func TestCopyDeliverDamaged(t *testing.T) {
	chunks, ids := some(3)
	bad := chunks[1]
	bad.Data = storetest.Random(9, len(bad.Data))
	src := &store.Union{
		Sources:  []store.Getter{&sender{chunks: []store.Chunk{chunks[0], bad}}, memory(t, chunks...)},
		Verifier: store.VerifyWith(storetest.Digest, storetest.Limit),
	}
	dst := memory(t)
	if _, err := store.Copy(t.Context(), dst, src, ids, storetest.Digest, storetest.Limit, 2, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		checkGet(t, dst, c)
	}
}

// Errors of the sink and of the sender end delivery, wherever they come from.
func TestDeliverFails(t *testing.T) {
	chunks, ids := some(10)
	all := func(s store.Getter) map[string]store.Getter {
		c, _ := cache(memory(t), s)
		return map[string]store.Getter{"sender": s, "union": &store.Union{Sources: []store.Getter{s, &sender{chunks: chunks, fail: errors.New("another one is asked")}}}, "cache": c}
	}
	for name, from := range all(&sender{chunks: chunks}) {
		sink := faulty(t, "put", storetest.Fail(errStop))
		if err := store.Deliver(t.Context(), from, lacks(sink, ids), sink); !errors.Is(err, errStop) {
			t.Errorf("%s, the sink fails: %v", name, err)
		}
	}
	for name, from := range all(&sender{chunks: chunks, fail: errStop}) {
		got := memory(t)
		if err := store.Deliver(t.Context(), from, lacks(got, ids), got); !errors.Is(err, errStop) {
			t.Errorf("%s, the sender fails: %v", name, err)
		}
		checkHas(t, name, got, chunks) // what came stays
	}
	if _, err := store.Copy(t.Context(), memory(t), &sender{chunks: chunks, fail: errStop}, ids, storetest.Digest, storetest.Limit, 2, nil); !errors.Is(err, errStop) {
		t.Errorf("Copy: %v", err)
	}
}

func TestDeliverCancelled(t *testing.T) {
	chunks, ids := some(10)
	for name, wrap := range map[string]func(store.Getter) store.Getter{
		"sender": func(g store.Getter) store.Getter { return g },
		"union": func(g store.Getter) store.Getter {
			return &store.Union{Sources: []store.Getter{memory(t, chunks[0]), g}}
		},
		"cache": func(g store.Getter) store.Getter { c, _ := cache(memory(t), g); return c },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		got := memory(t)
		s := &sender{chunks: chunks, before: func(i int) {
			if i == 5 {
				cancel(errStop)
			}
		}}
		if err := store.Deliver(ctx, wrap(s), lacks(got, ids), got); !errors.Is(err, errStop) {
			t.Errorf("%s, cancelled in the middle: %v", name, err)
		}
		if err := store.Deliver(ctx, wrap(&sender{chunks: chunks}), lacks(got, ids), got); !errors.Is(err, errStop) {
			t.Errorf("%s, cancelled before: %v", name, err)
		}
		if _, err := store.Copy(ctx, memory(t), wrap(&sender{chunks: chunks}), ids, storetest.Digest, storetest.Limit, 2, nil); !errors.Is(err, errStop) {
			t.Errorf("%s, Copy cancelled before: %v", name, err)
		}
	}
}

// getOnly cannot tell which chunks it has.
type getOnly struct{ store.Getter }
