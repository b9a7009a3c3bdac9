package fuse

// Flags of mount(2), linux/mount.h.
const (
	msRDOnly     = 1
	msNoSUID     = 2
	msNoDev      = 4
	msNoExec     = 8
	msNoATime    = 1024
	msNoDirATime = 2048
)

// flags holds what the words of mount(8) set and clear. Those that do neither have no
// meaning for a mount that is never written to.
var flags = map[string]struct{ set, clear uintptr }{
	"ro":          {set: msRDOnly},
	"rw":          {}, // mount(8) says so where nobody has said ro
	"suid":        {clear: msNoSUID},
	"nosuid":      {set: msNoSUID},
	"dev":         {clear: msNoDev},
	"nodev":       {set: msNoDev},
	"exec":        {clear: msNoExec},
	"noexec":      {set: msNoExec},
	"atime":       {clear: msNoATime},
	"noatime":     {set: msNoATime},
	"diratime":    {clear: msNoDirATime},
	"nodiratime":  {set: msNoDirATime},
	"relatime":    {},
	"norelatime":  {},
	"strictatime": {},
	"lazytime":    {},
	"sync":        {},
	"async":       {},
	"dirsync":     {},
}

// mountFlags returns the flags of a mount, by the words for it.
func mountFlags(words []string) (f uintptr) {
	f = msNoSUID | msNoDev
	for _, w := range words {
		f = f&^flags[w].clear | flags[w].set
	}
	return f | msRDOnly
}
