package s3

import (
	"context"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// List enumerates the chunks by the keys of their objects, up to 1000 of which are in
// memory. Objects that are not chunks are passed over.
func (s *Store) List(ctx context.Context, each func(store.Info) error) error {
	var last chunker.ID
	any := false // last is set
	stopped := false
	err := s.client.list(ctx, s.prefix, true, func(o minio.ObjectInfo) error {
		id, _, ok := cacnk.ParseName(strings.TrimPrefix(o.Key, s.prefix))
		if !ok || any && id == last { // both forms of a chunk are neighbours
			return nil
		}
		last, any = id, true
		err := each(store.Info{ID: id, Size: o.Size, Used: o.LastModified})
		stopped = err != nil
		return err
	})
	if err == nil || stopped || ctx.Err() != nil {
		return err
	}
	return &fs.PathError{Op: "list", Path: s.loc, Err: err}
}

// Remove deletes the chunk, in both forms, unless it was used after since. See the
// package comment for when that may be wrong.
func (s *Store) Remove(ctx context.Context, id chunker.ID, since time.Time) (bool, error) {
	removed, young := false, false
	for _, f := range []form{compressed, plain} {
		ok, err := s.client.removeIf(ctx, s.key(id, f), func(o object) bool {
			young = young || o.used.After(since)
			return !young
		})
		if err != nil {
			return false, s.fail(ctx, "remove", id, err)
		}
		removed = removed || ok
	}
	return removed && !young, nil
}

// Sweep does nothing: uploads that were cut short leave nothing behind.
func (s *Store) Sweep(ctx context.Context, _ time.Time, _ bool) (int, error) {
	return 0, context.Cause(ctx)
}

// SetAside renames the objects of a chunk, in both forms, and returns the URL of the
// last.
func (s *Store) SetAside(ctx context.Context, id chunker.ID) (string, error) {
	where := ""
	for _, f := range []form{compressed, plain} {
		key := s.key(id, f)
		o, err := s.client.stat(ctx, key)
		if store.Missing(err) {
			continue
		}
		if err == nil {
			err = s.client.copy(ctx, key+aside, key)
		}
		if err == nil {
			_, err = s.client.removeIf(ctx, key, func(now object) bool { return now == o })
		}
		if err != nil {
			return "", s.fail(ctx, "set aside", id, err)
		}
		where = s.client.url(key + aside)
	}
	if where == "" {
		return "", s.fail(ctx, "set aside", id, fs.ErrNotExist)
	}
	return where, nil
}

// removeIf deletes an object if ok says so of what it is now, and reports whether it
// did. Whenever the deletion is tried again, ok is asked again.
func (c *client) removeIf(ctx context.Context, key string, ok func(object) bool) (removed bool, err error) {
	err = c.retry(ctx, func(core *regional) error {
		o, err := c.statOnce(ctx, core, key)
		if store.Missing(err) {
			return nil
		}
		if err != nil || !ok(o) {
			return err
		}
		err = c.remove(ctx, core, key, o.used)
		if code := status(err); code == http.StatusPreconditionFailed || store.Missing(err) {
			return nil // used or removed meanwhile
		}
		removed = err == nil
		return err
	})
	return removed, err
}
