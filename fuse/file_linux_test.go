//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/index/blob"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// source is a store that can fail and hang.
type source struct {
	store.Getter
	fail atomic.Pointer[error]
	hang atomic.Pointer[chan struct{}] // until it is closed
}

func (s *source) Get(ctx context.Context, id chunker.ID) (store.Chunk, error) {
	if hang := s.hang.Load(); hang != nil {
		select {
		case <-*hang:
		case <-ctx.Done():
			return store.Chunk{}, context.Cause(ctx)
		}
	}
	if err := s.fail.Load(); err != nil {
		return store.Chunk{}, *err
	}
	return s.Getter.Get(ctx, id)
}

// chunked returns content as an index and its chunks, of size bytes each.
func chunked(t testing.TB, content []byte, size int) (*index.Index, *source) {
	t.Helper()
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(storetest.Digest), Params: chunker.ParamsFor(64 << 10)}}
	m := &storetest.Memory{}
	for off := 0; off < len(content); off += size {
		data := content[off:min(off+size, len(content))]
		c := store.Chunk{ID: storetest.Digest.Sum(data), Data: data}
		if err := m.Put(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		x.Entries = append(x.Entries, index.Entry{ID: c.ID, End: int64(off + len(data))})
	}
	return x, &source{Getter: m}
}

// openBlob returns content as a blob.
func openBlob(t testing.TB, content []byte, o *blob.Options) (*blob.Blob, *source) {
	t.Helper()
	x, src := chunked(t, content, 50_000)
	b := blob.New(x, src, o)
	t.Cleanup(func() { b.Close() })
	return b, src
}

func random(n int) []byte { return storetest.Chunk(1, n).Data }

func TestFile(t *testing.T) {
	content := random(20<<20 + 123)
	b, _ := openBlob(t, content, nil)
	modified := time.Unix(1500000000, 123456789)
	dir, m := mount(t, File("disk.img", b, b.Size(), modified), &Options{Stats: func(s Stats) any {
		return map[string]any{"mount": s, "blob": b.Stats()}
	}})
	name := filepath.Join(dir, "disk.img")
	fi, err := os.Stat(name)
	if err != nil || fi.Size() != b.Size() || fi.Mode() != 0o444 || !fi.ModTime().Equal(modified) {
		t.Fatalf("%v, %v", fi, err)
	}
	want := fmt.Sprintf("%x", sha256.Sum256(content))
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() {
			if got := output(t, "sha256sum", name); !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	readers.Wait()
	if s := b.Stats(); s.Fetched > int64(len(b.Index().Entries)) {
		t.Errorf("16 readers had %d chunks fetched, there are %d", s.Fetched, len(b.Index().Entries))
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), mapVariable+"="+name)
	if got, err := cmd.Output(); err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("mapped: got %s, %v, want %s", got, err, want)
	}
	direct := output(t, "dd", "if="+name, "iflag=direct", "bs=256K", "status=none")
	if direct != string(content) {
		t.Error("read past the kernel's cache: wrong content")
	}
	if _, err := os.OpenFile(name, os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("open for writing: %v", err)
	}
	if s := m.Stats(); s.ReadBytes < b.Size() || s.Failed != 0 {
		t.Errorf("stats %+v", s)
	}
	value := make([]byte, 64<<10)
	n, err := unix.Getxattr(dir, StatsAttr, value)
	if err != nil {
		t.Fatal(err)
	}
	var stats struct {
		Mount Stats
		Blob  blob.Stats
	}
	if err := json.Unmarshal(value[:n], &stats); err != nil || stats.Mount.ReadBytes < b.Size() || stats.Blob.FetchedBytes == 0 {
		t.Errorf("statistics %s, %v", value[:n], err)
	}
	if n, err := unix.Listxattr(dir, value); n != 0 || err != nil {
		t.Errorf("list of attributes %q, %v", value[:n], err)
	}
}

// Reading takes no files or pipes.
func TestReadFiles(t *testing.T) {
	content := random(4 << 20)
	dir, _ := mount(t, File("f", bytes.NewReader(content), int64(len(content)), time.Time{}), nil)
	output(t, "ls", dir)
	_, before := count(t)
	output(t, "dd", "if="+filepath.Join(dir, "f"), "of=/dev/null", "iflag=direct", "bs=64K", "status=none")
	if _, after := count(t); after != before {
		t.Errorf("%d files are open, before it were %d", after, before)
	}
}

