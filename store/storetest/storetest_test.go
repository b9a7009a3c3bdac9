package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return new(storetest.Memory) })
}

// core hides the optional powers of a store.
type core struct{ store.Store }

func TestCore(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return core{new(storetest.Memory)} })
}

func TestFaultyWithoutFaults(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return &storetest.Faulty{Source: new(storetest.Memory)} })
}

// The stores below each break one promise, and are named by the test of the
// suite that must find it.
type (
	noMissing     struct{ *storetest.Memory }
	retains       struct{ *storetest.Memory }
	noContext     struct{ *storetest.Memory }
	wrongCause    struct{ *storetest.Memory }
	alwaysNew     struct{ *storetest.Memory }
	listsTwice    struct{ *storetest.Memory }
	listsOn       struct{ *storetest.Memory }
	removesYoung  struct{ *storetest.Memory }
	replacesNot   struct{ *storetest.Memory }
	overwrites    struct{ *storetest.Memory }
	leavesAside   struct{ *storetest.Memory }
	sweepsTooMuch struct{ *storetest.Memory }
	wrongSize     struct{ *storetest.Memory }
)

func (s noMissing) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	c, err := s.Memory.Get(ctx, id)
	if store.Missing(err) {
		err = errors.New("404")
	}
	return c, err
}

func (s retains) Put(ctx context.Context, c store.Chunk) error {
	return s.Memory.Put(ctx, store.Chunk{ID: c.ID, Data: []byte{0}, Codec: keeper{c.Data}})
}

// keeper is a codec that has the plain bytes all along.
type keeper struct{ b []byte }

func (keeper) Name() string                                { return "keeper" }
func (k keeper) Decode(_, _ []byte, _ int) ([]byte, error) { return k.b, nil }

func (s noContext) Has(_ context.Context, id chunker.ID) (bool, error) {
	return s.Memory.Has(context.Background(), id)
}

func (s wrongCause) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if ctx.Err() != nil {
		return store.Chunk{}, ctx.Err()
	}
	return s.Memory.Get(ctx, id)
}

func (s alwaysNew) Add(ctx context.Context, c store.Chunk) (store.Added, error) {
	_, err := s.Memory.Add(ctx, c)
	return store.Added{New: true, Stored: 1}, err
}

func (s listsTwice) List(ctx context.Context, each func(store.Info) error) error {
	return s.Memory.List(ctx, func(i store.Info) error {
		if err := each(i); err != nil {
			return err
		}
		return each(i)
	})
}

func (s listsOn) List(ctx context.Context, each func(store.Info) error) error {
	return s.Memory.List(ctx, func(i store.Info) error {
		each(i)
		return nil
	})
}

func (s removesYoung) Remove(ctx context.Context, id chunker.ID, _ time.Time) (bool, error) {
	return s.Memory.Remove(ctx, id, time.Now().Add(time.Hour))
}

func (s replacesNot) Replace(ctx context.Context, c store.Chunk) error { return s.Put(ctx, c) }

func (s overwrites) Put(ctx context.Context, c store.Chunk) error { return s.Replace(ctx, c) }

func (s leavesAside) SetAside(context.Context, chunker.ID) (string, error) { return "here", nil }

func (s sweepsTooMuch) Sweep(ctx context.Context, since time.Time, _ bool) (n int, err error) {
	err = s.List(ctx, func(i store.Info) error {
		_, err := s.Remove(ctx, i.ID, since)
		return err
	})
	return 0, err
}

func (s wrongSize) StoredSize(ctx context.Context, id chunker.ID) (int64, error) {
	n, err := s.Memory.StoredSize(ctx, id)
	return n + 1, err
}

var broken = map[string]struct {
	open func(*storetest.Memory) store.Store
	test string // that finds it
}{
	"noMissing":     {func(m *storetest.Memory) store.Store { return noMissing{m} }, "Missing"},
	"retains":       {func(m *storetest.Memory) store.Store { return retains{m} }, "NotRetained"},
	"noContext":     {func(m *storetest.Memory) store.Store { return noContext{m} }, "Cancelled"},
	"wrongCause":    {func(m *storetest.Memory) store.Store { return wrongCause{m} }, "Cancelled"},
	"alwaysNew":     {func(m *storetest.Memory) store.Store { return alwaysNew{m} }, "Add"},
	"listsTwice":    {func(m *storetest.Memory) store.Store { return listsTwice{m} }, "List"},
	"listsOn":       {func(m *storetest.Memory) store.Store { return listsOn{m} }, "ListStops"},
	"removesYoung":  {func(m *storetest.Memory) store.Store { return removesYoung{m} }, "Remove"},
	"replacesNot":   {func(m *storetest.Memory) store.Store { return replacesNot{m} }, "Replace"},
	"overwrites":    {func(m *storetest.Memory) store.Store { return overwrites{m} }, "Replace"},
	"leavesAside":   {func(m *storetest.Memory) store.Store { return leavesAside{m} }, "SetAside"},
	"sweepsTooMuch": {func(m *storetest.Memory) store.Store { return sweepsTooMuch{m} }, "Sweep"},
	"wrongSize":     {func(m *storetest.Memory) store.Store { return wrongSize{m} }, "StoredSize"},
}

