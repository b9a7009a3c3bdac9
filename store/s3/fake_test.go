package s3_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a small S3 server in memory with one bucket, "bucket". It checks no
// signatures; versitygw does. It is for what that cannot do: answer as other servers
// do, and go wrong.
type fake struct {
	// meddle, if non-nil, may answer a request itself. It is called for one at a time.
	meddle func(w http.ResponseWriter, r *http.Request) bool

	ignoreConditions bool // on uploads
	refuseConditions bool
	pageSize         int // of lists; 0 means 1000

	mu       sync.Mutex
	objects  map[string]*fakeObject // guarded by mu
	requests []string               // guarded by mu: methods, and COPY
}

type fakeObject struct {
	data     []byte
	modified time.Time
}

func (o *fakeObject) etag() string {
	sum := md5.Sum(o.data)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// serve starts f and returns the URL of its bucket.
func (f *fake) serve(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return "s3+" + server.URL + "/bucket"
}

// age makes every object as old as d.
func (f *fake) age(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.objects {
		o.modified = time.Now().Add(-d)
	}
}

// asked returns what was asked since the last call.
func (f *fake) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.requests, " ")
	f.requests = nil
	return s
}

func (f *fake) put(key string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects == nil {
		f.objects = map[string]*fakeObject{}
	}
	f.objects[key] = &fakeObject{data, time.Now()}
}

func deny(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>the fake says %s</Message></Error>", code, code)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	method := r.Method
	from := r.Header.Get("X-Amz-Copy-Source")
	if from != "" {
		method = "COPY"
	}
	f.requests = append(f.requests, method)
	if f.meddle != nil && f.meddle(w, r) {
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != "bucket" {
		deny(w, 404, "NoSuchBucket")
		return
	}
	o := f.objects[key]
	switch {
	case key == "":
		f.list(w, r.URL.Query())
	case from != "":
		f.copy(w, r, key, from)
	case r.Method == http.MethodPut:
		conditional := r.Header.Get("If-None-Match") == "*"
		switch {
		case conditional && f.refuseConditions:
			deny(w, 501, "NotImplemented")
			return
		case conditional && !f.ignoreConditions && o != nil:
			deny(w, 412, "PreconditionFailed")
			return
		}
		o = &fakeObject{body, time.Now()}
		if f.objects == nil {
			f.objects = map[string]*fakeObject{}
		}
		f.objects[key] = o
		w.Header().Set("ETag", o.etag())
	case r.Method == http.MethodDelete:
		if t, err := http.ParseTime(r.Header.Get("X-Amz-If-Match-Last-Modified-Time")); err == nil && o != nil && t.Unix() != o.modified.Unix() {
			deny(w, 412, "PreconditionFailed")
			return
		}
		delete(f.objects, key)
		w.WriteHeader(204)
	case o == nil:
		deny(w, 404, "NoSuchKey")
	default:
		if m := r.Header.Get("If-Match"); m != "" && strings.Trim(m, `"`) != strings.Trim(o.etag(), `"`) {
			deny(w, 412, "PreconditionFailed")
			return
		}
		r.Header.Del("If-Match")
		w.Header().Set("ETag", o.etag())
		http.ServeContent(w, r, "", o.modified, bytes.NewReader(o.data))
	}
}

func (f *fake) copy(w http.ResponseWriter, r *http.Request, key, from string) {
	from, _ = url.PathUnescape(from)
	o := f.objects[strings.TrimPrefix(strings.TrimPrefix(from, "/"), "bucket/")]
	if o == nil {
		deny(w, 404, "NoSuchKey")
		return
	}
	if m := r.Header.Get("X-Amz-Copy-Source-If-Match"); m != "" && strings.Trim(m, `"`) != strings.Trim(o.etag(), `"`) {
		deny(w, 412, "PreconditionFailed")
		return
	}
	o = &fakeObject{o.data, time.Now()}
	f.objects[key] = o
	fmt.Fprintf(w, "<CopyObjectResult><ETag>%s</ETag><LastModified>%s</LastModified></CopyObjectResult>",
		o.etag(), o.modified.UTC().Format(time.RFC3339Nano))
}

func (f *fake) list(w http.ResponseWriter, q url.Values) {
	type content struct {
		Key          string
		LastModified string
		ETag         string
		Size         int
	}
	type common struct{ Prefix string }
	var result struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string
		Contents              []content
		CommonPrefixes        []common
	}
	var keys []string
	for k := range f.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	left := f.pageSize
	if left == 0 {
		left = 1000
	}
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil && n > 0 {
		left = min(left, n)
	}
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, q.Get("prefix"))
		if !ok || k <= after {
			continue
		}
		if left--; left < 0 {
			result.IsTruncated = true
			break
		}
		result.NextContinuationToken = k
		if dir, _, deeper := strings.Cut(rest, "/"); deeper && q.Get("delimiter") != "" {
			p := common{q.Get("prefix") + dir + "/"}
			if !slices.Contains(result.CommonPrefixes, p) {
				result.CommonPrefixes = append(result.CommonPrefixes, p)
			}
			continue
		}
		o := f.objects[k]
		result.Contents = append(result.Contents, content{k, o.modified.UTC().Format(time.RFC3339), o.etag(), len(o.data)})
	}
	if !result.IsTruncated {
		result.NextContinuationToken = ""
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(result)
}
