package mcast

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/udp"
	"github.com/castorsync/castor/mcast/wire"
)

// DefaultPort is the UDP port of all channels. It is not registered.
const DefaultPort = 4470

// Listeners is how a sender learns who listens.
type Listeners uint8

const (
	HearMLD   Listeners = iota // by the reports on the link; needs CAP_NET_RAW
	HearLocal                  // only on this machine
	HearNone                   // not at all, see [SendOptions.Always]
)

// LinkOptions are the settings of a [Link].
type LinkOptions struct {
	Port      uint16     // 0: DefaultPort
	Scope     wire.Scope // 0: site
	Source    netip.Addr // of packets; valid means source-specific groups
	Listeners Listeners
	NoQuerier bool // never ask hosts what they listen to
	Advertise bool // as a multicast router, for strict switches
	MLDv1     bool // also hear reports of version 1
}

// Link is a network interface to send on.
type Link struct {
	ifi    net.Interface
	sender *udp.Sender
	mld    *mld.Listener // nil: nobody is heard
	wanted atomic.Pointer[func(netip.Addr) bool]
}

var _ SenderLink = (*Link)(nil)

// OpenLink opens an interface for sending. It needs its privileges, if any, no longer
// when it returns. An error that wraps [mld.ErrPermission] says that reports may not be
// heard.
func OpenLink(ifi net.Interface, o LinkOptions) (*Link, error) {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Scope == 0 {
		o.Scope = wire.SiteScope
	}
	l := &Link{ifi: ifi}
	var err error
	l.sender, err = udp.NewSender(&ifi, udp.SenderOptions{Port: o.Port, Hops: o.Scope.Hops(), Loopback: true, Source: o.Source})
	if err != nil {
		return nil, err
	}
	m := mld.Options{
		Table: mld.TableOptions{Source: o.Source, Wanted: func(g netip.Addr) bool {
			w := l.wanted.Load()
			return w != nil && (*w)(g)
		}},
		Querier: mld.QuerierOptions{Off: o.NoQuerier, Advertise: o.Advertise},
		Packet:  o.MLDv1,
	}
	switch o.Listeners {
	case HearMLD:
		l.mld, err = mld.Listen(&ifi, m)
	case HearLocal:
		l.mld, err = mld.ListenLocal(&ifi, m)
	}
	if err != nil {
		l.sender.Close()
		return nil, err
	}
	return l, nil
}

// Name returns the name of the interface.
func (l *Link) Name() string { return l.ifi.Name }

// MTU returns the size of the greatest packet in bytes.
func (l *Link) MTU() int { return l.ifi.MTU }

// Send implements [SenderLink].
func (l *Link) Send(group netip.Addr, b []byte, size int) error {
	return l.sender.Send(group, b, size)
}

// Listen implements [SenderLink].
func (l *Link) Listen(ctx context.Context, wanted func(netip.Addr) bool, event func(mld.Event)) error {
	if l.mld == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l.wanted.Store(&wanted)
	return l.mld.Run(ctx, event)
}

// SetActive implements [SenderLink].
func (l *Link) SetActive(active bool) {
	if l.mld != nil {
		l.mld.SetActive(active)
	}
}

// MLD returns what has been heard of listeners.
func (l *Link) MLD() (s mld.Stats, ok bool) {
	if l.mld == nil {
		return s, false
	}
	return l.mld.Stats(), true
}

// Close closes the link.
func (l *Link) Close() error {
	err := l.sender.Close()
	if l.mld != nil {
		err = errors.Join(err, l.mld.Close())
	}
	return err
}

// Tap is a network interface to receive from.
type Tap struct {
	*udp.Receiver
	name string
}

var _ ReceiverLink = (*Tap)(nil)

// OpenTap opens an interface for receiving; port 0 means DefaultPort.
func OpenTap(ifi net.Interface, port uint16) (*Tap, error) {
	if port == 0 {
		port = DefaultPort
	}
	r, err := udp.NewReceiver(&ifi, udp.ReceiverOptions{Port: port})
	if err != nil {
		return nil, err
	}
	return &Tap{r, ifi.Name}, nil
}

// Name returns the name of the interface.
func (t *Tap) Name() string { return t.name }

// Interfaces returns the interface with the given name, or for "" all that multicast
// can be tried on.
func Interfaces(name string) ([]net.Interface, error) {
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		return []net.Interface{*ifi}, nil
	}
	all, err := udp.Usable()
	if err == nil && len(all) == 0 {
		err = errors.New("no interface is up, capable of multicast and has an IPv6 address")
	}
	return all, err
}
