package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// wrappers are the combinators that have the powers of what they wrap.
var wrappers = map[string]func(store.Getter) store.Getter{
	"Shared": store.Shared,
	"Limit": func(g store.Getter) store.Getter {
		return store.Limit(g, store.Limits{Requests: 16, Rate: 1 << 40})
	},
}

func TestWrappedStores(t *testing.T) {
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store { return wrap(memory(t)).(store.Store) })
		})
	}
}

// getter hides all but Get.
type getter struct{ store.Getter }

// closing notes that it is closed.
type closing struct {
	store.Getter
	closed *int
}

func (c closing) Close() error { *c.closed++; return errStop }

// powers names the powers that can be told by looking.
func powers(g store.Getter) map[string]bool {
	is := map[string]bool{"deliver": store.Delivers(g)}
	_, is["store"] = g.(store.Store)
	_, is["list"] = g.(store.Lister)
	_, is["remove"] = g.(store.Remover)
	_, is["set aside"] = g.(store.SetAsider)
	return is
}

func TestWrappedPowers(t *testing.T) {
	m := memory(t)
	for name, g := range map[string]store.Getter{
		"all":   m,
		"none":  getter{m},
		"store": core{m},
		"list": struct {
			store.Store
			store.Lister
		}{m, m},
		"remove": struct {
			store.Store
			store.Remover
		}{m, m},
		"set aside": struct {
			store.Store
			store.SetAsider
		}{m, m},
		"list, set aside": struct {
			store.Store
			store.Lister
			store.SetAsider
		}{m, m, m},
		"deliver":        &sender{},
		"union":          &store.Union{Sources: []store.Getter{m}},
		"union, deliver": &store.Union{Sources: []store.Getter{m, &sender{}}},
	} {
		for how, wrap := range wrappers {
			w := wrap(g)
			if got, want := fmt.Sprint(powers(w)), fmt.Sprint(powers(g)); got != want {
				t.Errorf("%s of %s: got powers %s, want %s", how, name, got, want)
			}
			if got, want := fmt.Sprint(w), fmt.Sprint(g); got != want {
				t.Errorf("%s of %s: is called %q, want %q", how, name, got, want)
			}
			if err := w.(io.Closer).Close(); err != nil {
				t.Errorf("%s of %s: Close: %v", how, name, err)
			}
		}
	}
}

// TestWrappedFallBack has what cannot be told by looking: calls fall back as if the wrapper
// were not there.
func TestWrappedFallBack(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	for how, wrap := range wrappers {
		ctx := t.Context()
		w := wrap(core{memory(t)}).(store.Store)
		if a, err := store.Add(ctx, w, c); err != nil || !a.New || a.Stored != 1000 {
			t.Errorf("%s: Add: %+v, %v", how, a, err)
		}
		if a, err := store.Add(ctx, w, c); err != nil || a.New {
			t.Errorf("%s: Add again: %+v, %v", how, a, err)
		}
		if err := store.Sync(ctx, w); err != nil {
			t.Errorf("%s: Sync: %v", how, err)
		}
		if err := store.Replace(ctx, w, c); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: Replace: %v", how, err)
		}
		if _, err := store.StoredSize(ctx, w, c.ID); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: StoredSize: %v", how, err)
		}
		n := 0
		if err := wrap(closing{memory(t), &n}).(io.Closer).Close(); err != errStop || n != 1 {
			t.Errorf("%s: Close: %v, closed %d times", how, err, n)
		}
		// A source that is no store is asked whether it has a chunk by its size.
		has := wrap(struct {
			store.Getter
			store.Sizer
		}{memory(t, c), memory(t, c)}).(interface {
			Has(context.Context, chunker.ID) (bool, error)
		})
		if ok, err := has.Has(ctx, c.ID); !ok || err != nil {
			t.Errorf("%s: Has: %v, %v", how, ok, err)
		}
		if ok, err := has.Has(ctx, chunker.ID{}); ok || err != nil {
			t.Errorf("%s: Has of a missing chunk: %v, %v", how, ok, err)
		}
	}
}
