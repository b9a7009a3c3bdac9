package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/castorsync/castor/internal/service"
)

// listeners returns the sockets that the service manager gives, else those of --listen.
func (f *serveFlags) listeners(m service.Manager) ([]net.Listener, error) {
	all, err := m.Listeners()
	if err != nil || len(all) > 0 {
		return all, err
	}
	addrs := f.listen
	if len(addrs) == 0 {
		addrs = []string{serveDefault}
	}
	for _, addr := range addrs {
		l, err := listenOn(addr)
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("--listen: %w", err)
		}
		all = append(all, l)
	}
	return all, nil
}

// listenOn listens on HOST:PORT or unix:PATH. A socket that nobody listens on any more
// is replaced.
func listenOn(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("%s: somebody listens there", addr)
		}
		if refused(err) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return net.Listen("unix", path)
}
