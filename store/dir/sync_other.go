//go:build !linux

package dir

import (
	"os"
	"path/filepath"
	"runtime"
)

func openNoFollow(name string) (*os.File, error) { return os.Open(name) }

func syncFiles(_ string, names []string) error {
	for _, name := range names {
		if err := syncOne(name); err != nil {
			return err
		}
	}
	return nil
}

// syncTree makes the names of chunks durable. Their bytes are already.
func syncTree(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced
	}
	dirs, err := filepath.Glob(filepath.Join(dir, "????"))
	if err != nil {
		return err
	}
	for _, d := range append(dirs, dir) {
		if err := syncOne(d); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func syncOne(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
