// Package cli is the castor command: it turns arguments into calls of the other
// packages, and their results into text, JSON and exit codes. A command is a
// file.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/internal/config"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/internal/progress"
)

// Sys is the world as the command sees it.
type Sys struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string

	// Signals delivers SIGINT and SIGTERM; nil if nobody sends any.
	Signals <-chan os.Signal
	// Exit ends the process at once.
	Exit func(code int)
}

// System returns the process's own world.
func System() Sys {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return Sys{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Signals: c, Exit: os.Exit}
}

// heapLimit is the size in bytes from which on the garbage collector would
// rather work harder than let the heap grow. Only the largest indexes, of some ten
// million chunks, come near it.
const heapLimit = 1700 << 20

// Main runs the command with args, the program's name not among them, and
// returns its exit code.
func Main(args []string, sys Sys) int {
	if sys.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapLimit)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stdout := cancelWriter(ctx, sys.Stdout)
	sys.Stdout = stdout
	a := &app{Sys: sys, ctx: ctx, args: args}
	go func() {
		if s, ok := <-sys.Signals; ok {
			cancel(&signalError{s})
		}
		if s, ok := <-sys.Signals; ok { // the user means it
			if f := a.beforeExit.Load(); f != nil {
				(*f)()
			}
			sys.Exit((&signalError{s}).code())
		}
	}()
	root := newRoot(a)
	root.SetArgs(helperArgs(root, args))
	root.SetIn(sys.Stdin)
	root.SetOut(sys.Stdout)
	root.SetErr(sys.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	a.meter.End()
	if err == nil {
		err = stdout.err // whoever wrote it may not have looked
	}
	if err == nil {
		return exitOK
	}
	if cause := context.Cause(ctx); ctx.Err() != nil && !errors.Is(err, cause) {
		err = cause // what failed because of the signal is of no interest
	}
	line := strings.ReplaceAll(err.Error(), "\n", "; ")
	if hint := hint(cmd, err); hint != "" {
		line += "; " + hint
	}
	fmt.Fprintln(sys.Stderr, "castor:", archive.Printable(line)) // with names, and words of servers, as they came
	return exitCode(err)
}

// app is one run of the command.
type app struct {
	Sys
	ctx    context.Context
	args   []string // of the command
	quiet  bool
	mode   string // of progress
	config string // file with the configuration
	places *location.Opener
	meter  *progress.Meter
	log    *slog.Logger

	// beforeExit, if non-nil, is called before a second signal ends the process.
	beforeExit atomic.Pointer[func()]
}

// prepare sets up what the global flags ask for.
func (a *app) prepare() error {
	if err := a.prepareOutput(); err != nil {
		return err
	}
	c, err := config.Load(config.Sources{Explicit: a.config, Getenv: a.Getenv, Log: a.log})
	if err != nil {
		return err
	}
	a.places = &location.Opener{Config: c, Getenv: a.Getenv, Log: a.log}
	return nil
}

// prepareOutput sets up progress and log.
func (a *app) prepareOutput() error {
	mode := progress.Mode(a.mode)
	switch mode {
	case "auto":
		if f, ok := a.Stderr.(*os.File); !ok {
			mode = progress.None
		} else if term.IsTerminal(int(f.Fd())) {
			mode = progress.Bar
		} else {
			mode = progress.Plain
		}
		if a.quiet {
			mode = progress.None
		}
	case progress.Bar, progress.Plain, progress.JSON, progress.None:
	default:
		return usagef("--progress %q: want auto, bar, plain, json or none", a.mode)
	}
	a.meter = progress.New(a.Stderr, mode)
	w := a.Stderr
	if a.meter != nil {
		w = a.meter
	}
	if a.quiet {
		a.log = slog.New(slog.DiscardHandler)
		return nil
	}
	a.log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}}))
	return nil
}

// say writes a line for people, unless --quiet is given.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Stderr, format+"\n", args...)
	}
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "castor",
		Short: "Chunk stores and indexes for shipping large, similar things",
		Long: `castor cuts files and directory trees into content-defined chunks, keeps each chunk
once, and writes a small index. To get a version, you fetch its index and the chunks
you lack.

  castor make v2.caibx disk.img              cut disk.img into default.castr
  castor extract v2.caibx disk.img           put it back, reusing the old file
  castor extract --seed /dev/sda2 v2.caibx /dev/sdb2
  castor make s3+https://host/bucket/os.caidx /srv/root
  castor extract https://host/os.caidx /srv/root

Indexes (.caibx) and stores (.castr) are those of casync. With --digest sha512-256
casync and desync read what castor writes; castor always reads theirs.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.prepare() },
	}
	f := root.PersistentFlags()
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but errors")
	f.StringVar(&a.config, "config", "", "file that says how stores are reached, see castor help config (default: $CASTOR_CONFIG, else /etc/castor/config.toml and ~/.config/castor/config.toml)")
	f.StringVar(&a.mode, "progress", "auto", "how to show progress on stderr: auto, bar, plain, json or none")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddGroup(
		&cobra.Group{ID: groupMake, Title: "Make:"},
		&cobra.Group{ID: groupGet, Title: "Get:"},
		&cobra.Group{ID: groupServe, Title: "Serve:"},
		&cobra.Group{ID: groupInspect, Title: "Inspect:"},
		&cobra.Group{ID: groupMaintain, Title: "Maintain:"},
	)
	root.AddCommand(
		newMake(a), newChop(a),
		newExtract(a), newCat(a), newCache(a), newCopy(a),
		newCast(a), newServe(a), newMount(a), newUnmount(a), newPull(a), newPush(a),
		newList(a), newMtree(a), newStat(a),
		newInfo(a), newChunks(a), newRootCommand(a), newDigest(a), newDiff(a), newVerify(a),
		newCheck(a), newGC(a), newStores(a),
		newDoctor(a), newDemo(a), newVersion(a),
	)
	root.AddCommand(topics()...)
	root.SuggestionsMinimumDistance = 2
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = func(_ *cobra.Command, args []string) error { // else cobra helps with castor itself
			cmd, rest, err := root.Find(args)
			switch {
			case err != nil || len(rest) == 0:
				return err
			case cmd == root:
				return noArgs(root, rest)
			}
			return usagef("%s has no command %q", cmd.CommandPath(), rest[0])
		}
	}
	return root
}

const (
	groupMake     = "make"
	groupGet      = "get"
	groupServe    = "serve"
	groupInspect  = "inspect"
	groupMaintain = "maintain"
)

// Commands returns the tree of commands, for making manual pages from it.
func Commands() *cobra.Command {
	return newRoot(&app{Sys: Sys{Getenv: func(string) string { return "" }}})
}

// noArgs, exactArgs and minArgs refuse a wrong number of arguments as a mistake
// in usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		err := fmt.Sprintf("unknown command %q", args[0])
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			err += fmt.Sprintf(": did you mean %q?", s[0])
		}
		return usagef("%s", err)
	}
	return usagef("%s takes no arguments", cmd.CommandPath())
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("want: %s", cmd.UseLine())
		}
		return nil
	}
}

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usagef("want: %s", cmd.UseLine())
		}
		return nil
	}
}

func minArgs(n int) cobra.PositionalArgs { return rangeArgs(n, 1<<30) }