// A store that is gone makes reads fail while it is, and is complained about once.
func TestFailure(t *testing.T) {
	content := random(1 << 20)
	b, src := openBlob(t, content, &blob.Options{Ahead: -1})
	var log bytes.Buffer
	dir, m := mount(t, File("f", b, b.Size(), time.Time{}), &Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	gone := error(&store.Error{Op: "get", Loc: "far away", ID: b.Index().Entries[0].ID, Err: errors.New("it is gone")})
	src.fail.Store(&gone)
	name := filepath.Join(dir, "f")
	for range 3 {
		if got, err := os.ReadFile(name); !errors.Is(err, unix.EIO) || len(got) != 0 {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	src.fail.Store(nil)
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("afterwards: %d bytes, %v", len(got), err)
	}
	if err := m.Unmount(false); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "it is gone"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// Readers of a store that does not answer can be killed.
func TestKill(t *testing.T) {
	b, src := openBlob(t, random(1<<20), nil)
	dir, _ := mount(t, File("f", b, b.Size(), time.Time{}), nil)
	hang := make(chan struct{})
	src.hang.Store(&hang)
	cmd := exec.Command("cat", filepath.Join(dir, "f"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for state := ""; state != "D" && state != "S"; {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		state = strings.Fields(string(b))[2]
	}
	start := time.Now()
	cmd.Process.Kill()
	cmd.Wait()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	close(hang)
	if _, err := os.ReadFile(filepath.Join(dir, "f")); err != nil {
		t.Error(err)
	}
}

// Mounting and unmounting leaves nothing behind, neither of files nor of trees. A thousand
// rounds take some 5 seconds, most of them in the kernel's unmounting.
func TestRounds(t *testing.T) {
	need(t)
	b, _ := openBlob(t, random(100_000), nil)
	content := directory(t, 10)
	tree, err := archive.OpenTree(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rounds := 1000
	if testing.Short() {
		rounds = 30
	}
	var goroutines, files int
	for i := range rounds {
		f, name, size := File("f", b, b.Size(), time.Time{}), "f", int64(100_000)
		if i%2 == 1 {
			f, name, size = Tree(tree), "f0000007", 0
		}
		round(t, f, dir, name, size)
		if i == 10 {
			goroutines, files = count(t)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // for what is ending
		g, f := count(t)
		if g <= goroutines && f <= files {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %d files, after 10 rounds it were %d and %d", g, f, goroutines, files)
		}
	}
}

// round mounts f, reads a file of it and unmounts.
func round(t *testing.T, f *FS, dir, name string, size int64) {
	t.Helper()
	m, err := f.Mount(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unmount(true)
	noPoll(t, dir)
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || int64(len(got)) != size {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := m.Unmount(false); err != nil {
		t.Fatal(err)
	}
}

func TestUnmount(t *testing.T) {
	b, _ := openBlob(t, random(100_000), nil)
	dir, m := mount(t, File("f", b, b.Size(), time.Time{}), &Options{Source: "a,allow_other\\ b\nc"})
	if got, ok, err := mountAt(dir); err != nil || !ok || got.fstype != fstype || got.source != "a_allow_other__b_c" {
		t.Errorf("mounted: %+v, %v, %v", got, ok, err)
	}
	if _, err := File("f", b, b.Size(), time.Time{}).Mount(dir, nil); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("mounted twice: %v", err)
	}
	f, err := os.Open(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.Unmount(false); !errors.Is(err, ErrBusy) {
		t.Errorf("in use: %v", err)
	}
	if err := Unmount(dir, false); !errors.Is(err, ErrBusy) {
		t.Errorf("in use: %v", err)
	}
	if err := Unmount(dir, true); err != nil {
		t.Error(err)
	}
	if n, err := f.ReadAt(make([]byte, 10), 90_000); n != 10 || err != nil {
		t.Errorf("read from what is out of sight: %d, %v", n, err)
	}
	f.Close()
	m.Wait()
	if err := m.Unmount(false); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := Unmount(dir, false); !errors.Is(err, ErrNotMounted) {
		t.Errorf("not mounted: %v", err)
	}
}

func TestCheck(t *testing.T) {
	need(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, want string }{
		{filepath.Join(dir, "no"), "no such file"},
		{name, "not a directory"},
		{dir, "not empty"},
		{t.TempDir(), ""},
	} {
		err := Check(tt.dir)
		if got := fmt.Sprint(err); tt.want != "" && !strings.Contains(got, tt.want) || tt.want == "" && err != nil {
			t.Errorf("%s: %v, want %q", tt.dir, err, tt.want)
		}
	}
	if _, err := File("f", bytes.NewReader(nil), 0, time.Time{}).Mount(t.TempDir(), &Options{Flags: []string{"user_id=1"}}); err == nil {
		t.Error("an unknown flag was taken")
	}
}
