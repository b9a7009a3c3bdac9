package tarfile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/castorsync/castor/archive"
)

const all = Available

// entry is an entry of a tar with content.
type entry struct {
	tar.Header
	content string
}

func regular(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, content}
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}}
}

func link(flag byte, name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: flag, Linkname: target}}
}

// tarOf returns the tar of entries.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.content))
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = time.Unix(1e9, 0)
		}
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pipe hides that a reader can be read at any place.
func pipe(b []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(b)} }

// imported returns the archive of a tar, which is the same from a file and a pipe.
func imported(t testing.TB, b []byte, f archive.Features, o *ImportOptions) ([]byte, ImportStats) {
	t.Helper()
	var fromFile, fromPipe bytes.Buffer
	stats, err := Import(t.Context(), bytes.NewReader(b), &fromFile, f, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Import(t.Context(), pipe(b), &fromPipe, f, o); err != nil {
		t.Fatalf("from a pipe: %v", err)
	}
	if !bytes.Equal(fromFile.Bytes(), fromPipe.Bytes()) {
		t.Fatal("from a file and from a pipe differ")
	}
	if stats.Size != int64(fromFile.Len()) {
		t.Errorf("size %d, want %d", stats.Size, fromFile.Len())
	}
	return fromFile.Bytes(), stats
}

// listing returns the nodes of an archive, a line each: mode, owner, path, and target,
// content or device.
func listing(t testing.TB, b []byte) string {
	t.Helper()
	var s strings.Builder
	r := archive.NewReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if err == io.EOF {
			return s.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := e.Node; n != nil {
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&s, "%s %d:%d %q %s%s", archive.ModeString(n.Mode), n.UID, n.GID, e.Path, n.Target, content)
			if n.IsDevice() {
				fmt.Fprintf(&s, "%d,%d", n.Major, n.Minor)
			}
			for _, x := range n.XAttrs {
				fmt.Fprintf(&s, " %s=%q", x.Name, x.Value)
			}
			s.WriteByte('\n')
		}
	}
}