// which names, in the environment of a process that TestRunFinds started, the
// broken store to check.
const which = "CASTOR_STORETEST_BROKEN"

func TestRunFinds(t *testing.T) {
	if name := os.Getenv(which); name != "" {
		storetest.Run(t, func(*testing.T) store.Store { return broken[name].open(new(storetest.Memory)) })
		return
	}
	for name, tt := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.short", "-test.run=^TestRunFinds$/^"+tt.test+"$")
			cmd.Env = append(os.Environ(), which+"="+name)
			out, err := cmd.CombinedOutput()
			if ok, _ := regexp.Match(`(?m)^ *--- FAIL: TestRunFinds/`+tt.test+` `, out); err == nil || !ok {
				t.Errorf("the suite does not find it: %v\n%s", err, out)
			}
		})
	}
}

func TestFaulty(t *testing.T) {
	synctest.Test(t, testFaulty) // as Hang waits
}

func testFaulty(t *testing.T) {
	boom := errors.New("boom")
	c, other := storetest.Chunk(1, 1000), storetest.Chunk(2, 1000)
	var cancel context.CancelCauseFunc
	for _, tt := range []struct {
		name  string
		fault storetest.Fault
		want  error // of Get and Open
	}{
		{"none", nil, nil},
		{"fail", storetest.Fail(boom), boom},
		{"short", storetest.Short(1), store.ErrDamaged},
		{"empty", storetest.Short(2000), store.ErrDamaged},
		{"flip", storetest.Flip(0), store.ErrDamaged},
		{"flip round", storetest.Flip(5999), store.ErrDamaged},
		{"swap", storetest.Swap(other), store.ErrDamaged},
		{"hang", storetest.Hang, boom},
		{"cancel", func(ctx context.Context, c store.Chunk, call storetest.Next) (store.Chunk, error) {
			return storetest.Cancel(cancel, boom)(ctx, c, call)
		}, boom},
	} {
		m := new(storetest.Memory)
		if err := m.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		f := &storetest.Faulty{Source: m, Choose: func(call storetest.Call) storetest.Fault {
			if call.N == 1 {
				return tt.fault
			}
			return nil
		}}
		for n := range 3 {
			var ctx context.Context
			ctx, cancel = context.WithCancelCause(t.Context())
			stop := time.AfterFunc(time.Minute, func() { cancel(boom) })
			got, err := f.Get(ctx, c.ID)
			if err == nil {
				_, err = got.Open(storetest.Digest, storetest.Limit)
			}
			want := tt.want
			if n != 1 {
				want = nil
			}
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%s: call %d: error %v, want %v", tt.name, n, err, want)
			}
			stop.Stop()
			cancel(nil)
		}
		if got, err := m.Get(t.Context(), c.ID); err != nil || !bytes.Equal(got.Data, storetest.Chunk(1, 1000).Data) {
			t.Errorf("%s: the source has been changed: %v", tt.name, err)
		}
		if n := f.Count("get"); n != 3 || len(f.Calls()) != 3 {
			t.Errorf("%s: counted %d calls of get, %d in all, want 3", tt.name, n, len(f.Calls()))
		}
	}
}

func TestFaultyPut(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	boom := errors.New("boom")
	faults := map[string]storetest.Fault{"put": storetest.Flip(3), "has": storetest.Fail(boom), "sync": storetest.Fail(boom), "list": storetest.Fail(boom)}
	f := &storetest.Faulty{Source: new(storetest.Memory), Choose: func(c storetest.Call) storetest.Fault { return faults[c.Op] }}
	if err := f.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	got, err := f.Get(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Open(storetest.Digest, storetest.Limit); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("chunk put with a flipped bit: error %v", err)
	}
	if has, err := f.Has(t.Context(), c.ID); has || err != boom {
		t.Errorf("Has = %v, %v, want %v", has, err, boom)
	}
	if err := f.Sync(t.Context()); err != boom {
		t.Errorf("Sync: %v, want %v", err, boom)
	}
	if err := f.List(t.Context(), nil); err != boom {
		t.Errorf("List: %v, want %v", err, boom)
	}
}

// getter is no more than that.
type getter struct{ store.Getter }

func TestFaultyGetter(t *testing.T) {
	f := &storetest.Faulty{Source: getter{new(storetest.Memory)}}
	c := storetest.Chunk(1, 10)
	if _, err := f.Get(t.Context(), c.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %v", err)
	}
	_, herr := f.Has(t.Context(), c.ID)
	for what, err := range map[string]error{"Put": f.Put(t.Context(), c), "Has": herr, "List": f.List(t.Context(), nil)} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Errorf("Sync: %v", err)
	}
}

func TestChunk(t *testing.T) {
	a, b := storetest.Chunk(1, 5000), storetest.Chunk(1, 5000)
	if a.ID != b.ID || !bytes.Equal(a.Data, b.Data) || len(a.Data) != 5000 {
		t.Errorf("the same seed and size make different chunks")
	}
	if a.ID == storetest.Chunk(2, 5000).ID || strings.Contains(string(a.Data[:2500]), "castorcastor") {
		t.Errorf("another seed makes the same chunk")
	}
}
