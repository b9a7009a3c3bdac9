//go:build !linux || 386 || arm || mips || mipsle

package fuse

import (
	"errors"
	"fmt"
	"runtime"
)

// Mount is a mounted FS.
type Mount struct{}

var errUnsupported = fmt.Errorf("mounting on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)

// Check returns why nothing can be mounted: here nothing ever can.
func Check(dir string) error { return errUnsupported }

// Mount returns an error that wraps [errors.ErrUnsupported].
func (f *FS) Mount(dir string, o *Options) (*Mount, error) { return nil, errUnsupported }

// Unmount returns an error that wraps [errors.ErrUnsupported].
func Unmount(dir string, lazy bool) error { return errUnsupported }

// Wait returns at once.
func (m *Mount) Wait() {}

// Unmount returns an error that wraps [errors.ErrUnsupported].
func (m *Mount) Unmount(lazy bool) error { return errUnsupported }

// Stats returns nothing.
func (m *Mount) Stats() Stats { return Stats{} }
