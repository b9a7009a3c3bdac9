package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/units"
)

func newDemo(a *app) *cobra.Command {
	var dir string
	var mib int
	cmd := &cobra.Command{
		Use:   "demo [flags]",
		Short: "Show on generated data what castor does",
		Long: `Make three versions of an image, store them, and get them back with and without
what is at hand already. Everything happens in a temporary directory, which is
removed at the end, and is done with the commands that are printed.`,
		Example: "  castor demo\n  castor demo --dir /tmp/demo --size 512",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if mib < 1 || mib > 1<<20 {
				return usagef("--size %d: want 1 to 1048576", mib)
			}
			if dir != "" {
				if err := os.MkdirAll(dir, 0o777); err != nil {
					return err
				}
				return (&demo{a, dir, mib << 20}).run(cmd.Context())
			}
			tmp, err := os.MkdirTemp("", "castor-demo-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(tmp)
			return (&demo{a, tmp, mib << 20}).run(cmd.Context())
		},
	}
	cmd.AddCommand(newDemoMulticast(a))
	cmd.Flags().StringVar(&dir, "dir", "", "directory to work in and to keep (default: a temporary one)")
	cmd.Flags().IntVar(&mib, "size", 64, "size of the image in MiB")
	return cmd
}

type demo struct {
	*app
	dir  string
	size int
}

func (d *demo) run(ctx context.Context) error {
	d.title("Three versions of an image of %s: the second with edits, the third with more", units.Size(int64(d.size)))
	if err := d.generate(); err != nil {
		return err
	}
	var total, stored int64
	for _, v := range []string{"v1", "v2", "v3"} {
		if err := d.castor(ctx, "make", "-s", "store.castr", v+".caibx", v+".img"); err != nil {
			return err
		}
		fi, err := os.Stat(d.path(v + ".img"))
		if err != nil {
			return err
		}
		total += fi.Size()
	}
	stored, err := treeSize(d.path("store.castr"))
	if err != nil {
		return err
	}
	d.note("three versions of %s together take %s in the store: %.1f times less", units.Size(total), units.Size(stored), float64(total)/float64(stored))

	d.title("What changed between versions")
	if err := d.castor(ctx, "diff", "v1.caibx", "v3.caibx"); err != nil {
		return err
	}

	d.title("Get version 1 with nothing at hand, and fill a cache")
	if err := d.castor(ctx, "extract", "-s", "store.castr", "-c", "cache.castr", "v1.caibx", "disk.img"); err != nil {
		return err
	}
	d.title("Update to version 3: what the old file has is not fetched")
	for _, args := range [][]string{
		{"info", "-s", "store.castr", "-c", "cache.castr", "--seed", "disk.img", "v3.caibx"},
		{"extract", "-s", "store.castr", "-c", "cache.castr", "v3.caibx", "disk.img"},
		{"verify", "v3.caibx", "disk.img"},
	} {
		if err := d.castor(ctx, args...); err != nil {
			return err
		}
	}
	d.title("Back to version 2, in place, with version 1 as a seed and no store at all but the cache")
	if err := d.castor(ctx, "cache", "-s", "store.castr", "-c", "cache.castr", "v2.caibx"); err != nil {
		return err
	}
	if err := d.castor(ctx, "extract", "-s", "cache.castr", "--seed", "v1.img", "--in-place", "v2.caibx", "disk.img"); err != nil {
		return err
	}
	d.title("Damage a chunk in the store: it is found, and another store stands in")
	if err := d.damage(); err != nil {
		return err
	}
	if err := d.castor(ctx, "check", "store.castr"); exitCode(err) != exitMismatch {
		return fmt.Errorf("check did not find the damage: %w", err)
	}
	for _, args := range [][]string{
		{"extract", "-s", "store.castr", "-s", "cache.castr", "v2.caibx", "again.img"},
		{"check", "--repair", "-s", "cache.castr", "store.castr"},
		{"digest", "--digest", "sha256", "again.img"},
		{"digest", "--digest", "sha256", "-s", "store.castr", "v2.caibx"},
	} {
		if err := d.castor(ctx, args...); err != nil {
			return err
		}
	}
	if err := d.same("v2.img", "again.img"); err != nil {
		return err
	}
	if err := d.same("v2.img", "disk.img"); err != nil {
		return err
	}
	d.note("both files equal the original, byte for byte")
	return nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) title(format string, args ...any) {
	fmt.Fprintf(d.Stdout, "\n== "+format+"\n", args...)
}

