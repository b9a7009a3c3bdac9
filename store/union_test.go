package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// faults are the ways in which a source may fail to deliver c.
func faults(c store.Chunk) map[string]storetest.Fault {
	return map[string]storetest.Fault{
		"missing": storetest.Fail(&store.Error{Op: "get", Loc: "a", ID: c.ID, Err: fs.ErrNotExist}),
		"failing": storetest.Fail(&store.Error{Op: "get", Loc: "a", ID: c.ID, Err: errStop}),
		"short":   storetest.Short(1),
		"flipped": storetest.Flip(500),
		"swapped": storetest.Swap(storetest.Chunk(2, 1000)),
		"long":    storetest.Swap(storetest.Chunk(1, 2000)),
	}
}

func TestUnionFallsThrough(t *testing.T) {
	plain := storetest.Chunk(1, 1000)
	for form, c := range map[string]store.Chunk{"plain": plain, "zstd": compressed(t, plain)} {
		for name, fault := range faults(c) {
			t.Run(form+" "+name, func(t *testing.T) {
				var log bytes.Buffer
				good := &storetest.Faulty{Source: memory(t, c)}
				never := &storetest.Faulty{Source: memory(t, c)}
				u := &store.Union{
					Sources:  []store.Getter{faulty(t, "get", fault, c), good, never},
					Verifier: store.VerifyWith(storetest.Digest, 1000),
					Log:      slog.New(slog.NewTextHandler(&log, nil)),
				}
				got, err := u.Get(t.Context(), c.ID)
				if err != nil {
					t.Fatal(err)
				}
				b, err := got.Open(storetest.Digest, 1000)
				if err != nil || !bytes.Equal(b, plain.Data) || got.Codec != c.Codec {
					t.Errorf("%d bytes, codec %v, error %v", len(b), got.Codec, err)
				}
				if n, m := good.Count("get"), never.Count("get"); n != 1 || m != 0 {
					t.Errorf("second source asked %d times, third %d times, want 1, 0", n, m)
				}
				if logged := log.Len() > 0; logged != (name != "missing") {
					t.Errorf("logged %q", &log)
				}
				u.Log = nil
				if _, err := u.Get(t.Context(), c.ID); err != nil {
					t.Errorf("without a log: %v", err)
				}
			})
		}
	}
}

func TestUnionNone(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	all := faults(c)
	at := func(loc string, err error) storetest.Fault {
		return storetest.Fail(&store.Error{Op: "get", Loc: loc, ID: c.ID, Err: err})
	}
	for _, tt := range []struct {
		name    string
		faults  []storetest.Fault
		missing bool
		want    []string // in the text, in this order
	}{
		{"no sources", nil, true, []string{"no store"}},
		{"all missing", []storetest.Fault{at("/a", fs.ErrNotExist), at("/b", fs.ErrNotExist)}, true, []string{"not in /a", "not in /b"}},
		{"one fails", []storetest.Fault{at("/a", fs.ErrNotExist), at("/b", errStop), at("/c", fs.ErrNotExist)}, false, []string{"not in /a", "/b: stop", "not in /c"}},
		{"one damaged", []storetest.Fault{all["missing"], all["flipped"]}, false, []string{"not in a", "memory: chunk is damaged"}},
		{"all kinds", []storetest.Fault{all["missing"], all["failing"], all["short"], all["swapped"], all["long"]}, false, []string{"not in a", "a: stop", "memory: chunk is damaged", "memory: chunk is damaged", "more than 1000 bytes"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := &store.Union{Verifier: store.VerifyWith(storetest.Digest, 1000)}
			for _, f := range tt.faults {
				u.Sources = append(u.Sources, faulty(t, "get", f, c))
			}
			_, err := u.Get(t.Context(), c.ID)
			e, ok := errors.AsType[*store.NotFoundError](err)
			if !ok || e.ID != c.ID || len(e.Tried) != len(tt.faults) {
				t.Fatalf("error %#v", err)
			}
			if errors.Is(err, fs.ErrNotExist) != tt.missing {
				t.Errorf("%v: wraps fs.ErrNotExist: %v, want %v", err, !tt.missing, tt.missing)
			}
			text, ok := strings.CutPrefix(err.Error(), fmt.Sprintf("chunk %v: ", c.ID))
			if !ok {
				t.Errorf("%v: does not begin with the chunk", err)
			}
			for _, want := range tt.want {
				if _, text, ok = strings.Cut(text, want); !ok {
					t.Errorf("%v: lacks %q, in this order", err, want)
				}
			}
		})
	}
}

func TestUnionCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := storetest.Chunk(1, 1000)
		second := &storetest.Faulty{Source: memory(t, c)}
		u := &store.Union{Sources: []store.Getter{faulty(t, "get", storetest.Hang, c), second}, Verifier: store.VerifyWith(storetest.Digest, 1000)}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		time.AfterFunc(time.Hour, func() { cancel(errStop) })
		if _, err := u.Get(ctx, c.ID); err != errStop {
			t.Errorf("cancelled while a source hangs: %v, want the cause", err)
		}
		if n := second.Count("get"); n != 0 {
			t.Errorf("the next source was asked %d times", n)
		}
	})
}

func TestUnionStoredSize(t *testing.T) {
	c := storetest.Chunk(1, 1000)
	z := compressed(t, c)
	for _, tt := range []struct {
		name    string
		sources []store.Getter
		want    int64
		err     error
	}{
		{"none", nil, 0, fs.ErrNotExist},
		{"first", []store.Getter{memory(t, c), memory(t, z)}, 1000, nil},
		{"second", []store.Getter{memory(t), memory(t, z)}, int64(len(z.Data)), nil},
		{"missing", []store.Getter{memory(t), memory(t)}, 0, fs.ErrNotExist},
		{"one cannot tell, one lacks it", []store.Getter{core{memory(t, c)}, memory(t)}, 0, errors.ErrUnsupported},
		{"cannot tell", []store.Getter{core{memory(t, c)}}, 0, errors.ErrUnsupported},
		{"one cannot tell", []store.Getter{core{memory(t, c)}, memory(t, z)}, int64(len(z.Data)), nil},
	} {
		u := &store.Union{Sources: tt.sources}
		got, err := u.StoredSize(t.Context(), c.ID)
		if got != tt.want || !errors.Is(err, tt.err) || tt.err == nil && err != nil || store.Missing(err) != (tt.err == fs.ErrNotExist) {
			t.Errorf("%s: %d, %v, want %d, %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}
