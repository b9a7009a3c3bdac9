package cli

import (
	"io"
	"os"
)

// streamOutput is stdout, or a pipe or character device by name.
type streamOutput struct {
	io.Writer
	file *os.File // nil for stdout
}

func (s *streamOutput) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
