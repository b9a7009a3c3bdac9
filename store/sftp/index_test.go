package sftp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/castorsync/castor/store/storetest"
)

func TestIndex(t *testing.T) {
	for name, server := range map[string][]string{"default": nil, "no extensions": {"-P", "posix-rename,fsync"}} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			home := t.TempDir()
			o := local(t, home, server...)
			for _, size := range []int{0, 1, 500, 32 << 10, 32<<10 + 1, 3 << 20} { // each over the one before
				want := storetest.Random(uint64(size), size)
				if err := PutIndex(t.Context(), "sftp://host/~/x.caibx", bytes.NewReader(want), int64(size), o); err != nil {
					t.Fatal(err)
				}
				r, err := GetIndex(t.Context(), "sftp://host"+home+"/x.caibx", o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes, %v, want %d", len(got), err, size)
				}
				at := io.NewSectionReader(r.(io.ReaderAt), 0, int64(size))
				if size <= 500 {
					if err := iotest.TestReader(at, want); err != nil {
						t.Error(err)
					}
				}
				r.Close()
			}
			os.WriteFile(home+"/a.caidx", nil, 0o666)
			os.WriteFile(home+"/readme", nil, 0o666)
			os.Mkdir(home+"/d.caibx", 0o777)
			os.Symlink("a.caidx", home+"/l.caibx")
			var names []string
			err := ListIndexes(t.Context(), "sftp://host/~/", o, func(url string, size int64, modified time.Time) error {
				names = append(names, url)
				if strings.HasSuffix(url, "x.caibx") && (size != 3<<20 || time.Since(modified).Abs() > time.Minute) {
					t.Errorf("ListIndexes: %s has %d bytes, changed %v", url, size, modified)
				}
				return nil
			})
			if want := []string{"sftp://host/~/a.caidx", "sftp://host/~/l.caibx", "sftp://host/~/x.caibx"}; err != nil || !slices.Equal(names, want) {
				t.Errorf("ListIndexes finds %v, %v, want %v", names, err, want)
			}
			os.Symlink("away", home+"/m.caibx") // what it names may be away for the moment
			err = ListIndexes(t.Context(), "sftp://host/~/", o, func(string, int64, time.Time) error { return nil })
			if err == nil || !strings.Contains(err.Error(), "m.caibx") {
				t.Errorf("ListIndexes with a link to nothing: %v", err)
			}
			if hidden, _ := filepath.Glob(home + "/.*"); len(hidden) > 0 {
				t.Errorf("left behind: %v", hidden)
			}
		})
	}
}

func TestIndexErrors(t *testing.T) {
	noLeak(t)
	home := t.TempDir()
	o := local(t, home)
	if _, err := GetIndex(t.Context(), "sftp://host/~/none.caibx", o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.caibx") {
		t.Errorf("GetIndex: error %v", err)
	}
	if _, err := GetIndex(t.Context(), "sftp://host/~/", o); err == nil {
		t.Error("GetIndex of a directory: no error")
	}
	if err := PutIndex(t.Context(), "sftp://host/~/none/x.caibx", strings.NewReader("x"), 1, o); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrNoDirectory) {
		t.Errorf("PutIndex: error %v", err)
	}
	for url, want := range map[string]bool{"sftp://host/~/none/x.caibx": true, "sftp://host/~/none.caibx": false} {
		if _, err := GetIndex(t.Context(), url, o); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNoDirectory) != want {
			t.Errorf("GetIndex of %s: error %v", url, err)
		}
	}
	if err := ListIndexes(t.Context(), "sftp://host/~/none", o, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ListIndexes: error %v", err)
	}
	os.WriteFile(home+"/x.caibx", []byte("old"), 0o666)
	if err := PutIndex(t.Context(), "sftp://host/~/x.caibx", strings.NewReader("short"), 100, o); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("PutIndex of too little: error %v", err)
	}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &cancelling{Reader: bytes.NewReader(make([]byte, 8<<20)), cancel: func() { cancel(stop) }}
	if err := PutIndex(ctx, "sftp://host/~/x.caibx", r, 8<<20, o); err != stop {
		t.Errorf("PutIndex that is cancelled: error %v", err)
	}
	if b, err := os.ReadFile(home + "/x.caibx"); string(b) != "old" {
		t.Errorf("failed uploads leave %q, %v", b, err)
	}
	if hidden, _ := filepath.Glob(home + "/.*"); len(hidden) > 0 {
		t.Errorf("left behind: %v", hidden)
	}
}

// cancelling cancels when 4 MiB have been read.
type cancelling struct {
	*bytes.Reader
	cancel func()
}

func (c *cancelling) ReadAt(p []byte, off int64) (int, error) {
	if off >= 4<<20 {
		c.cancel()
	}
	return c.Reader.ReadAt(p, off)
}

// TestIndexKilled kills the server while an index is read: reading goes on, unless the
// file is another one by then.
func TestIndexKilled(t *testing.T) {
	home := t.TempDir()
	o := local(t, home)
	want := storetest.Random(1, 5<<20)
	for _, change := range []bool{false, true} {
		os.WriteFile(home+"/x.caibx", want, 0o666)
		r, err := GetIndex(t.Context(), "sftp://host/~/x.caibx", o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		first := make([]byte, 100)
		if _, err := io.ReadFull(r, first); err != nil {
			t.Fatal(err)
		}
		if change {
			os.WriteFile(home+"/x.caibx", want[1:], 0o666)
		}
		pids, _ := os.ReadFile(home + "/pids")
		os.Truncate(home+"/pids", 0)
		exec.Command("kill", append([]string{"-9"}, strings.Fields(string(pids))...)...).Run()
		rest, err := io.ReadAll(r)
		switch {
		case change && !errors.Is(err, errChanged):
			t.Errorf("error %v, want %v", err, errChanged)
		case !change && (err != nil || !bytes.Equal(append(first, rest...), want)):
			t.Errorf("%d bytes, error %v, want %d", len(rest), err, len(want)-100)
		}
	}
}