func TestImport(t *testing.T) {
	owned := regular("owned", "")
	owned.Uid, owned.Gid, owned.Uname = 2_000_000_000, 70_000, "somebody"
	device := entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}}
	comment := entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "0123"}}}
	setid := regular("setid", "")
	setid.Mode = 0o7755
	marked := regular("marked", "")
	marked.PAXRecords = map[string]string{keyXAttr + archive.HardLinkXAttr: "x", keyXAttr + "user.b%3D%25": "\x00", keyXAttr + "security.ima": "x", keyXAttr + "user.a": ""}
	for _, tt := range []struct {
		name    string
		entries []entry
		implied int
		want    string
	}{
		{"nothing", nil, 1, "drwxr-xr-x 0:0 \"\" \n"},
		{"any order", []entry{regular("b/y", "1"), regular("a", "2"), dir("b", 0o700), regular("b/x", "3"), dir("./", 0o711)}, 0, `
drwx--x--x 0:0 "" 
-rw-r--r-- 0:0 "a" 2
drwx------ 0:0 "b" 
-rw-r--r-- 0:0 "b/x" 3
-rw-r--r-- 0:0 "b/y" 1
`},
		{"names", []entry{regular("./a", "1"), regular("//b//c", "2"), regular("././/d", "3"), link(tar.TypeSymlink, "/e", "../../x"), regular(".wh.f", "")}, 2, `
drwxr-xr-x 0:0 "" 
-rw-r--r-- 0:0 ".wh.f" 
-rw-r--r-- 0:0 "a" 1
drwxr-xr-x 0:0 "b" 
-rw-r--r-- 0:0 "b/c" 2
-rw-r--r-- 0:0 "d" 3
lrwxrwxrwx 0:0 "e" ../../x
`},
		{"the last one counts", []entry{regular("a", "old"), regular("a", "new"), dir("d", 0o700), regular("d/f", "1"), dir("d", 0o711),
			dir("e", 0o755), regular("e", "2"), regular("g", "3"), dir("g", 0o700), regular("g/h", "4")}, 1, `
drwxr-xr-x 0:0 "" 
-rw-r--r-- 0:0 "a" new
drwx--x--x 0:0 "d" 
-rw-r--r-- 0:0 "d/f" 1
-rw-r--r-- 0:0 "e" 2
drwx------ 0:0 "g" 
-rw-r--r-- 0:0 "g/h" 4
`},
		{"hard links", []entry{regular("a/f", "1"), link(tar.TypeLink, "b/g", "./a/f"), link(tar.TypeLink, "c", "/b/g"), regular("a/f", "2"),
			link(tar.TypeLink, "d", "a/f"), link(tar.TypeLink, "d", "d"), link(tar.TypeSymlink, "s", "t"), link(tar.TypeLink, "u", "s")}, 3, `
drwxr-xr-x 0:0 "" 
drwxr-xr-x 0:0 "a" 
-rw-r--r-- 0:0 "a/f" 2
drwxr-xr-x 0:0 "b" 
-rw-r--r-- 0:0 "b/g" 1
-rw-r--r-- 0:0 "c" 1
-rw-r--r-- 0:0 "d" 2
lrwxrwxrwx 0:0 "s" t
lrwxrwxrwx 0:0 "u" t
`},
		{"metadata", []entry{comment, owned, device, setid, marked, {Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo, Mode: 0o600}}}, 2, `
drwxr-xr-x 0:0 "" 
drwxr-xr-x 0:0 "dev" 
crw-rw-rw- 0:0 "dev/null" 1,3
-rw-r--r-- 0:0 "marked"  user.a="" user.b=%="\x00"
-rw-r--r-- 2000000000:70000 "owned" 
prw------- 0:0 "p" 
-rwsr-sr-x 0:0 "setid" 
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, stats := imported(t, tarOf(t, tt.entries...), all, nil)
			if stats.Implied != tt.implied {
				t.Errorf("%d directories were not in the tar, want %d", stats.Implied, tt.implied)
			}
			if got, want := listing(t, b), strings.TrimPrefix(tt.want, "\n"); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestImportMarks(t *testing.T) {
	b := tarOf(t, regular("z", "1"), link(tar.TypeLink, "a", "z"), regular("once", ""), link(tar.TypeLink, "gone", "once"), regular("gone", "2"))
	out, stats := imported(t, b, all, &ImportOptions{HardLinks: true})
	want := `drwxr-xr-x 0:0 "" 
-rw-r--r-- 0:0 "a" 1 user.castor.hardlink="a"
-rw-r--r-- 0:0 "gone" 2
-rw-r--r-- 0:0 "once" 
-rw-r--r-- 0:0 "z" 1 user.castor.hardlink="a"
`
	if got := listing(t, out); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if stats.Linked != 2 || stats.Files != 4 || stats.Nodes != 5 || stats.Implied != 1 || stats.Bytes != 3 {
		t.Errorf("got %+v", stats)
	}
	if _, err := Import(t.Context(), bytes.NewReader(b), io.Discard, archive.Unix, &ImportOptions{HardLinks: true}); err == nil {
		t.Error("marks without attributes: no error")
	}

	// As a tar, the second name is a link again.
	var exported bytes.Buffer
	if _, err := Export(t.Context(), archive.NewReader(bytes.NewReader(out)), &exported, nil); err != nil {
		t.Fatal(err)
	}
	h := headers(t, exported.Bytes())["./z"]
	if h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "./a" {
		t.Errorf("got %+v", h)
	}
	again, _ := imported(t, exported.Bytes(), all, &ImportOptions{HardLinks: true})
	if !bytes.Equal(again, out) {
		t.Errorf("got\n%swant\n%s", listing(t, again), want)
	}
}

// headers returns the headers of a tar by name.
func headers(t testing.TB, b []byte) map[string]*tar.Header {
	t.Helper()
	all := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = h
	}
}

// What the features do not have is dropped.
func TestImportFeatures(t *testing.T) {
	f := regular("f", "x")
	f.Uid, f.Uname, f.ModTime = 1000, "alice", time.Unix(1e9, 123456789)
	f.PAXRecords = map[string]string{keyXAttr + "user.a": "b", keySELinux: "label\x00", keyAccess: "nonsense"}
	b := tarOf(t, f, link(tar.TypeSymlink, "s", "f"), entry{Header: tar.Header{Name: "p", Typeflag: tar.TypeFifo}})
	out, stats := imported(t, b, archive.FAT, nil)
	if got, want := listing(t, out), "drwxrwxrwx 0:0 \"\" \n-rw-rw-rw- 0:0 \"f\" x\n"; got != want || stats.Excluded != 2 || stats.Problems != 0 {
		t.Errorf("got\n%s%+v", got, stats)
	}
	out, _ = imported(t, b, archive.UserNames|archive.NSecTime|archive.SELinux, nil)
	n := node(t, out, "f")
	if n.User != "alice" || n.Group != "" || n.MTime != 1e18+123456789 || n.SELinux != "label" {
		t.Errorf("got %+v", n)
	}
}

// node returns a node of an archive.
func node(t testing.TB, b []byte, path string) *archive.Node {
	t.Helper()
	tr, err := archive.OpenTree(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	it, err := tr.Find(path)
	if err != nil {
		t.Fatal(err)
	}
	return it.Node
}

func TestImportRefuses(t *testing.T) {
	with := func(e entry, key, value string) entry {
		e.PAXRecords = map[string]string{key: value}
		return e
	}
	deep := strings.Repeat("d/", archive.MaxDepth)
	late := regular("f", "")
	late.ModTime = time.Unix(1<<40, 0)
	late.Format = tar.FormatPAX
	device := entry{Header: tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 1 << 20}}
	global := entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"mtime": "1"}}}
	for _, tt := range []struct {
		name    string
		entries []entry
		err     string
	}{
		{"dot dot", []entry{regular("a/../../etc/passwd", "x")}, `tar entry 1, "a/../../etc/passwd": a path with ".." in it is not allowed`},
		{"link to dot dot", []entry{link(tar.TypeLink, "a", "../b")}, `a path with ".." in it`},
		{"through a link", []entry{link(tar.TypeSymlink, "a", "/etc"), regular("a/passwd", "x")}, `"a" is a symbolic link, not a directory`},
		{"through a file", []entry{regular("a", ""), regular("a/b", "")}, `"a" is a file, not a directory`},
		{"not empty", []entry{regular("a/b", ""), regular("a", "")}, "it is a directory already, which is not empty"},
		{"root", []entry{regular(".", "")}, "the root is a directory"},
		{"link to nothing", []entry{link(tar.TypeLink, "a", "b"), regular("b", "")}, `link to "b", which does not come before`},
		{"link to a directory", []entry{dir("b", 0), link(tar.TypeLink, "a", "b")}, `link to "b", which is a directory`},
		{"link to the root", []entry{link(tar.TypeLink, "a", ".")}, `link to ".", which does not come before`},
		{"depth", []entry{regular(deep+"f", "")}, "more than 64 nodes deep"},
		{"name", []entry{regular(strings.Repeat("n", 256), "")}, "a name of 256 bytes, more than 255"},
		{"time", []entry{late}, "time of 1099511627776 s since 1970: want one from 1678 to 2262"},
		{"type", []entry{{Header: tar.Header{Name: "m", Typeflag: 'M'}}}, "type 'M' of an entry is not known"},
		{"device", []entry{device}, "device 1048576:0 is not allowed"},
		{"global", []entry{global}, "a global header with mtime is not supported"},
		{"attribute", []entry{with(regular("f", ""), keyXAttr+"user."+strings.Repeat("n", 255), "")}, `the name is not allowed`},
		{"value", []entry{with(regular("f", ""), keyXAttr+"user.a", strings.Repeat("n", 64<<10+1))}, `65537 bytes, more than 65536`},
		{"no target", []entry{link(tar.TypeSymlink, "s", "")}, "symlink target of 0 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tarOf(t, tt.entries...)
			for _, r := range []io.Reader{bytes.NewReader(b), pipe(b)} {
				if _, err := Import(t.Context(), r, io.Discard, all, nil); err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
			}
		})
	}
}

// What is no tar, or not a whole one.
func TestImportBroken(t *testing.T) {
	whole := tarOf(t, regular("a", strings.Repeat("x", 2000)), regular("b", "y"))
	huge := bytes.Clone(whole)
	copy(huge[124:], "77777777777\x00") // 8 GiB
	setSum(huge[:512])
	bomb, err := os.ReadFile("testdata/sparse-gnu.tar")
	if err != nil {
		t.Fatal(err)
	}
	copy(bomb[483:], "\x80\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x00") // its size: 2^45
	setSum(bomb[:512])
	for _, tt := range []struct {
		name string
		b    []byte
		err  string
	}{
		{"empty", nil, "it is empty"},
		{"gzip", []byte("\x1f\x8b\x08" + strings.Repeat("\x99", 2000)), "not a tar file: if it is compressed"},
		{"short header", whole[:100], "unexpected EOF"},
		{"within a file", whole[:1000], "unexpected EOF"},
		{"within the next header", whole[:512+2048+100], "tar, behind entry 1: unexpected EOF"},
		{"huge", huge, "unexpected EOF"},
		{"sparse without end", bomb, "sparse file of 35184372088832 bytes, more than 17592186044416"},
		{"nonsense behind", append(whole[:512+2048:512+2048], bytes.Repeat([]byte{7}, 512)...), "tar, behind entry 1: archive/tar: invalid tar header"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.b), pipe(tt.b)} {
				if _, err := Import(t.Context(), r, io.Discard, all, nil); err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %s", err, tt.err)
				}
			}
		})
	}
	// What follows the end is read, and ignored.
	r := bytes.NewBuffer(append(bytes.Clone(whole), bytes.Repeat([]byte{7}, 100000)...))
	if _, err := Import(t.Context(), r, io.Discard, all, nil); err != nil || r.Len() > 0 {
		t.Errorf("got %v, %d bytes left", err, r.Len())
	}
}

// setSum makes the check sum of a header right.
func setSum(h []byte) {
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// manyFiles is a tar of so many files, without an end.
type manyFiles struct {
	n   int
	buf bytes.Buffer
}

func (m *manyFiles) Read(b []byte) (int, error) {
	for m.buf.Len() == 0 {
		m.n++
		w := tar.NewWriter(&m.buf)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(m.n), Typeflag: tar.TypeReg}); err != nil {
			return 0, err
		}
	}
	return m.buf.Read(b)
}

func TestImportBounds(t *testing.T) {
	_, err := Import(t.Context(), &manyFiles{}, io.Discard, all, &ImportOptions{MaxMemory: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "more than 1 MiB of memory") {
		t.Errorf("got %v", err)
	}
	// Also where one name is replaced again and again.
	small, large := regular("f", ""), regular("f", "")
	large.PAXRecords = map[string]string{}
	for i := range 14 {
		large.PAXRecords[fmt.Sprint(keyXAttr, "user.", i)] = strings.Repeat("x", 64<<10)
	}
	var entries []entry
	for range 20 {
		entries = append(entries, small, large)
	}
	if _, err := Import(t.Context(), pipe(tarOf(t, entries...)), io.Discard, all, &ImportOptions{MaxMemory: 1 << 20}); err != nil {
		t.Errorf("replaced: %v", err)
	}
	for i := range entries {
		entries[i].Name = fmt.Sprint(i)
	}
	if _, err := Import(t.Context(), pipe(tarOf(t, entries...)), io.Discard, all, &ImportOptions{MaxMemory: 1 << 20}); err == nil {
		t.Error("attributes without end: no error")
	}
}

// What is dropped of an entry takes no memory, however small the rest is.
func TestImportKeepsNoHeaders(t *testing.T) {
	const n, size = 48, 900 << 10
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		var err error
		for i := range n {
			h := &tar.Header{
				Name: strings.Repeat("n", 200) + fmt.Sprint(i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 200),
				Uid: 1000, Uname: "üser" + fmt.Sprint(i), Gname: "gröup", Format: tar.FormatPAX,
				PAXRecords: map[string]string{"comment": strings.Repeat("c", size), keySELinux: "label", keyXAttr + "user.a": "b"},
			}
			if i%2 == 0 {
				h.Typeflag, h.Linkname = tar.TypeReg, ""
			}
			err = errors.Join(err, w.WriteHeader(h))
		}
		pw.CloseWithError(errors.Join(err, w.Close()))
	}()
	m := &meter{}
	if _, err := Import(t.Context(), pr, m, all, nil); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if held := int64(m.first.HeapAlloc) - int64(after.HeapAlloc); held > n*size/4 {
		t.Errorf("the tree of %d nodes took %d bytes", n, held)
	}
}

// meter notes the memory in use when it is first written to.
type meter struct{ first runtime.MemStats }

func (m *meter) Write(b []byte) (int, error) {
	if m.first.HeapAlloc == 0 {
		runtime.GC()
		runtime.ReadMemStats(&m.first)
	}
	return len(b), nil
}

func TestCancel(t *testing.T) {
	stop := errors.New("stop")
	for _, after := range []int{0, 1, 2, 3} {
		ctx, cancel := context.WithCancelCause(t.Context())
		b := tarOf(t, regular("a", strings.Repeat("x", 5000)), regular("b", "y"))
		r := &hook{r: bytes.NewReader(b), after: after, f: func() { cancel(stop) }}
		if _, err := Import(ctx, r, io.Discard, all, nil); !errors.Is(err, stop) {
			t.Errorf("import after %d: got %v", after, err)
		}
	}
	catar, _ := imported(t, tarOf(t, regular("a", "x"), regular("b", "y")), all, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := Export(ctx, archive.NewReader(bytes.NewReader(catar)), io.Discard, nil); !errors.Is(err, stop) {
		t.Errorf("export: got %v", err)
	}
	if _, err := Import(ctx, bytes.NewReader(tarOf(t)), io.Discard, all, nil); !errors.Is(err, stop) {
		t.Errorf("import of a file: got %v", err)
	}
}

// hook is a reader that calls f after some reads.
type hook struct {
	r     io.Reader
	after int
	f     func()
}

func (h *hook) Read(b []byte) (int, error) {
	if h.after--; h.after < 0 {
		h.f()
	}
	return h.r.Read(b)
}

// Every archive of the vectors becomes a tar, and that the same archive again, but for
// what has no place in a tar.
func TestVectors(t *testing.T) {
	names, err := filepath.Glob("../../testdata/casync/catar/*.catar")
	if err != nil || len(names) < 10 {
		t.Fatalf("%d vectors, %v", len(names), err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			r := archive.NewReader(bytes.NewReader(b))
			if _, err := r.Next(); err != nil {
				t.Skip("not an archive that castor reads")
			}
			f := r.Features()
			var exported bytes.Buffer
			problems := 0
			stats, err := Export(t.Context(), archive.NewReader(bytes.NewReader(b)), &exported, &ExportOptions{Problem: func(Problem) { problems++ }})
			if err != nil {
				t.Fatal(err)
			}
			if stats.Problems != problems {
				t.Errorf("%d problems, told %d", stats.Problems, problems)
			}
			again, _ := imported(t, exported.Bytes(), f, nil)
			want := b
			if problems > 0 {
				want = reduced(t, b)
			}
			if !bytes.Equal(again, want) {
				t.Error(firstDifference(t, again, want))
			}
		})
	}
}

// firstDifference says in which node two archives differ first.
func firstDifference(t testing.TB, got, want []byte) string {
	t.Helper()
	a, b := archive.NewReader(bytes.NewReader(got)), archive.NewReader(bytes.NewReader(want))
	for {
		x, err := a.Next()
		y, werr := b.Next()
		if err != nil || werr != nil {
			return fmt.Sprintf("got %v, want %v", err, werr)
		}
		if x.Path != y.Path || (x.Node == nil) != (y.Node == nil) || x.Node != nil && !x.Node.Equal(y.Node) {
			return fmt.Sprintf("got  %q %+v\nwant %q %+v", x.Path, x.Node, y.Path, y.Node)
		}
	}
}

// reduced returns an archive without what has no place in a tar.
func reduced(t *testing.T, b []byte) []byte {
	t.Helper()
	r := archive.NewReader(bytes.NewReader(b))
	var out bytes.Buffer
	var w *archive.Writer
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if w == nil {
			if w, err = archive.NewWriter(&out, r.Features()); err != nil {
				t.Fatal(err)
			}
		}
		name := e.Path[strings.LastIndexByte(e.Path, '/')+1:]
		if e.Node != nil {
			e.Node.Flags, e.Node.ProjectID = 0, 0
		}
		switch {
		case e.Node == nil:
			err = w.Leave()
		case e.Node.IsDir():
			err = w.Enter(name, e.Node)
		case e.Node.Type() == archive.TypeSocket:
		default:
			err = w.Add(name, e.Node, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Files that are marked as one and are not.
func TestExportMarks(t *testing.T) {
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, all.Normalize())
	if err != nil {
		t.Fatal(err)
	}
	n := func(mode uint32, content string) *archive.Node {
		return &archive.Node{Mode: archive.TypeRegular | mode, Size: int64(len(content)), XAttrs: []archive.XAttr{{Name: archive.HardLinkXAttr, Value: []byte("a")}}}
	}
	add := func(name string, n *archive.Node, content string) {
		t.Helper()
		if err := w.Add(name, n, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Enter("", &archive.Node{Mode: archive.TypeDir | 0o755}); err != nil {
		t.Fatal(err)
	}
	add("a", n(0o644, "one"), "one")
	add("b", n(0o644, "one"), "one")
	add("c", n(0o600, "one"), "one") // other permissions: a file of its own
	add("d", n(0o644, "three"), "three")
	add("e", n(0o644, "two"), "two") // a lie
	if err := errors.Join(w.Leave(), w.Close()); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_, err = Export(t.Context(), archive.NewReader(&b), &out, nil)
	if want := `tar "e": is marked as another name of "a", but has other content`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzImport(f *testing.F) {
	x := regular("x/y", "content")
	x.PAXRecords = map[string]string{keyXAttr + "user.a": "b", keyAccess: "user::rwx,user:7:r--,group::r--,mask::r--,other::---", keySELinux: "l"}
	f.Add(tarOf(f, dir("./", 0o755), x, link(tar.TypeLink, "z", "x/y"), link(tar.TypeSymlink, "s", "x"), regular("a", "")))
	f.Add(tarOf(f, regular("a", "1"), regular("a", "2"), dir("d", 0), regular("d/e", "3")))
	sparse, err := filepath.Glob("testdata/*.tar")
	if err != nil || len(sparse) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range sparse {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if b = bytes.Clone(b); len(b)%2 == 0 { // else the sums are to be wrong
			for at := 0; at+512 <= len(b); at += 512 {
				if h := b[at : at+512]; string(h[257:262]) == "ustar" {
					setSum(h)
				}
			}
		}
		for r := tar.NewReader(bytes.NewReader(b)); ; { // no zeros without end
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Size > 1<<20 {
				return
			}
		}
		var fromFile, fromPipe bytes.Buffer
		o := &ImportOptions{MaxMemory: 1 << 20, HardLinks: true}
		_, err := Import(t.Context(), bytes.NewReader(b), &fromFile, all, o)
		if _, perr := Import(t.Context(), pipe(b), &fromPipe, all, o); (err == nil) != (perr == nil) {
			t.Fatalf("from a file: %v; from a pipe: %v", err, perr)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(fromFile.Bytes(), fromPipe.Bytes()) {
			t.Fatal("from a file and from a pipe differ")
		}
		listing(t, fromFile.Bytes())
		if node(t, fromFile.Bytes(), "").Equal(&archive.Node{Mode: archive.TypeDir}) {
			return // as the root of a part, which is not written
		}
		var exported, again bytes.Buffer
		if _, err := Export(t.Context(), archive.NewReader(bytes.NewReader(fromFile.Bytes())), &exported, nil); err != nil {
			return // an ACL or an attribute longer than package tar writes
		}
		if _, err := Import(t.Context(), &exported, &again, all, &ImportOptions{HardLinks: true}); err != nil || !bytes.Equal(fromFile.Bytes(), again.Bytes()) {
			t.Fatalf("through a tar: %v\n%swas\n%s", err, listing(t, again.Bytes()), listing(t, fromFile.Bytes()))
		}
	})
}
