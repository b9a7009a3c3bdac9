package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index/assemble"
	"github.com/castorsync/castor/internal/location"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/httpstore"
)

// Exit codes. They are documented in the topic exit-codes.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitMismatch  = 3
	exitNotFound  = 10
	exitMissing   = 14
	exitInterrupt = 128 // plus the number of the signal
)

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// signalError says that a signal ended the run.
type signalError struct{ sig os.Signal }

func (e *signalError) Error() string {
	if e.sig == os.Interrupt {
		return "interrupted"
	}
	return "ended by a signal: " + e.sig.String()
}

func (e *signalError) code() int {
	if s, ok := e.sig.(syscall.Signal); ok {
		return exitInterrupt + int(s)
	}
	return exitFailure
}

// mismatchError says that a verification did its work and found differences.
type mismatchError struct{ msg string }

func (e *mismatchError) Error() string { return e.msg }

// incompleteError says that a verification found chunks missing.
type incompleteError struct{ msg string }

func (e *incompleteError) Error() string { return e.msg }

func exitCode(err error) int {
	if e, ok := errors.AsType[*signalError](err); ok {
		return e.code()
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*location.FormError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*location.NotIndexError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[*mismatchError](err); ok {
		return exitMismatch
	}
	if _, ok := errors.AsType[*location.NotFoundError](err); ok {
		return exitNotFound
	}
	if chunkMissing(err) {
		return exitMissing
	}
	return exitFailure
}

// chunkMissing reports whether err is about a chunk that no source has, or none
// has right, as opposed to sources that could not be asked.
func chunkMissing(err error) bool {
	if _, ok := errors.AsType[*incompleteError](err); ok {
		return true
	}
	_, needed := errors.AsType[*assemble.MissingError](err)
	_, tried := errors.AsType[*store.NotFoundError](err)
	return (needed || tried) && (store.Missing(err) || errors.Is(err, store.ErrDamaged))
}

// helpOf returns how to ask for help with a command.
func helpOf(cmd *cobra.Command) string {
	root, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return strings.TrimSpace(root + " help " + path)
}

// hint says what to try after err of a command, if there is something to say.
func hint(cmd *cobra.Command, err error) string {
	if e, ok := errors.AsType[*location.NotFoundError](err); ok && e.What == "store" {
		return "name a store with -s, or in CASTOR_STORE"
	}
	if _, ok := errors.AsType[*usageError](err); ok && !errors.Is(err, chunker.ErrParams) {
		return helpOf(cmd) + " tells more"
	}
	if s, ok := errors.AsType[*httpstore.StatusError](err); ok && s.Code == http.StatusUnauthorized {
		return "credentials belong into ~/.netrc or the configuration, see castor help config"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "if that is right, name its authority, or the certificate itself, as ca-file in the configuration, see castor help config"
	}
	switch {
	case errors.Is(err, mcast.ErrNoSender):
		return "castor doctor mcast looks into it"
	case chunkMissing(err):
		return "try another store with -s, or a seed; castor info -s STORE INDEX tells what a store lacks"
	case errors.Is(err, chunker.ErrParams):
		return "sizes are MIN:AVG:MAX or AVG, for example 16K:64K:256K"
	}
	return ""
}
