package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/share"
	"github.com/castorsync/castor/internal/units"
	"github.com/castorsync/castor/mcast"
	"github.com/castorsync/castor/mcast/wire"
)

// A key for signing names is a file of one line: what it is, and 32 bytes in base64.
const (
	secretPrefix = "castor-ed25519-secret "
	publicPrefix = "castor-ed25519-public "
)

func newSignkey(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "signkey FILE",
		Short: "Make a key for signing names, FILE, and its public half, FILE.pub",
		Long: `Make an Ed25519 key for castor cast --sign. FILE, readable by its owner only, stays
with the sender. FILE.pub is for the receivers (castor extract --pubkey); what it
holds is also printed, and may be given in place of the file.`,
		Example: "  castor cast signkey release.key",
		Args:    exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pub, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			if err := writeNew(args[0], 0o600, secretPrefix, key.Seed()); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", 0o666, publicPrefix, pub); err != nil {
				os.Remove(args[0])
				return err
			}
			fmt.Fprintln(a.Stdout, base64.StdEncoding.EncodeToString(pub))
			return nil
		},
	}
}

// writeNew writes a key to a file that must not exist.
func writeNew(name string, perm fs.FileMode, prefix string, key []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s%s\n", prefix, base64.StdEncoding.EncodeToString(key))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		os.Remove(name)
		return err
	}
	return nil
}

// parseKey parses a line of 32 bytes in base64 with a prefix, or if bare without one.
func parseKey(line, prefix string, bare bool) ([]byte, error) {
	line = strings.TrimSpace(line)
	text, ok := strings.CutPrefix(line, strings.TrimSpace(prefix))
	if !ok && !bare {
		return nil, fmt.Errorf("does not begin with %q", strings.TrimSpace(prefix))
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(b) != ed25519.SeedSize {
		return nil, fmt.Errorf("want %d bytes in base64", ed25519.SeedSize)
	}
	return b, nil
}

// readSecret reads a key for signing; no name means none.
func readSecret(name string) (ed25519.PrivateKey, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("key %w", err)
	}
	defer clear(b)
	if bytes.HasPrefix(b, []byte(publicPrefix)) {
		return nil, fmt.Errorf("key %s: is the public half; signing takes the other one", name)
	}
	seed, err := parseKey(string(b), secretPrefix, false)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// readPublic reads the public half of a key, from a file or as it is; "" means none.
func readPublic(s string) (ed25519.PublicKey, error) {
	if s == "" {
		return nil, nil
	}
	b, err := os.ReadFile(s)
	switch {
	case err == nil:
		if bytes.HasPrefix(b, []byte(secretPrefix)) {
			return nil, fmt.Errorf("key %s: is the secret half; receivers need %s.pub only", s, s)
		}
		k, err := parseKey(string(b), publicPrefix, false)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", s, err)
		}
		return k, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("key %w", err)
	}
	k, kerr := parseKey(s, publicPrefix, true)
	if kerr != nil {
		return nil, fmt.Errorf("key %q: is no file, and as a key: %w", s, kerr)
	}
	return k, nil
}

// nameFlags are the flags of cast about names.
type nameFlags struct {
	names  []string
	shares []string
	trees  []string
	sign   string
}

func (f *nameFlags) addNames(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.names, "name", nil, "announce a name for an index, which is sent too: NAME=INDEX; may be given several times")
	fl.StringArrayVar(&f.shares, "share", nil, "send a file, or all files below a directory, straight from disk, announced by their paths from there; may be given several times")
	fl.StringArrayVar(&f.trees, "share-tree", nil, "send a directory as one tree, straight from disk, announced by its name, to be extracted into a directory; may be given several times")
	fl.StringVar(&f.sign, "sign", "", "file with the key that signs the names, see castor cast signkey")
}

// named is an index with a name.
type named struct{ name, loc string }

