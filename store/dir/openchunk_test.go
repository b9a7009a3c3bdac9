package dir_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/dir"
)

func TestOpenChunk(t *testing.T) {
	for name, tt := range map[string]struct {
		compressed, plain string // contents of files; "": no file, "-": an empty one
		want              string
		isPlain           bool
		err               error
	}{
		"none":                 {err: os.ErrNotExist},
		"compressed":           {compressed: "c", want: "c"},
		"plain":                {plain: "p", want: "p", isPlain: true},
		"both":                 {compressed: "c", plain: "p", want: "c"},
		"compressed is empty":  {compressed: "-", plain: "p", want: "p", isPlain: true},
		"empty":                {compressed: "-", err: store.ErrDamaged},
		"plain is empty":       {plain: "-", err: store.ErrDamaged},
		"both are empty":       {compressed: "-", plain: "-", err: store.ErrDamaged},
		"directory and a file": {compressed: "/", plain: "p", want: "p", isPlain: true},
		"directory":            {compressed: "/", err: os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			s, err := dir.Open(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			id := chunker.BLAKE3.Sum([]byte(name))
			file := filepath.Join(path, id.String()[:4], id.String())
			if err := os.Mkdir(filepath.Dir(file), 0o777); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{file + ".cacnk": tt.compressed, file: tt.plain} {
				var err error
				switch content {
				case "":
				case "/":
					err = os.Mkdir(name, 0o777)
				case "-":
					err = os.WriteFile(name, nil, 0o666)
				default:
					err = os.WriteFile(name, []byte(content), 0o666)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			f, err := s.OpenChunk(t.Context(), id)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(b, []byte(tt.want)) || f.Size != int64(len(b)) || f.Plain != tt.isPlain {
				t.Errorf("%q, %d bytes, plain %v, %v; want %q, plain %v", b, f.Size, f.Plain, err, tt.want, tt.isPlain)
			}
		})
	}
	s, err := dir.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	if _, err := s.OpenChunk(ctx, chunker.ID{}); err != io.ErrClosedPipe {
		t.Errorf("with a context that has ended: %v", err)
	}
}
