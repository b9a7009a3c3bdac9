package tree

import (
	"encoding/binary"
	"time"
)

// What a part of an identity is.
const (
	identityBytes   = 0
	identityContent = 1
)

// AppendIdentity appends what tells the n bytes of the archive at off from others,
// without reading files: if two identities are equal, of this View or any other on
// this machine, so are the bytes. What comes between the contents of files stands for
// itself. For contents it is which file they are from, how large that is, and when it
// was last modified and touched, by the clock of its file system.
//
// Clocks tick, some every two seconds. A file that was touched just before it was
// looked at may have been touched again, unnoticed, and a file that was touched since
// may have been read as it is now. AppendIdentity returns false if the bytes hold content
// of a file that was not last touched before the time given, or touched when it was read
// through this View; and on systems that do not tell. It also does if the range is not
// in the archive.
func (v *View) AppendIdentity(b []byte, off, n int64, before time.Time) ([]byte, bool) {
	if off < 0 || n < 0 || n > v.size-off {
		return b, false
	}
	for i := v.last(off); n > 0; i++ {
		if i >= 0 {
			c := &v.places[i]
			if at := off - c.off; at < c.status.size {
				if !c.status.settled(before) || v.wasTouched(i) {
					return b, false
				}
				part := min(n, c.status.size-at)
				b = appendNumbers(append(b, identityContent), at, part)
				b = c.status.appendIdentity(b)
				off, n = off+part, n-part
			}
		}
		if n == 0 {
			break
		}
		from, end := v.betweenRange(off, i)
		end = int(min(int64(end), int64(from)+n))
		b = appendNumbers(append(b, identityBytes), int64(end-from))
		b = append(b, v.between[from:end]...)
		off, n = off+int64(end-from), n-int64(end-from)
	}
	return b, true
}

func (v *View) wasTouched(i int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.touched[i]
	return ok
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}