// parse returns the names that are to be announced, with their indexes, and the key.
func (f *nameFlags) parse(args []string) (names []named, key ed25519.PrivateKey, err error) {
	if len(args)+len(f.names)+len(f.shares)+len(f.trees) == 0 {
		return nil, nil, usagef("cast: name an INDEX, or use --name or --share")
	}
	seen := map[string]bool{}
	for _, s := range f.names {
		name, loc, ok := strings.Cut(s, "=")
		if !ok || loc == "" {
			return nil, nil, usagef("--name %q: want NAME=INDEX", s)
		}
		if err := mcast.CheckName(name); err != nil {
			return nil, nil, usagef("--name: %w", err)
		}
		if loc == "-" {
			return nil, nil, usagef("--name %q: the version comes from the time of the file, so that it cannot be stdin", s)
		}
		if seen[name] {
			return nil, nil, usagef("--name: the name %q is given twice", name)
		}
		seen[name] = true
		names = append(names, named{name, loc})
	}
	if f.sign != "" && len(f.names)+len(f.shares)+len(f.trees) == 0 {
		return nil, nil, usagef("--sign: there is no name to sign; use --name or --share")
	}
	key, err = readSecret(f.sign)
	return names, key, err
}

// publisher brings together what is sent: indexes, some with names, and shared files.
type publisher struct {
	a      *app
	sender *mcast.Sender
	key    ed25519.PrivateKey // nil: names are not signed

	mu     sync.Mutex
	offers []mcast.Offer // guarded by mu, as what follows
	names  []wire.Name   // of indexes
	shared []share.File
	warned map[string]bool
}

// setIndexes makes offers, and the names of indexes, what is sent beside shared files.
func (p *publisher) setIndexes(offers []mcast.Offer, names []wire.Name) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offers, p.names = offers, names
	return p.update()
}

// setShared makes files what is shared.
func (p *publisher) setShared(files []share.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = files
	return p.update()
}

// update tells the sender; p.mu is held.
func (p *publisher) update() error {
	offers := append([]mcast.Offer(nil), p.offers...)
	names := append([]wire.Name(nil), p.names...)
	taken := map[string]bool{}
	for _, n := range names {
		taken[n.Name] = true
	}
	for _, f := range p.shared {
		offers = append(offers, mcast.Offer{Index: f.Index, Store: f.Store})
		err := mcast.CheckName(f.Name)
		if err == nil && taken[f.Name] {
			err = errors.New("the name is given to an index")
		}
		if err != nil {
			if !p.warned[f.Name] {
				p.warned[f.Name] = true
				p.a.log.Warn("shared without a name, by its root only", "path", f.Path, "root", f.Root, "error", err)
			}
			continue
		}
		taken[f.Name] = true
		names = append(names, wire.Name{Name: f.Name, Version: f.Version, Time: f.Modified.Unix(), Root: f.Root, Size: f.Index.Size()})
	}
	if p.key != nil {
		for i := range names {
			names[i].Sign(p.key)
		}
	}
	if err := p.sender.SetOffers(offers); err != nil {
		return err
	}
	return p.sender.SetNames(names)
}

// name returns what is to be announced of a name now: a new version if the root is not
// what it was.
func (p *publisher) name(name string, root chunker.ID, size int64, modified time.Time) wire.Name {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := uint64(0)
	for _, n := range p.names {
		if n.Name == name {
			if n.Root == root {
				return n
			}
			last = n.Version
		}
	}
	return wire.Name{Name: name, Version: mcast.NextVersion(last, modified), Time: modified.Unix(), Root: root, Size: size}
}

// share scans what is shared until ctx ends, and at once when rescan says so.
func (p *publisher) share(ctx context.Context, s *share.Share, rescan <-chan struct{}) error {
	said := map[string]chunker.ID{}
	return s.Run(ctx, rescan, func(files []share.File) {
		if err := p.setShared(files); err != nil {
			p.a.log.Warn("not everything can be shared: what was sent before is sent on", "error", err)
			return
		}
		now := make(map[string]chunker.ID, len(files))
		for _, f := range files {
			if now[f.Name] = f.Root; said[f.Name] != f.Root {
				p.a.say("%s: root %v, %s in %s", f.Name, f.Root, units.Size(f.Index.Size()), units.Chunks(len(f.Index.Entries)))
			}
		}
		said = now
	})
}
