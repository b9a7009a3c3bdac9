package testns

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/castorsync/castor/internal/testneed"
)

// Namespace is a network namespace. It lives until the end of its test, and then
// as long as there are sockets or processes in it. Its methods are safe for
// concurrent use; those that return no error end the test if they fail, and like
// [testing.T.FailNow] must then be called by the test's goroutine.
type Namespace struct {
	t    testing.TB
	file *os.File // of /proc/PID/task/TID/ns/net
}

// New makes a network namespace in which lo is up and everything else is missing.
func New(t testing.TB) *Namespace {
	t.Helper()
	if !inside() {
		missing(t, outside)
	}
	for _, tool := range []string{"ip", "bridge", "nsenter"} {
		testneed.Tool(t, tool)
	}
	file, err := newNet()
	if err != nil {
		t.Fatalf("testns: network namespace: %v", err)
	}
	t.Cleanup(func() { file.Close() })
	n := &Namespace{t, file}
	n.Exec("ip", "link", "set", "lo", "up")
	return n
}

// newNet makes a network namespace.
func newNet() (file *os.File, err error) {
	err = keepNet(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}

// keepNet runs f, which may change the thread's network namespace, on a thread
// that has its old one afterwards.
func keepNet(f func() error) error {
	old, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer old.Close()
	runtime.LockOSThread()
	defer func() {
		// A thread that cannot come back stays locked: it ends with the goroutine.
		if unix.Setns(int(old.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Do calls f on a thread in the namespace, on the caller's goroutine. Sockets
// that f opens belong to the namespace for good and may be used anywhere;
// goroutines that f starts run outside. Calls may be nested and concurrent.
func (n *Namespace) Do(f func()) {
	n.t.Helper()
	err := keepNet(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		f()
		return nil
	})
	if err != nil {
		n.t.Fatalf("testns: enter the namespace: %v", err)
	}
}

// Command returns a command that runs in the namespace. /sys is not the
// namespace's there, /proc/net and /proc/sys/net are.
func (n *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + n.path(), "--", name}, args...)...)
}

// path is where other processes find the namespace.
func (n *Namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Exec runs a command in the namespace, and returns what it prints. The test
// ends if it fails.
func (n *Namespace) Exec(name string, args ...string) string {
	n.t.Helper()
	return run(n.t, n.Command(name, args...))
}

func run(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("testns: %s: %v\n%s%s", strings.Join(cmd.Args, " "), err, &errs, &out)
	}
	return out.String()
}

// Interface returns the network interface called name.
func (n *Namespace) Interface(name string) *net.Interface {
	n.t.Helper()
	var ifi *net.Interface
	var err error
	n.Do(func() { ifi, err = net.InterfaceByName(name) })
	if err != nil {
		n.t.Fatalf("testns: interface %s: %v", name, err)
	}
	return ifi
}

// Groups returns the IPv6 multicast groups that the interface called name is
// member of, each with the number of joins.
func (n *Namespace) Groups(name string) map[netip.Addr]int {
	n.t.Helper()
	groups := map[netip.Addr]int{}
	// Fields: index, name, address in hex, joins, flags, timer.
	n.fields("/proc/thread-self/net/igmp6", func(f []string) error {
		if len(f) < 4 || f[1] != name {
			return nil
		}
		b, err := hex.DecodeString(f[2])
		if err != nil {
			return err
		}
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return fmt.Errorf("address of %d bytes", len(b))
		}
		var joins int
		_, err = fmt.Sscan(f[3], &joins)
		groups[addr] = joins
		return err
	})
	return groups
}

// Counters are what has passed through an interface.
type Counters struct{ Bytes, Packets int64 }

// Sub returns what has passed since c was old.
func (c Counters) Sub(old Counters) Counters {
	return Counters{c.Bytes - old.Bytes, c.Packets - old.Packets}
}

// Sent returns what the interface called name has sent, with Ethernet headers. A
// veth counts a run of packets that was sent with UDP_SEGMENT as one packet with
// one header.
func (n *Namespace) Sent(name string) Counters {
	n.t.Helper()
	var c Counters
	// Fields: "name:", then 8 columns of what was received, of which the first
	// two are bytes and packets, then those of what was sent.
	n.fields("/proc/thread-self/net/dev", func(f []string) error {
		if f[0] != name+":" {
			return nil
		}
		if len(f) < 11 {
			return fmt.Errorf("%d fields", len(f))
		}
		_, err := fmt.Sscan(f[9]+" "+f[10], &c.Bytes, &c.Packets)
		return err
	})
	return c
}

// fields calls f with the fields of each line of a file of the namespace that
// has any.
func (n *Namespace) fields(path string, f func(fields []string) error) {
	n.t.Helper()
	var err error
	n.Do(func() {
		var file *os.File
		if file, err = os.Open(path); err != nil {
			return
		}
		defer file.Close()
		s := bufio.NewScanner(file)
		for s.Scan() && err == nil {
			if fields := strings.Fields(s.Text()); len(fields) > 0 {
				err = f(fields)
			}
		}
		if err == nil {
			err = s.Err()
		}
	})
	if err != nil {
		n.t.Fatalf("testns: %s: %v", path, err)
	}
}
