package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/fuse"
	"github.com/castorsync/castor/index/blob"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/service"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/store"
)

type mountFlags struct {
	treeSource
	prefetch   int
	cacheSize  string
	image      string
	fill       bool
	pass       bool
	allowOther bool
	foreground bool
	daemon     bool
	options    []string

	blob *blob.Blob  // nil if an archive is mounted as it is
	keep *blob.Image // nil without --copy-on-read
}

func newMount(a *app) *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:     "mount [flags] X MOUNTPOINT",
		GroupID: groupGet,
		Short:   "Mount an index or an archive, without extracting it",
		Long: `Mount X at an empty directory: an index of a file (.caibx) as that file, under the name
of the index without its suffix; an archive (.catar), or the index of one (.caidx), as
the tree of files in it. Chunks are got when they are read, and nothing can be written.

The mount is served until castor unmount, SIGTERM, SIGINT or SIGHUP ends it. While files
in it are in use that waits for them; a second signal ends it at once. With --daemon the
command returns when the mount can be used.

With --copy-on-read what is read is kept in FILE, as it is in the content, and taken
from there the next time; when FILE is complete no store is asked any more.
FILE.castor-map says what it has. What is read from FILE is verified each time. With
--passthrough, once FILE is complete, all of it is verified before it is mounted, and
the kernel then reads it by itself: that is faster, and damage to FILE that comes later
is not noticed. It takes root; where the kernel refuses, reads are as without it.

SIGUSR1 writes statistics as JSON to stderr. They are also the extended attribute
user.castor.stats of the mount point.

Root mounts by itself, others with fusermount3. docs/mount.md has more, fstab and
systemd among it.`,
		Example: `  castor mount v1.caibx /mnt && mount -o ro,loop /mnt/v1 /media
  castor mount -s https://example.com/store -c ~/.cache/castor.castr home.caidx /mnt
  castor mount --daemon --copy-on-read disk.img --fill https://example.com/v1.caibx /mnt
  castor mount --copy-on-read disk.img --fill --passthrough v1.caibx /mnt`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.parseOptions(cmd); err != nil {
				return err
			}
			if slices.Contains(f.options, "rw") && !f.daemon { // mount(8) says rw where nobody said ro
				a.log.Warn("-o rw: what castor mounts can only be read")
			}
			return f.run(cmd.Context(), a, args[0], args[1])
		},
	}
	f.addStores(cmd)
	f.addPubkey(cmd)
	fl := cmd.Flags()
	fl.IntVar(&f.prefetch, "prefetch", 16, "chunks to get ahead of a reader that goes forward")
	fl.StringVar(&f.cacheSize, "cache-size", "64M", "memory for chunks, in bytes")
	fl.StringVar(&f.image, "copy-on-read", "", "file to keep what is read in")
	fl.BoolVar(&f.fill, "fill", false, "complete the file of --copy-on-read in the background")
	fl.BoolVar(&f.pass, "passthrough", false, "let the kernel read the file of --copy-on-read by itself, if it is complete and right")
	fl.BoolVar(&f.allowOther, "allow-other", false, "let other users use the mount, as far as permissions in it allow")
	fl.BoolVar(&f.daemon, "daemon", false, "return once it is mounted; what happens then is logged to syslog")
	fl.BoolVar(&f.foreground, "foreground", false, "return when it is unmounted (the default)")
	fl.StringArrayVarP(&f.options, "options", "o", nil, "options as mount(8) has them, separated by commas; also flags of this command, as in store=URL")
	cmd.MarkFlagsMutuallyExclusive("daemon", "foreground")
	return cmd
}

func newUnmount(a *app) *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:     "unmount [flags] MOUNTPOINT",
		GroupID: groupGet,
		Short:   "Unmount what castor mount has mounted",
		Long: `Unmount what castor mount has mounted at MOUNTPOINT; whatever serves it ends then. A
mount whose process was killed is removed, too.`,
		Example: `  castor unmount /mnt`,
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			err := fuse.Unmount(args[0], lazy)
			if errors.Is(err, fuse.ErrBusy) {
				return fmt.Errorf("%w: fuser -vm %s shows by whom; --lazy takes it from sight at once", err, args[0])
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "l", false, "take it from sight even if files in it are in use; it ends with their last user")
	return cmd
}

// helperArgs returns the arguments for castor. Mount(8) knows no commands: for
// mount -t fuse.castor X DIR it has "castor X DIR -o OPTIONS" run.
func helperArgs(root *cobra.Command, args []string) []string {
	if len(args) != 4 || args[2] != "-o" || strings.HasPrefix(args[0], "-") {
		return args
	}
	if cmd, _, err := root.Find(args[:1]); err == nil && cmd != root {
		return args
	}
	return []string{"mount", "--daemon", "-o", args[3], "--", args[0], args[1]}
}

// optionFlags are the flags that may stand among the options of -o.
var optionFlags = map[string]bool{
	"store": true, "cache": true, "key": true, "pubkey": true,
	"prefetch": true, "cache-size": true, "copy-on-read": true, "fill": true, "passthrough": true,
}

