package testns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
)

// insideVariable is set in the environment of test binaries that run in their
// own user namespace.
const insideVariable = "CASTOR_TESTNS"

// errOutside is why there are no namespaces, if neither Main nor Run was called.
var errOutside = errors.New("the test does not run under testns.Main or testns.Run")

// outside is why this process is not inside. It is set by Main before tests run.
var outside = errOutside

func inside() bool { return os.Getenv(insideVariable) != "" }

// Main runs the tests of m in a user and network namespace of their own and
// returns the exit status, for TestMain. Where such namespaces are not
// permitted, tests run without; those that then call [New] or [NewBridge] end
// with [testneed.Missing].
func Main(m *testing.M) int {
	if inside() {
		return m.Run()
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd := command(context.Background(), os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		outside = err
		return m.Run()
	}
	return status(cmd.Wait())
}

// status is the exit status for the end err of a process.
func status(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "testns:", err)
	return 1
}

// Run runs test in a user and network namespace of its own: in a second process
// that runs nothing but t, whose output, failure or skipping become t's. Code of
// t outside test runs in both processes; what test covers is not in t's coverage
// profile. Where such namespaces are not permitted
// it ends t with [testneed.Missing].
func Run(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if inside() {
		test(t)
		return
	}
	// The last second is for this process to tell.
	timeout := time.Duration(0)
	if deadline, ok := t.Deadline(); ok {
		timeout = max(time.Until(deadline)-time.Second, time.Second)
	}
	cmd := command(t.Context(), "-test.v", "-test.count=1", "-test.run="+pattern(t.Name()),
		fmt.Sprint("-test.timeout=", timeout), fmt.Sprint("-test.short=", testing.Short()))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	runtime.LockOSThread() // as in Main
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		missing(t, err)
	}
	switch err := cmd.Wait(); {
	case err != nil:
		t.Fatalf("in its namespace: %v\n%s", err, &out)
	case strings.Contains(out.String(), "--- SKIP: "+t.Name()+" "):
		t.Skipf("in its namespace:\n%s", &out)
	case !strings.Contains(out.String(), "--- PASS: "+t.Name()+" "):
		t.Fatalf("in its namespace: did not run\n%s", &out)
	}
	t.Logf("in its namespace:\n%s", &out)
}

// pattern returns the value of -test.run for the test of that name alone.
func pattern(name string) string {
	return "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
}

// command returns this program with args, to run inside.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

func missing(t testing.TB, err error) {
	t.Helper()
	testneed.Missing(t, "needs a user and network namespace of its own: %v", err)
}
