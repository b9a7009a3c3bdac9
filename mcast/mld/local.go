package mld

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// localEvery is how often a local Listener looks. The kernel doesn't tell of
// changes without a capability.
const localEvery = 200 * time.Millisecond

// followLocal is Run of a Listener that asks this machine only.
func (l *Listener) followLocal(ctx context.Context, event func(Event)) error {
	tick := time.NewTicker(localEvery)
	defer tick.Stop()
	joined := map[netip.Addr]bool{}
	for {
		groups, err := l.local()
		if err != nil {
			return err
		}
		now := make(map[netip.Addr]bool, len(groups))
		for _, g := range groups {
			now[g] = l.table.o.Wanted == nil || l.table.o.Wanted(g)
		}
		for g := range joined {
			if !now[g] {
				delete(joined, g)
				event(Event{Group: g, Host: netip.IPv6Unspecified()})
			}
		}
		for g, wanted := range now {
			if wanted && !joined[g] {
				joined[g] = true
				event(Event{Group: g, Host: netip.IPv6Unspecified(), Joined: true})
			}
		}
		l.setLocalStats(len(joined))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.closed:
			return os.ErrClosed
		case <-tick.C:
		}
	}
}

func (l *Listener) setLocalStats(groups int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Groups, l.stats.Members, l.stats.Hosts = groups, groups, min(groups, 1)
}

// localGroups returns the groups that sockets of this machine have joined on the
// interface, from the contents of /proc/net/igmp6 and /proc/net/mcfilter6. Groups
// joined for other sources than source only are not among them.
func localGroups(igmp6, mcfilter6 []byte, index int, source netip.Addr) ([]netip.Addr, error) {
	filters, err := parseFilters(mcfilter6, index)
	if err != nil {
		return nil, fmt.Errorf("mcfilter6: %w", err)
	}
	var groups []netip.Addr
	for line := range bytes.Lines(igmp6) {
		// index name group users flags timer
		f := bytes.Fields(line)
		if len(f) < 4 {
			return nil, fmt.Errorf("igmp6: %w: %q", errFormat, line)
		}
		if string(f[0]) != strconv.Itoa(index) {
			continue
		}
		group, err := parseHexAddr(f[2])
		if err != nil {
			return nil, fmt.Errorf("igmp6: %w", err)
		}
		users, err := strconv.ParseUint(string(f[3]), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("igmp6: %w", err)
		}
		if filters[group].admits(users, source) {
			groups = append(groups, group)
		}
	}
	return groups, nil
}

// filters says, for the sources of a group that some socket names, how many
// sockets include and how many exclude it.
type filters map[netip.Addr]struct{ includes, excludes uint64 }

// admits reports whether one of so many sockets takes what source sends. Each of
// them either includes one source at least, so that with more sockets than any
// source has, some socket must exclude; or excludes, which it does to few or none.
func (f filters) admits(users uint64, source netip.Addr) bool {
	ours := f[source]
	var most uint64
	for _, n := range f {
		most = max(most, n.includes)
	}
	return ours.includes > 0 || users > most && users > ours.excludes
}

func parseFilters(mcfilter6 []byte, index int) (map[netip.Addr]filters, error) {
	m := map[netip.Addr]filters{}
	for line := range bytes.Lines(mcfilter6) {
		// index name group source includes excludes, below a headline
		f := bytes.Fields(line)
		if len(f) > 0 && string(f[0]) == "Idx" {
			continue
		}
		if len(f) < 6 {
			return nil, fmt.Errorf("%w: %q", errFormat, line)
		}
		if string(f[0]) != strconv.Itoa(index) {
			continue
		}
		group, err := parseHexAddr(f[2])
		if err != nil {
			return nil, err
		}
		source, err := parseHexAddr(f[3])
		if err != nil {
			return nil, err
		}
		includes, err := strconv.ParseUint(string(f[4]), 10, 32)
		if err != nil {
			return nil, err
		}
		excludes, err := strconv.ParseUint(string(f[5]), 10, 32)
		if err != nil {
			return nil, err
		}
		if m[group] == nil {
			m[group] = filters{}
		}
		m[group][source] = struct{ includes, excludes uint64 }{includes, excludes}
	}
	return m, nil
}

// errFormat is the error of a line that is not as Linux writes it.
var errFormat = fmt.Errorf("unknown format")

// parseHexAddr parses 32 hexadecimal digits.
func parseHexAddr(b []byte) (netip.Addr, error) {
	var a [16]byte
	if len(b) != 32 {
		return netip.Addr{}, fmt.Errorf("%w: address %q", errFormat, b)
	}
	if _, err := hex.Decode(a[:], b); err != nil {
		return netip.Addr{}, fmt.Errorf("address %q: %w", b, err)
	}
	return netip.AddrFrom16(a), nil
}
