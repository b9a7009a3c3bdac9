package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
)

// desyncTemporary begins the names of desync's temporary files.
const desyncTemporary = ".tmp-cacnk"

// listers is how many directories are read at once: there are up to 65536, and each
// takes four round trips.
const listers = 32

// List enumerates the chunks by their file names. Files that are not chunks are
// passed over.
func (s *Store) List(ctx context.Context, each func(store.Info) error) error {
	return s.walk(ctx, func(d *directory) error {
		var last chunker.ID // both forms of a chunk are neighbours
		for _, fi := range d.entries {
			id, ok := chunkFile(path.Base(d.path), fi.Name())
			if !ok || !fi.Mode().IsRegular() || id == last {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			last = id
			if err := each(store.Info{ID: id, Size: max(fi.Size(), 0), Used: used(fi)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// chunkFile returns the chunk whose file has the given name in a prefix directory.
func chunkFile(prefix, name string) (chunker.ID, bool) {
	hex := strings.TrimSuffix(name, compressed)
	id, err := chunker.ParseID(hex)
	return id, err == nil && id.String() == hex && strings.HasPrefix(hex, prefix)
}

// directory is a prefix directory and what is in it, by name.
type directory struct {
	path    string
	entries []fs.FileInfo
}

// walk calls each, from one goroutine, for every prefix directory.
func (s *Store) walk(ctx context.Context, each func(*directory) error) error {
	dirs, err := s.prefixes(ctx)
	if err != nil {
		return err
	}
	o := par.NewOrdered(ctx, listers, 2*listers, func(ctx context.Context, d *directory) (err error) {
		d.entries, err = s.readDir(ctx, d.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // collected meanwhile
		}
		return err
	}, each)
	for _, dir := range dirs {
		if o.Submit(directory{path: dir}) != nil {
			break
		}
	}
	return o.Wait()
}

// prefixes returns the directories that chunks may be in.
func (s *Store) prefixes(ctx context.Context) ([]string, error) {
	entries, err := s.readDir(ctx, s.path)
	if errors.Is(err, fs.ErrNotExist) && s.o.Create {
		return nil, nil // nothing was ever put
	}
	var dirs []string
	for _, fi := range entries {
		if fi.IsDir() && len(fi.Name()) == 4 && strings.Trim(fi.Name(), "0123456789abcdef") == "" {
			dirs = append(dirs, path.Join(s.path, fi.Name()))
		}
	}
	return dirs, err
}

// readDir returns what is in a directory, each name once.
func (s *Store) readDir(ctx context.Context, dir string) ([]fs.FileInfo, error) {
	entries, err := s.pool.readDir(ctx, dir)
	if err != nil {
		return nil, place{path: dir, loc: s.loc}.fail(ctx, "list", err)
	}
	return entries, nil
}

// readDir returns what is in a directory by name, each name once.
func (p *pool) readDir(ctx context.Context, dir string) ([]fs.FileInfo, error) {
	entries, err := ask(ctx, p, func(c *call) ([]fs.FileInfo, error) { return c.readDir(dir) })
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return slices.CompactFunc(entries, func(a, b fs.FileInfo) bool { return a.Name() == b.Name() }), nil
}

// Remove deletes the chunk unless it has been used since. A make that runs at the
// same time and finds the chunk either keeps it from being deleted or finds that it is
// gone: the file first loses its name, and gets it back if its modification time
// shows a use that came in between.
func (s *Store) Remove(ctx context.Context, id chunker.ID, since time.Time) (bool, error) {
	removed := false
	for _, suffix := range []string{compressed, ""} {
		name := s.file(id, suffix)
		r, err := ask(ctx, s.pool, func(c *call) (removal, error) { return c.removeOld(name, since) })
		if err != nil {
			return removed, s.fail(ctx, "remove", id, err)
		}
		if removed = removed || r == gone; r == young {
			break
		}
	}
	return removed, nil
}

// removal is what came of the removal of a file.
type removal int

const (
	nothing removal = iota // there was none, or it got its name back
	young                  // it has been used
	gone
)

// removeOld removes a chunk file if it has not been used since.
func (c *call) removeOld(name string, since time.Time) (removal, error) {
	fi, err := c.lstat(name)
	if err == nil && used(fi).After(since) {
		return young, nil
	}
	away := fmt.Sprintf("%s.%016x%s", name, rand.Uint64(), leaving)
	if err == nil {
		err = c.rename(name, away)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	if removed, err := c.finishRemoval(away, name, since, false); !removed || err != nil {
		return nothing, err
	}
	return gone, nil
}

// finishRemoval deletes the file away, or gives it its name back if it has been used
// since. It reports whether it did, or with dryRun would, delete the file.
func (c *call) finishRemoval(away, name string, since time.Time, dryRun bool) (removed bool, err error) {
	fi, err := c.lstat(away)
	switch {
	case err != nil:
	case !used(fi).After(since):
		if removed = true; !dryRun {
			err = c.client.Remove(away)
		}
	case !dryRun:
		err = c.replace(away, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // another collection has finished it
	}
	return removed, err
}

// Sweep removes what killed runs left behind and nobody has touched since: temporary
// files of castor, casync and desync, unfinished removals, and empty directories. It
// returns the number of files.
func (s *Store) Sweep(ctx context.Context, since time.Time, dryRun bool) (int, error) {
	n := 0
	err := s.walk(ctx, func(d *directory) error {
		for _, fi := range d.entries {
			swept, err := s.sweep(ctx, d.path, fi, since, dryRun)
			if err != nil {
				return place{path: d.path, loc: s.loc}.fail(ctx, "sweep", err)
			}
			if swept {
				n++
			}
		}
		if dryRun || slices.ContainsFunc(d.entries, func(fi fs.FileInfo) bool { return !swept(fi.Name()) }) {
			return nil
		}
		return s.pool.do(ctx, func(c *call) error {
			c.client.RemoveDirectory(d.path) // fails unless it is empty
			return nil
		})
	})
	return n, err
}

// swept reports whether a name is that of a file that Sweep may remove.
func swept(name string) bool {
	return strings.HasSuffix(name, leaving) || strings.HasSuffix(name, temporary) || strings.HasPrefix(name, desyncTemporary)
}

// sweep removes an entry of a prefix directory if it is left over.
func (s *Store) sweep(ctx context.Context, dir string, fi fs.FileInfo, since time.Time, dryRun bool) (bool, error) {
	if !swept(fi.Name()) || fi.IsDir() {
		return false, nil
	}
	name := path.Join(dir, fi.Name())
	if base, ok := strings.CutSuffix(name, leaving); ok {
		return ask(ctx, s.pool, func(c *call) (bool, error) {
			return c.finishRemoval(name, strings.TrimSuffix(base, path.Ext(base)), since, dryRun)
		})
	}
	if used(fi).After(since) {
		return false, nil
	}
	if dryRun {
		return true, nil
	}
	return true, s.pool.do(ctx, func(c *call) error { return c.remove(name) })
}

// SetAside renames the chunk's files so that it is no longer found, and returns the
// new name of one.
func (s *Store) SetAside(ctx context.Context, id chunker.ID) (string, error) {
	moved := ""
	for _, suffix := range []string{"", compressed} {
		name := s.file(id, suffix)
		err := s.pool.do(ctx, func(c *call) error { return c.replace(name, name+aside) })
		switch {
		case err == nil:
			moved = s.locate(name + aside)
		case !errors.Is(err, fs.ErrNotExist):
			return "", s.fail(ctx, "set aside", id, err)
		}
	}
	if moved == "" {
		return "", s.fail(ctx, "set aside", id, fs.ErrNotExist)
	}
	return moved, nil
}
