// Package service is the part of systemd's interface that a server needs: sockets
// that it is given, and telling how it is. It works where the environment says so and
// does nothing elsewhere.
package service

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// States for [Manager.Notify].
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
	watchdog = "WATCHDOG=1"
)

// Manager is whoever has started the process, as the environment tells of it.
type Manager struct {
	Getenv func(string) string
	PID    int // of this process
}

// mine reports whether what a variable announces is for this process: another
// variable names its process.
func (m Manager) mine(pid string) bool { return pid == strconv.Itoa(m.PID) }

// maxSockets bounds what the environment may say.
const maxSockets = 256

// sockets returns how many sockets the process was given.
func (m Manager) sockets() (int, error) {
	s := m.Getenv("LISTEN_FDS")
	if s == "" || !m.mine(m.Getenv("LISTEN_PID")) {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > maxSockets {
		return 0, fmt.Errorf("LISTEN_FDS=%q: want a number up to %d", s, maxSockets)
	}
	return n, nil
}

// Watch tells the manager twice in each of its watchdog intervals that the process
// lives, until ctx ends. It returns at once if there is no watchdog.
func (m Manager) Watch(ctx context.Context) {
	pid := m.Getenv("WATCHDOG_PID")
	usec, err := strconv.ParseInt(m.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec < 2 || usec > int64(24*time.Hour/time.Microsecond) || pid != "" && !m.mine(pid) {
		return
	}
	t := time.NewTicker(time.Duration(usec) * time.Microsecond / 2)
	defer t.Stop()
	for {
		m.Notify(watchdog) // if it is lost, the next one may not be
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
