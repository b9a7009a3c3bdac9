package dir

import (
	"os"

	"golang.org/x/sys/unix"
)

// batchSyncs says that syncBatch makes the bytes of written files durable.
const batchSyncs = true

// syncBatch makes everything in the store durable, names included, with a single
// call for the file system: that is what makes it cheap.
func (s *Store) syncBatch() error {
	d, err := os.Open(s.path)
	if os.IsNotExist(err) {
		return nil // nothing was ever put
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: s.path, Err: err}
	}
	return nil
}
