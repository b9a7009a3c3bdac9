package service

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// env is an environment.
type env map[string]string

func (e env) manager() Manager {
	return Manager{Getenv: func(k string) string { return e[k] }, PID: 42}
}

// socket returns a socket that hears states, and its name.
func socket(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return c, name
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 200)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotify(t *testing.T) {
	if err := (env{}).manager().Notify(Ready); err != nil {
		t.Errorf("nobody to tell: %v", err)
	}
	c, name := socket(t)
	m := env{"NOTIFY_SOCKET": name}.manager()
	for _, state := range []string{Ready, Reloading(), Stopping} {
		if err := m.Notify(state); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, c); got != state {
			t.Errorf("heard %q, want %q", got, state)
		}
	}
	if s := Reloading(); !strings.Contains(s, "\nMONOTONIC_USEC=") {
		t.Errorf("reloading: %q", s)
	}
	if err := (env{"NOTIFY_SOCKET": name + "x"}).manager().Notify(Ready); err == nil {
		t.Error("no socket there: no error")
	}
}

func TestWatch(t *testing.T) {
	c, name := socket(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		env{"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "42"}.manager().Watch(ctx)
	}()
	for range 3 {
		if got := receive(t, c); got != watchdog {
			t.Errorf("heard %q", got)
		}
	}
	cancel()
	<-done
	for _, e := range []env{{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "1"}, {"WATCHDOG_USEC": "99999999999999999"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}} {
		e.manager().Watch(t.Context()) // returns
	}
}

func TestSockets(t *testing.T) {
	for _, tt := range []struct {
		fds, pid string
		n        int
		ok       bool
	}{
		{"", "", 0, true}, {"2", "", 0, true}, {"2", "1", 0, true}, {"2", "42", 2, true}, {"0", "42", 0, true},
		{"x", "42", 0, false}, {"-1", "42", 0, false}, {"1000000", "42", 0, false},
	} {
		n, err := env{"LISTEN_FDS": tt.fds, "LISTEN_PID": tt.pid}.manager().sockets()
		if n != tt.n || (err == nil) != tt.ok {
			t.Errorf("%+v: %d, %v", tt, n, err)
		}
	}
}
