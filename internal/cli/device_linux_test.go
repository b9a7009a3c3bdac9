package cli

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/castorsync/castor/internal/testneed"
)

// loop returns a block device that holds b.
func loop(t *testing.T, b []byte) string {
	t.Helper()
	testneed.Root(t)
	losetup := testneed.Tool(t, "losetup")
	name := t.TempDir() + "/backing"
	write(t, b, name)
	out, err := exec.Command(losetup, "--find", "--show", name).CombinedOutput()
	if err != nil {
		testneed.Missing(t, "needs a loop device: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command(losetup, "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return device
}

// A block device is cut and written like a file, always in place.
func TestBlockDevice(t *testing.T) {
	img := image(11, 6<<20)
	new := edited(12, img, 10)[:5<<20+4000] // smaller than the device, and not whole blocks
	device := loop(t, img)
	dir := t.TempDir()
	write(t, img, dir, "v1.img")
	write(t, new, dir, "v2.img")

	// make of the device is make of its content.
	ok(t, dir, "make", "v1.caibx", "v1.img")
	ok(t, dir, "make", "--index-only", "device.caibx", device)
	same(t, read(t, dir, "v1.caibx"), dir, "device.caibx")
	ok(t, dir, "make", "v2.caibx", "v2.img")
	if o := castor(t, dir, "verify", "v2.caibx", device); o.code != exitMismatch {
		t.Errorf("verify of another version: exit code %d, want %d", o.code, exitMismatch)
	}
	ok(t, dir, "verify", "v1.caibx", device)

	// extract uses what is there, and leaves what is behind the content.
	report := ok(t, dir, "extract", "--json", "v2.caibx", device)
	if !strings.Contains(report, `"move":{"chunks":`) || strings.Contains(report, `"keep":{"chunks":0,`) {
		t.Errorf("nothing of the device was used: %s", report)
	}
	want := append(append([]byte{}, new...), img[len(new):]...)
	same(t, want, device)
	ok(t, dir, "verify", "v2.caibx", device) // longer, which is right for a device
	report = ok(t, dir, "extract", "--json", "v2.caibx", device)
	if !strings.Contains(report, `"fetched":{"chunks":0,`) {
		t.Errorf("a device that is right: %s", report)
	}

	// As a seed, back to the first version, and without writing.
	if out := ok(t, dir, "extract", "--dry-run", "v1.caibx", device); !strings.Contains(out, "kept") {
		t.Errorf("dry run: %s", out)
	}
	same(t, want, device)
	ok(t, dir, "extract", "--seed", device, "v2.caibx", "fromseed.img")
	same(t, new, dir, "fromseed.img")
	ok(t, dir, "extract", "v1.caibx", device)
	same(t, img, device)

	// Content that is larger than the device is refused before anything is
	// written.
	write(t, append(append([]byte{}, new...), img...), dir, "large.img")
	ok(t, dir, "make", "large.caibx", "large.img")
	if o := castor(t, dir, "extract", "large.caibx", device); o.code != exitFailure || !strings.Contains(o.stderr, "device has 6291456 bytes, the content 115") {
		t.Errorf("too large: exit code %d, %q", o.code, o.stderr)
	}
	same(t, img, device)
	tidy(t, dir)
}

// A device that something else uses is left alone, unless --force is given.
func TestBlockDeviceInUse(t *testing.T) {
	img := image(13, 2<<20)
	device := loop(t, make([]byte, len(img)))
	dir := t.TempDir()
	write(t, img, dir, "v1.img")
	ok(t, dir, "make", "v1.caibx", "v1.img")
	user, err := os.OpenFile(device, os.O_RDWR|syscall.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	o := castor(t, dir, "extract", "v1.caibx", device)
	if o.code != exitFailure || !strings.Contains(o.stderr, device+" is in use (mounted?): unmount it, or use --force") {
		t.Errorf("exit code %d, %q", o.code, o.stderr)
	}
	same(t, make([]byte, len(img)), device)
	ok(t, dir, "extract", "--dry-run", "v1.caibx", device)
	ok(t, dir, "extract", "--force", "v1.caibx", device)
	same(t, img, device)
}

// An update in place needs no right to write to the directory.
func TestInPlaceWithoutDirectory(t *testing.T) {
	testneed.Root(t)
	setpriv := testneed.Tool(t, "setpriv")
	img := image(14, 2<<20)
	dir, err := os.MkdirTemp("/tmp", "castor-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	write(t, img, dir, "v1.img")
	ok(t, dir, "make", "v1.caibx", "v1.img")
	write(t, edited(14, img, 5), dir, "disk.img")
	castor, err := exec.LookPath("castor")
	if err != nil {
		t.Fatal(err)
	}
	write(t, read(t, castor), dir, "castor") // where others may read it
	for name, mode := range map[string]os.FileMode{"": 0o755, "castor": 0o755, "disk.img": 0o666} {
		if err := os.Chmod(dir+"/"+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "./castor", "extract", "--in-place", "v1.caibx", "disk.img")
	c.Dir = dir
	if o := finish(t, c); o.code != 0 {
		t.Fatalf("exit code %d: %s", o.code, o.stderr)
	}
	same(t, img, dir, "disk.img")
	tidy(t, dir)
}
