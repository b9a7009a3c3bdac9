package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
)

// List enumerates the chunks by their file names. Files that are not chunks are
// passed over.
func (s *Store) List(ctx context.Context, each func(store.Info) error) error {
	var last chunker.ID // in a directory, both forms of a chunk are neighbours
	return s.walk(ctx, func(dir string, e fs.DirEntry) error {
		id, ok := chunkFile(dir, e.Name())
		if !ok || !e.Type().IsRegular() || id == last {
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // collected meanwhile
		}
		if err != nil {
			return err
		}
		last = id
		return each(store.Info{ID: id, Size: fi.Size(), Used: fi.ModTime()})
	})
}

// chunkFile returns the chunk whose file has the given name in the prefix
// directory dir.
func chunkFile(dir, name string) (chunker.ID, bool) {
	hex := strings.TrimSuffix(name, compressed)
	id, err := chunker.ParseID(hex)
	return id, err == nil && id.String() == hex && strings.HasPrefix(hex, filepath.Base(dir))
}

// walk calls each for the entries of every prefix directory.
func (s *Store) walk(ctx context.Context, each func(dir string, e fs.DirEntry) error) error {
	dirs, err := s.prefixes()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := each(dir, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefixes returns the directories that chunks may be in.
func (s *Store) prefixes() ([]string, error) {
	entries, err := os.ReadDir(s.path)
	if errors.Is(err, fs.ErrNotExist) && s.o.Create {
		return nil, nil // nothing was ever put
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == 4 && strings.Trim(e.Name(), "0123456789abcdef") == "" {
			dirs = append(dirs, filepath.Join(s.path, e.Name()))
		}
	}
	return dirs, err
}

// Remove deletes the chunk unless it has been used since. A make that runs at
// the same time and finds the chunk either keeps it from being deleted or finds
// that it is gone: the file first loses its name, and gets it back if its
// modification time shows a use that came in between.
func (s *Store) Remove(_ context.Context, id chunker.ID, since time.Time) (bool, error) {
	removed := false
	for _, suffix := range []string{compressed, ""} {
		name := s.name(id, suffix)
		if fi, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return removed, s.fail("remove", name, id, err)
		} else if fi.ModTime().After(since) {
			return removed, nil
		}
		gone := fmt.Sprintf("%s.%016x%s", name, rand.Uint64(), leaving)
		if err := os.Rename(name, gone); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return removed, s.fail("remove", name, id, err)
		}
		did, err := finishRemoval(gone, name, since, false)
		if err != nil {
			return removed, s.fail("remove", name, id, err)
		}
		removed = removed || did
	}
	return removed, nil
}

// finishRemoval deletes the file gone, or gives it its name back if it has been
// used since. It reports whether it did, or with dryRun would, delete the file.
func finishRemoval(gone, name string, since time.Time, dryRun bool) (removed bool, err error) {
	fi, err := os.Lstat(gone)
	switch {
	case err != nil:
	case !fi.ModTime().After(since):
		if removed = true; !dryRun {
			err = os.Remove(gone)
		}
	case !dryRun:
		err = os.Rename(gone, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // another collection has finished it
	}
	return removed, err
}

// Sweep removes what killed runs left behind and nobody has touched since:
// temporary files of castor, casync and desync, unfinished removals, and empty
// directories. It returns the number of files.
func (s *Store) Sweep(ctx context.Context, since time.Time, dryRun bool) (int, error) {
	n := 0
	err := s.walk(ctx, func(dir string, e fs.DirEntry) error {
		name := filepath.Join(dir, e.Name())
		if base, ok := strings.CutSuffix(name, leaving); ok {
			removed, err := finishRemoval(name, strings.TrimSuffix(base, filepath.Ext(base)), since, dryRun)
			if removed {
				n++
			}
			return err
		}
		if !strings.HasSuffix(name, temporary) && !strings.HasPrefix(e.Name(), desyncTemporary) {
			return nil
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && fi.ModTime().After(since) {
			return nil
		}
		if err != nil {
			return err
		}
		n++
		if dryRun {
			return nil
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil || dryRun {
		return n, err
	}
	dirs, err := s.prefixes()
	for _, dir := range dirs {
		os.Remove(dir) // fails unless it is empty
	}
	return n, err
}

// SetAside renames the chunk's files so that it is no longer found, and returns
// the new name of one.
func (s *Store) SetAside(_ context.Context, id chunker.ID) (string, error) {
	moved := ""
	for _, suffix := range []string{"", compressed} {
		name := s.name(id, suffix)
		switch err := os.Rename(name, name+aside); {
		case err == nil:
			moved = name + aside
		case !errors.Is(err, fs.ErrNotExist):
			return "", s.fail("set aside", name, id, err)
		}
	}
	if moved == "" {
		return "", &store.Error{Op: "set aside", Loc: s.path, ID: id, Err: fs.ErrNotExist}
	}
	return moved, nil
}
