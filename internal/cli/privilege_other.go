//go:build !linux

package cli

// dropNetRaw has nothing to give up here.
func dropNetRaw() error { return nil }
