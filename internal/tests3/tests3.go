// Package tests3 runs an S3 server for tests: versitygw, on a directory.
package tests3

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
)

// The keys of every server.
const (
	AccessKey = "castor"
	SecretKey = "castor-secret"
)

// Server is an S3 server on the loopback interface with one bucket, "bucket". It ends
// with the test.
type Server struct {
	Addr string // HOST:PORT
	Dir  string // where it keeps its buckets

	path string
	cmd  *exec.Cmd
}

// Start starts a server.
func Start(t testing.TB) *Server {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("versitygw needs extended attributes")
	}
	s := &Server{path: program(t), Dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(s.Dir, "bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = l.Addr().String()
	l.Close()
	s.Restart(t)
	t.Cleanup(s.Kill)
	return s
}

// program finds versitygw, also where go install puts it.
func program(t testing.TB) string {
	t.Helper()
	if out, err := exec.Command("go", "env", "GOPATH").Output(); err == nil {
		p := filepath.Join(strings.TrimSpace(string(out)), "bin", "versitygw")
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return testneed.Tool(t, "versitygw")
}

// Restart starts a server that was killed, with the same address and content.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(s.path, "--port", s.Addr, "--quiet", "--keep-alive", "posix", s.Dir)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Kill()
	testneed.Missing(t, "versitygw does not start: does the directory for tests have extended attributes?")
}

// Kill kills the server.
func (s *Server) Kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// URL returns the URL of a place in the bucket.
func (s *Server) URL(prefix string) string {
	return strings.TrimSuffix("s3+http://"+s.Addr+"/bucket/"+prefix, "/")
}

// Age makes the object of that key as old as d.
func (s *Server) Age(t testing.TB, key string, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(s.Dir, "bucket", filepath.FromSlash(key)), then, then); err != nil {
		t.Fatal(err)
	}
}
