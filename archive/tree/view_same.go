package tree

import "bytes"

// Same reports whether o is the same archive as v, as far as it can be told without
// reading contents: by sizes, times and numbers of files.
func (v *View) Same(o *View) bool {
	if v.size != o.size || len(v.places) != len(o.places) || !bytes.Equal(v.between, o.between) {
		return false
	}
	for i, c := range v.places {
		d := o.places[i]
		if c.off != d.off || c.name != d.name || c.dir != d.dir || !c.status.untouched(d.status) {
			return false
		}
	}
	return true
}
