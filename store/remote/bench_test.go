package remote

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkGet gets the chunks of 200 MB, and has casync extract them: everything on
// this machine, without encryption.
func BenchmarkGet(b *testing.B) {
	v := serveBlob(b, 200<<20)
	for _, bb := range []struct {
		name, command string
		connections   int
	}{
		{"casync", casync(b), 1}, {"casync-2", casync(b), 2}, {"castor", castor(b), 1}, {"castor-2", castor(b), 2},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(v.blob)))
			for range b.N {
				o := options(b, bb.command)
				o.Connections = bb.connections
				s := open(b, v.url("store.castr"), o)
				if err := getAll(b.Context(), s, v, 32); err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
	extract := func(b *testing.B, env ...string) {
		b.SetBytes(int64(len(v.blob)))
		for range b.N {
			out := filepath.Join(b.TempDir(), "out")
			begin := time.Now()
			run(b, append(env, "CASYNC_SSH_PATH="+fakeSSH(b)), casync(b), "extract", "--seed-output=no", "--store=host:"+filepath.Join(v.dir, "store.castr"), "host:"+filepath.Join(v.dir, "blob.caibx"), out)
			b.ReportMetric(time.Since(begin).Seconds(), "s/extract")
			os.Remove(out)
		}
	}
	b.Run("casync-extract-from-casync", func(b *testing.B) { extract(b) })
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("casync-extract-from-castor", func(b *testing.B) { extract(b, "CASYNC_REMOTE_PATH="+self, serveVariable+"=1") })
}
