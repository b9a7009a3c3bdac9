package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testssh"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// each runs a test with either program on the other side.
func each(t *testing.T, f func(t *testing.T, command string)) {
	t.Run("castor", func(t *testing.T) { f(t, castor(t)) })
	t.Run("casync", func(t *testing.T) { f(t, casync(t)) })
}

func TestGet(t *testing.T) {
	v := serveBlob(t, 3<<20)
	each(t, func(t *testing.T, command string) {
		for _, connections := range []int{1, 3} {
			o := options(t, command)
			o.Connections = connections
			s := open(t, v.url("store.castr"), o)
			err := par.Each(t.Context(), 20, len(v.x.Entries), func(ctx context.Context, i int) error {
				return sameChunk(ctx, s, v.x, v.blob, i)
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := s.Get(t.Context(), none); !store.Missing(err) {
					t.Errorf("a chunk that is not there: %v", err)
				}
			}
			// casync does not answer an id twice.
			if err := sameChunk(t.Context(), s, v.x, v.blob, 0); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestGetFiles(t *testing.T) {
	v := serveBlob(t, 1<<20)
	if err := os.WriteFile(filepath.Join(v.dir, "x.catar"), v.blob, 0o644); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, command string) {
		for name, get := range map[string]func(context.Context, string, *Options) (io.ReadCloser, error){"blob.caibx": GetIndex, "x.catar": GetArchive} {
			want, err := os.ReadFile(filepath.Join(v.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			r, err := get(t.Context(), v.url(name), options(t, command))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, error %v, want %d", name, len(got), err, len(want))
			}
			r.Close()
			r, err = get(t.Context(), v.url("no"+name), options(t, command))
			if err == nil {
				_, err = io.ReadAll(r)
				r.Close()
			}
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("no%s: %v", name, err)
			}
		}
	})
}

func TestPush(t *testing.T) {
	v := serveBlob(t, 3<<20)
	src := openDir(t, filepath.Join(v.dir, "store.castr"))
	each(t, func(t *testing.T, command string) {
		to := &served{dir: t.TempDir()}
		o := options(t, command)
		for _, want := range []bool{true, false} {
			stats, err := Push(t.Context(), to.url("b.caibx"), to.url("b.castr"), bytes.NewReader(v.index), int64(len(v.index)), src, o)
			if err != nil {
				t.Fatal(err)
			}
			if (stats.Chunks > 0) != want || (stats.Bytes > 0) != want {
				t.Errorf("stats %+v", stats)
			}
		}
		got, err := os.ReadFile(filepath.Join(to.dir, "b.caibx"))
		if err != nil || !bytes.Equal(got, v.index) {
			t.Errorf("index: %v", err)
		}
		there := openDir(t, filepath.Join(to.dir, "b.castr"))
		for i := range v.x.Entries {
			if err := sameChunk(t.Context(), there, v.x, v.blob, i); err != nil {
				t.Fatal(err)
			}
		}
		if err := PutIndex(t.Context(), to.url("c.caibx"), bytes.NewReader(v.index), int64(len(v.index)), o); err != nil {
			t.Fatal(err)
		}
		if err := PutArchive(t.Context(), to.url("c.catar"), bytes.NewReader(v.blob), o); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string][]byte{"c.caibx": v.index, "c.catar": v.blob} {
			got, err := os.ReadFile(filepath.Join(to.dir, name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	})
}

// TestPushFails pushes what the source does not have, whole or right: no index appears.
func TestPushFails(t *testing.T) {
	v := serveBlob(t, 2<<20)
	src := openDir(t, filepath.Join(v.dir, "store.castr"))
	bad := v.x.Entries[len(v.x.Entries)/2].ID
	errOut := errors.New("out of order")
	each(t, func(t *testing.T, command string) {
		for name, f := range map[string]struct {
			fault storetest.Fault
			want  error
		}{
			"missing": {storetest.Fail(fs.ErrNotExist), fs.ErrNotExist},
			"broken":  {storetest.Fail(errOut), errOut},
			"damaged": {storetest.Flip(30), store.ErrDamaged},
		} {
			t.Run(name, func(t *testing.T) {
				faulty := &storetest.Faulty{Source: src, Choose: func(c storetest.Call) storetest.Fault {
					if c.ID == bad {
						return f.fault
					}
					return nil
				}}
				to := &served{dir: t.TempDir()}
				_, err := Push(t.Context(), to.url("b.caibx"), to.url("b.castr"), bytes.NewReader(v.index), int64(len(v.index)), faulty, options(t, command))
				if !errors.Is(err, f.want) {
					t.Errorf("error %v, want %v", err, f.want)
				}
				if _, err := os.Stat(filepath.Join(to.dir, "b.caibx")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the index is there: %v", err)
				}
			})
		}
	})
}

func TestPutUnsupported(t *testing.T) {
	v := serveBlob(t, 1<<20)
	s := open(t, v.url("store.castr"), options(t, casync(t)))
	for range 2 {
		if err := s.Put(t.Context(), storetest.Chunk(1, 1000)); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Put to casync: %v", err)
		}
	}
	if has, err := s.Has(t.Context(), v.x.Entries[0].ID); err != nil || !has {
		t.Errorf("Has of a chunk = %v, %v", has, err)
	}
	if has, err := s.Has(t.Context(), none); err != nil || has {
		t.Errorf("Has of no chunk = %v, %v", has, err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStore(t *testing.T) {
	command := castor(t)
	ssh := fakeSSH(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		path := filepath.Join(t.TempDir(), "s.castr")
		openDir(t, path)
		return open(t, "ssh://host"+path, &Options{SSH: &sshexec.Options{Program: ssh}, Command: command, Backoff: 1})
	})
}

// TestCasyncClient has casync extract from, and make to, our server.
func TestCasyncClient(t *testing.T) {
	v := serveBlob(t, 3<<20)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"CASYNC_SSH_PATH=" + fakeSSH(t), "CASYNC_REMOTE_PATH=" + self, serveVariable + "=1"}
	client := casync(t)
	t.Run("pull", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		run(t, env, client, "extract", "--store=host:"+filepath.Join(v.dir, "store.castr"), "host:"+filepath.Join(v.dir, "blob.caibx"), out)
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, v.blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("push", func(t *testing.T) {
		dir := t.TempDir()
		for range 2 {
			run(t, env, client, "make", "--store=host:"+filepath.Join(dir, "s.castr"), "host:"+filepath.Join(dir, "b.caibx"), filepath.Join(v.dir, "blob"))
		}
		got, err := os.ReadFile(filepath.Join(dir, "b.caibx"))
		if err != nil || !bytes.Equal(got, v.index) {
			t.Errorf("index: %v", err)
		}
		s := openDir(t, filepath.Join(dir, "s.castr"))
		for i := range v.x.Entries {
			if err := sameChunk(t.Context(), s, v.x, v.blob, i); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("archive", func(t *testing.T) {
		dir := t.TempDir()
		tree := filepath.Join(dir, "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "file"), v.blob[:200<<10], 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, env, client, "make", "host:"+filepath.Join(dir, "t.catar"), tree)
		out := filepath.Join(dir, "out")
		run(t, env, client, "extract", "host:"+filepath.Join(dir, "t.catar"), out)
		got, err := os.ReadFile(filepath.Join(out, "file"))
		if err != nil || !bytes.Equal(got, v.blob[:200<<10]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("without its chunks", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		openDir(t, filepath.Join(v.dir, "empty.castr"))
		if text, err := tryRun(env, client, "extract", "--store=host:"+filepath.Join(v.dir, "empty.castr"), "host:"+filepath.Join(v.dir, "blob.caibx"), out); err == nil {
			t.Errorf("casync finds chunks that are not there: %s", text)
		}
	})
}

// TestSSH does all of it once over a real connection.
func TestSSH(t *testing.T) {
	host, args := testssh.Start(t)
	v := serveBlob(t, 1<<20)
	each(t, func(t *testing.T, command string) {
		o := &Options{SSH: &sshexec.Options{Args: args}, Command: command}
		at := "ssh://" + host
		r, err := GetIndex(t.Context(), at+filepath.Join(v.dir, "blob.caibx"), o)
		if err != nil {
			t.Fatal(err)
		}
		x, err := index.Decode(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, at+filepath.Join(v.dir, "store.castr"), o)
		err = par.Each(t.Context(), 8, len(x.Entries), func(ctx context.Context, i int) error {
			return sameChunk(ctx, s, x, v.blob, i)
		})
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "it's a dir")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		at += (&served{dir: to}).url("")[len("ssh://host"):]
		stats, err := Push(t.Context(), at+"/b.caibx", at+"/b.castr", bytes.NewReader(v.index), int64(len(v.index)), s, o)
		if err != nil || stats.Chunks == 0 {
			t.Errorf("Push: %+v, %v", stats, err)
		}
		if got, err := os.ReadFile(filepath.Join(to, "b.caibx")); err != nil || !bytes.Equal(got, v.index) {
			t.Errorf("index: %v", err)
		}
	})
}
