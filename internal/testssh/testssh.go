// Package testssh runs an SSH server for tests: on a free port of the loopback
// interface, with keys and configuration of its own, for the user of the test.
package testssh

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
)

// Start starts a server with the sftp subsystem, which ends with the test. It
// returns the host as user@127.0.0.1:port, and the options with which ssh gets in
// and looks at nothing of the user's own.
func Start(t testing.TB) (host string, args []string) {
	t.Helper()
	sshd := testneed.Tool(t, "sshd")
	testneed.Tool(t, "ssh")
	keygen := testneed.Tool(t, "ssh-keygen")
	command := []string{sshd}
	if os.Geteuid() == 0 {
		command = append(privileged(t), sshd)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"hostkey", "key"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", in(name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	public, err := os.ReadFile(in("key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, lines ...string) {
		if err := os.WriteFile(in(name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("authorized_keys", string(public))
	hostKey, err := os.ReadFile(in("hostkey.pub"))
	if err != nil {
		t.Fatal(err)
	}
	write("known_hosts", "castor-test "+string(hostKey))

	for range 5 { // another program may take the port in between
		port := freePort(t)
		write("sshd_config",
			fmt.Sprintf("ListenAddress 127.0.0.1:%d", port),
			"HostKey "+in("hostkey"),
			"AuthorizedKeysFile "+in("authorized_keys"),
			"PidFile none",
			"StrictModes no", // the directory for temporary files is everybody's
			"PermitRootLogin yes",
			"PasswordAuthentication no",
			"KbdInteractiveAuthentication no",
			"UsePAM no",
			"MaxStartups 100",
			"Subsystem sftp internal-sftp")
		write("ssh_config",
			"HostKeyAlias castor-test",
			"IdentityFile "+in("key"),
			"IdentitiesOnly yes",
			"IdentityAgent none",
			"BatchMode yes",
			"GlobalKnownHostsFile none",
			"UserKnownHostsFile "+in("known_hosts"),
			"StrictHostKeyChecking yes")
		if serve(t, append(command[:len(command):len(command)], "-D", "-e", "-f", in("sshd_config")), port) {
			return fmt.Sprintf("%s@127.0.0.1:%d", me.Username, port), []string{"-F", in("ssh_config")}
		}
	}
	t.Fatal("sshd finds no free port")
	return "", nil
}

// privileged returns the command that runs sshd for root where /run/sshd, without
// which it does not start, may be missing: with a /run of its own that has it.
func privileged(t testing.TB) []string {
	t.Helper()
	if _, err := os.Stat("/run/sshd"); err == nil {
		return nil
	}
	unshare := testneed.Tool(t, "unshare")
	script := `mount -t tmpfs -o mode=755 castor-test /run && mkdir -m 755 /run/sshd && exec "$@"`
	command := []string{unshare, "--mount", "sh", "-c", script, "sh"}
	if out, err := exec.Command(unshare, append(command[1:len(command):len(command)], "true")...).CombinedOutput(); err != nil {
		testneed.Missing(t, "needs /run/sshd, or the right to mount one: %v: %s", err, out)
	}
	return command
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serve starts sshd and reports whether it got the port.
func serve(t testing.TB, command []string, port int) bool {
	t.Helper()
	var log bytes.Buffer // read only after the program has ended
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-ended:
			if strings.Contains(log.String(), "in use") {
				return false
			}
			t.Fatalf("sshd: %s", log.String())
		case <-deadline:
			cmd.Process.Kill()
			<-ended
			t.Fatalf("sshd does not listen: %s", log.String())
		case <-time.After(10 * time.Millisecond):
		}
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		c.Close()
		t.Cleanup(func() {
			cmd.Process.Kill()
			<-ended
			if t.Failed() {
				t.Logf("sshd: %s", log.String())
			}
		})
		return true
	}
}
