package cli

import (
	"bufio"
	"context"
	"io"
	"log/syslog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyVariable is set for the process that serves a mount in the background. Its
// parent waits for a byte from file descriptor 3.
const readyVariable = "CASTOR_MOUNT_READY"

const readyFD = 3

// startDaemon runs this command again in the background, and returns when the mount is
// there. If it fails, the process ends with its exit code; it has said why.
func startDaemon(ctx context.Context, a *app) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(exe, a.args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), readyVariable+"=1")
	cmd.ExtraFiles = []*os.File{w} // readyFD
	cmd.Stderr = a.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	_, err = await(ctx, func() (int, error) { return io.ReadFull(r, make([]byte, 1)) })
	switch {
	case err == nil:
		return cmd.Process.Release()
	case ctx.Err() != nil:
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		return context.Cause(ctx)
	}
	cmd.Wait()
	a.Exit(max(cmd.ProcessState.ExitCode(), exitFailure))
	return err
}

// waitingParent is the parent of a daemon, which waits for it.
type waitingParent struct{ pipe *os.File }

// daemonParent returns the parent if this process is a daemon.
func daemonParent(a *app) (p waitingParent, ok bool) {
	if a.Getenv(readyVariable) == "" {
		return p, false
	}
	os.Unsetenv(readyVariable) // it is not for programs that are started
	unix.CloseOnExec(readyFD)
	return waitingParent{os.NewFile(readyFD, "ready")}, true
}

// ready tells the parent that the mount is there. From now on what is written to stderr
// goes to syslog, if there is one.
func (p waitingParent) ready() {
	if r, w, err := os.Pipe(); err == nil {
		log, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "castor")
		go func() {
			for lines := bufio.NewReader(r); ; {
				line, _, end := lines.ReadLine() // in parts if it is long
				if end != nil {
					return
				}
				if err == nil {
					log.Write(line)
				}
			}
		}()
		unix.Dup3(int(w.Fd()), int(os.Stderr.Fd()), 0)
		w.Close()
	}
	p.pipe.Write([]byte{1}) // a parent that is not there any more does not care
	p.pipe.Close()
}

// mountSignals delivers SIGUSR1 and SIGHUP. Neither the end of a terminal nor that of
// whoever reads what is logged may end the process, as the mount would be left behind.
func mountSignals() (stats, hangup <-chan os.Signal, stop func()) {
	s, h := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(s, unix.SIGUSR1)
	if !signal.Ignored(unix.SIGHUP) { // as nohup has it
		signal.Notify(h, unix.SIGHUP)
	}
	signal.Ignore(unix.SIGPIPE)
	return s, h, func() {
		signal.Stop(s)
		signal.Stop(h)
		signal.Reset(unix.SIGPIPE)
	}
}
