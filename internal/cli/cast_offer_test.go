package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/mcast"
)

// closing counts how often it is closed.
type closing struct{ n int }

func (c *closing) Close() error { c.n++; return nil }

// TestOfferCloses reads the indexes again and again: the stores of before are closed, and
// if that fails those that were opened in vain.
func TestOfferCloses(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.caibx")
	x := &index.Index{Header: index.Header{Features: index.BlobFeatures(chunker.BLAKE3), Params: chunker.DefaultParams}}
	x.Entries = append(x.Entries, index.Entry{End: 100000, ID: chunker.BLAKE3.Sum([]byte("x"))})
	var b bytes.Buffer
	if err := x.Encode(&b); err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(b.Bytes())
	if err := os.Mkdir(filepath.Join(dir, "s.castr"), 0o777); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a := &app{ctx: context.Background(), Sys: Sys{Getenv: func(string) string { return "" }, Stdout: io.Discard, Stderr: io.Discard}, quiet: true, log: log}
	a.places = &location.Opener{Config: &config.Config{}, Getenv: a.Getenv, Log: log}
	f := &castFlags{stores: []string{filepath.Join(dir, "s.castr")}}
	p := &publisher{a: a, sender: mcast.NewSender(nil, nil), warned: map[string]bool{}}
	offer := func() error { return f.offer(a, p, []string{name}, nil, true) }
	if err := offer(); err != nil {
		t.Fatal(err)
	}
	if len(f.opened.closers) == 0 {
		t.Fatal("no store is remembered")
	}
	old := &closing{}
	f.opened.closers = append(f.opened.closers, old)
	if err := offer(); err != nil || old.n != 1 {
		t.Errorf("closed %d times, %v; want once", old.n, err)
	}
	kept := &closing{}
	f.opened.closers = append(f.opened.closers, kept)
	write([]byte("no index"))
	if err := offer(); err == nil || kept.n != 0 {
		t.Errorf("closed %d times, error %v: what is offered is still needed", kept.n, err)
	}
}
