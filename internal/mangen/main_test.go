package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// docs/man must be what the commands say now.
func TestPagesCurrent(t *testing.T) {
	fresh, kept := t.TempDir(), filepath.Join("..", "..", "docs", "man")
	if err := write(fresh); err != nil {
		t.Fatal(err)
	}
	want, got := pages(t, fresh), pages(t, kept)
	if len(want) < 10 {
		t.Fatalf("only %d pages made", len(want))
	}
	for name, w := range want {
		switch g, ok := got[name]; {
		case !ok:
			t.Errorf("docs/man lacks %s: run make man", name)
		case !bytes.Equal(g, w):
			t.Errorf("docs/man/%s is not current: run make man", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/man/%s belongs to no command: remove it", name)
		}
	}
}

func pages(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for _, e := range entries {
		if m[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}
