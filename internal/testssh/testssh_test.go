package testssh_test

import (
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testssh"
)

func TestStart(t *testing.T) {
	host, args := testssh.Start(t)
	h, err := sshexec.ParseHost(host)
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != "127.0.0.1" || h.Port == 0 || h.User == "" {
		t.Errorf("Start returns host %q", host)
	}
	c, err := sshexec.Start(t.Context(), h, &sshexec.Options{Args: args}, "echo", "it's", "$HOME  here")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var b strings.Builder
	buf := make([]byte, 100)
	for err == nil {
		var n int
		n, err = c.Read(buf)
		b.Write(buf[:n])
	}
	if got, want := b.String(), "it's $HOME  here\n"; got != want {
		t.Errorf("echo over ssh: got %q, want %q; %v", got, want, c.Wait())
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}
