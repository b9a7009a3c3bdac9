package cli

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/atomicfile"
	"github.com/castorsync/castor/internal/blockdev"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/wire"
)

// followFlags are the flags of extract about following a name.
type followFlags struct {
	follow bool
	exec   string
	state  string
}

func (f *followFlags) addFollow(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.follow, "follow", false, "go on: extract each new version of the name that INDEX is")
	fl.StringVar(&f.exec, "exec", "", "with --follow: shell command to run after each version, with CASTOR_NAME, CASTOR_ROOT, CASTOR_VERSION and CASTOR_DEST in its environment")
	fl.StringVar(&f.state, "state", "", "with --follow: file that remembers the version (default: DEST.castor-version)")
}

// check returns an error if flags do not go together.
func (f *followFlags) check() error {
	switch {
	case f.follow:
	case f.exec != "":
		return usagef("--exec goes with --follow")
	case f.state != "":
		return usagef("--state goes with --follow")
	}
	return nil
}

// followName extracts each new version of a name, or sub of it, until a signal comes.
func (f *extractFlags) followName(ctx context.Context, a *app, loc, dest, sub string) error {
	if !location.IsMulticast(loc) {
		return usagef("--follow: want mcast://INTERFACE/NAME as INDEX, not %s", loc)
	}
	m, err := location.ParseMulticast(loc)
	if err != nil {
		return &usageError{err}
	}
	if m.Name == "" {
		return usagef("--follow: %s has no name; a root never changes", loc)
	}
	if err := mcast.CheckName(m.Name); err != nil {
		return usagef("%s: %w", loc, err)
	}
	if f.dryRun || dest == "-" {
		return usagef("--follow: want a file, a block device or a directory to write")
	}
	state := f.state
	if fi, err := os.Stat(dest); err == nil {
		switch {
		case blockdev.Is(fi.Mode()) && state == "":
			return usagef("--follow: name a file beside no device to remember the version of %s in, with --state", dest)
		case !fi.Mode().IsRegular() && !fi.IsDir() && !blockdev.Is(fi.Mode()):
			return usagef("--follow: %s is neither a file, a block device nor a directory", dest)
		}
	}
	if state == "" {
		abs, err := filepath.Abs(dest) // beside a directory, not in it
		if err != nil {
			return err
		}
		state = abs + ".castor-version"
	}
	key, err := readKey(f.key)
	if err != nil {
		return err
	}
	signer, err := readPublic(f.pubkey)
	if err != nil {
		return err
	}
	if key == nil && signer == nil {
		a.log.Warn("without --pubkey or --key, whoever is on the network can announce a version")
	}
	w := &follower{
		name: m.Name, signer: signer, dest: dest, state: state, sync: !f.noSync, log: a.log, say: a.say,
		await: func(ctx context.Context, after uint64) (wire.Name, error) {
			links, err := m.Taps()
			if err != nil {
				return wire.Name{}, err
			}
			defer func() {
				for _, l := range links {
					if c, ok := l.(io.Closer); ok {
						c.Close()
					}
				}
			}()
			return mcast.Await(ctx, links, m.Name, signer, after, &mcast.ReceiveOptions{Key: key, Scope: m.Scope, Source: m.From, Log: a.log})
		},
		extract: func(ctx context.Context, n wire.Name, ready func() error) error {
			g := *f
			g.ready, g.followFlags = ready, followFlags{}
			g.sources = sources{stores: f.stores, cache: f.cache, seeds: f.seeds, key: f.key}
			return g.run(ctx, a, atRoot(loc, m, n.Root), dest, sub)
		},
	}
	if f.exec != "" {
		w.command = func(ctx context.Context, n wire.Name) error { return f.command(ctx, a, n, dest) }
	}
	return w.run(ctx)
}

// atRoot returns the URL loc, which says m, with a root in place of the name.
func atRoot(loc string, m location.Multicast, root chunker.ID) string {
	_, query, _ := strings.Cut(loc, "?")
	if query != "" {
		query = "?" + query
	}
	return "mcast://" + m.Interface + "/" + root.String() + query
}

// commandGrace is how long a command may take to end after SIGTERM.
const commandGrace = 10 * time.Second

// command runs the user's command.
func (f *followFlags) command(ctx context.Context, a *app, n wire.Name, dest string) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", f.exec)
	cmd.Env = append(cmd.Environ(),
		"CASTOR_NAME="+n.Name, "CASTOR_ROOT="+n.Root.String(), "CASTOR_VERSION="+strconv.FormatUint(n.Version, 10), "CASTOR_DEST="+dest)
	cmd.Stdout, cmd.Stderr = a.Stdout, a.Stderr
	if w, ok := a.Stdout.(*cancellableWriter); ok { // it gets the file itself if it is one
		cmd.Stdout = w.w
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = commandGrace
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("the command failed: %w", err)
	}
	return nil
}

// follower brings each version of a name to a destination. It never goes back to a
// lower one: the greatest that was extracted is remembered in a file.
type follower struct {
	name   string
	signer ed25519.PublicKey
	dest   string
	state  string // name of the file
	sync   bool
	log    *slog.Logger
	say    func(format string, args ...any)

	await   func(ctx context.Context, after uint64) (wire.Name, error)       // waits for a version greater than after
	extract func(ctx context.Context, n wire.Name, ready func() error) error // calls ready before a file is replaced
	command func(ctx context.Context, n wire.Name) error                     // nil: none
}

