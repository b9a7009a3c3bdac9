package service

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// firstSocket is the descriptor of the first socket that is given.
const firstSocket = 3

// Listeners returns the sockets that the process was given to accept connections from.
// It may be called once.
func (m Manager) Listeners() ([]net.Listener, error) {
	n, err := m.sockets()
	if err != nil {
		return nil, err
	}
	for fd := firstSocket; fd < firstSocket+n; fd++ {
		unix.CloseOnExec(fd)
	}
	var all []net.Listener
	for fd := firstSocket; fd < firstSocket+n; fd++ {
		f := os.NewFile(uintptr(fd), fmt.Sprintf("socket %d", fd))
		l, lerr := net.FileListener(f) // has a descriptor of its own
		f.Close()
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("socket %d that was given: %w", fd, lerr))
			continue
		}
		all = append(all, l)
	}
	if err != nil {
		for _, l := range all {
			l.Close()
		}
		return nil, err
	}
	return all, nil
}

// Notify tells the manager a state, if it wants to know.
func (m Manager) Notify(state string) error {
	name := m.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: name}) // @ begins an abstract name, here as there
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}

// Reloading returns the state of a process that begins to read its settings again. It
// ends with [Ready].
func Reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
