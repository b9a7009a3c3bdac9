package location

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/wire"
)

// Multicast is what a multicast URL says:
//
//	mcast://[INTERFACE][/ROOT|/NAME][?scope=S&port=N&source=ADDR]
//
// In a name, ?, % and what else has a meaning in URLs may be written as %XX.
type Multicast struct {
	Loc       string
	Interface string     // "": every one that can be used
	Root      chunker.ID // zero: none, or a name
	Name      string
	Scope     wire.Scope // 0: not said
	Port      uint16     // 0: not said
	From      netip.Addr // the sender, with source-specific groups; invalid: any
}

// multicastScheme begins a multicast URL.
const multicastScheme = "mcast://"

// IsMulticast reports whether loc is a multicast URL.
func IsMulticast(loc string) bool { return strings.HasPrefix(loc, multicastScheme) }

// ParseMulticast parses a multicast URL.
func ParseMulticast(loc string) (Multicast, error) {
	m := Multicast{Loc: loc}
	fail := func(format string, args ...any) (Multicast, error) {
		return m, fmt.Errorf("%s: %w", loc, fmt.Errorf(format, args...))
	}
	rest, ok := strings.CutPrefix(loc, multicastScheme)
	if !ok {
		return fail("no multicast URL")
	}
	rest, query, _ := strings.Cut(rest, "?")
	m.Interface, m.Name, _ = strings.Cut(rest, "/")
	name, err := url.PathUnescape(m.Name)
	if err != nil {
		return fail("%w", err)
	}
	m.Name = name
	if b, err := hex.DecodeString(m.Name); err == nil && len(b) == len(m.Root) {
		m.Root, m.Name = chunker.ID(b), ""
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return fail("%w", err)
	}
	for key, v := range values {
		var err error
		switch key {
		case "scope":
			m.Scope, err = wire.ParseScope(v[0])
		case "port":
			var n uint64
			n, err = strconv.ParseUint(v[0], 10, 16)
			m.Port = uint16(n)
		case "source":
			m.From, err = netip.ParseAddr(v[0])
		default:
			err = fmt.Errorf("parameter %q: want scope, port or source", key)
		}
		if err != nil {
			return fail("%w", err)
		}
	}
	return m, nil
}

// Taps opens the interfaces for receiving.
func (m Multicast) Taps() ([]mcast.ReceiverLink, error) {
	all, err := mcast.Interfaces(m.Interface)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Loc, err)
	}
	var links []mcast.ReceiverLink
	for _, ifi := range all {
		t, terr := mcast.OpenTap(ifi, m.Port)
		if terr != nil {
			err = fmt.Errorf("%s: interface %s: %w", m.Loc, ifi.Name, terr)
			continue
		}
		links = append(links, t)
	}
	if len(links) == 0 {
		return nil, err
	}
	return links, nil
}

// Source returns the channel of root, which need not be in the URL, as a source of
// chunks. The caller closes it.
func (m Multicast) Source(root chunker.ID, key *wire.Key) (*mcast.Source, error) {
	links, err := m.Taps()
	if err != nil {
		return nil, err
	}
	return &mcast.Source{
		Loc: m.Loc, Root: root, Links: links,
		Options: mcast.ReceiveOptions{Key: key, Scope: m.Scope, Source: m.From},
	}, nil
}
