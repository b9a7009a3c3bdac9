//go:build !linux

package mld

import (
	"errors"
	"fmt"
	"net"
	"runtime"
)

var errUnsupported = fmt.Errorf("hearing MLD on %s: %w: only Linux can; "+
	"send without listening to anybody (--always)", runtime.GOOS, errors.ErrUnsupported)

// Listen returns an error that wraps [errors.ErrUnsupported].
func Listen(*net.Interface, Options) (*Listener, error) { return nil, errUnsupported }

// ListenLocal returns an error that wraps [errors.ErrUnsupported].
func ListenLocal(*net.Interface, Options) (*Listener, error) { return nil, errUnsupported }
