package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestServeUsage(t *testing.T) {
	dir := t.TempDir()
	write(t, image(1, 1<<20), dir, "x")
	ok(t, dir, "make", "-q", "x.caibx", "x")
	write(t, []byte("\n \n"), dir, "empty")
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"x", exitUsage, "takes no arguments"},
		{"--rate fast", exitUsage, "--rate"},
		{"--max-chunk 1G", exitUsage, "--max-chunk"},
		{"--max-connections -1", exitUsage, "--max-connections"},
		{"--level 99", exitUsage, "--level"},
		{"--tls-cert x", exitUsage, "--tls-key"},
		{"--client-ca x", exitUsage, "--tls-cert"},
		{"--public-read", exitUsage, "--auth-token-file"},
		{"-s mcast://eth0", exitUsage, "multicast"},
		{"-s absent.castr", exitNotFound, "absent.castr"},
		{"--index-dir absent", exitNotFound, "--index-dir: directory absent: no such file"},
		{"--index-dir absent -s default.castr", exitNotFound, "--index-dir"},
		{"--index-dir empty", exitUsage, "--index-dir empty: is not a directory"},
		{"--auth-token-file absent", exitFailure, "--auth-token-file"},
		{"--auth-token-file empty", exitFailure, "no token"},
		{"--tls-cert empty --tls-key empty", exitFailure, "--tls-cert"},
		{"--listen nonsense", exitFailure, "--listen"},
	} {
		o := castor(t, dir, slices.Concat([]string{"serve", "--listen", "127.0.0.1:0"}, strings.Fields(tt.args))...)
		if o.code != tt.code || !strings.Contains(o.stderr, tt.says) {
			t.Errorf("%s: exit code %d, %q; want %d, %q", tt.args, o.code, o.stderr, tt.code, tt.says)
		}
	}
}
