//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wholeFile returns a file in dir with the content.
func wholeFile(t *testing.T, dir string, content []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "whole"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return f
}

// overlay mounts an overlay of the lower directory, and returns where.
func overlay(t *testing.T, lower string) string {
	t.Helper()
	dir, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	if strings.Contains(lower, ":") {
		data = "lowerdir=" + lower // an overlay of several needs no place for changes
	}
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		t.Fatalf("overlay of %s: %v", lower, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// The kernel reads a whole file by itself, in every way, and castor has no part in it.
func TestPassthrough(t *testing.T) {
	content := random(3<<20 + 123)
	b, src := openBlob(t, content, nil)
	fail := os.ErrNotExist
	src.fail.Store(&fail)
	dir, m := mount(t, File("f", b, b.Size(), time.Time{}), &Options{Whole: wholeFile(t, t.TempDir(), content)})
	if !m.Stats().Passthrough {
		t.Fatal("the kernel does not read by itself")
	}
	name, want := filepath.Join(dir, "f"), fmt.Sprintf("%x", sha256.Sum256(content))
	for range 3 {
		if got := output(t, "sha256sum", name); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), mapVariable+"="+name)
	if got, err := cmd.Output(); err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("mapped: got %s, %v, want %s", got, err, want)
	}
	if got := output(t, "dd", "if="+name, "iflag=direct", "bs=256K", "status=none"); got != string(content) {
		t.Error("read past the kernel's cache: wrong content")
	}
	if fi, err := os.Stat(name); err != nil || fi.Size() != int64(len(content)) || fi.Mode() != 0o444 {
		t.Errorf("%v, %v", fi, err)
	}
	if s := m.Stats(); s.Reads != 0 || s.Failed != 0 {
		t.Errorf("stats %+v", s)
	}
}

// Where the kernel refuses, here since the file is in an overlay, castor answers.
func TestPassthroughRefused(t *testing.T) {
	need(t)
	content := random(1 << 20)
	var log bytes.Buffer
	whole := wholeFile(t, overlay(t, t.TempDir()), make([]byte, len(content)))
	dir, m := mount(t, File("f", bytes.NewReader(content), int64(len(content)), time.Time{}),
		&Options{Whole: whole, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if m.Stats().Passthrough || !strings.Contains(log.String(), "does not read the file by itself") {
		t.Errorf("the kernel reads by itself; the log has %q", log.String())
	}
	if got := output(t, "cat", filepath.Join(dir, "f")); got != string(content) || m.Stats().Reads == 0 {
		t.Errorf("wrong content; stats %+v", m.Stats())
	}
}

// Overlays can be put on a mount as on any other file system, twice, as containers do.
func TestOverlay(t *testing.T) {
	content := random(100_000)
	dir, _ := mount(t, File("f", bytes.NewReader(content), int64(len(content)), time.Time{}), nil)
	twice := overlay(t, overlay(t, dir)+":"+t.TempDir())
	if got := output(t, "cat", filepath.Join(twice, "f")); got != string(content) {
		t.Error("wrong content")
	}
}
