package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/castorsync/castor/internal/tests3"
	"github.com/castorsync/castor/store/s3"
	"github.com/castorsync/castor/store/storetest"
)

func readIndex(ctx context.Context, url string, o *s3.Options) ([]byte, error) {
	r, err := s3.GetIndex(ctx, url, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestIndex(t *testing.T) {
	g := tests3.Start(t)
	o := keyed()
	url := g.URL("a b/x#1.caibx")
	url = strings.ReplaceAll(strings.ReplaceAll(url, " ", "%20"), "#", "%23")
	if _, err := readIndex(t.Context(), url, o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an index that is not there: %v", err)
	}
	for _, size := range []int{0, 1, 5 << 20, 1000} { // each over the last
		data := storetest.Random(uint64(size), size)
		if err := s3.PutIndex(t.Context(), url, bytes.NewReader(data), int64(size), o); err != nil {
			t.Fatal(err)
		}
		r, err := s3.GetIndex(t.Context(), url, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, data); size < 5000 && err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		r.Close()
		if got, err := readIndex(t.Context(), url, o); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
	if _, err := s3.GetIndex(t.Context(), g.URL(""), o); err == nil {
		t.Error("the bucket is no index")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := s3.GetIndex(ctx, url, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel(errAny)
	if _, err := io.ReadAll(r); err != errAny {
		t.Errorf("reading after cancelling: %v, want the cause", err)
	}
}

// TestIndexCut reads and writes an index over connections that break.
func TestIndexCut(t *testing.T) {
	g := tests3.Start(t)
	o := keyed()
	o.Retries, o.Backoff = 50, time.Millisecond
	data := storetest.Random(1, 3<<20)
	if err := s3.PutIndex(t.Context(), g.URL("x.caibx"), bytes.NewReader(data), int64(len(data)), o); err != nil {
		t.Fatal(err)
	}
	url := "s3+http://" + cutter(t, g.Addr, 200_000, 800_000) + "/bucket/x.caibx"
	if got, err := readIndex(t.Context(), url, o); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	o.Retries = 2
	short := "s3+http://" + cutter(t, g.Addr, 1000, 2_000) + "/bucket/y.caibx"
	if err := s3.PutIndex(t.Context(), short, bytes.NewReader(data), int64(len(data)), o); err == nil {
		t.Error("an upload that is cut each time succeeds")
	}
	if _, err := readIndex(t.Context(), g.URL("y.caibx"), o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after an upload that was cut: %v, want nothing there", err)
	}
}

// TestIndexChanged replaces an index while it is read over a connection that breaks.
func TestIndexChanged(t *testing.T) {
	f := &fake{}
	f.put("x.caibx", bytes.Repeat([]byte("old"), 100_000))
	n := 0
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if n++; n > 1 {
			return false
		}
		o := f.objects["x.caibx"]
		w.Header().Set("ETag", o.etag())
		w.Header().Set("Last-Modified", o.modified.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", fmt.Sprint(len(o.data)))
		w.Write(o.data[:1000])
		w.(http.Flusher).Flush()
		o.data = bytes.Repeat([]byte("new"), 100_000)
		panic(http.ErrAbortHandler)
	}
	got, err := readIndex(t.Context(), f.serve(t)+"/x.caibx", keyed())
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(fmt.Sprint(err), "cannot go on") || len(got) != 1000 {
		t.Errorf("got %d bytes, error %v", len(got), err)
	}
}

// TestIndexRefused uploads a great index to a server that does not read it.
func TestIndexRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deny(w, 403, "AccessDenied")
	}))
	defer server.Close()
	const size = 20 << 20
	err := s3.PutIndex(t.Context(), "s3+"+server.URL+"/bucket/x.caibx", bytes.NewReader(make([]byte, size)), size, keyed())
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v, want fs.ErrPermission", err)
	}
}

func TestListIndexes(t *testing.T) {
	f := &fake{pageSize: 3}
	for i := range 20 {
		f.put(fmt.Sprintf("p/v%02d.caibx", i), make([]byte, i))
		f.put(fmt.Sprintf("p/%04x/chunk.cacnk", i), nil)
	}
	for _, k := range []string{"p/a b.caidx", "p/z.catar", "p/sub/x.caibx", "px.caibx", "q/x.caibx"} {
		f.put(k, nil)
	}
	url := f.serve(t) + "/p/"
	n := 0
	f.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		n++
		if n%4 == 0 {
			deny(w, 503, "SlowDown")
		}
		return n%4 == 0
	}
	want := []string{url + "a%20b.caidx 0"}
	for i := range 20 {
		want = append(want, fmt.Sprintf("%sv%02d.caibx %d", url, i, i))
	}
	var got []string
	err := s3.ListIndexes(t.Context(), url, keyed(), func(u string, size int64, modified time.Time) error {
		got = append(got, fmt.Sprint(u, " ", size))
		if time.Since(modified).Abs() > time.Minute {
			t.Errorf("%s was modified at %v", u, modified)
		}
		return nil
	})
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	err = s3.ListIndexes(t.Context(), url, keyed(), func(string, int64, time.Time) error { return errAny })
	if err != errAny {
		t.Errorf("error %v, want that of the callback", err)
	}
}
