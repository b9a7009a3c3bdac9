package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/udp"
	"github.com/castorsync/castor/mcast/wire"
)

func newDoctor(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: groupMaintain,
		Short:   "Find out why something does not work here",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDoctorMulticast(a))
	return cmd
}

type doctorFlags struct {
	iface string
	wait  time.Duration
	key   string
	json  bool
}

func newDoctorMulticast(a *app) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "mcast [flags] [ROOT]",
		Short: "Examine multicast on this machine and its links",
		Long: `Look at the network interfaces, whether listener reports can be heard and who asks
for them, whether packets come back from the own host, how large receive buffers may
be, and, given the root of an index, whether its channel is announced. Each finding
that matters comes with what to do about it.`,
		Example: `  castor doctor mcast
  castor doctor mcast -i eth0 $(castor root v2.caibx)`,
		Args: rangeArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := ""
			if len(args) > 0 {
				root = args[0]
			}
			return f.run(cmd.Context(), a, root)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.iface, "interface", "i", "", "network interface to examine (default: all)")
	fl.DurationVar(&f.wait, "wait", 3*time.Second, "how long to listen for a querier and for announcements")
	fl.StringVar(&f.key, "key", "", "file with the network key of the channel")
	fl.BoolVar(&f.json, "json", false, "print the findings as JSON")
	return cmd
}

// finding is one thing that the doctor looked at.
type finding struct {
	Interface string `json:"interface,omitempty"`
	What      string `json:"what"`
	State     string `json:"state"` // ok, note or fault
	Says      string `json:"says"`
	Do        string `json:"do,omitempty"`
}

// doctor collects findings.
type doctor struct {
	*app
	doctorFlags
	findings []finding
}

func (d *doctor) add(f finding) {
	d.findings = append(d.findings, f)
	if d.json {
		return
	}
	where := f.Interface
	if where != "" {
		where += ": "
	}
	fmt.Fprintf(d.Stdout, "%-5s  %s%s: %s\n", f.State, where, f.What, f.Says)
	if f.Do != "" {
		fmt.Fprintf(d.Stdout, "       %s\n", f.Do)
	}
}

