//go:build !linux

package cli

import (
	"context"
	"errors"
	"os"
)

// Nothing can be mounted here, and so nothing of this is ever used.

func startDaemon(context.Context, *app) error { return errors.ErrUnsupported }

type waitingParent struct{}

func daemonParent(*app) (waitingParent, bool) { return waitingParent{}, false }

func (waitingParent) ready() {}

func mountSignals() (stats, hangup <-chan os.Signal, stop func()) { return nil, nil, func() {} }
