package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/service"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/httpstore"
)

type serveFlags struct {
	stores     []string
	cache      string
	listen     []string
	indexDir   string
	writable   bool
	tls        serveTLS
	tokens     tokenFile
	publicRead bool
	rate       string
	maxConns   int
	maxChunk   string
	level      int
	access     bool
}

// serveDefault is where castor serve listens if nobody says otherwise.
const serveDefault = "localhost:8080"

// drainTime is how long answers that are on their way have once the server is told to
// end.
const drainTime = 20 * time.Second

func newServe(a *app) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:     "serve [flags]",
		GroupID: groupServe,
		Short:   "Serve stores and indexes over HTTP",
		Long: `Serve the chunks of stores over HTTP or HTTPS, as a web server does that has a store
as its directory: castor, casync, desync, curl and caches between them can read it.
Chunks go as they are stored; one that is asked for in the other form, compressed or
plain, is converted. Indexes below --index-dir are served beside them, and the chunks
again as default.castr beside each, so that

  castor extract http://HOST:8080/v2.caibx disk.img

needs no word about the store.

The stores are asked in order. A single one passes through unchecked, as its clients
check what they get. With several, or with a cache, each chunk is verified first, so
that one that is damaged is taken from the next store; any number of clients that ask
for a chunk at the same time cost one request to a store.

Without --auth-token-file everybody who reaches the server may read, and with
--writable also write. Clients show a token as a bearer token or as the password of
basic authentication.

/healthz answers "ok", and /metrics has figures for Prometheus.

SIGTERM and SIGINT let answers that are on their way end, for up to 20 seconds; then
the exit code is 0. A second signal ends at once. SIGHUP reads the certificates and the
tokens again and nothing else; what is not right then changes nothing. Sockets from
systemd are served in place of --listen, and systemd is told what goes on.`,
		Example: `  castor serve -s /srv/default.castr --listen :8080
  castor serve --index-dir /srv/images --listen :443 --tls-cert c.pem --tls-key k.pem
  castor serve -s https://far.example/store -c /var/cache/castor.castr
  castor serve --index-dir . --writable --auth-token-file tokens --public-read`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), a) },
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.stores, "store", "s", nil, "store to serve; may be given several times, and they are asked in order (default: $CASTOR_STORE, else default.castr in the index directory, or here)")
	fl.StringVarP(&f.cache, "cache", "c", "", "local store that is asked first, and filled with what comes from the others")
	fl.StringArrayVar(&f.listen, "listen", nil, "address to listen on: HOST:PORT, :PORT or unix:PATH; may be given several times (default "+serveDefault+")")
	fl.StringVar(&f.indexDir, "index-dir", "", "directory with indexes to serve, and those in directories below it")
	fl.BoolVar(&f.writable, "writable", false, "take uploads: chunks for the first store, indexes for the index directory")
	fl.StringVar(&f.tls.cert, "tls-cert", "", "file with the server's certificate and those between it and its authority (PEM); serves HTTPS")
	fl.StringVar(&f.tls.key, "tls-key", "", "file with the key of the certificate (PEM)")
	fl.StringVar(&f.tls.clientCA, "client-ca", "", "file with authorities (PEM): each client must have a certificate of one of them")
	fl.StringVar(&f.tokens.name, "auth-token-file", "", "file with tokens, one a line: each request must show one")
	fl.BoolVar(&f.publicRead, "public-read", false, "ask for a token only for uploads")
	fl.StringVar(&f.rate, "rate", "", "greatest rate of all answers together, in bit/s, for example 500M (default: no limit)")
	fl.IntVar(&f.maxConns, "max-connections", 0, "greatest number of connections; beyond, idle ones are closed and new ones wait (default: 1024, or what the limit of open files allows)")
	fl.StringVar(&f.maxChunk, "max-chunk", "128M", "greatest size of a chunk")
	fl.IntVar(&f.level, "level", cacnk.DefaultLevel, "zstd level at which plain chunks are compressed")
	fl.BoolVar(&f.access, "access-log", false, "write a line for each request to stderr")
	return cmd
}

