// Package archtest keeps the layers of docs/architecture.md: a package imports
// only packages on lower floors.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/castorsync/castor/"

// floors holds the floor of every package. Packages on one floor do not import
// each other.
var floors = map[string]int{
	"internal/atomicfile": 0,
	"internal/bitset":     0,
	"internal/blockdev":   0,
	"internal/bufpool":    0,
	"internal/caformat":   0,
	"internal/multisha":   0,
	"internal/par":        0,
	"internal/reflink":    0,
	"internal/service":    0,
	"internal/sparse":     0,
	"internal/sshexec":    0,
	"internal/typo":       0,
	"internal/units":      0,
	"mcast/fec":           0,
	"mcast/mld":           0,
	"mcast/udp":           0,

	"archive":           1,
	"chunker":           1,
	"internal/config":   1,
	"internal/progress": 1,

	"archive/tarfile": 2,
	"archive/tree":    2,
	"index":           2,
	"mcast/wire":      2,
	"store":           2,

	"store/cacnk":    3,
	"store/transfer": 3,

	"store/dir":         4,
	"store/httpstore":   4,
	"store/remote":      4,
	"store/s3":          4,
	"store/sftp":        4,
	"index/blob":        4,
	"index/build":       4,
	"index/assemble":    4,
	"archive/treecache": 5,
	"fuse":              5,
	"mcast":             4,

	"internal/location": 5,
	"internal/share":    5,
	"internal/cli":      6,

	"cmd/castor":      7,
	"internal/mangen": 7,

	// For tests only: see testOnly.
	"internal/testblob": 0,
	"internal/testneed": 0,
	"internal/testns":   1,
	"internal/tests3":   1,
	"internal/testssh":  1,
	"store/storetest":   5,
	"internal/archtest": 0,
}

// testOnly packages are imported by tests alone.
var testOnly = map[string]bool{"internal/testblob": true, "internal/testneed": true, "internal/testns": true, "internal/tests3": true, "internal/testssh": true, "store/storetest": true}

func TestFloors(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, err := filepath.Rel("../..", path)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		seen[pkg] = true
		check(t, pkg, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 10 {
		t.Fatalf("found only %d packages: looking in the wrong place?", len(seen))
	}
	for pkg := range floors {
		if !seen[pkg] {
			t.Errorf("package %s has a floor and does not exist", pkg)
		}
	}
}

func check(t *testing.T, pkg, path string) {
	floor, ok := floors[pkg]
	if !ok {
		t.Errorf("package %s has no floor: give it one here and in docs/architecture.md", pkg)
		return
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	test := strings.HasSuffix(path, "_test.go")
	for _, imp := range f.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			t.Error(err)
			continue
		}
		if name == "C" {
			t.Errorf("%s uses cgo", path)
		}
		dep, ours := strings.CutPrefix(name, module)
		if !ours {
			continue
		}
		switch depFloor, ok := floors[dep]; {
		case test && (dep == pkg || testOnly[dep]):
		case testOnly[dep] && !testOnly[pkg]:
			t.Errorf("%s imports %s, which is for tests", path, dep)
		case !ok:
			t.Errorf("%s imports %s, which has no floor", path, dep)
		case depFloor >= floor && !test:
			t.Errorf("%s (floor %d) imports %s (floor %d): only lower floors may be imported", path, floor, dep, depFloor)
		}
	}
}
