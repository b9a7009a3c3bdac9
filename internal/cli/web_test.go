package cli

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWeb extracts from a web server that knows nothing of castor, by the URL of the
// index and by that of a store.
func TestWeb(t *testing.T) {
	source, v1, v2 := versions(t, 1<<20)
	server := httptest.NewServer(http.FileServer(http.Dir(source)))
	defer server.Close()
	dir := t.TempDir()
	ok(t, dir, "extract", "-s", server.URL+"/store.castr", "-c", "cache.castr", server.URL+"/v1.caibx", "disk.img")
	same(t, v1, dir, "disk.img")
	ok(t, dir, "extract", "-s", server.URL+"/store.castr", filepath.Join(source, "v2.caibx"), "disk.img")
	same(t, v2, dir, "disk.img")
	if err := os.Rename(filepath.Join(source, "store.castr"), filepath.Join(source, "default.castr")); err != nil {
		t.Fatal(err)
	}
	ok(t, dir, "extract", server.URL+"/v1.caibx", "default.img")
	same(t, v1, dir, "default.img")
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"info", server.URL + "/absent.caibx"}, exitNotFound, "absent.caibx"},
		{[]string{"extract", "-s", server.URL + "/absent.castr", server.URL + "/v2.caibx", "new.img"}, exitMissing, "absent.castr"},
		{[]string{"info", strings.Replace(server.URL, "://", "://me:secret@", 1) + "/v1.caibx"}, exitUsage, "netrc"},
	} {
		o := finish(t, command(dir, tt.args...))
		if o.code != tt.code || !strings.Contains(o.stderr, tt.says) || strings.Contains(o.stderr, "secret") {
			t.Errorf("%q: exit code %d, %q; want %d, %q", tt.args, o.code, o.stderr, tt.code, tt.says)
		}
	}
}

// TestWebHints has errors say what to configure.
func TestWebHints(t *testing.T) {
	locked := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	private := httptest.NewServer(locked)
	defer private.Close()
	selfSigned := httptest.NewUnstartedServer(locked)
	selfSigned.Config.ErrorLog = log.New(io.Discard, "", 0)
	selfSigned.StartTLS()
	defer selfSigned.Close()
	for url, want := range map[string]string{private.URL: "~/.netrc", selfSigned.URL: "ca-file"} {
		o := finish(t, command(t.TempDir(), "info", url+"/v1.caibx"))
		if o.code != exitFailure || !strings.Contains(o.stderr, want) || !strings.Contains(o.stderr, "castor help config") {
			t.Errorf("exit code %d, %q; want %s", o.code, o.stderr, want)
		}
	}
}