// After a failure, a follower waits from followLeast, twice as long each time, to
// followMost before it tries again; a new version cuts that short.
const (
	followLeast = time.Second
	followMost  = time.Minute
)

// run follows until ctx ends and returns the cause. A failure to listen at first is an
// error; all others are logged, and tried again.
func (f *follower) run(ctx context.Context) error {
	st, err := f.load()
	if err != nil {
		return err
	}
	if st.version > 0 {
		f.say("following %s after version %d", f.name, st.version)
	} else {
		f.say("following %s", f.name)
	}
	delay := time.Duration(0)
	n, err := f.await(ctx, f.after(st))
	for first := true; ; first = false {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case err != nil && first:
			return err
		case err == nil:
			err = f.apply(ctx, &st, n)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			delay = 0
			n, err = f.await(ctx, f.after(st))
			continue
		}
		delay = min(max(2*delay, followLeast), followMost)
		f.log.Warn("it is tried again", "name", f.name, "version", n.Version, "in", delay, "error", err)
		n, err = f.again(ctx, delay, n.Version, f.after(st))
	}
}

// again waits for a version greater than failed, and after a delay for the one that
// has failed or any other that is greater than after.
func (f *follower) again(ctx context.Context, delay time.Duration, failed, after uint64) (wire.Name, error) {
	end, cancel := context.WithTimeout(ctx, delay)
	defer cancel()
	pause(end, followLeast)
	if n, err := f.await(end, max(failed, after)); err == nil {
		return n, nil
	}
	pause(end, delay) // it may have failed
	return f.await(ctx, after)
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// apply extracts a version, remembers it and runs the command. A version is remembered
// before it takes its place: whenever this ends, what is there is not higher.
func (f *follower) apply(ctx context.Context, st *followed, n wire.Name) error {
	f.say("%s: version %d of %s, root %v", f.name, n.Version, time.Unix(n.Time, 0).UTC().Format(time.DateTime), n.Root)
	remember := func() error {
		*st = followed{version: n.Version, root: n.Root}
		return f.save(*st)
	}
	if err := f.extract(ctx, n, remember); err != nil {
		return err
	}
	if err := remember(); err != nil { // what is right as it was, or a tree
		return err
	}
	if f.command != nil {
		if err := f.command(ctx, n); err != nil {
			return err
		}
	}
	st.done = true
	return f.save(*st)
}

// followed is what is remembered of the version that was extracted last.
type followed struct {
	version uint64 // 0: none
	root    chunker.ID
	done    bool // it is in its place, and the command has succeeded or there was none
}

// after returns the version that the next one must be greater than. One that is not done,
// or which is gone, is wanted again.
func (f *follower) after(st followed) uint64 {
	if st.version == 0 {
		return 0
	}
	if _, err := os.Stat(f.dest); !st.done || errors.Is(err, fs.ErrNotExist) {
		return st.version - 1
	}
	return st.version
}

// The file that remembers a version is text, a field in each line.
const followHeader = "castor-followed 1"

func (f *follower) fields(st followed) []struct{ key, value string } {
	signer := "none"
	if f.signer != nil {
		signer = base64.StdEncoding.EncodeToString(f.signer)
	}
	return []struct{ key, value string }{
		{"name", strconv.Quote(f.name)},
		{"signer", signer},
		{"version", strconv.FormatUint(st.version, 10)},
		{"root", st.root.String()},
		{"done", strconv.FormatBool(st.done)},
	}
}

func (f *follower) save(st followed) error {
	file, err := atomicfile.Create(f.state, false)
	if err != nil {
		return err
	}
	defer file.Abort()
	fmt.Fprintln(file, followHeader)
	for _, l := range f.fields(st) {
		if _, err := fmt.Fprintf(file, "%s %s\n", l.key, l.value); err != nil {
			return err
		}
	}
	return file.Commit(f.sync)
}

// load reads what is remembered; nothing if there is no file. One about another name
// or signer is an error: versions of different names do not compare.
func (f *follower) load() (st followed, err error) {
	file, err := os.Open(f.state)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	defer file.Close()
	s := bufio.NewScanner(io.LimitReader(file, 1<<16))
	bad := func(what string) (followed, error) {
		return followed{}, fmt.Errorf("%s: %s: remove the file to begin anew", f.state, what)
	}
	if !s.Scan() || s.Text() != followHeader {
		return bad("is not a file that --follow has written")
	}
	got := map[string]string{}
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), " ")
		got[key] = value
	}
	if s.Err() != nil {
		return st, s.Err()
	}
	for _, l := range f.fields(st) {
		if have := got[l.key]; have != l.value && (l.key == "name" || l.key == "signer") {
			return bad(fmt.Sprintf("is about the %s %s and not %s", l.key, have, l.value))
		}
	}
	root, rerr := hex.DecodeString(got["root"])
	version, verr := strconv.ParseUint(got["version"], 10, 64)
	done, derr := strconv.ParseBool(got["done"])
	if rerr != nil || verr != nil || derr != nil || len(root) != len(st.root) {
		return bad("is damaged")
	}
	return followed{version, chunker.ID(root), done}, nil
}
