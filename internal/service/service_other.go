//go:build !linux

package service

import "net"

// Listeners returns no sockets: only Linux has systemd.
func (m Manager) Listeners() ([]net.Listener, error) { return nil, nil }

// Notify does nothing: only Linux has systemd.
func (m Manager) Notify(string) error { return nil }

// Reloading returns the state of a process that begins to read its settings again.
func Reloading() string { return "RELOADING=1" }
