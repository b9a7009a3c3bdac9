package cli

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/testneed"
)

// TestDoctorMulticast examines a host on which multicast works, with a channel and
// without.
func TestDoctorMulticast(t *testing.T) {
	inCastLab(t, func(l *castLab) {
		s := l.cast(l.t, "-i", "eth0", "v1.caibx")
		run := func(args ...string) (map[string]string, int) {
			c := l.start(l.t, 0, append([]string{"doctor", "mcast", "-i", "eth0", "--wait", "2s", "--json"}, args...)...)
			code := c.end()
			var findings []finding
			if err := json.Unmarshal(c.stdout.Bytes(), &findings); err != nil {
				l.t.Fatalf("%v: %s %s", err, c.stdout.Bytes(), c.stderr.Bytes())
			}
			states := map[string]string{}
			for _, f := range findings {
				states[f.What] = f.State
			}
			return states, code
		}
		got, code := run(l.roots[0])
		for what, want := range map[string]string{
			"interface": "ok", "listener reports": "ok", "packets": "ok", "announcement": "ok",
		} {
			if got[what] != want {
				l.t.Errorf("%s: %q, want %q", what, got[what], want)
			}
		}
		if code != 0 {
			l.t.Errorf("exit code %d, want 0", code)
		}
		if got, code = run(l.roots[1]); got["announcement"] != "fault" || code != 1 {
			l.t.Errorf("an index that nobody sends: %q, exit code %d", got["announcement"], code)
		}
		s.end()
	})
}

// TestDemoMulticast runs the demonstration.
func TestDemoMulticast(t *testing.T) {
	testneed.Tool(t, "ip")
	t.Parallel()
	c := command(t.TempDir(), "demo", "mcast", "--receivers", "2", "--size", "2")
	out, err := c.CombinedOutput()
	if err != nil {
		if _, exited := err.(*exec.ExitError); !exited || strings.Contains(string(out), "user namespaces") {
			testneed.Missing(t, "%v: %s", err, out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "All 2 receivers have the image, verified"); n != 2 {
		t.Errorf("%d versions received, want 2\n%s", n, out)
	}
}
