package archive

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/castorsync/castor/internal/caformat"
)

// Features is the set of what an archive holds, as every entry repeats it: which
// metadata, which types of nodes, what was left out, and how chunks of the archive
// are named. The attribute flags, and those of subvolumes, are also the bits of
// Node.Flags.
type Features uint64

// The selectable features.
const (
	UID16           Features = caformat.UID16       // numbers of users and groups up to 65534
	UID32           Features = caformat.UID32       // numbers of users and groups
	UserNames       Features = caformat.UserNames   // names of users and groups
	SecTime         Features = caformat.SecTime     // times in seconds
	USecTime        Features = caformat.USecTime    // times in microseconds
	NSecTime        Features = caformat.NSecTime    // times in nanoseconds
	TwoSecTime      Features = caformat.TwoSecTime  // times in steps of two seconds
	ReadOnly        Features = caformat.ReadOnly    // whether anybody may write, of all permissions
	Permissions     Features = caformat.Permissions // permissions
	Symlinks        Features = caformat.Symlinks
	DeviceNodes     Features = caformat.DeviceNodes
	FIFOs           Features = caformat.FIFOs
	Sockets         Features = caformat.Sockets
	FlagHidden      Features = caformat.FlagHidden  // FAT
	FlagSystem      Features = caformat.FlagSystem  // FAT
	FlagArchive     Features = caformat.FlagArchive // FAT
	FlagAppend      Features = caformat.FlagAppend  // this and those below: chattr
	FlagNoATime     Features = caformat.FlagNoATime
	FlagCompr       Features = caformat.FlagCompr
	FlagNoCOW       Features = caformat.FlagNoCOW
	FlagNoDump      Features = caformat.FlagNoDump
	FlagDirSync     Features = caformat.FlagDirSync
	FlagImmutable   Features = caformat.FlagImmutable
	FlagSync        Features = caformat.FlagSync
	FlagNoComp      Features = caformat.FlagNoComp
	FlagProjInherit Features = caformat.FlagProjInherit
	Subvolume       Features = caformat.Subvolume   // btrfs
	SubvolumeRO     Features = caformat.SubvolumeRO // btrfs
	XAttrs          Features = caformat.XAttrs      // user.* and trusted.*
	ACLs            Features = caformat.ACL
	SELinux         Features = caformat.SELinux
	FCaps           Features = caformat.FCaps // file capabilities
	QuotaProjID     Features = caformat.QuotaProjID
)

// Features that are not selected by name.
const (
	BLAKE3           Features = caformat.BLAKE3           // chunks are named by BLAKE3-256
	SHA512256        Features = caformat.SHA512256        // chunks are named by SHA-512/256; with neither by SHA-256
	ExcludeFile      Features = caformat.ExcludeFile      // .caexclude files were honoured
	ExcludeSubmounts Features = caformat.ExcludeSubmounts // other file systems were left out
	ExcludeNoDump    Features = caformat.ExcludeNoDump    // files marked nodump were left out
)

// Presets and groups.
const (
	Best       Features = caformat.Best       // everything, in its finest form
	Unix       Features = caformat.Unix       // what every Unix file system has
	FAT        Features = caformat.FAT        // what a FAT file system has
	Chattr     Features = caformat.Chattr     // all attributes of chattr
	FATAttrs   Features = caformat.FATAttrs   // all attributes of FAT
	Privileged Features = caformat.Privileged // what takes privileges to restore
	FUSE       Features = caformat.FUSE       // what a mounted archive shows
	All        Features = caformat.Selectable

	// Attributes is the mask of what Node.Flags may hold.
	Attributes = Chattr | FATAttrs | Subvolume | SubvolumeRO

	uids  = UID16 | UID32
	times = SecTime | USecTime | NSecTime | TwoSecTime
)

// A feature by the name that casync has for it.
type namedFeature struct {
	name string
	f    Features
}

var selectable = []namedFeature{
	{"16bit-uids", UID16},
	{"32bit-uids", UID32},
	{"user-names", UserNames},
	{"sec-time", SecTime},
	{"usec-time", USecTime},
	{"nsec-time", NSecTime},
	{"2sec-time", TwoSecTime},
	{"read-only", ReadOnly},
	{"permissions", Permissions},
	{"symlinks", Symlinks},
	{"device-nodes", DeviceNodes},
	{"fifos", FIFOs},
	{"sockets", Sockets},
	{"flag-hidden", FlagHidden},
	{"flag-system", FlagSystem},
	{"flag-archive", FlagArchive},
	{"flag-append", FlagAppend},
	{"flag-noatime", FlagNoATime},
	{"flag-compr", FlagCompr},
	{"flag-nocow", FlagNoCOW},
	{"flag-nodump", FlagNoDump},
	{"flag-dirsync", FlagDirSync},
	{"flag-immutable", FlagImmutable},
	{"flag-sync", FlagSync},
	{"flag-nocomp", FlagNoComp},
	{"flag-projinherit", FlagProjInherit},
	{"subvolume", Subvolume},
	{"subvolume-ro", SubvolumeRO},
	{"xattrs", XAttrs},
	{"acl", ACLs},
	{"selinux", SELinux},
	{"fcaps", FCaps},
	{"quota-projid", QuotaProjID},
}

