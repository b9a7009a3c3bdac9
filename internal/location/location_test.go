package location

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
)

// example returns an index of one chunk, and its bytes as a file.
func example(t *testing.T) (*index.Index, []byte) {
	t.Helper()
	x := &index.Index{
		Header:  index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams},
		Entries: []index.Entry{{End: 1, ID: chunker.BLAKE3.Sum([]byte("x"))}},
	}
	var b bytes.Buffer
	if err := x.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return x, b.Bytes()
}

func TestIndex(t *testing.T) {
	want, b := example(t)
	name := filepath.Join(t.TempDir(), "v1.caibx")
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		loc   string
		stdin io.Reader
	}{
		{name, nil},
		{"-", bytes.NewReader(b)},
	} {
		x, err := new(Opener).Index(t.Context(), tt.loc, tt.stdin)
		if err != nil {
			t.Errorf("%s: %v", tt.loc, err)
		} else if x.Root() != want.Root() {
			t.Errorf("%s: got root %v, want %v", tt.loc, x.Root(), want.Root())
		}
	}
}

func TestIndexErrors(t *testing.T) {
	_, b := example(t)
	d := t.TempDir()
	short := filepath.Join(d, "short.caibx")
	if err := os.WriteFile(short, b[:len(b)-1], 0o666); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(d, "absent.caibx")
	for _, tt := range []struct {
		loc     string
		message string // what it must say
		is      error
	}{
		{absent, "index " + absent + ": ", fs.ErrNotExist},
		{short, "index " + short + ": not a valid index: ", index.ErrFormat},
		{"-", "index -: not a valid index: ", index.ErrFormat},
		{d, "index " + d + ": ", nil},
		{"gs://bucket/v1.caibx", "not known here", nil},
		{filepath.Join(short, "v1.caibx"), "v1.caibx: ", nil},
	} {
		_, err := new(Opener).Index(t.Context(), tt.loc, strings.NewReader(""))
		if err == nil {
			t.Errorf("%s: no error", tt.loc)
			continue
		}
		if !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%s: got error %q, want one with %q", tt.loc, err, tt.message)
		}
		if strings.Count(err.Error(), tt.loc) > 1 && tt.loc != "-" {
			t.Errorf("%s: error names it twice: %q", tt.loc, err)
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: error %v is no %v", tt.loc, err, tt.is)
		}
		_, notFound := errors.AsType[*NotFoundError](err)
		if want := tt.loc == absent; notFound != want {
			t.Errorf("%s: error %v is a NotFoundError: %v, want %v", tt.loc, err, notFound, want)
		}
	}
}

func TestOpenIndex(t *testing.T) {
	_, b := example(t)
	name := filepath.Join(t.TempDir(), "v1.caibx")
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	r, err := new(Opener).OpenIndex(t.Context(), name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(b))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading after Close: %v, want %v", err, fs.ErrClosed)
	}
	r, err = new(Opener).OpenIndex(t.Context(), "-", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "x" {
		t.Errorf("stdin: got %q, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestStore(t *testing.T) {
	d := t.TempDir()
	file := filepath.Join(d, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(d, "absent.castr")
	for _, tt := range []struct {
		loc      string
		create   bool
		ok       bool
		notFound bool
	}{
		{d, false, true, false},
		{d + "/", false, true, false},
		{absent, false, false, true},
		{absent, true, true, false},
		{file, false, false, false},
		{file, true, false, false},
		{filepath.Join(file, "x.castr"), true, false, false},
	} {
		s, err := new(Opener).Store(t.Context(), tt.loc, &StoreOptions{Create: tt.create})
		if (err == nil) != tt.ok {
			t.Errorf("%s: error %v, want one: %v", tt.loc, err, !tt.ok)
		}
		if (s == nil) == tt.ok {
			t.Errorf("%s: got store %v, want one: %v", tt.loc, s, tt.ok)
		}
		e, notFound := errors.AsType[*NotFoundError](err)
		if notFound != tt.notFound {
			t.Errorf("%s: error %v is a NotFoundError: %v, want %v", tt.loc, err, notFound, tt.notFound)
		}
		if notFound && (e.What != "store" || e.Loc != tt.loc) {
			t.Errorf("got %q %q, want store %q", e.What, e.Loc, tt.loc)
		}
	}
	if _, err := os.Stat(absent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening a store made it: %v", err)
	}
}

func TestDefaultStore(t *testing.T) {
	for _, tt := range []struct{ loc, want string }{
		{"-", "default.castr"},
		{"https://example.com/a/v1.caibx?x=/y#z/", "https://example.com/a/default.castr"},
		{"https://example.com", "https://example.com/default.castr"},
		{"s3://bucket/v1.caibx", "s3://bucket/default.castr"},
		{"s3+https://h/bucket/a/v1.caibx?lookup=path", "s3+https://h/bucket/a/default.castr?lookup=path"},
		{"sftp://u@h:22/a/v1.caibx", "sftp://u@h:22/a/default.castr"},
		{"ssh://h/~/v1.caibx", "ssh://h/~/default.castr"},
		{"h.example.com:v1.caibx", "h.example.com:default.castr"},
		{"u@h.example.com:/a/v1.caibx", "u@h.example.com:/a/default.castr"},
		{"[::1]:a/v1.caibx", "[::1]:a/default.castr"},
		{"v1.caibx", "default.castr"},
		{"a/b/v1.caibx", "a/b/default.castr"},
		{"/v1.caibx", "/default.castr"},
		{"../v1.caibx", "../default.castr"},
	} {
		if got, want := filepath.ToSlash(DefaultStore(tt.loc)), tt.want; got != want {
			t.Errorf("%s: got %s, want %s", tt.loc, got, want)
		}
	}
}
