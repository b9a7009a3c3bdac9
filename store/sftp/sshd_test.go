package sftp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/internal/sshexec"
	"github.com/castorsync/castor/internal/testssh"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// TestSSH is the suite through ssh and sshd.
func TestSSH(t *testing.T) {
	host, args := testssh.Start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		if strings.HasSuffix(t.Name(), "/Many") {
			t.Skip("TestStore does it")
		}
		noLeak(t)
		return openStore(t, "sftp://"+host+t.TempDir(), &Options{SSH: &sshexec.Options{Args: args}})
	})
}

func TestSSHRefused(t *testing.T) {
	noLeak(t)
	host, args := testssh.Start(t)
	args = append(args, "-oIdentityFile=none", "-oPubkeyAuthentication=no")
	_, err := Open(t.Context(), "sftp://"+host+"/tmp", &Options{SSH: &sshexec.Options{Args: args}})
	if err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("Open: error %v, want what ssh says", err)
	}
}

// BenchmarkSSH moves chunks of 64 KiB that do not compress through ssh and sshd, and
// for comparison as many bytes in one file with the sftp program.
func BenchmarkSSH(b *testing.B) {
	const size = 64 << 10
	host, args := testssh.Start(b)
	for _, connections := range []int{1, 2, 4} {
		for _, workers := range []int{1, 32} {
			name := fmt.Sprintf("connections=%d/workers=%d", connections, workers)
			s := openStore(b, "sftp://"+host+b.TempDir(), &Options{Connections: connections, Plain: true, SSH: &sshexec.Options{Args: args}})
			var chunks []store.Chunk
			b.Run("put/"+name, func(b *testing.B) {
				chunks = make([]store.Chunk, b.N)
				for i := range chunks {
					chunks[i] = storetest.Plain(storetest.Random(uint64(time.Now().UnixNano()), size))
				}
				b.SetBytes(size)
				b.ReportAllocs()
				b.ResetTimer()
				err := par.Each(b.Context(), workers, b.N, func(ctx context.Context, i int) error { return s.Put(ctx, chunks[i]) })
				if err != nil {
					b.Fatal(err)
				}
			})
			b.Run("get/"+name, func(b *testing.B) {
				b.SetBytes(size)
				b.ReportAllocs()
				err := par.Each(b.Context(), workers, b.N, func(ctx context.Context, i int) error {
					c, err := s.Get(ctx, chunks[i%len(chunks)].ID)
					c.Release()
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			})
			s.Close()
		}
	}
	h, err := sshexec.ParseHost(host)
	if err != nil {
		b.Fatal(err)
	}
	for _, command := range []string{"put %s %s", "get %[2]s %[1]s"} {
		b.Run("sftp/"+command[:3], func(b *testing.B) {
			// Chunks enough to make the start of ssh small.
			const n = 2048
			from, to := filepath.Join(b.TempDir(), "a"), filepath.Join(b.TempDir(), "b")
			for _, name := range []string{from, to} {
				if err := os.WriteFile(name, storetest.Random(1, n*size), 0o666); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(n * size)
			for b.Loop() {
				cmd := exec.Command("sftp", append(args, "-q", "-b", "-", "-P", fmt.Sprint(h.Port), h.User+"@"+h.Name)...)
				cmd.Stdin = strings.NewReader(fmt.Sprintf(command, from, to))
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}
