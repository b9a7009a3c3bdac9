package archive

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const vectors = "../testdata/casync/"

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(vectors + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(vectors + pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// reencode reads an archive and writes it again.
func reencode(r io.Reader) ([]byte, error) {
	var out bytes.Buffer
	ar := NewReader(r)
	var w *Writer
	for {
		e, err := ar.Next()
		if err == io.EOF {
			err = w.Close()
			return out.Bytes(), err
		}
		if err != nil {
			return nil, err
		}
		if w == nil {
			if w, err = NewWriter(&out, ar.Features()); err != nil {
				return nil, err
			}
		}
		switch {
		case e.Node == nil:
			err = w.Leave()
		case e.Node.IsDir():
			err = w.Enter(base(e.Path), e.Node)
		default:
			err = w.Add(base(e.Path), e.Node, ar)
		}
		if err != nil {
			return nil, fmt.Errorf("write what was read: %w", err)
		}
		if w.Offset() != ar.Offset() {
			return nil, fmt.Errorf("%q: reader is at offset %d, writer at %d", e.Path, ar.Offset(), w.Offset())
		}
	}
}

// found is a node with what belongs to it.
type found struct {
	Entry
	content, records []byte
}

// readAll returns the nodes of an archive, with content.
func readAll(b []byte) ([]found, error) {
	var list []found
	open := map[string]int{}
	r := NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if e.Node == nil {
			list[open[e.Path]].records = b[e.Offset:r.Offset()]
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if e.Node.IsDir() {
			open[e.Path] = len(list)
		}
		list = append(list, found{Entry: e, content: content, records: b[e.Offset:r.Offset()]})
	}
}

// walkTree is readAll through the tables.
func walkTree(b []byte) ([]found, error) {
	t, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	var list []found
	for it, err := range t.Root().All() {
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(it.Content())
		if err != nil {
			return nil, err
		}
		start, end := it.Range()
		list = append(list, found{Entry{it.Path, it.Node, start}, content, b[start:end]})
	}
	return list, nil
}

func equalFound(t *testing.T, got, want []found) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d nodes, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if g.Path != w.Path || g.Offset != w.Offset || !g.Node.Equal(w.Node) ||
			!bytes.Equal(g.content, w.content) || !bytes.Equal(g.records, w.records) {
			t.Errorf("got  %q at %d: %+v\nwant %q at %d: %+v", g.Path, g.Offset, g.Node, w.Path, w.Offset, w.Node)
		}
	}
}

func TestVectors(t *testing.T) {
	for _, file := range glob(t, "catar/*.catar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".catar"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			again, err := reencode(bytes.NewReader(b))
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("written again: %d bytes, want %d; %v", len(again), len(b), err)
			}
			read, err := readAll(b)
			if err != nil {
				t.Fatal(err)
			}
			walked, err := walkTree(b)
			if err != nil {
				t.Fatal(err)
			}
			equalFound(t, walked, read)
			checkLookups(t, b, read)
		})
	}
}

// checkLookups finds each node by its path alone, and what is not there not.
func checkLookups(t *testing.T, b []byte, nodes []found) {
	t.Helper()
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		it, err := tree.Find(n.Path)
		if err != nil || it.Path != n.Path || !it.Node.Equal(n.Node) {
			t.Fatalf("find %q: %+v, %v", n.Path, it, err)
		}
		if n.Node.IsDir() {
			sub, err := readAll(n.records)
			if err != nil || !sub[0].Node.Equal(n.Node) {
				t.Errorf("%q as an archive of its own: %v", n.Path, err)
			}
			_, err = tree.Find(n.Path + "/no-such-node")
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("find in %q what is not there: %v", n.Path, err)
			}
		} else if _, err = tree.Find(n.Path + "/x"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("find in %q: %v", n.Path, err)
		}
	}
}