// ignoredOptions are for mount(8) itself and for systemd.
var ignoredOptions = map[string]bool{
	"defaults": true, "auto": true, "noauto": true, "user": true, "nouser": true, "users": true, "nousers": true,
	"owner": true, "group": true, "nofail": true, "_netdev": true, "default_permissions": true,
}

// parseOptions applies the options of -o, and leaves in f.options the flags of mounts.
func (f *mountFlags) parseOptions(cmd *cobra.Command) error {
	all := f.options
	f.options = nil
	for _, list := range all {
		for _, o := range splitOptions(list) {
			name, value, has := strings.Cut(o, "=")
			switch {
			case o == "" || ignoredOptions[o] || strings.HasPrefix(o, "x-") || name == "comment":
			case o == "allow_other":
				f.allowOther = true
			case fuse.KnownFlag(o):
				f.options = append(f.options, o)
			case o == "fill":
				f.fill = true
			case o == "passthrough":
				f.pass = true
			case optionFlags[name] && has:
				if err := cmd.Flags().Set(name, value); err != nil {
					return usagef("-o %s: %w", o, err)
				}
			default:
				return usagef("-o %s: unknown option", o)
			}
		}
	}
	return nil
}

// splitOptions splits options at commas without a backslash before them.
func splitOptions(s string) (all []string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == ',':
			all = append(all, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(all, b.String())
}

func (f *mountFlags) run(ctx context.Context, a *app, loc, dir string) (err error) {
	cacheSize, err := units.ParseSize(f.cacheSize)
	switch {
	case err != nil:
		return usagef("--cache-size: %w", err)
	case f.prefetch < 0:
		return usagef("--prefetch %d: want 0 or more", f.prefetch)
	case f.fill && f.image == "":
		return usagef("--fill needs --copy-on-read")
	case f.pass && f.image == "":
		return usagef("--passthrough needs --copy-on-read")
	case f.pass && isArchiveIndex(loc):
		return usagef("--passthrough: %s is of a tree, and its files are only parts of the file of --copy-on-read", loc)
	case f.cache == "" && (location.IsMulticast(loc) || slices.ContainsFunc(f.named(a, loc), location.IsMulticast)):
		return usagef("a multicast channel cannot be asked for single chunks: name a cache with -c, into which all of them are brought first")
	}
	if err := fuse.Check(dir); err != nil {
		return err
	}
	parent, isDaemon := daemonParent(a)
	if f.daemon && !isDaemon {
		return startDaemon(ctx, a)
	}
	// A signal ends what is done until it is mounted, and then only the mount.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	unlink := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	a.ctx = life
	defer f.close()
	defer func() { err = errors.Join(err, f.closeBlob()) }()
	content, err := f.content(life, a, loc, max(cacheSize, 1))
	if err != nil {
		return err
	}
	whole, err := f.whole(life, a)
	if err != nil {
		return err
	}
	if !unlink() {
		return context.Cause(ctx)
	}
	asked, hangup, stop := mountSignals()
	defer stop()
	m, err := content.Mount(dir, &fuse.Options{
		Source: loc, AllowOther: f.allowOther, Flags: f.options, Log: a.log,
		Whole: whole,
		Stats: func(s fuse.Stats) any { return f.stats(s) },
	})
	if err != nil {
		return err
	}
	a.say("%s is mounted at %s", loc, dir)
	if isDaemon {
		parent.ready()
	}
	if f.fill {
		filled := make(chan struct{})
		go func() { defer close(filled); f.complete(life, a, loc) }()
		defer func() { end(nil); <-filled }()
	}
	return f.serve(ctx, a, m, dir, asked, hangup)
}

// content opens what is to be mounted.
func (f *mountFlags) content(ctx context.Context, a *app, loc string, cacheSize int64) (*fuse.FS, error) {
	if isArchive(loc) {
		if f.image != "" {
			return nil, usagef("--copy-on-read: %s is an archive as it is, and is read from where it is", loc)
		}
		t, err := f.openTree(ctx, a, loc)
		if err != nil {
			return nil, err
		}
		return fuse.Tree(t), nil
	}
	if fi, err := os.Stat(loc); err == nil && fi.IsDir() {
		return nil, usagef("%s is a directory; what is mounted is an index or an archive", loc)
	}
	x, err := f.index(a, loc)
	if err != nil {
		return nil, err
	}
	src, err := f.open(a, loc, x)
	if err != nil {
		return nil, err
	}
	if len(f.channels) > 0 {
		if err := f.receive(ctx, a, src); err != nil {
			return nil, fmt.Errorf("%s: %w", loc, err)
		}
	}
	o := &blob.Options{Cache: cacheSize, Ahead: cmp.Or(f.prefetch, -1)}
	if f.image != "" {
		if o.Image, err = blob.OpenImage(f.image, x, a.log); err != nil {
			return nil, err
		}
		f.keep = o.Image
	}
	f.blob = blob.New(x, src, o)
	if isArchiveIndex(loc) {
		t, err := treeOf(loc)(archive.OpenTree(f.blob, f.blob.Size()))
		if err != nil {
			return nil, err
		}
		return fuse.Tree(t), nil
	}
	var modified time.Time
	if fi, err := os.Stat(loc); err == nil {
		modified = fi.ModTime()
	}
	return fuse.File(mountedName(loc), f.blob, f.blob.Size(), modified), nil
}

// whole returns the image if the kernel is to read it by itself: that makes nothing of
// what the map claims, and so all of it is read before.
func (f *mountFlags) whole(ctx context.Context, a *app) (*os.File, error) {
	if !f.pass {
		return nil, nil
	}
	if f.keep.Left() == 0 {
		size := f.blob.Size()
		a.meter.Start("verify", size)
		defer a.meter.End()
		if err := f.keep.Verify(ctx, runtime.NumCPU(), func(done int64) { a.meter.Update(done, size, nil) }); err != nil {
			return nil, err
		}
	}
	if f.keep.Left() > 0 {
		a.log.Warn("the kernel cannot read the image by itself this time: it is not complete", "image", f.image, "lacking", f.keep.Left())
		return nil, nil
	}
	return f.keep.File(), nil
}

// closeBlob closes the blob and then what it uses.
func (f *mountFlags) closeBlob() error {
	if f.blob != nil {
		f.blob.Close()
	}
	if f.keep != nil {
		return f.keep.Close()
	}
	return nil
}

// receive brings everything from multicast channels into the cache: they cannot be
// asked for a chunk when it is read.
func (f *mountFlags) receive(ctx context.Context, a *app, src store.Getter) error {
	a.meter.Start("receive", 0)
	defer a.meter.End()
	return store.Deliver(ctx, src, func(chunker.ID) bool { return true }, discard{})
}

// mountedName returns the name of the file that the index at loc is of.
func mountedName(loc string) string {
	name := filepath.Base(loc)
	if location.KindOf(loc) != location.Directory {
		if u, err := url.Parse(loc); err == nil {
			name = path.Base(u.Path)
		}
	}
	name = strings.TrimSuffix(name, extension(loc))
	if strings.Trim(name, "./-") == "" || len(name) > archive.MaxName || strings.Contains(name, "\x00") {
		return "blob"
	}
	return name
}

// complete fills the image, and tries again as long as that fails.
func (f *mountFlags) complete(ctx context.Context, a *app, loc string) {
	for {
		err := f.blob.Fill(ctx, f.workers(a, loc))
		if err == nil || ctx.Err() != nil {
			return
		}
		a.log.Warn("the image could not be completed yet", "error", err)
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return
		}
	}
}

