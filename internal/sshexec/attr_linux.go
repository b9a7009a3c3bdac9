package sshexec

import (
	"os/exec"
	"syscall"
)

// setSysProcAttr has the program end when this process does, however that ends.
func setSysProcAttr(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
