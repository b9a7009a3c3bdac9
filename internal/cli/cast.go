package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/internal/share"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/mld"
	"github.com/castorsync/castor/mcast/wire"
)

type castFlags struct {
	nameFlags
	stores     []string
	interfaces []string
	rate       string
	scope      string
	port       uint16
	key        string
	source     string
	always     bool
	listeners  string
	loss       float64
	mtu        int
	url        string
	noQuerier  bool
	advertise  bool
	v1         bool
	metrics    string

	opened sources // stores of what is offered
}

func newCast(a *app) *cobra.Command {
	var f castFlags
	cmd := &cobra.Command{
		Use:     "cast [flags] [INDEX…]",
		GroupID: groupServe,
		Short:   "Send indexes and their chunks by multicast to all who listen",
		Long: `Send the indexes, and the chunks they name, to every host that joins their multicast
groups. Nothing is sent as long as nobody listens: castor hears that from the
listener reports (MLD) on the link, so a firewall may close this host to everything
inbound. A thousand receivers cost what one does.

Receivers need nothing but the root of an index (castor root INDEX), from which all
groups follow, and join only those of the chunks that they lack.

Hearing reports needs the capability CAP_NET_RAW: run castor as root, or give it to
the program (setcap cap_net_raw+ep castor) or to its service
(AmbientCapabilities=CAP_NET_RAW). It is given up once the sockets are open. Without
it, --always sends round and round, and --listeners local serves this machine only.

With --name, receivers need not even know a root: the name is announced with the
root of its index. --sign signs what is announced, so that receivers who have the
public half of the key (--pubkey) believe nobody else. The version of a name is the
time at which its index was modified; a receiver with --follow takes greater ones.

--share sends files as they are on disk, without a store: a file under its name, and
all regular files below a directory, except stores (*.castr), under their paths from
there. Links are not followed. The files are looked at every 5 seconds, and indexed
again when they have changed; replace them in one step (by renaming) so that no half
of one is announced. What has changed since it was indexed is never sent. Memory
holds 44 bytes for each chunk of them. --share-tree sends a directory as one tree under
its name instead, with all metadata, to be extracted into a directory.

SIGHUP reads the indexes again, those of names too, and looks at shared files at once.`,
		Example: `  castor cast -i eth0 --rate 500M v1.caibx v2.caibx
  castor cast --name os/stable=v2.caibx --sign release.key
  castor cast --share /srv/images --share-tree /srv/root
  castor cast -s /mnt/store.castr --key lab.key image.caibx
  castor extract mcast://eth0/$(castor root v2.caibx) disk.img     # on the others`,
		Args: minArgs(0),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), a, args) },
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.stores, "store", "s", nil, "store that has the chunks; may be given several times (default: $CASTOR_STORE, else default.castr beside each index)")
	fl.StringArrayVarP(&f.interfaces, "interface", "i", nil, "network interface to send on; may be given several times (default: all that are up and capable)")
	fl.StringVar(&f.rate, "rate", "100M", "greatest rate on each interface, in bit/s")
	fl.StringVar(&f.scope, "scope", "site", "how far packets may go: link, site, org or global")
	fl.Uint16Var(&f.port, "port", mcast.DefaultPort, "UDP port")
	fl.StringVar(&f.key, "key", "", "file with the network key: packets are encrypted, and only who has it finds the groups")
	fl.StringVar(&f.source, "source", "", "address to send from, in source-specific groups; receivers name it in the URL (?source=)")
	fl.BoolVar(&f.always, "always", false, "send round and round, whether or not anybody listens")
	fl.StringVar(&f.listeners, "listeners", "mld", "how to learn who listens: mld (reports on the link) or local (this machine only)")
	fl.Float64Var(&f.loss, "loss-hint", 0, "part of the packets that is expected to be lost, in percent; it is learned anyway")
	fl.IntVar(&f.mtu, "mtu", 0, "size of the greatest packet, in bytes (default: that of the interface, at most 1500)")
	fl.StringVar(&f.url, "fallback", "", "URL of a store, announced to receivers")
	fl.BoolVar(&f.noQuerier, "no-querier", false, "never ask hosts what they listen to, even if no router does")
	fl.BoolVar(&f.advertise, "mrd", false, "advertise as a multicast router, for switches that forward reports to routers only")
	fl.BoolVar(&f.v1, "mld1", false, "also hear hosts that know only version 1 of MLD")
	fl.StringVar(&f.metrics, "metrics", "", "address at which to serve figures for Prometheus, as http://ADDR/metrics (example: localhost:9470)")
	f.addNames(cmd)
	cmd.AddCommand(newKeygen(a), newSignkey(a))
	return cmd
}

