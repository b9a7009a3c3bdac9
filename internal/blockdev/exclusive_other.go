//go:build !linux

package blockdev

const exclusive = 0
