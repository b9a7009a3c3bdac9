package tree

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/castorsync/castor/internal/testneed"
)

// globs are patterns and names of which every pair is tried.
var globs = []string{
	"", "a", "b", "ab", "abc", "*", "**", "?", "a*", "*a", "*b*", "a*c", "a?c", ".", ".a", ".*", "?a", "*.a", "[.]a", `\.a`, `\*`, `\a`, `a\`, `\\`, `\`,
	"[", "[]", "[a", "[]a]", "[!a]", "[^a]", "[!]a]", "[a-c]", "[c-a]", "[a-]", "[-a]", "[--0]", "[a-c-e]", `[\]]`, `[\a]`, `[a\-c]`, "[[:alpha:]]", "[[:digit:]]", "[![:alpha:]]",
	"[[:nonsense:]]", "[[:alpha:]", "[[.a.]]", "[[=a=]]", "[[.a.]-c]", "[a]b", "x[a]", "*[a-c]*[b-z]", "a*b*c*", "[*]", "[?]", "[[]", "[!]", "[]-a]", "é", "?é", "??", "\xff", "[\xc3]", "-", "]", "0", " ", "A", "[A-Z]", "[[:upper:]x]", "*.", "..", "?.", "aXbXc",
}

// TestFnmatch compares with the function of that name in the C library.
func TestFnmatch(t *testing.T) {
	python := testneed.Tool(t, "python3")
	const script = `
import sys, ctypes
fnmatch = ctypes.CDLL(None).fnmatch
for line in sys.stdin.buffer.read().split(b"\n")[:-1]:
    pattern, name = (bytes.fromhex(s.decode()) for s in line.split(b"/"))
    sys.stdout.write("%d" % fnmatch(pattern, name, 4))
`
	var in strings.Builder
	for _, p := range globs {
		for _, n := range globs {
			fmt.Fprintf(&in, "%x/%x\n", p, n)
		}
	}
	cmd := exec.Command(python, "-c", script)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil || len(out) != len(globs)*len(globs) {
		testneed.Missing(t, "needs fnmatch of glibc through Python: %d results, %v", len(out), err)
	}
	for i, p := range globs {
		for j, n := range globs {
			if got, want := fnmatch(p, n), out[i*len(globs)+j] == '0'; got != want {
				t.Errorf("fnmatch(%q, %q) = %v, want %v", p, n, got, want)
			}
		}
	}
}

// FuzzExclude: whatever is in an exclude file, it is parsed or refused, and a
// pattern without special characters matches its own name.
func FuzzExclude(f *testing.F) {
	for _, g := range globs {
		f.Add(g, "abc")
	}
	f.Add("# x\n!a/b/\n*.o\n", "a.o")
	f.Fuzz(func(t *testing.T, text, name string) {
		rules, err := parseRules(text)
		if err != nil {
			return
		}
		for _, dir := range []bool{false, true} {
			_, inside := exclude(rules, name, dir)
			if !dir && inside != nil {
				t.Errorf("rules inside of a file")
			}
		}
		if name == text && name != "" && !strings.ContainsAny(name, "*?[\\/!# \t\r\n\x00") && name != "." && name != ".." {
			if out, _ := exclude(rules, name, false); !out {
				t.Errorf("%q does not match itself", name)
			}
		}
	})
}