func (f *serveFlags) run(ctx context.Context, a *app) error {
	o, err := f.options(a)
	if err != nil {
		return err
	}
	if a.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // little is held
	}
	// What is open serves on while the server drains, when ctx has ended.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	src := &served{}
	defer src.close()
	if err := src.open(life, a, f, o); err != nil {
		return err
	}
	if f.maxConns == 0 {
		f.maxConns = defaultConnections()
	}
	gate := httpstore.NewGate(f.maxConns)
	o.Connections = gate.Open
	h, err := httpstore.NewHandler(*o)
	if err != nil {
		return fmt.Errorf("--index-dir: %w", err) // nothing else can fail here
	}
	defer h.Close()
	if err := f.reload(); err != nil {
		return err
	}
	manager := service.Manager{Getenv: a.Getenv, PID: os.Getpid()}
	listeners, err := f.listeners(manager)
	if err != nil {
		return err
	}
	srv := httpstore.Server(h, &httpstore.ServerOptions{Gate: gate, Log: a.log})
	defer srv.Close()
	return f.serve(ctx, a, srv, gate, listeners, manager)
}

// options checks the flags, and returns what they say of the handler.
func (f *serveFlags) options(a *app) (*httpstore.HandlerOptions, error) {
	if f.indexDir != "" { // before the store in it is missed
		if fi, err := os.Stat(f.indexDir); err != nil {
			return nil, fmt.Errorf("--index-dir: %w", &location.NotFoundError{What: "directory", Loc: f.indexDir, Err: err})
		} else if !fi.IsDir() {
			return nil, usagef("--index-dir %s: is not a directory", f.indexDir)
		}
	}
	o := &httpstore.HandlerOptions{Writable: f.writable, IndexDir: f.indexDir, PublicRead: f.publicRead, Level: f.level, Log: a.log}
	if _, err := cacnk.NewEncoder(f.level); err != nil {
		return nil, usagef("--level: %w", err)
	}
	if f.rate != "" {
		bits, err := units.ParseRate(f.rate)
		if err != nil {
			return nil, usagef("--rate: %w", err)
		}
		o.Rate = max(int64(bits/8), 1)
	}
	limit, err := units.ParseSize(f.maxChunk)
	if err != nil {
		return nil, usagef("--max-chunk: %w", err)
	}
	if limit < 1 || limit > chunker.MaxSize {
		return nil, usagef("--max-chunk %s: want up to %s", f.maxChunk, units.Size(chunker.MaxSize))
	}
	o.MaxChunk = int(limit)
	switch {
	case f.maxConns < 0:
		return nil, usagef("--max-connections %d: want at least 1", f.maxConns)
	case (f.tls.cert == "") != (f.tls.key == ""):
		return nil, usagef("--tls-cert and --tls-key go together")
	case f.tls.clientCA != "" && f.tls.cert == "":
		return nil, usagef("--client-ca needs --tls-cert and --tls-key")
	case f.publicRead && f.tokens.name == "":
		return nil, usagef("--public-read needs --auth-token-file")
	}
	if f.tokens.name != "" {
		o.Tokens = f.tokens.list
	}
	if f.access {
		o.Access = slog.New(slog.NewTextHandler(a.Stderr, nil)) // with the time
	}
	return o, nil
}

// reload reads the files that may change while the server runs. Each that is not right
// stays as it was.
func (f *serveFlags) reload() error { return errors.Join(f.tls.load(), f.tokens.load()) }

// serve serves until ctx ends, and then drains.
func (f *serveFlags) serve(ctx context.Context, a *app, srv *http.Server, gate *httpstore.Gate, listeners []net.Listener, m service.Manager) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	f.announce(a, listeners)
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		l = f.tls.listener(gate.Listener(l))
		go func() { ended <- srv.Serve(l) }()
	}
	watch, stopWatch := context.WithCancel(context.Background())
	defer stopWatch()
	go m.Watch(watch)
	notify := func(state string) {
		if err := m.Notify(state); err != nil {
			a.log.Warn("systemd could not be told", "error", err)
		}
	}
	notify(service.Ready)
	for {
		select {
		case err := <-ended:
			return fmt.Errorf("serve: %w", err)
		case <-hup:
			notify(service.Reloading())
			if err := f.reload(); err != nil {
				a.log.Warn("not everything could be read again: what was read before stays", "error", err)
			} else {
				a.log.Info("certificates and tokens were read again")
			}
			notify(service.Ready)
		case <-ctx.Done():
			notify(service.Stopping)
			return drain(ctx, a, srv)
		}
	}
}

