package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/castorsync/castor/archive"
	"github.com/castorsync/castor/archive/tree"
	"github.com/castorsync/castor/chunker"
)

// featureFlags are the flags that say what of a tree counts.
type featureFlags struct {
	with, without   []string
	excludeNoDump   bool
	excludeSubmount bool
	excludeFile     bool
	exclude         []string
	uidShift        uint32
	uidRange        uint32
	hardLinks       bool
	omit            []string // paths of what is made of the tree
}

// addMask adds the flags that select features; what tells what for.
func (f *featureFlags) addMask(cmd *cobra.Command, what string) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.with, "with", nil, what+": features or presets, separated by commas, see castor help features (default: best that the system knows)")
	fl.StringArrayVar(&f.without, "without", nil, "features or presets that are left out")
	fl.Uint32Var(&f.uidShift, "uid-shift", 0, "difference of the numbers of users and groups on disk to those in the archive")
	fl.Uint32Var(&f.uidRange, "uid-range", 0, "numbers of users and groups are taken modulo this (default: 65536 with --uid-shift)")
}

// add adds all flags for reading a directory.
func (f *featureFlags) add(cmd *cobra.Command, what string) {
	f.addMask(cmd, what)
	fl := cmd.Flags()
	fl.BoolVar(&f.excludeNoDump, "exclude-nodump", true, "leave out what is marked nodump")
	fl.BoolVar(&f.excludeSubmount, "exclude-submounts", false, "leave out other file systems that are mounted below")
	fl.BoolVar(&f.excludeFile, "exclude-file", true, "obey .caexclude files")
	fl.StringArrayVar(&f.exclude, "exclude", nil, "pattern of what is left out, as in a .caexclude file; may be given several times")
}

// mask returns the features that are selected; 0 if none are named.
func (f *featureFlags) mask() (archive.Features, error) {
	if len(f.with) == 0 && len(f.without) == 0 {
		return 0, nil
	}
	mask, err := f.selected(archive.All)
	if mask == 0 {
		mask = archive.BLAKE3 // which selects nothing, as opposed to 0
	}
	return mask, err
}

// selected returns those of the features known that the flags select.
func (f *featureFlags) selected(known archive.Features) (archive.Features, error) {
	var with, without archive.Features
	for _, l := range []struct {
		names []string
		set   *archive.Features
	}{{f.with, &with}, {f.without, &without}} {
		if len(l.names) == 0 {
			continue
		}
		set, err := archive.ParseFeatures(strings.Join(l.names, ","))
		if err != nil {
			return 0, &usageError{err}
		}
		*l.set = set
	}
	return archive.Select(with, without) & known, nil
}

// parse returns the features of a new archive of a directory.
func (f *featureFlags) parse() (archive.Features, error) {
	mask, err := f.selected(tree.Available)
	if err != nil {
		return 0, err
	}
	if f.excludeNoDump {
		mask |= archive.ExcludeNoDump
	}
	if f.excludeSubmount {
		mask |= archive.ExcludeSubmounts
	}
	if f.excludeFile {
		mask |= archive.ExcludeFile
	}
	return mask.Normalize(), nil
}

// digestFeature returns how archives say which digest names their chunks.
func digestFeature(d chunker.Digest) archive.Features {
	switch d {
	case chunker.SHA512256:
		return archive.SHA512256
	case chunker.SHA256:
		return 0
	}
	return archive.BLAKE3
}

// shift returns the range that goes with the shift of numbers.
func (f *featureFlags) shift() (shift, modulus uint32) {
	if f.uidShift != 0 && f.uidRange == 0 {
		return f.uidShift, 1 << 16
	}
	return f.uidShift, f.uidRange
}

func (f *featureFlags) packOptions(a *app) *tree.PackOptions {
	o := &tree.PackOptions{Exclude: f.exclude, HardLinks: f.hardLinks, Omit: f.omit}
	o.UIDShift, o.UIDRange = f.shift()
	o.Problem = func(p tree.Problem) {
		if p.What == tree.Omitted {
			a.log.Info("left out of the archive, being what is made", "path", p.Path)
			return
		}
		a.log.Warn("not in the archive as it is", "problem", p.Error())
	}
	o.Progress = func(s tree.PackStats) { a.meter.Update(s.Bytes, 0, nil) }
	return o
}