// serve returns when the mount has ended.
func (f *mountFlags) serve(ctx context.Context, a *app, m *fuse.Mount, dir string, asked, hangup <-chan os.Signal) error {
	// The second signal ends the process: the mount must not be left behind.
	a.beforeExit.Store(new(func() { m.Unmount(true) }))
	manager := service.Manager{Getenv: a.Getenv, PID: os.Getpid()}
	notify := func(state string) {
		if err := manager.Notify(state); err != nil {
			a.log.Warn("systemd could not be told", "error", err)
		}
	}
	gone := make(chan struct{})
	go func() { defer close(gone); m.Wait() }()
	notify(service.Ready)
	ended, busy := ctx.Done(), false
	var again <-chan time.Time // to try to unmount
	for {
		select {
		case <-gone:
			return nil
		case <-asked:
			json.NewEncoder(a.Stderr).Encode(f.stats(m.Stats()))
			continue
		case <-ended:
		case <-hangup:
		case <-again:
		}
		if again == nil {
			ended, hangup = nil, nil
			notify(service.Stopping)
			again = time.Tick(200 * time.Millisecond)
		}
		waits := time.AfterFunc(2*time.Second, func() {
			a.say("%s is unmounted here, but not in other mount namespaces: it ends when it is. A second signal ends it at once", dir)
		})
		err := m.Unmount(false)
		waits.Stop()
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fuse.ErrBusy):
			return fmt.Errorf("unmount %s: %w", dir, err)
		case !busy:
			busy = true
			a.say("%s is in use: it is unmounted when it is not any more (fuser -vm %s shows by whom it is). A second signal ends it at once", dir, dir)
		}
	}
}

// mountStats are the statistics of castor mount.
type mountStats struct {
	Mount fuse.Stats  `json:"mount"`
	Blob  *blob.Stats `json:"blob,omitempty"`
	Cache *cacheStats `json:"cache,omitempty"`
}

type cacheStats struct {
	Hits  int64 `json:"hits"`
	Bytes int64 `json:"hit_bytes"`
}

func (f *mountFlags) stats(s fuse.Stats) (all mountStats) {
	all.Mount = s
	if f.blob != nil {
		b := f.blob.Stats()
		all.Blob = &b
	}
	if f.hits != nil {
		all.Cache = &cacheStats{}
		all.Cache.Hits, all.Cache.Bytes = f.hits.Hits()
	}
	return all
}
