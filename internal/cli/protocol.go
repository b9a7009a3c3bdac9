package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/remote"
)

func newPull(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "pull -|'' ARCHIVE|- INDEX|- STORE|- [STORE…]",
		GroupID: groupServe,
		Short:   "Be the far side of casync's protocol for a client that reads",
		Long: `Speak casync's protocol on stdin and stdout to a client that reads an archive, an index
or the chunks of stores here: what casync and castor start through ssh on the host of
an ssh:// URL. The arguments are in casync's order; - or an empty one stands for what is
not offered, and the first is always that.

To let castor be started in place of casync, set CASYNC_REMOTE_PATH to castor on the
client, or remote-command in castor's configuration. To allow a key no more than to read
one store, put the command into authorized_keys on the server:

  restrict,command="castor pull - - - /srv/default.castr" ssh-ed25519 …`,
		Example: "  castor pull - - /srv/v1.caibx /srv/default.castr",
		Args:    rangeArgs(3, 1<<30),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.speak(cmd.Context(), args, a.offer)
		},
	}
}

func newPush(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "push -|'' ARCHIVE|- INDEX|- STORE|-",
		GroupID: groupServe,
		Short:   "Be the far side of casync's protocol for a client that writes",
		Long: `Speak casync's protocol on stdin and stdout to a client that writes an archive, or
an index and its chunks, here. Chunks are verified, and the index appears when all its
chunks are in the store, for good. See castor pull.`,
		Example: "  castor push - - /srv/v1.caibx /srv/default.castr",
		Args:    rangeArgs(3, 4),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.speak(cmd.Context(), args, a.take)
		},
	}
}

// speak serves one client on stdin and stdout.
func (a *app) speak(ctx context.Context, args []string, offer func(*remote.ServerOptions, []string) ([]io.Closer, error)) error {
	for i, arg := range args {
		if arg == "-" {
			args[i] = ""
		}
	}
	if args[0] != "" {
		return usagef("%s: directories and devices are not served, only archives, indexes and stores", args[0])
	}
	o := &remote.ServerOptions{Log: a.log}
	closers, err := offer(o, args)
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	if err != nil {
		return err
	}
	return remote.Serve(ctx, a.Stdin, a.Stdout, o)
}

// offer opens what a client may read.
func (a *app) offer(o *remote.ServerOptions, args []string) (closers []io.Closer, err error) {
	open := func(loc string) func(context.Context) (io.ReadCloser, error) {
		if loc == "" {
			return nil
		}
		return func(ctx context.Context) (io.ReadCloser, error) { return a.places.OpenIndex(ctx, loc, a.Stdin) }
	}
	o.Archive, o.Index = open(args[1]), open(args[2])
	var stores []store.Getter
	for _, loc := range args[3:] {
		if loc == "" {
			continue
		}
		s, err := a.places.Source(a.ctx, loc, chunker.MaxSize)
		if err != nil {
			return closers, err
		}
		closers = append(closers, s)
		stores = append(stores, s)
	}
	switch len(stores) {
	case 0:
	case 1:
		o.Source = stores[0] // the client verifies
	default:
		o.Source = &store.Union{Sources: stores, Verifier: &store.Verifier{Limit: chunker.MaxSize}, Log: a.log}
	}
	if o.Source == nil && o.Index == nil && o.Archive == nil {
		return closers, usagef("nothing to pull: name an archive, an index or a store")
	}
	return closers, nil
}

// take makes ready what a client may write.
func (a *app) take(o *remote.ServerOptions, args []string) (closers []io.Closer, err error) {
	create := func(loc string) func(context.Context) (remote.Upload, error) {
		if loc == "" {
			return nil
		}
		return func(context.Context) (remote.Upload, error) {
			if location.KindOf(loc) != location.Directory {
				return nil, errors.ErrUnsupported
			}
			f, err := atomicfile.Create(loc, false)
			if err != nil {
				return nil, err
			}
			return f, nil
		}
	}
	o.PutArchive, o.PutIndex = create(args[1]), create(args[2])
	if len(args) > 3 && args[3] != "" {
		s, err := a.places.Store(a.ctx, args[3], &location.StoreOptions{Create: true, Durable: true})
		if err != nil {
			return nil, err
		}
		closers = append(closers, s)
		o.Sink = s
	}
	if o.Sink == nil && o.PutIndex == nil && o.PutArchive == nil {
		return closers, usagef("nothing to push: name an archive, an index or a store")
	}
	return closers, nil
}
