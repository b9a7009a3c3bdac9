package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/chunker"
)

// lister is a command that says something about the nodes of a tree.
type lister struct {
	treeSource
	long      bool
	json      bool
	recursive bool
}

func newList(a *app) *cobra.Command {
	var f lister
	cmd := &cobra.Command{
		Use:     "list [flags] TREE [PATH]",
		GroupID: groupInspect,
		Short:   "List what is in a tree",
		Long: `List the nodes of TREE, an archive (.catar), the index of one (.caidx) or a directory:
mode and path, a line each. With PATH, those at and below it alone. Of a large archive
only what is needed is read.

Characters that are not plain are shown as octal numbers behind a backslash. With --json,
a path that is not UTF-8 is also there as it is, in base64, as path_base64.`,
		Example: `  castor list v1.caidx
  castor list -l https://far.example/v1.caidx etc/ssh`,
		Args: rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), a, args, func(w io.Writer, t *archive.Tree, it *archive.Item) error {
				line := archive.ListLine(it.Path, it.Node)
				if f.long {
					line = longLine(it)
				}
				_, err := fmt.Fprintln(w, line)
				return err
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.BoolVarP(&f.long, "long", "l", false, "show owner, size and time, too")
	fl.BoolVar(&f.json, "json", false, "print a JSON object a line")
	fl.BoolVar(&f.recursive, "recursive", true, "go into directories below the one named")
	return cmd
}

func newMtree(a *app) *cobra.Command {
	f := lister{recursive: true}
	cmd := &cobra.Command{
		Use:     "mtree [flags] TREE [PATH]",
		GroupID: groupInspect,
		Short:   "Print a manifest of a tree, with digests",
		Long: `Print the nodes of TREE, an archive (.catar), the index of one (.caidx) or a directory,
with their metadata and the digests of files, in the form of mtree(5), a line each.`,
		Example: "  castor mtree v1.caidx > v1.mtree",
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), a, args, func(w io.Writer, t *archive.Tree, it *archive.Item) error {
				d, err := contentDigest(cmd.Context(), t, it)
				if err != nil {
					return err
				}
				name := strings.ReplaceAll(digestOf(t).String(), "-", "")
				_, err = fmt.Fprintln(w, archive.MtreeLine(it.Path, it.Node, t.Features(), archive.Digest{Name: name, Sum: d}))
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newStat(a *app) *cobra.Command {
	var f lister
	cmd := &cobra.Command{
		Use:     "stat [flags] TREE [PATH]",
		GroupID: groupInspect,
		Short:   "Print all that is known of a node of a tree",
		Example: "  castor stat v1.caidx etc/passwd",
		Args:    rangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			defer f.close()
			t, err := f.openTree(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			it, err := t.Find(pathIn(args, 1))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if f.json {
				return json.NewEncoder(a.Stdout).Encode(nodeReportOf(it))
			}
			s := archive.Stat{Features: t.Features(), Zone: time.Local}
			s.Offset, _ = it.Range()
			if s.Content, err = contentDigest(cmd.Context(), t, it); err != nil {
				return err
			}
			if !it.Node.IsDir() {
				h := newHash(digestOf(t))
				if _, err := io.Copy(h, cancelReader(cmd.Context(), it.Records())); err != nil {
					return err
				}
				s.Records = h.Sum(nil)
			}
			_, err = io.WriteString(a.Stdout, s.Text(it.Path, it.Node))
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// run calls line for each node that was asked for.
func (f *lister) run(ctx context.Context, a *app, args []string, line func(io.Writer, *archive.Tree, *archive.Item) error) error {
	defer f.close()
	t, err := f.openTree(ctx, a, args[0])
	if err != nil {
		return err
	}
	it, err := t.Find(pathIn(args, 1))
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	w := bufio.NewWriter(a.Stdout)
	defer w.Flush()
	enc := json.NewEncoder(w)
	nodes := it.All()
	if !f.recursive {
		nodes = oneLevel(it)
	}
	for it, err := range nodes {
		switch {
		case err != nil:
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case f.json:
			err = enc.Encode(nodeReportOf(it))
		default:
			err = line(w, t, it)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
	}
	return w.Flush()
}

// oneLevel returns a node and what is right in it.
func oneLevel(it *archive.Item) func(yield func(*archive.Item, error) bool) {
	return func(yield func(*archive.Item, error) bool) {
		if !yield(it, nil) || !it.Node.IsDir() {
			return
		}
		for c, err := range it.Children() {
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// digestOf returns the digest that names the chunks of an archive.
func digestOf(t *archive.Tree) chunker.Digest {
	switch f := t.Features(); {
	case f.Has(archive.BLAKE3):
		return chunker.BLAKE3
	case f.Has(archive.SHA512256):
		return chunker.SHA512256
	}
	return chunker.SHA256
}

// contentDigest returns the digest of a regular file's content, nil for other nodes.
func contentDigest(ctx context.Context, t *archive.Tree, it *archive.Item) ([]byte, error) {
	if !it.Node.IsRegular() {
		return nil, nil
	}
	h, err := hashOf(ctx, digestOf(t), it.Content())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shownPath(it.Path), err)
	}
	return h.Sum(nil), nil
}

func hashOf(ctx context.Context, d chunker.Digest, r io.Reader) (hash.Hash, error) {
	h := newHash(d)
	_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{cancelReader(ctx, r)}, make([]byte, 256<<10))
	return h, err
}

// longLine returns mode, owner, size or device, time and path of a node.
func longLine(it *archive.Item) string {
	n := it.Node
	owner := func(name string, id uint32) string {
		if name != "" {
			return archive.Escape(name)
		}
		return fmt.Sprint(id)
	}
	size := fmt.Sprint(n.Size)
	if n.IsDevice() {
		size = fmt.Sprintf("%d,%d", n.Major, n.Minor)
	}
	name := archive.Escape(it.Path)
	if name == "" {
		name = "."
	}
	if n.IsSymlink() {
		name += " -> " + archive.Escape(n.Target)
	}
	return fmt.Sprintf("%s %-8s %-8s %12s %s %s", archive.ModeString(n.Mode), owner(n.User, n.UID), owner(n.Group, n.GID),
		size, n.Time().Local().Format("2006-01-02 15:04:05"), name)
}

// nodeReport is the JSON form of a node. JSON has no texts that are not UTF-8, which paths
// may be: U+FFFD is in place of what is none, and the bytes are given beside it.
type nodeReport struct {
	Path    string            `json:"path"`
	RawPath []byte            `json:"path_base64,omitempty"` // if path is not UTF-8
	Type    string            `json:"type"`
	Mode    string            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	User    string            `json:"user,omitempty"`
	Group   string            `json:"group,omitempty"`
	Time    time.Time         `json:"time"`
	Size    *int64            `json:"size,omitempty"`
	Target  string            `json:"target,omitempty"`
	RawTo   []byte            `json:"target_base64,omitempty"`
	Device  string            `json:"device,omitempty"`
	Flags   string            `json:"flags,omitempty"`
	XAttrs  map[string][]byte `json:"xattrs,omitempty"` // base64
	FCaps   []byte            `json:"fcaps,omitempty"`
	SELinux string            `json:"selinux,omitempty"`
	ProjID  uint32            `json:"projid,omitempty"`
	Offset  int64             `json:"offset"` // in the archive
}

func nodeReportOf(it *archive.Item) nodeReport {
	n := it.Node
	r := nodeReport{
		Path: it.Path, RawPath: rawText(it.Path), RawTo: rawText(n.Target), Type: nodeType(n), Mode: fmt.Sprintf("%04o", n.Perm()), UID: n.UID, GID: n.GID, User: n.User,
		Group: n.Group, Time: n.Time(), Target: n.Target, Flags: n.Flags.String(), FCaps: n.FCaps, SELinux: n.SELinux, ProjID: n.ProjectID,
	}
	r.Offset, _ = it.Range()
	if n.IsRegular() {
		r.Size = &n.Size
	}
	if n.IsDevice() {
		r.Device = fmt.Sprintf("%d:%d", n.Major, n.Minor)
	}
	for _, x := range n.XAttrs {
		if r.XAttrs == nil {
			r.XAttrs = map[string][]byte{}
		}
		r.XAttrs[x.Name] = x.Value
	}
	return r
}

// rawText returns the bytes of s if JSON cannot hold them as a text, else nil.
func rawText(s string) []byte {
	if utf8.ValidString(s) {
		return nil
	}
	return []byte(s)
}

func nodeType(n *archive.Node) string {
	switch n.Type() {
	case archive.TypeDir:
		return "directory"
	case archive.TypeRegular:
		return "file"
	case archive.TypeSymlink:
		return "symlink"
	case archive.TypeBlock:
		return "block"
	case archive.TypeChar:
		return "char"
	case archive.TypeFIFO:
		return "fifo"
	}
	return "socket"
}
