//go:build unix

package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Every line in a ```sh block of the README that begins with "castor ", with or
// without a prompt, is run in a directory with two images, their indexes and a
// directory src, one
// after the other. Lines about devices are left out.
func TestReadme(t *testing.T) {
	commands := readmeCommands(string(read(t, "../../README.md")))
	if len(commands) == 0 {
		t.Fatal("README.md has no castor command in a sh block")
	}
	dir := t.TempDir()
	old := image(1, 3<<20)
	write(t, old, dir, "old.img")
	write(t, edited(1, old, 5), dir, "disk.img")
	ok(t, dir, "make", "v1.caibx", "old.img")
	ok(t, dir, "make", "v2.caibx", "disk.img")
	if err := os.MkdirAll(filepath.Join(dir, "src/docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, []byte("read me\n"), dir, "src/docs/readme.txt")
	ran := 0
	for _, line := range commands {
		if strings.Contains(strings.ReplaceAll(line, "/dev/null", ""), "/dev/") {
			continue
		}
		ran++
		c := exec.Command("sh", "-c", line)
		c.Dir, c.Env = dir, command(dir).Env
		var stdout, stderr bytes.Buffer
		c.Stdout, c.Stderr = &stdout, &stderr
		if err := c.Run(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, stderr.Bytes())
		}
	}
	if ran == 0 {
		t.Error("every castor command of README.md is about a device")
	}
	tidy(t, dir)
}

func readmeCommands(text string) (commands []string) {
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			inside = !inside && fence == "sh"
			continue
		}
		line = strings.TrimPrefix(line, "$ ")
		if inside && strings.HasPrefix(line, "castor ") {
			commands = append(commands, line)
		}
	}
	return commands
}

func TestReadmeCommands(t *testing.T) {
	got := readmeCommands("castor a\n```sh\ncastor b\n$ castor c | cat\nls\n```\ncastor d\n```\ncastor e\n```\n\n```sh\n  castor f\n```\n")
	want := []string{"castor b", "castor c | cat", "castor f"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}
