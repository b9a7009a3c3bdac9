package dir

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openNoFollow opens a file for reading; a symbolic link is an error that counts
// as fs.ErrNotExist.
func openNoFollow(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fs.ErrNotExist
	}
	return f, err
}

// syncFiles makes the content of files below dir durable: with a single call
// for the file system, which is what makes it cheap.
func syncFiles(dir string, _ []string) error { return syncTree(dir) }

// syncTree makes everything below dir durable, names included.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if os.IsNotExist(err) {
		return nil // nothing was ever put
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}
