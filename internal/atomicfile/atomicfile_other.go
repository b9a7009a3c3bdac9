//go:build !unix

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
)

// An open file can neither be renamed nor its directory synced here.
const closeBeforeRename = true

func takeOver(string, fs.FileMode) (*os.File, error) { return nil, errors.ErrUnsupported }

func chown(*os.File, fs.FileInfo) {}