var presets = []namedFeature{
	{"best", Best},
	{"unix", Unix},
	{"fat", FAT},
	{"chattr", Chattr},
	{"fat-attrs", FATAttrs},
	{"privileged", Privileged},
	{"fuse", FUSE},
	{"all", All},
}

// These are shown, but not selected by name.
var notSelectable = []namedFeature{
	{"blake3", BLAKE3},
	{"exclude-file", ExcludeFile},
	{"sha512-256", SHA512256},
	{"exclude-submounts", ExcludeSubmounts},
	{"exclude-nodump", ExcludeNoDump},
}

// FeatureNames returns the names that [ParseFeatures] knows, features before
// presets.
func FeatureNames() []string {
	var names []string
	for _, n := range slices.Concat(selectable, presets) {
		names = append(names, n.name)
	}
	return names
}

// ParseFeatures returns the union of features and presets, given by the names
// that casync uses and separated by commas.
func ParseFeatures(s string) (Features, error) {
	known := slices.Concat(selectable, presets)
	var f Features
	for name := range strings.SplitSeq(s, ",") {
		i := slices.IndexFunc(known, func(n namedFeature) bool { return n.name == name })
		if i < 0 {
			return 0, fmt.Errorf("unknown feature %q, want some of %s", name, strings.Join(FeatureNames(), ", "))
		}
		f |= known[i].f
	}
	return f, nil
}

// Select returns what an archive should hold of what was asked for, as casync's
// --with and --without do: everything if with is empty, except without. The
// result still has to be joined with the features that are not selected, and
// normalized.
func Select(with, without Features) Features { return cmp.Or(with, All) &^ without }

// Has says whether all of g is in f.
func (f Features) Has(g Features) bool { return f&g == g }

// Any says whether some of g is in f.
func (f Features) Any(g Features) bool { return f&g != 0 }

// Normalize drops what another feature makes needless and adds what another
// needs. Archives hold normalized features only.
func (f Features) Normalize() Features {
	if f.Has(ACLs) && !f.Any(uids|UserNames) {
		f |= UID32 | UserNames
	}
	for _, d := range []struct{ if_, drop Features }{
		{UID32, UID16},
		{NSecTime, USecTime | SecTime | TwoSecTime},
		{USecTime, SecTime | TwoSecTime},
		{SecTime, TwoSecTime},
		{ACLs, Permissions | ReadOnly},
		{Permissions, ReadOnly},
		{ExcludeNoDump, FlagNoDump},
	} {
		if f.Has(d.if_) {
			f &^= d.drop
		}
	}
	if f.Has(SubvolumeRO) {
		f |= Subvolume
	}
	return f
}

// Validate returns an error unless f is what an archive may hold: known and
// normalized.
func (f Features) Validate() error {
	if unknown := f &^ caformat.Known; unknown != 0 {
		return fmt.Errorf("unknown features %#x: made by a newer program?", uint64(unknown))
	}
	if f.Has(BLAKE3 | SHA512256) {
		return fmt.Errorf("features %#x: two digests", uint64(f))
	}
	if n := f.Normalize(); n != f {
		return fmt.Errorf("features %#x are not normalized, that is %#x", uint64(f), uint64(n))
	}
	return nil
}

// Replay returns which features of an archive that has f are restored when only
// those in mask are wanted. A feature in a finer form covers its coarser forms.
func (f Features) Replay(mask Features) Features { return (f.widen() & mask.widen()).Normalize() }

// widen adds all forms of the features in f.
func (f Features) widen() Features {
	for _, w := range []struct{ if_, add Features }{
		{uids, uids},
		{times, times},
		{ACLs, Permissions | ReadOnly},
		{Permissions, ReadOnly},
		{SubvolumeRO, Subvolume},
	} {
		if f.Any(w.if_) {
			f |= w.add
		}
	}
	return f
}

// String returns the names of the features, separated by commas.
func (f Features) String() string {
	var names []string
	for _, n := range slices.Concat(selectable, notSelectable) {
		if f.Has(n.f) {
			names = append(names, n.name)
		}
	}
	if unknown := f &^ caformat.Known; unknown != 0 {
		names = append(names, fmt.Sprintf("%#x", uint64(unknown)))
	}
	return strings.Join(names, ",")
}

// Stores says whether nodes of the type in mode are part of an archive with f.
func (f Features) Stores(mode uint32) bool {
	switch mode & TypeMask {
	case TypeRegular, TypeDir:
		return true
	case TypeSymlink:
		return f.Has(Symlinks)
	case TypeChar, TypeBlock:
		return f.Has(DeviceNodes)
	case TypeFIFO:
		return f.Has(FIFOs)
	case TypeSocket:
		return f.Has(Sockets)
	}
	return false
}
