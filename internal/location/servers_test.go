package location

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/internal/testneed"
	"github.com/castorsync/castor/internal/tests3"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/storetest"
)

// checkPlace puts a chunk and an index behind base, and finds both again.
func checkPlace(t *testing.T, o *Opener, base string) {
	t.Helper()
	x, b := example(t)
	c := storetest.Chunk(1, 5000)
	loc := base + "/v1.caibx"
	castr := DefaultStore(loc)
	s, err := o.Store(t.Context(), castr, &StoreOptions{Create: true, Durable: true, MaxChunk: storetest.Limit})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := store.Sync(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.(store.Remover); !ok {
		t.Errorf("%s: %T cannot remove chunks", castr, s)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	checkGet(t, o, castr, c)
	checkGet(t, o, filepath.Join(t.TempDir(), "absent")+"|"+castr, c)
	if d, err := o.Describe(t.Context(), castr); err != nil || !d.Reachable || d.Writable != Unknown {
		t.Errorf("Describe: %+v, %v", d, err)
	}

	if _, err := o.OpenIndex(t.Context(), loc, nil); !isNotFound(err) {
		t.Errorf("%s is not there yet: %v", loc, err)
	}
	f, err := o.CreateIndex(t.Context(), loc, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(b)
	if err := f.Commit(true); err != nil {
		t.Fatal(err)
	}
	if got, err := o.Index(t.Context(), loc, nil); err != nil || got.Root() != x.Root() {
		t.Errorf("%s: %v", loc, err)
	}
	var found []IndexInfo
	err = o.ListIndexes(t.Context(), base, func(i IndexInfo) error {
		found = append(found, i)
		return nil
	})
	if err != nil || len(found) != 1 || found[0].Size != int64(len(b)) || time.Since(found[0].Modified).Abs() > time.Hour {
		t.Fatalf("ListIndexes found %+v, %v", found, err)
	}
	if got, err := o.Index(t.Context(), found[0].Loc, nil); err != nil || got.Root() != x.Root() {
		t.Errorf("%s: %v", found[0].Loc, err)
	}
}

func isNotFound(err error) bool {
	_, ok := errors.AsType[*NotFoundError](err)
	return ok
}

func TestSFTP(t *testing.T) {
	server := ""
	for _, name := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"} {
		if _, err := os.Stat(name); err == nil {
			server = name
		}
	}
	if server == "" {
		testneed.Missing(t, "needs sftp-server of OpenSSH")
	}
	d := t.TempDir()
	ssh := filepath.Join(d, "ssh")
	if err := os.WriteFile(ssh, []byte("#!/bin/sh\necho \"$@\" >>'"+d+"/calls'\nexec "+server+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o, _ := opener(t, "[store.'sftp://example.com*']\nssh-command = '"+ssh+"'\nssh-args = ['-oX=1']\nconnections = 2\nconcurrency = 4\n")
	checkPlace(t, o, "sftp://User@example.com:2222"+d)
	calls, err := os.ReadFile(filepath.Join(d, "calls"))
	if err != nil || !bytes.HasPrefix(calls, []byte("-oX=1 -p 2222 ")) || !bytes.Contains(calls, []byte("User@example.com sftp")) {
		t.Errorf("ssh was called as %q, %v", calls, err)
	}
	if _, err := o.Source(t.Context(), "sftp://example.com"+d+"/absent.castr", 0); !isNotFound(err) {
		t.Errorf("absent: %v", err)
	}
}

func TestS3(t *testing.T) {
	server := tests3.Start(t)
	addr := server.Addr
	o, log := opener(t, fmt.Sprintf("[store.'s3+http://%s/bucket/*']\naccess-key-env = 'A'\nsecret-key-env = 'S'\nregion = 'us-east-1'\nlookup = 'path'\n", addr),
		"A", tests3.AccessKey, "S", tests3.SecretKey)
	checkPlace(t, o, "s3+http://"+addr+"/bucket/images")
	d2, err := o.Describe(t.Context(), "s3+http://"+addr+"/bucket/images/default.castr")
	if want := "[access key from environment variable A, secret key from environment variable S]"; err != nil || fmt.Sprint(d2.Credentials) != want {
		t.Errorf("got credentials %v, %v, want %s", d2.Credentials, err, want)
	}
	if strings.Contains(log.String()+fmt.Sprintf("%+v", d2), tests3.SecretKey) {
		t.Error("a secret is told")
	}
}

func TestCasync(t *testing.T) {
	casync := testneed.Tool(t, "casync")
	d := t.TempDir()
	ssh := filepath.Join(d, "ssh")
	if err := os.WriteFile(ssh, []byte("#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o, _ := opener(t, "[store.'ssh://example.com*']\nssh-command = '"+ssh+"'\nremote-command = '"+casync+"'\nconnections = 2\n")
	x, b := example(t)
	c := storetest.Chunk(1, 5000)
	castr := castr(t, c)
	name := filepath.Join(filepath.Dir(castr), "v1.caibx")
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{"ssh://user@example.com:2222", "example.com:"} {
		checkGet(t, o, base+castr, c)
		checkGet(t, o, filepath.Join(d, "absent")+"|"+base+castr, c)
		if got, err := o.Index(t.Context(), base+name, nil); err != nil || got.Root() != x.Root() {
			t.Errorf("%s: %v", base, err)
		}
		if _, err := o.OpenIndex(t.Context(), base+name+"2", nil); !isNotFound(err) {
			t.Errorf("%s: an index that is not there: %v", base, err)
		}
		if d, err := o.Describe(t.Context(), base+castr); err != nil || !d.Reachable || len(d.Config) != 1 {
			t.Errorf("%s: Describe: %+v, %v", base, d, err)
		}
	}
	s, err := o.Store(t.Context(), "example.com:"+castr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), storetest.Chunk(2, 100)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Put to casync: %v", err)
	}
}