func (d *demo) note(format string, args ...any) {
	fmt.Fprintf(d.Stdout, "   "+format+"\n", args...)
}

// castor prints a command and runs it in the demo's directory.
func (d *demo) castor(ctx context.Context, args ...string) error {
	fmt.Fprintf(d.Stdout, "$ castor %s\n", strings.Join(args, " "))
	var out bytes.Buffer
	sys := d.Sys
	sys.Stdout, sys.Stderr = &out, &out
	sys.Getenv = func(string) string { return "" }
	root := newRoot(&app{Sys: sys, ctx: ctx})
	for i, arg := range args {
		if strings.Contains(arg, ".") {
			args[i] = d.path(arg)
		}
	}
	root.SetArgs(append([]string{"--progress", "none"}, args...))
	err := root.ExecuteContext(ctx)
	for line := range strings.Lines(strings.ReplaceAll(out.String(), d.dir+string(filepath.Separator), "")) {
		d.note("%s", strings.TrimRight(line, "\n"))
	}
	if err != nil {
		d.note("exit code %d: %s", exitCode(err), strings.ReplaceAll(err.Error(), d.dir+string(filepath.Separator), ""))
	}
	return err
}

// generate writes three versions of an image: text that compresses, noise that
// does not, and zeros. The second has insertions, deletions and overwrites in a
// few places; the third more of them, and a part moved.
func (d *demo) generate() error {
	r := rand.New(rand.NewPCG(1, 2))
	v1 := make([]byte, 0, d.size)
	for len(v1) < d.size {
		n := min(d.size-len(v1), d.size/64+r.IntN(3*d.size/64))
		switch r.IntN(4) {
		case 0:
			v1 = append(v1, make([]byte, n)...)
		case 1:
			noise := make([]byte, n)
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			v1 = append(v1, noise...)
		default:
			end := len(v1) + n
			for len(v1) < end {
				v1 = fmt.Appendf(v1, "record %08x of the demo: %d files, %d blocks\n", r.Uint32(), r.IntN(1000), r.IntN(100000))
			}
			v1 = v1[:end]
		}
	}
	v2 := edit(r, v1, 5)
	v3 := edit(r, v2, 10)
	third := len(v3) / 3
	v3 = append(append(append([]byte{}, v3[:third]...), v3[2*third:]...), v3[third:2*third]...)
	for name, b := range map[string][]byte{"v1.img": v1, "v2.img": v2, "v3.img": v3} {
		if err := os.WriteFile(d.path(name), b, 0o666); err != nil {
			return err
		}
	}
	return nil
}

func edit(r *rand.Rand, b []byte, n int) []byte {
	b = bytes.Clone(b)
	for range n {
		at := r.IntN(len(b) - 1000)
		switch patch := []byte("an edit of the demo"); r.IntN(3) {
		case 0:
			b = append(b[:at], append(patch, b[at:]...)...)
		case 1:
			b = append(b[:at], b[at+r.IntN(1000):]...)
		default:
			copy(b[at:], patch)
		}
	}
	return b
}

// damage flips a byte in some chunk of version 2.
func (d *demo) damage() error {
	files, err := filepath.Glob(d.path("store.castr/????/*.cacnk"))
	if err != nil || len(files) == 0 {
		return errors.New("the store has no chunks")
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		// A chunk that is in the cache as well.
		cached := strings.Replace(f, "store.castr", "cache.castr", 1)
		if _, err := os.Stat(cached); err != nil || len(b) < 100 {
			continue
		}
		b[len(b)/2] ^= 1
		if err := os.Chmod(f, 0o644); err != nil {
			return err
		}
		return os.WriteFile(f, b, 0o644)
	}
	return errors.New("the cache has no chunk of the store")
}

func (d *demo) same(a, b string) error {
	x, err := os.ReadFile(d.path(a))
	if err != nil {
		return err
	}
	y, err := os.ReadFile(d.path(b))
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s and %s differ", a, b)
	}
	return nil
}

func treeSize(dir string) (n int64, err error) {
	err = filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			n += fi.Size()
		}
		return err
	})
	return n, err
}
