package cli

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/internal/tests3"
	"github.com/castorsync/castor/internal/testssh"
	"github.com/castorsync/castor/store/dir"
	"github.com/castorsync/castor/store/httpstore"
)

// place is a directory that castor reaches by a URL, and what it takes to do so.
type place struct {
	url  string
	env  []string
	host bool // chunks cannot be listed there
}

// places returns an empty place of each kind, with a real server behind it.
func places(t *testing.T) map[string]place {
	t.Helper()
	all := map[string]place{"directory": {url: t.TempDir()}}

	s3 := tests3.Start(t)
	all["s3"] = place{url: s3.URL("images"), env: []string{"S3_ACCESS_KEY=" + tests3.AccessKey, "S3_SECRET_KEY=" + tests3.SecretKey}}

	web := t.TempDir()
	chunks, err := dir.Open(filepath.Join(web, "default.castr"), &dir.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chunks.Close() })
	h, err := httpstore.NewHandler(httpstore.HandlerOptions{Source: chunks, Sink: chunks, Writable: true, IndexDir: web})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	all["http"] = place{url: server.URL, host: true}

	host, args := testssh.Start(t)
	config := filepath.Join(t.TempDir(), "config.toml")
	castor, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary is castor by the name that it is started by.
	link := filepath.Join(t.TempDir(), "castor")
	if err := os.Symlink(castor, link); err != nil {
		t.Fatal(err)
	}
	text := "[store.\"*\"]\nssh-args = [\"" + strings.Join(args, `", "`) + "\"]\nremote-command = \"" + link + "\"\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"CASTOR_CONFIG=" + config}
	all["sftp"] = place{url: "sftp://" + host + t.TempDir(), env: env}
	all["ssh"] = place{url: "ssh://" + host + t.TempDir(), env: env, host: true}
	return all
}

// Every command takes stores and indexes in every place, and does the same there.
func TestPlaces(t *testing.T) {
	old := image(1, 2<<20)
	new := edited(1, old, 5)
	for name, p := range places(t) {
		t.Run(name, func(t *testing.T) {
			for _, e := range p.env {
				k, v, _ := strings.Cut(e, "=")
				t.Setenv(k, v)
			}
			d := t.TempDir()
			write(t, old, d, "old.img")
			write(t, new, d, "new.img")
			v1, v2, castr := p.url+"/v1.caibx", p.url+"/v2.caibx", p.url+"/default.castr"

			ok(t, d, "make", v1, "old.img") // with its default store
			ok(t, d, "make", "-s", castr, v2, "new.img")
			ok(t, d, "extract", v1, "out.img")
			same(t, old, d, "out.img")
			ok(t, d, "extract", "-s", castr, "-c", "cache.castr", v2, "out.img")
			same(t, new, d, "out.img")
			ok(t, d, "verify", v1)
			ok(t, d, "stores", castr)
			ok(t, d, "copy", "-d", "here.castr", "--indexes", ".", v1, v2)
			ok(t, d, "verify", "-s", "here.castr", "v2.caibx")
			if name != "http" { // which has one store
				ok(t, d, "copy", "-s", "here.castr", "-d", p.url+"/second.castr", "v1.caibx")
				ok(t, d, "extract", "-s", p.url+"/second.castr", v1, "out2.img")
				same(t, old, d, "out2.img")
			}
			ok(t, d, "extract", "-s", filepath.Join(d, "absent.castr")+"|"+castr, v1, "out3.img")
			same(t, old, d, "out3.img")
			if o := finish(t, command(d, "info", p.url+"/absent.caibx")); o.code != exitNotFound {
				t.Errorf("an index that is not there: exit code %d, %s", o.code, o.stderr)
			}
			if p.host {
				return
			}
			ok(t, d, "check", castr)
			ok(t, d, "gc", "--yes", "--grace", "0s", castr, p.url+"/") // all indexes there
			ok(t, d, "verify", v1)
			ok(t, d, "gc", "--yes", "--grace", "0s", castr, v2)
			ok(t, d, "verify", v2)
			if o := finish(t, command(d, "verify", v1)); o.code != exitMissing {
				t.Errorf("verify after gc: exit code %d, %s", o.code, o.stderr)
			}
		})
	}
}

// casync's clients talk to castor at the other end of an ssh connection, and castor to
// casync.
func TestPlacesCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	host, args := testssh.Start(t)
	d := t.TempDir()
	ssh := filepath.Join(d, "ssh")
	real := testneed.Tool(t, "ssh")
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host, port = host[:i], host[i+1:] // casync has no word for ports
	}
	script := "#!/bin/sh\nexec " + real + " " + strings.Join(args, " ") + " -p " + port + " \"$@\"\n"
	if err := os.WriteFile(ssh, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	castor := filepath.Join(d, "castor")
	if err := os.Symlink(self, castor); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CASYNC_SSH_PATH", ssh)
	img := image(1, 2<<20)
	write(t, img, d, "disk.img")
	ok(t, d, "make", "--digest", "sha512-256", "v1.caibx", "disk.img")
	at := host + ":" + d

	t.Setenv("CASYNC_REMOTE_PATH", castor)
	external(t, d, casync, "extract", "--store="+at+"/default.castr", at+"/v1.caibx", filepath.Join(d, "pulled.img"))
	same(t, img, d, "pulled.img")
	external(t, d, casync, "make", "--store="+at+"/pushed.castr", at+"/pushed.caibx", filepath.Join(d, "disk.img"))
	ok(t, d, "verify", "-s", "pushed.castr", "pushed.caibx")

	t.Setenv("CASYNC_REMOTE_PATH", casync)
	ok(t, d, "extract", at+"/v1.caibx", "fromcasync.img")
	same(t, img, d, "fromcasync.img")
	if err := os.Mkdir(filepath.Join(d, "to"), 0o755); err != nil {
		t.Fatal(err)
	}
	ok(t, d, "copy", "-d", at+"/to/default.castr", "--indexes", at+"/to", "v1.caibx")
	ok(t, d, "verify", "to/v1.caibx")
}

// external runs another program in d.
func external(t *testing.T, d, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = d
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