// The features and the digest of what casync made under each set of options.
func TestMatrix(t *testing.T) {
	n := 0
	for line := range strings.Lines(string(readFile(t, "catar/MATRIX.tsv"))) {
		col := strings.Split(strings.TrimSpace(line), "\t")
		if col[0] == "name" {
			continue
		}
		n++
		flags, err := strconv.ParseUint(col[2], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if f := featuresOf(t, col[1]); f != Features(flags) {
			t.Errorf("%s: features %#x, want %#x", col[1], uint64(f), flags)
		}
		b, err := os.ReadFile(vectors + "catar/t1." + col[0] + ".catar")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		sum := sha512.Sum512_256(b)
		if !Features(flags).Has(SHA512256) {
			sum = sha256.Sum256(b)
		}
		if got := hex.EncodeToString(sum[:]); got != col[3] {
			t.Errorf("%s: digest %s, want %s", col[0], got, col[3])
		}
		r := NewReader(bytes.NewReader(b))
		if _, err := r.Next(); err != nil || r.Features() != Features(flags) {
			t.Errorf("%s: features %#x, %v", col[0], uint64(r.Features()), err)
		}
	}
	if n == 0 {
		t.Fatal("no lines")
	}
}

// featuresOf returns the features that casync's options select.
func featuresOf(t *testing.T, options string) Features {
	var with, without Features
	extra := ExcludeNoDump | ExcludeFile | SHA512256
	for o := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "--with", "--without":
			f, err := ParseFeatures(value)
			if err != nil {
				t.Fatal(err)
			}
			if name == "--with" {
				with |= f
			} else {
				without |= f
			}
		case "--exclude-nodump":
			extra &^= ExcludeNoDump
		case "--exclude-submounts":
			extra |= ExcludeSubmounts
		case "--digest":
			extra &^= SHA512256
		}
	}
	return (Select(with, without) | extra).Normalize()
}

// What is legal among the archives in bad/. Of user-dotted and user-numeric casync
// makes archives, but does not read them.
var legal = []string{
	"hidden-attr-on-ext4", "ok-empty-dir", "ok-minimal", "subvolume-on-ext4", "symlink-4095",
	"user-dotted", "user-numeric", "user-unknown", "xattr-empty-value",
}

func TestBad(t *testing.T) {
	for _, file := range glob(t, "bad/*.catar") {
		name := strings.TrimSuffix(filepath.Base(file), ".catar")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			nodes, err := readAll(b)
			walked, treeErr := walkTree(b)
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("took %v", d)
			}
			if slices.Contains(legal, name) {
				if err != nil || treeErr != nil {
					t.Fatal(err, treeErr)
				}
				equalFound(t, walked, nodes)
				return
			}
			if !errors.Is(err, ErrFormat) || !errors.Is(treeErr, ErrFormat) {
				t.Errorf("read: %v; walk: %v", err, treeErr)
			}
			t.Log(err)
			t.Log(treeErr)
		})
	}
}

// Whether casync lists an archive is what it makes of its content. Where castor's
// verdict is another one, docs/catar.md says why.
func TestVerdicts(t *testing.T) {
	n := 0
	for line := range strings.Lines(string(readFile(t, "bad/casync-verdicts.txt"))) {
		name, verdict, ok := strings.Cut(line, " ")
		if name == "#" || !ok {
			continue
		}
		n++
		ours := slices.Contains(legal, name)
		theirs := strings.Contains(verdict, "list=0")
		if (ours != theirs) != slices.Contains(differs, name) {
			t.Errorf("%s: legal here: %v, in casync: %v; is that in docs/catar.md?", name, ours, theirs)
		}
	}
	if n == 0 {
		t.Fatal("no lines")
	}
}

// The verdicts of which docs/catar.md says why they differ.
var differs = []string{
	"dup-dir-then-symlink-then-dir", "dup-symlink-then-dir", "dup-symlink-then-file", "duplicate-file", "unsorted",
	"goodbye-bad-hash", "goodbye-items-missing", "goodbye-sorted-not-bst",
	"name-256", "name-4096", "trailing-garbage", "trailing-second-archive",
	"xattr-security-ns", "xattr-system-ns", "user-dotted", "user-numeric",
}

func TestText(t *testing.T) {
	for _, tt := range []struct{ name, digest string }{
		{"t1.default", "sha512256"}, {"t1.unix", "sha512256"}, {"t1.sha256", "sha256"}, {"s-caexclude", "sha512256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes, err := readAll(readFile(t, "catar/"+tt.name+".catar"))
			if err != nil {
				t.Fatal(err)
			}
			hash := digestFunc(tt.digest)
			f := featuresIn(nodes)
			var list, mtree strings.Builder
			for _, n := range nodes {
				fmt.Fprintln(&list, ListLine(n.Path, n.Node))
				fmt.Fprintln(&mtree, MtreeLine(n.Path, n.Node, f, Digest{tt.digest, hash(n.content)}))
			}
			equalText(t, list.String(), string(readFile(t, "out/"+tt.name+".list.txt")))
			if tt.name == "s-caexclude" {
				return
			}
			equalText(t, mtree.String(), string(readFile(t, "out/"+tt.name+".mtree.txt")))
			s := Stat{Features: f}
			equalText(t, s.Text("", nodes[0].Node), string(readFile(t, "out/"+tt.name+".stat.txt")))
		})
	}
}