func (f *doctorFlags) run(ctx context.Context, a *app, ref string) error {
	d := &doctor{app: a, doctorFlags: *f}
	key, err := readKey(f.key)
	if err != nil {
		return err
	}
	root := chunker.ID{}
	if ref != "" {
		m, err := location.ParseMulticast("mcast:///" + strings.TrimPrefix(ref, "mcast://"+f.iface+"/"))
		if err != nil || m.Root == root {
			return usagef("%q is not the root of an index: castor root INDEX prints it", ref)
		}
		root = m.Root
	}
	usable := d.interfaces()
	for _, ifi := range usable {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.reports(ctx, ifi)
		d.packets(ctx, ifi)
	}
	if root != (chunker.ID{}) && len(usable) > 0 {
		d.channel(ctx, usable, root, key)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f.json {
		if err := json.NewEncoder(a.Stdout).Encode(d.findings); err != nil {
			return err
		}
	}
	for _, n := range d.findings {
		if n.State == "fault" {
			return errors.New("multicast does not work here as it should, see above")
		}
	}
	return nil
}

// interfaces examines the interfaces and returns those that can be used.
func (d *doctor) interfaces() (usable []net.Interface) {
	all, err := net.Interfaces()
	if err != nil {
		d.add(finding{What: "interfaces", State: "fault", Says: err.Error()})
		return nil
	}
	good, err := udp.Usable()
	if err != nil {
		d.add(finding{What: "interfaces", State: "fault", Says: err.Error()})
		return nil
	}
	for _, ifi := range all {
		if d.iface != "" && ifi.Name != d.iface || d.iface == "" && ifi.Flags&net.FlagLoopback != 0 {
			continue
		}
		state, do := "note", ""
		var lacks []string
		if ifi.Flags&net.FlagUp == 0 {
			lacks, do = append(lacks, "is down"), "ip link set "+ifi.Name+" up"
		}
		if ifi.Flags&net.FlagMulticast == 0 {
			lacks = append(lacks, "is not capable of multicast (a tunnel?)")
		}
		fits := false
		for _, g := range good {
			fits = fits || g.Name == ifi.Name
		}
		if !fits && len(lacks) == 0 {
			lacks, do = append(lacks, "has no link-local IPv6 address"), "sysctl net.ipv6.conf."+ifi.Name+".disable_ipv6=0, and wait a moment"
		}
		if len(lacks) > 0 && !(d.iface != "" && ifi.Flags&net.FlagLoopback != 0) {
			if d.iface != "" {
				state = "fault"
			}
			d.add(finding{ifi.Name, "interface", state, strings.Join(lacks, " and "), do})
			continue
		}
		d.add(finding{ifi.Name, "interface", "ok", fmt.Sprintf("up, capable of multicast, packets of up to %d bytes", ifi.MTU), ""})
		usable = append(usable, ifi)
	}
	switch {
	case d.iface != "" && !slices.ContainsFunc(all, func(i net.Interface) bool { return i.Name == d.iface }):
		d.add(finding{Interface: d.iface, What: "interface", State: "fault", Says: "no interface " + d.iface, Do: "ip link lists those that there are"})
	case len(usable) == 0:
		d.add(finding{What: "interfaces", State: "fault", Says: "none can be used for multicast", Do: "cloud networks and most VPNs carry no multicast: use another store"})
	}
	return usable
}

// probe returns a random group of site scope that nobody else uses.
func probe() netip.Addr {
	a := [16]byte{0xff, 0x15}
	rand.Read(a[2:12])
	a[12] = 0x80
	rand.Read(a[13:])
	return netip.AddrFrom16(a)
}

// reports looks whether listener reports and queries can be heard.
func (d *doctor) reports(ctx context.Context, ifi net.Interface) {
	group := probe()
	l, err := mld.Listen(&ifi, mld.Options{
		Table:   mld.TableOptions{Wanted: func(g netip.Addr) bool { return g == group }},
		Querier: mld.QuerierOptions{Off: true},
	})
	if err != nil {
		do := ""
		if errors.Is(err, mld.ErrPermission) {
			do = "only needed for castor cast; a receiver needs no privileges"
		}
		d.add(finding{ifi.Name, "listener reports", "note", err.Error(), do})
		return
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	if r, err := udp.NewReceiver(&ifi, udp.ReceiverOptions{Port: mcast.DefaultPort}); err == nil {
		defer r.Close()
		if err := r.Join(group, netip.Addr{}); err != nil {
			d.add(finding{ifi.Name, "joining a group", "fault", err.Error(), ""})
		}
	}
	own := false
	l.Run(ctx, func(e mld.Event) { own = own || e.Joined })
	if own {
		d.add(finding{ifi.Name, "listener reports", "ok", "the report of this host was heard", ""})
	} else {
		d.add(finding{ifi.Name, "listener reports", "fault", "not even the report of this host was heard", "does a firewall on this host drop ICMPv6 type 143?"})
	}
	s := l.Stats()
	switch {
	case s.Querier.IsValid():
		d.add(finding{ifi.Name, "querier", "ok", fmt.Sprintf("%v asks every %v", s.Querier, s.Interval), ""})
	default:
		d.add(finding{ifi.Name, "querier", "note", fmt.Sprintf("none heard for %v; they ask only every two minutes or so", d.wait),
			"castor cast asks itself where nobody does; without a querier, switches that snoop may stop forwarding"})
	}
	if n := s.Hosts; n > 1 {
		d.add(finding{ifi.Name, "other hosts", "ok", units.Count(n-1) + " heard", ""})
	}
}

// packets looks whether packets come back, and how large buffers may be.
func (d *doctor) packets(ctx context.Context, ifi net.Interface) {
	fault := func(what string, err error) {
		d.add(finding{ifi.Name, what, "fault", err.Error(), ""})
	}
	r, err := udp.NewReceiver(&ifi, udp.ReceiverOptions{Port: mcast.DefaultPort})
	if err != nil {
		fault("receiving", err)
		return
	}
	defer r.Close()
	if n := r.BufferSize(); n < 4<<20 {
		d.add(finding{ifi.Name, "receive buffer", "note", "only " + units.Size(int64(n)), "sysctl -w net.core.rmem_max=8388608, or packets are lost above some 300 Mbit/s"})
	} else {
		d.add(finding{ifi.Name, "receive buffer", "ok", units.Size(int64(n)), ""})
	}
	s, err := udp.NewSender(&ifi, udp.SenderOptions{Port: mcast.DefaultPort, Hops: 1, Loopback: true})
	if err != nil {
		fault("sending", err)
		return
	}
	defer s.Close()
	group := probe()
	if err := r.Join(group, netip.Addr{}); err != nil {
		fault("joining a group", err)
		return
	}
	for range 5 { // one may be lost
		if err := s.Send(group, []byte("castor doctor"), 13); err != nil {
			fault("sending", err)
			return
		}
	}
	r.SetReadDeadline(time.Now().Add(time.Second))
	var p [1]udp.Packet
	if _, err := r.Read(p[:]); err != nil {
		d.add(finding{ifi.Name, "packets", "fault", "what this host sends does not come back to it: " + err.Error(), fmt.Sprintf("does a firewall on this host drop UDP port %d? A receiver must let it in", mcast.DefaultPort)})
		return
	}
	d.add(finding{ifi.Name, "packets", "ok", "what this host sends comes back to it", ""})
}

// channel looks whether the channel of root is announced.
func (d *doctor) channel(ctx context.Context, all []net.Interface, root chunker.ID, key *wire.Key) {
	for _, ifi := range all {
		t, err := mcast.OpenTap(ifi, 0)
		if err != nil {
			continue
		}
		defer t.Close()
		s, err := mcast.Dial(ctx, []mcast.ReceiverLink{t}, root, &mcast.ReceiveOptions{Key: key, Wait: d.wait})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			do := "is castor cast running on this link, with this index and this key, and may it hear listener reports (try it there with castor doctor mcast)?"
			d.add(finding{ifi.Name, "announcement", "fault", err.Error(), do})
			continue
		}
		n := s.Announced()
		s.Close()
		d.add(finding{ifi.Name, "announcement", "ok", fmt.Sprintf("%s, index of %s, %.0f Mbit/s, %d listeners", units.Chunks(n.Space.Chunks), units.Size(n.Space.IndexBytes), float64(n.Rate)/1e6, n.Listeners), ""})
	}
}
