// Package testneed says what a test needs of the machine it runs on. Where that
// is missing the test is skipped with the reason, except in CI, where it fails:
// there nothing may be left out unnoticed.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// ciVariable is the environment variable that says that this is CI, if it is not
// empty.
const ciVariable = "CASTOR_CI"

// Root ends the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// Tool ends the test unless the program name is installed, and returns its path.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "needs the program %s: %v", name, err)
	}
	return path
}

// Missing ends the test because of something else that is missing.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(ciVariable) != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