func featuresIn(nodes []found) Features { return Features(word(nodes[0].records, 2)) }

func digestFunc(name string) func([]byte) []byte {
	if name == "sha256" {
		return func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	}
	return func(b []byte) []byte { s := sha512.Sum512_256(b); return s[:] }
}

func TestStatPaths(t *testing.T) {
	b := readFile(t, "catar/t1.default.catar")
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	hash := digestFunc("")
	for want := range strings.SplitSeq(strings.TrimSpace(string(readFile(t, "out/t1.default.stat-paths.txt"))), "\n\n") {
		_, path, _ := strings.Cut(want, "File: ")
		path, _, _ = strings.Cut(path, "\n")
		it, err := tree.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		start, end := it.Range()
		s := Stat{Features: tree.Features(), Offset: start, Records: hash(b[start:end])}
		if content, err := io.ReadAll(it.Content()); err != nil {
			t.Fatal(err)
		} else {
			s.Content = hash(content)
		}
		equalText(t, strings.TrimSpace(s.Text(it.Path, it.Node)), strings.TrimSpace(want))
	}
}

// What casync calls the digest of a file is that of its content, that of a
// directory is that of its records.
func TestDigestPaths(t *testing.T) {
	b := readFile(t, "catar/t1.default.catar")
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	hash := digestFunc("")
	for line := range strings.Lines(string(readFile(t, "out/t1.default.digest-paths.txt"))) {
		path, want, _ := strings.Cut(strings.TrimSpace(line), "\t")
		it, err := tree.Find(strings.TrimPrefix(path, "<whole>"))
		if err != nil {
			t.Fatal(err)
		}
		r := it.Content()
		if it.Node.IsDir() {
			r = it.Records()
		}
		data, err := io.ReadAll(r)
		if got := hex.EncodeToString(hash(data)); got != want || err != nil {
			t.Errorf("%s: digest %s, want %s; %v", path, got, want, err)
		}
	}
}

func TestListPart(t *testing.T) {
	b := readFile(t, "catar/t1.default.catar")
	tree, err := OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	nest, err := tree.Find("nest")
	if err != nil {
		t.Fatal(err)
	}
	for it, err := range nest.All() {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&list, ListLine(it.Path, it.Node))
	}
	equalText(t, list.String(), string(readFile(t, "out/t1.default.list-nest.txt")))

	list.Reset()
	fmt.Fprintln(&list, ListLine("", tree.Root().Node))
	for it, err := range tree.Root().Children() {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&list, ListLine(it.Path, it.Node))
	}
	equalText(t, list.String(), string(readFile(t, "out/t1.default.list-norecurse.txt")))
}

// What none of the vectors has.
func TestTextMore(t *testing.T) {
	n := rich(TypeDir)
	n.MTime = -1500000000
	f := UserNames | QuotaProjID | XAttrs | NSecTime | FlagDirSync
	f.Strip(n)
	want := strings.ReplaceAll(`    File: a\040b
    Mode: drwxrwxrwx
FileAttr: -D--------
 FATAttr: ---
  Offset: 7
    Time: 1969-12-31 21:59:58.500000000
    User: ann
   Group: staff
  ProjID: 7
   XAttr: trusted.t → v
   XAttr: user.a → @
   XAttr: user.b → \000\377
`, "@", "")
	s := Stat{Features: f, Offset: 7, Zone: time.FixedZone("", -2*3600), Records: []byte{1}}
	equalText(t, s.Text("a b", n), want)
	equalText(t, MtreeLine("a b", n, f, Digest{}), `a\040b type=dir mode=0777 uname=ann gname=staff time=-1.500000000`)
	// No name is root's.
	n.User, n.Group = "", ""
	equalText(t, MtreeLine("", n, UserNames, Digest{}), `. type=dir mode=0777 uname=root gname=root`)
}

func equalText(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		switch {
		case i >= len(g) || i >= len(w):
			t.Fatalf("%d lines, want %d", len(g), len(w))
		case g[i] != w[i]:
			t.Fatalf("line %d:\ngot  %.200s\nwant %.200s", i+1, g[i], w[i])
		}
	}
}
