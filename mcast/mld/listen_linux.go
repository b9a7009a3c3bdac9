package mld

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Listen hears the reports on an interface that is up and has IPv6. It needs the
// capability CAP_NET_RAW, until it returns: without, the error wraps
// [ErrPermission]. The caller must call [Listener.Run] soon, and Close.
//
// On a loopback interface it is the same as ListenLocal: there hosts ignore
// queries, so that reports would say when somebody joins, but not who still
// listens.
func Listen(ifi *net.Interface, o Options) (*Listener, error) {
	if ifi.Flags&net.FlagLoopback != 0 {
		return ListenLocal(ifi, o)
	}
	l := newListener(o)
	raw, err := listenRaw(ifi)
	if err != nil {
		return nil, listenError(ifi, err)
	}
	l.link = raw
	l.sources = append(l.sources, raw)
	if o.Packet {
		p, err := listenPacket(ifi)
		if err != nil {
			l.Close()
			return nil, listenError(ifi, err)
		}
		l.sources = append(l.sources, p)
	}
	return l, nil
}

func listenError(ifi *net.Interface, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return fmt.Errorf("listen for MLD on %s: %w", ifi.Name, err)
}

// ListenLocal tells only of the sockets of this machine, in our network namespace,
// and of the interface. It needs no capability: it looks at /proc/net/igmp6 five
// times a second. The Host of its events is the unspecified address; of Stats it
// fills in Groups, Hosts and Members only. If the interface goes, all leave.
func ListenLocal(ifi *net.Interface, o Options) (*Listener, error) {
	l := newListener(o)
	l.local = func() ([]netip.Addr, error) {
		igmp6, err := os.ReadFile("/proc/thread-self/net/igmp6")
		if err != nil {
			return nil, err
		}
		mcfilter6, err := os.ReadFile("/proc/thread-self/net/mcfilter6")
		if err != nil {
			return nil, err
		}
		return localGroups(igmp6, mcfilter6, ifi.Index, l.table.o.Source)
	}
	if _, err := l.local(); err != nil {
		return nil, fmt.Errorf("listen for members on %s: %w", ifi.Name, err)
	}
	return l, nil
}