// drain ends the server when what it was asked for is answered, or after drainTime.
func drain(ctx context.Context, a *app, srv *http.Server) error {
	a.say("ending: answers on their way have %s", units.Duration(drainTime))
	limit, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := srv.Shutdown(limit); err != nil {
		a.log.Warn("answers were cut off", "error", err)
		return context.Cause(ctx)
	}
	return nil
}

// announce tells how to get what is served.
func (f *serveFlags) announce(a *app, listeners []net.Listener) {
	for _, l := range listeners {
		if l.Addr().Network() == "unix" {
			a.say("serving at unix:%s", l.Addr())
			continue
		}
		url := f.url(l.Addr())
		a.say("serving at %s", url)
		if name := f.anIndex(); name != "" {
			a.say("  castor extract %s%s %s", url, name, strings.TrimSuffix(name, filepath.Ext(name)))
		} else {
			a.say("  castor extract -s %s INDEX FILE", url)
		}
	}
	if f.writable && f.tokens.name == "" && f.tls.clientCA == "" {
		a.log.Warn("everybody who reaches this server may write to it: see --auth-token-file")
	}
}

// url returns the URL at which a listener is reached, with a slash at the end.
func (f *serveFlags) url(addr net.Addr) string {
	scheme := "http"
	if f.tls.cert != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return fmt.Sprintf("%s://%s/", scheme, addr)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "localhost"
		}
	}
	return fmt.Sprintf("%s://%s/", scheme, net.JoinHostPort(host, port))
}

// anIndex returns the name of an index that is served, "" if there is none. It must be
// one that needs no quoting.
func (f *serveFlags) anIndex() string {
	if f.indexDir == "" {
		return ""
	}
	names, _ := filepath.Glob(filepath.Join(f.indexDir, "*.caibx")) // a bad pattern matches nothing
	for _, name := range names {
		if name = filepath.Base(name); !strings.HasPrefix(name, ".") && strings.Trim(name, plainName) == "" {
			return name
		}
	}
	return ""
}

// plainName are characters that neither shells nor URLs treat specially.
const plainName = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// served is what chunks are served from.
type served struct{ closers []io.Closer }

// open opens the stores and the cache, and puts them into o.
func (s *served) open(ctx context.Context, a *app, f *serveFlags, o *httpstore.HandlerOptions) error {
	named := f.stores
	if env := a.Getenv("CASTOR_STORE"); len(named) == 0 && env != "" {
		named = []string{env}
	}
	if len(named) == 0 {
		named = []string{filepath.Join(f.indexDir, "default.castr")}
	}
	var all []store.Getter
	for i, name := range named {
		g, err := s.openStore(ctx, a, name, o, f.writable && i == 0)
		if err != nil {
			return err
		}
		all = append(all, g)
	}
	if f.writable {
		o.Sink = all[0].(store.Store)
	}
	o.Source = all[0]
	verifier := &store.Verifier{Limit: o.MaxChunk}
	if len(all) > 1 || f.cache != "" {
		o.Source = &store.Union{Sources: all, Verifier: verifier, Log: a.log}
	}
	if f.cache != "" {
		local, err := a.openCache(f.cache, false)
		if err != nil {
			return fmt.Errorf("--cache: %w", err)
		}
		s.closers = append(s.closers, local)
		o.Source = &store.Cache{Local: local, Source: o.Source, Verifier: verifier, Log: a.log}
	}
	return nil
}

// openStore opens a store for reading; as a store.Store if it is also for writing.
func (s *served) openStore(ctx context.Context, a *app, name string, o *httpstore.HandlerOptions, writable bool) (store.Getter, error) {
	if location.IsMulticast(name) {
		return nil, usagef("%s: a multicast channel cannot be asked for single chunks, so it cannot be served; castor cache fills a store from it", name)
	}
	if writable {
		d, err := a.places.Store(ctx, name, &location.StoreOptions{Create: true, Durable: true, Level: o.Level, MaxChunk: o.MaxChunk})
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, d)
		return d, nil
	}
	g, err := a.places.Source(ctx, name, o.MaxChunk)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, g)
	return g, nil
}

func (s *served) close() {
	for _, c := range s.closers {
		c.Close()
	}
}
