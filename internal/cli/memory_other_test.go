//go:build !linux

package cli

import "errors"

const peakVariable = "CASTOR_TEST_PEAK"

func writePeak(string) error { return errors.ErrUnsupported }
