// Package atomicfile writes files that appear whole or not at all.
//
// The bytes go to a temporary file in the same directory, which is renamed into
// place after it has reached the disk. The temporary file has a fixed name and
// is locked, so that a run that was killed leaves at most one, and the next run
// for the same target takes it over.
package atomicfile

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// suffix ends the name of every temporary file.
const suffix = ".castor-tmp"

// File is a file on its way to its name. It must be ended by Commit or Abort.
type File struct {
	*os.File
	path string
	tmp  string
	perm fs.FileMode
	old  fs.FileInfo // what is at path; nil if nothing is
}

// Create begins to write the file path. If path is a symbolic link, the file it names
// is written. The permissions are those of the file that is there, and so are owner and
// group as far as they may be set; else 0666 less the umask. With resume, what a killed
// run left is kept and the caller finds it in the File; without, the File is empty.
func Create(path string, resume bool) (*File, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, perm: 0o666}
	switch fi, err := os.Stat(path); {
	case err == nil && !fi.Mode().IsRegular():
		return nil, &fs.PathError{Op: "create", Path: path, Err: errors.New("is not a regular file")}
	case err == nil:
		f.perm, f.old = fi.Mode().Perm(), fi
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	name = "." + name[:min(len(name), 200)] + suffix
	f.File, err = takeOver(filepath.Join(dir, name), f.perm)
	if err != nil {
		// Somebody else is writing, or planted the name: use one of our own.
		name := fmt.Sprintf("%s-%016x", name, rand.Uint64())
		f.File, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, f.perm)
		if err != nil {
			return nil, err
		}
	}
	f.tmp = f.File.Name()
	if !resume {
		err = f.Truncate(0)
	}
	if err == nil && f.old != nil {
		err = f.Chmod(f.perm)
	}
	if err != nil {
		f.Abort()
		return nil, err
	}
	return f, nil
}

// resolve follows symbolic links to the name that is to be replaced.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if target, lerr := os.Readlink(path); lerr == nil {
			return "", fmt.Errorf("%s: symbolic link to %s, which does not exist", path, target)
		}
		return path, nil
	}
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return "", &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return real, nil
}

// Commit makes the file appear under its name. With sync, its content and its
// name have reached the disk when Commit returns. After an error the old file,
// if any, is still in place, unless it is only the name that may not be on disk.
func (f *File) Commit(sync bool) error {
	err := f.commit(sync)
	if err != nil {
		f.Abort()
	}
	return err
}

func (f *File) commit(sync bool) error {
	if f.old != nil {
		chown(f.File, f.old) // only now: a file of somebody else is not taken over
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if closeBeforeRename {
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := os.Rename(f.tmp, f.path); err != nil {
		return err
	}
	f.tmp = ""
	var err error
	if sync {
		err = SyncDir(filepath.Dir(f.path))
	}
	if !closeBeforeRename {
		err = cmp.Or(err, f.Close())
	}
	return err
}

// Abort removes the temporary file. It does nothing after Commit.
func (f *File) Abort() {
	if f.tmp != "" {
		os.Remove(f.tmp)
		f.tmp = ""
		f.Close()
	}
}

// Path returns the name that the file will have.
func (f *File) Path() string { return f.path }

// SyncDir makes the names in dir durable, where the system can.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !closeBeforeRename {
		return err
	}
	return nil
}
