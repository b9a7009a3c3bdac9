package location

import "cmp"

// remoteRequests is how many requests at once keep a server busy that is a few
// milliseconds away, with chunks of 64 KiB at a gigabit a second.
const remoteRequests = 64

// Concurrency returns how many requests at once serve the store at loc best; 0 if that
// depends on this machine alone.
func (o *Opener) Concurrency(loc string) (n int) {
	for _, m := range splitGroup(loc) {
		if p, err := parse(m); err == nil && p.kind != Directory {
			n = max(n, cmp.Or(o.Config.Store(p.match()).Concurrency, remoteRequests))
		}
	}
	return n
}

// KindOf returns how the place at loc is reached; a path if it is no form that is known.
func KindOf(loc string) Kind {
	if len(splitGroup(loc)) > 1 {
		return Group
	}
	p, err := parse(loc)
	if err != nil {
		return Directory
	}
	return p.kind
}
