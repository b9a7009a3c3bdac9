//go:build !linux

package dir

import (
	"os"
	"runtime"
)

// batchSyncs says that the bytes of written files are not made durable by
// syncBatch: each file is synced when it is written.
const batchSyncs = false

// syncBatch makes the names of chunks durable.
func (s *Store) syncBatch() error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced
	}
	dirs, err := s.prefixes()
	if err != nil {
		return err
	}
	for _, name := range append(dirs, s.path) {
		d, err := os.Open(name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
