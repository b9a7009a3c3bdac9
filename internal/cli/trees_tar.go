package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/castorsync/castor/archive/tarfile"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/blockdev"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
)

// openTar returns the tar file of that name as the archive that is to be cut, and the
// features of its index.
func (f *makeFlags) openTar(a *app, name string, d chunker.Digest) (*source, index.Features, error) {
	if t := &f.tree; len(t.exclude) > 0 || t.excludeSubmount || t.uidShift != 0 || t.uidRange != 0 {
		return nil, 0, usagef("--tar: what is left out, and the shift of numbers, are for directories")
	}
	features, err := f.tree.selected(tarfile.Available)
	if err != nil {
		return nil, 0, err
	}
	features = (features | digestFeature(d)).Normalize()
	r, closer, err := a.openTarFile(name)
	if err != nil {
		return nil, 0, err
	}
	return &source{closer: closer, pack: func(ctx context.Context, w io.Writer) error {
		o := &tarfile.ImportOptions{HardLinks: f.tree.hardLinks, LookupUser: userNumber, LookupGroup: groupNumber}
		told := 0
		o.Problem = func(p tarfile.Problem) {
			if told++; told <= maxProblems {
				a.log.Warn("not in the archive as it is", "problem", p.Error())
			}
		}
		s, err := tarfile.Import(ctx, r, w, features, o)
		if s.Problems > maxProblems {
			a.log.Warn("not in the archive as it is: more of the same", "problems", s.Problems)
		}
		return err
	}}, index.Features(features), nil
}

// openTarFile opens a tar file, stdin for -. What can be read at any place is returned
// as such.
func (a *app) openTarFile(name string) (io.Reader, io.Closer, error) {
	if name == "-" {
		f, ok := a.Stdin.(*os.File)
		if !ok {
			return cancelReader(a.ctx, a.Stdin), nil, nil
		}
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			return f, nil, nil
		}
		return cancelReader(a.ctx, f), nil, nil
	}
	f, err := a.open(name)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case fi.IsDir():
		err = usagef("%s is a directory: drop --tar", name)
	case fi.Mode().IsRegular() || blockdev.Is(fi.Mode()):
		return f, f, nil
	default:
		return cancelReader(a.ctx, f), f, nil
	}
	f.Close()
	return nil, nil, err
}

// userNumber returns the number that the system has for a user.
func userNumber(name string) (uint32, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err == nil
}

// groupNumber returns the number that the system has for a group.
func groupNumber(name string) (uint32, bool) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err == nil
}

// checkTar refuses what makes no sense with a tar file that is to be written.
func (f *extractFlags) checkTar(loc string) error {
	switch {
	case f.tree.delete, f.tree.strict, f.features.hardLinks:
		return usagef("--delete, --strict and --hard-links are for directories: a tar file is always new, and has the hard links that are marked")
	case f.features.uidShift != 0, f.features.uidRange != 0:
		return usagef("--tar: the shift of numbers is for directories")
	case f.inPlace, f.force:
		return usagef("--in-place and --force are for files and devices: a tar file is always new")
	case f.dryRun && f.isArchive(loc):
		return usagef("--dry-run: %s has no chunks to plan with", loc)
	}
	return nil
}

// createTar begins to write a tar file, or stdout for -.
func (a *app) createTar(ctx context.Context, dest string) (*location.IndexFile, error) {
	out, err := a.places.CreateFile(ctx, dest, a.Stdout, whatArchive, isTar)
	if _, other := errors.AsType[*location.NotIndexError](err); other {
		return nil, &usageError{err}
	}
	return out, err
}

// isTar reports whether r begins as a tar file does.
func isTar(r io.Reader) bool {
	_, err := tar.NewReader(r).Next()
	return err == nil || err == io.EOF
}

// unpack writes a tree: to the tar file that is open, or else into the directory dest.
func (f *extractFlags) unpack(ctx context.Context, src tree.Source, dest string, o *tree.UnpackOptions) (tree.UnpackStats, error) {
	if f.tree.out == nil {
		return tree.Unpack(ctx, src, dest, o)
	}
	s, err := tarfile.Export(ctx, src, f.tree.out, &tarfile.ExportOptions{
		Mask:    o.Mask,
		Problem: func(p tarfile.Problem) { o.Problem(tree.Problem{Path: p.Path, What: p.What, Err: p.Err}) },
	})
	return tree.UnpackStats{Nodes: s.Entries, Files: s.Files, Bytes: s.Bytes, Linked: s.Linked, Problems: s.Problems}, err
}

// tarLine says what has been written to a tar file.
func tarLine(dest string, s tree.UnpackStats, d time.Duration) string {
	line := fmt.Sprintf("%s: %s entries, %s in %s files", dest, units.Count(s.Nodes), units.Size(s.Bytes), units.Count(s.Files))
	if s.Linked > 0 {
		line += fmt.Sprintf(", %s hard links", units.Count(s.Linked))
	}
	return line + ", " + units.Duration(d)
}
