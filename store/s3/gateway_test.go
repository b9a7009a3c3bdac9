package s3_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
)

// Keys of the gateway.
const (
	accessKey = "castor"
	secretKey = "castor-secret"
)

// gateway is a versitygw, an S3 server on a directory.
type gateway struct {
	dir  string
	addr string
	path string
	cmd  *exec.Cmd
}

// versitygw finds the program, also where go install puts it.
func versitygw(t testing.TB) string {
	t.Helper()
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		p := filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return testneed.Tool(t, "versitygw")
}

// startGateway starts a gateway with one bucket, "bucket".
func startGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{path: versitygw(t), dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(g.dir, "bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = l.Addr().String()
	l.Close()
	g.start(t)
	t.Cleanup(g.stop)
	return g
}

func (g *gateway) start(t testing.TB) {
	t.Helper()
	g.cmd = exec.Command(g.path, "--port", g.addr, "--quiet", "--keep-alive", "posix", g.dir)
	g.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if c, err := net.Dial("tcp", g.addr); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.stop()
	testneed.Missing(t, "versitygw does not start: does the directory for tests have extended attributes?")
}

// stop kills the gateway.
func (g *gateway) stop() {
	if g.cmd != nil {
		g.cmd.Process.Signal(syscall.SIGKILL)
		g.cmd.Wait()
		g.cmd = nil
	}
}

// url returns the URL of a place in the bucket.
func (g *gateway) url(prefix string) string {
	return strings.TrimSuffix(fmt.Sprintf("s3+http://%s/bucket/%s", g.addr, prefix), "/")
}

// age makes the object key as old as d.
func (g *gateway) age(t testing.TB, key string, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(g.dir, "bucket", filepath.FromSlash(key)), then, then); err != nil {
		t.Fatal(err)
	}
}
