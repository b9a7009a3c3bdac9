package sftp

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/pkg/sftp"
)

// Extensions of OpenSSH, from its PROTOCOL file.
const (
	extRename = "posix-rename@openssh.com"
	extSync   = "fsync@openssh.com"
)

// The following are the requests of a call. The client returns neither an error nor a
// result if the server answers with a status that says "fine".

func (c *conn) open(name string, flags int) (*sftp.File, error) {
	f, err := c.client.OpenFile(name, flags)
	if err == nil && f == nil {
		err = errNonsense
	}
	return f, err
}

func (c *conn) stat(name string) (fs.FileInfo, error) { return checkInfo(c.client.Stat(name)) }

func (c *conn) lstat(name string) (fs.FileInfo, error) { return checkInfo(c.client.Lstat(name)) }

func fstat(f *sftp.File) (fs.FileInfo, error) { return checkInfo(f.Stat()) }

func checkInfo(fi fs.FileInfo, err error) (fs.FileInfo, error) {
	if err == nil {
		if fi == nil || fi.Sys() == (*sftp.FileStat)(nil) {
			err = errNonsense
		}
	}
	return fi, err
}

func (c *conn) touch(name string, t time.Time) error { return c.client.Chtimes(name, t, t) }

func (c *conn) readDir(name string) ([]fs.FileInfo, error) {
	defer c.names.begin()()
	return c.client.ReadDir(name)
}

// has reports whether the server has announced an extension.
func (c *conn) has(extension string) bool {
	_, ok := c.client.HasExtension(extension)
	return ok
}

// rename gives a file its name, where there is none of that name, or else may not
// replace it.
func (c *conn) rename(from, to string) error {
	if c.has(extRename) {
		return c.client.PosixRename(from, to)
	}
	return c.client.Rename(from, to)
}

// replace gives a file its name even if there is another one.
func (c *conn) replace(from, to string) error {
	err := c.rename(from, to)
	if err == nil || c.has(extRename) || lost(err) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.client.Remove(to) != nil {
		return err // the first one tells more
	}
	return c.client.Rename(from, to)
}

// publish gives a new file its name. A file that another process has put there just
// now is left, if the server cannot replace files.
func (c *call) publish(from, to string) error {
	err := c.rename(from, to)
	if err == nil || c.has(extRename) || lost(err) {
		return err
	}
	if fi, err := c.lstat(to); err == nil && isChunk(fi) && time.Since(fi.ModTime()) <= refreshAfter {
		return c.remove(from)
	}
	return c.replace(from, to)
}

// sync makes what was written to a file durable, if the server can do that.
func (c *conn) sync(f *sftp.File) error {
	if !c.has(extSync) {
		return nil
	}
	return f.Sync()
}

// syncDir makes the names in a directory durable, if the server can do that and lets
// directories be opened.
func (c *conn) syncDir(name string) error {
	if !c.has(extSync) {
		return nil
	}
	f, err := c.open(name, os.O_RDONLY)
	if err == nil {
		err = f.Sync()
		f.Close()
	}
	if lost(err) {
		return err
	}
	return nil
}
