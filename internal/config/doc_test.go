package config

import (
	"os"
	"strings"
	"testing"
)

// TestDocs parses the examples of the documentation, and looks whether all keys are in it.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	examples := 0
	for block := range strings.SplitSeq(text, "```toml\n") {
		example, _, ok := strings.Cut(block, "```\n")
		if !ok || strings.HasPrefix(text, block) {
			continue
		}
		examples++
		c, err := load(t, example, "HOME", t.TempDir())
		if err != nil {
			t.Errorf("%v in\n%s", err, example)
		} else if len(c.entries) == 0 {
			t.Errorf("nothing in\n%s", example)
		}
	}
	if examples < 4 {
		t.Errorf("found %d examples", examples)
	}
	for k := range keys {
		if !strings.Contains(text, "`"+k+"`") {
			t.Errorf("key %s is not documented", k)
		}
	}
}