func (f *castFlags) run(ctx context.Context, a *app, args []string) error {
	lo, so, err := f.options()
	if err != nil {
		return err
	}
	so.Log = a.log
	names, signer, err := f.parse(args)
	if err != nil {
		return err
	}
	var shares *share.Share
	if len(f.shares)+len(f.trees) > 0 {
		if shares, err = share.New(f.shares, &share.Options{Log: a.log, Version: mcast.NextVersion, Trees: f.trees}); err != nil {
			return fmt.Errorf("--share: %w", err)
		}
	}
	if so.Key, err = readKey(f.key); err != nil {
		return err
	}
	links, closeLinks, err := f.open(lo)
	if err != nil {
		return err
	}
	defer closeLinks()
	if err := dropNetRaw(); err != nil {
		a.log.Warn("a capability that is not needed any more could not be given up", "error", err)
	}
	if a.Getenv("GOGC") == "" {
		debug.SetGCPercent(10) // what is held is large, and little is made anew
	}
	s := mcast.NewSender(links, &so)
	defer func() { f.opened.close() }()
	p := &publisher{a: a, sender: s, key: signer, warned: map[string]bool{}}
	if err := f.offer(a, p, args, names, false); err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f.metrics != "" {
		if err := serveMetrics(ctx, f.metrics, func(w http.ResponseWriter) { s.Status().WriteMetrics(w) }); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	rescan := make(chan struct{}, 1)
	if shares != nil {
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel(nil)
		wg.Go(func() { p.share(ctx, shares, rescan) })
	}
	a.meter.Start("cast", 0)
	defer a.meter.End()
	status := time.NewTicker(time.Second)
	defer status.Stop()
	for {
		select {
		case err := <-ended:
			st := s.Status()
			a.meter.Update(st.Bytes, 0, st.Fields())
			a.meter.End()
			a.say("sent %s in %s packets", units.Size(st.Bytes), units.Count(int(st.Packets)))
			return err
		case <-hup:
			select {
			case rescan <- struct{}{}:
			default:
			}
			if err := f.offer(a, p, args, names, true); err != nil {
				a.log.Warn("the indexes could not all be read again: what was sent before is sent on", "error", err)
			}
		case <-status.C:
			st := s.Status()
			a.meter.Update(st.Bytes, 0, st.Fields())
		}
	}
}

// options returns what the flags say of the links and of what is sent on them.
func (f *castFlags) options() (lo mcast.LinkOptions, so mcast.SendOptions, err error) {
	rate, err := units.ParseRate(f.rate)
	if err != nil {
		return lo, so, usagef("--rate: %w", err)
	}
	scope, err := wire.ParseScope(f.scope)
	if err != nil {
		return lo, so, usagef("--scope: %w", err)
	}
	if f.loss < 0 || f.loss >= 90 {
		return lo, so, usagef("--loss-hint %v: want percent, 0 to 90", f.loss)
	}
	lo = mcast.LinkOptions{Port: f.port, Scope: scope, NoQuerier: f.noQuerier, Advertise: f.advertise, MLDv1: f.v1}
	if f.source != "" {
		if lo.Source, err = netip.ParseAddr(f.source); err != nil {
			return lo, so, usagef("--source: %w", err)
		}
	}
	switch {
	case f.mtu != 0 && f.mtu < 1280:
		return lo, so, usagef("--mtu %d: want at least 1280, as every link of IPv6 has it", f.mtu)
	case f.listeners == "local":
		lo.Listeners = mcast.HearLocal
	case f.listeners != "mld":
		return lo, so, usagef("--listeners %q: want mld or local", f.listeners)
	case f.always:
		lo.Listeners = mcast.HearNone
	}
	so = mcast.SendOptions{
		Rate: rate / 8, Loss: f.loss / 100, Scope: scope, SSM: lo.Source.IsValid(),
		MTU: f.mtu, URL: f.url, Always: f.always,
	}
	return lo, so, nil
}

// open opens the interfaces.
func (f *castFlags) open(o mcast.LinkOptions) (links []mcast.SenderLink, closeAll func(), err error) {
	var open []*mcast.Link
	closeAll = func() {
		for _, l := range open {
			l.Close()
		}
	}
	names := f.interfaces
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		all, err := mcast.Interfaces(name)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		for _, ifi := range all {
			l, err := mcast.OpenLink(ifi, o)
			if err != nil {
				closeAll()
				if errors.Is(err, mld.ErrPermission) {
					return nil, nil, err
				}
				return nil, nil, fmt.Errorf("interface %s: %w", ifi.Name, err)
			}
			open = append(open, l)
			links = append(links, l)
		}
	}
	return links, closeAll, nil
}

// offer reads the indexes and offers them. Again, an index that cannot be read is an
// error that leaves the offers as they were.
func (f *castFlags) offer(a *app, p *publisher, args []string, names []named, again bool) error {
	all := make([]named, 0, len(args)+len(names))
	for _, loc := range args {
		all = append(all, named{loc: loc})
	}
	var offers []mcast.Offer
	var announced []wire.Name
	src := sources{stores: f.stores}
	defer func() { src.close() }()
	for _, n := range append(all, names...) {
		x, err := a.index(n.loc)
		if err != nil {
			return err
		}
		g, err := src.open(a, n.loc, x)
		if err != nil {
			return err
		}
		offers = append(offers, mcast.Offer{Index: x, Store: g})
		what := n.loc
		if n.name != "" {
			fi, err := os.Stat(n.loc) // behind reading it: too new a time does no harm
			if err != nil {
				return err
			}
			announced = append(announced, p.name(n.name, x.Root(), x.Size(), fi.ModTime()))
			what = n.name + ": " + what
		}
		if !again {
			a.say("%s: root %v, %s in %s", what, x.Root(), units.Size(x.Size()), units.Chunks(len(x.Entries)))
		}
	}
	if err := p.setIndexes(offers, announced); err != nil {
		return err
	}
	f.opened, src = src, f.opened // those of before are closed
	return nil
}

func newKeygen(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "keygen FILE",
		Short:   "Make a network key for multicast channels",
		Long:    "Write 128 random bytes to FILE, readable by its owner only. Give the file to the\nsender and to all receivers.",
		Example: "  castor cast keygen lab.key",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var k wire.Key
			rand.Read(k[:])
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = file.Write(k[:])
			if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
				os.Remove(args[0])
				return err
			}
			return nil
		},
	}
}
