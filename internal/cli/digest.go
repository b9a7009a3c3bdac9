package cli

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/zeebo/blake3"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index/assemble"
)

type digestFlags struct {
	treeSource
	digest string
}

func newDigest(a *app) *cobra.Command {
	var f digestFlags
	cmd := &cobra.Command{
		Use:     "digest [flags] FILE|INDEX|TREE|- [PATH]",
		GroupID: groupInspect,
		Short:   "Print the digest of the whole content of a file, an index or a tree",
		Long: `Print the digest of the content of FILE, of stdin for -, or of what INDEX, a name
ending in .caibx or .caidx, describes: its chunks are got from the stores and
verified, and nothing is written. Of a directory it is the digest of the archive that
make writes of it.

With PATH, print the digest of a part of TREE, an archive (.catar), the index of one or
a directory: of a file's content, or of a directory as an archive of its own.`,
		Example: `  castor digest --digest sha256 disk.img
  castor digest -s /srv/store.castr v1.caibx`,
		Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer f.close()
			fi, err := os.Stat(args[0])
			if len(args) == 2 || isArchive(args[0]) || err == nil && fi.IsDir() {
				return f.ofTree(cmd.Context(), a, args[0], pathIn(args, 1))
			}
			return f.run(cmd.Context(), a, args[0])
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.digest, "digest", "", "blake3, sha512-256 or sha256 (default: that of the index, blake3 for a file)")
	return cmd
}

func (f *digestFlags) run(ctx context.Context, a *app, name string) error {
	var d chunker.Digest
	if f.digest != "" {
		var err error
		if d, err = chunker.ParseDigest(f.digest); err != nil {
			return &usageError{err}
		}
	}
	if name != "-" && isIndex(name) {
		return f.ofIndex(ctx, a, name, d)
	}
	r := io.Reader(a.Stdin)
	total := int64(0)
	if name != "-" {
		file, err := a.open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		if fi, err := file.Stat(); err == nil {
			total = fi.Size()
		}
		r = file
	}
	h := newHash(d)
	a.meter.Start("digest", total)
	done := int64(0)
	buf := make([]byte, 1<<20)
	r = cancelReader(ctx, r)
	for {
		n, err := r.Read(buf)
		h.Write(buf[:n])
		done += int64(n)
		a.meter.Update(done, total, nil)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	a.meter.End()
	_, err := fmt.Fprintf(a.Stdout, "%x\n", h.Sum(nil))
	return err
}

// ofTree prints the digest of a node of a tree.
func (f *digestFlags) ofTree(ctx context.Context, a *app, name, path string) error {
	var d chunker.Digest
	if f.digest != "" {
		var err error
		if d, err = chunker.ParseDigest(f.digest); err != nil {
			return &usageError{err}
		}
		f.dirDigest = d
	}
	t, err := f.openTree(ctx, a, name)
	if err != nil {
		return err
	}
	it, err := t.Find(path)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if f.digest == "" {
		d = digestOf(t)
	}
	r := it.Records()
	switch {
	case it.Node.IsRegular():
		r = it.Content()
	case !it.Node.IsDir():
		return fmt.Errorf("%s: %s is a %s, and has no content", name, shownPath(it.Path), nodeType(it.Node))
	}
	a.meter.Start("digest", r.Size())
	h, err := hashOf(ctx, d, r)
	a.meter.End()
	if err != nil {
		return fmt.Errorf("digest %s: %w", name, err)
	}
	_, err = fmt.Fprintf(a.Stdout, "%x\n", h.Sum(nil))
	return err
}

func (f *digestFlags) ofIndex(ctx context.Context, a *app, name string, d chunker.Digest) error {
	x, err := a.index(name)
	if err != nil {
		return err
	}
	if f.digest == "" {
		d = x.Digest()
	}
	src, err := f.open(a, name, x)
	if err != nil {
		return err
	}
	p, err := assemble.NewPlan(ctx, x, nil)
	if err != nil {
		return err
	}
	h := newHash(d)
	a.meter.Start("digest", x.Size())
	_, err = p.Stream(ctx, h, 0, -1, src, &assemble.Options{Progress: func(s assemble.Stats) { a.meter.Update(s.Done(), x.Size(), nil) }})
	a.meter.End()
	if err != nil {
		return fmt.Errorf("digest %s: %w", name, err)
	}
	_, err = fmt.Fprintf(a.Stdout, "%x\n", h.Sum(nil))
	return err
}

func newHash(d chunker.Digest) hash.Hash {
	switch d {
	case chunker.SHA512256:
		return sha512.New512_256()
	case chunker.SHA256:
		return sha256.New()
	}
	return blake3.New()
}
