package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os/user"
	"strconv"
	"sync"
	"syscall"

	"github.com/castorsync/castor/archive"
)

// target is a node of the destination whose metadata is to be restored: an open
// file, an open directory or, of links and devices, which are not opened, a name in
// an open directory.
type target struct {
	path string // in the tree, for messages
	file *destFile
	self *destDir
	dir  *destDir
	name string

	bare     bool // this run made it, and it has inherited nothing
	unsealed bool // what hinders changes is left to seal
}

// special makes a node that is neither a file nor a directory.
func (u *unpacker) special(j *job) error {
	d := j.dir
	inTheWay := false // a directory
	if !d.fresh {
		was, err := d.lstat(j.name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case was.kind() == archive.TypeDir:
			if err := u.mayClear(); err != nil {
				return err
			}
			inTheWay = true
		case u.sameSpecial(j, was):
			return u.restore(target{path: j.path, dir: d.destDir, name: j.name}, j.node)
		}
	}
	temp := tempName()
	var err error
	if j.node.IsSymlink() {
		err = d.symlink(j.node.Target, temp)
	} else {
		err = d.mknod(temp, j.node)
	}
	if err != nil {
		return u.problem(j.path, kindOf(j.node), err)
	}
	err = u.restore(target{path: j.path, dir: d.destDir, name: temp, bare: !d.inherits}, j.node)
	if err == nil {
		err = u.place(j, temp, inTheWay)
	}
	if err != nil {
		d.remove(temp)
	}
	return err
}

// sameSpecial reports whether what is there, and has no other name, is what j is to
// be, apart from metadata.
func (u *unpacker) sameSpecial(j *job, was destInfo) bool {
	switch {
	case was.kind() != j.node.Type() || was.links() != 1:
		return false
	case j.node.IsSymlink():
		target, err := j.dir.readlink(j.name)
		return err == nil && target == j.node.Target
	}
	return !j.node.IsDevice() || was.isDevice(j.node.Major, j.node.Minor)
}

func kindOf(n *archive.Node) string {
	switch n.Type() {
	case archive.TypeSymlink:
		return "symlink"
	case archive.TypeFIFO:
		return "fifo"
	case archive.TypeSocket:
		return "socket"
	}
	return "device"
}

// tolerable reports whether err means that the system cannot do something, or the
// user may not, as opposed to that something went wrong.
func tolerable(err error) bool {
	for _, e := range []error{fs.ErrPermission, errors.ErrUnsupported, errUnknownName, errNoID,
		syscall.ENOTTY, syscall.EINVAL, syscall.ENOTDIR, syscall.ERANGE, syscall.E2BIG, syscall.ENOSYS, syscall.EXDEV, syscall.EMLINK} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errUnknownName = errors.New("no user or group of this name here, and no number to use")

var errNoID = errors.New("no number that a user or group may have")

// owners finds the numbers of users and groups by name, and remembers them.
type owners struct {
	mu     sync.Mutex
	users  map[string]int64 // guarded by mu; -1: unknown
	groups map[string]int64
}

func (o *owners) user(name string) int64 {
	return o.find(&o.users, name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

func (o *owners) group(name string) int64 {
	return o.find(&o.groups, name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

func (o *owners) find(known *map[string]int64, name string, look func() (string, error)) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := (*known)[name]; ok {
		return id
	}
	id := int64(-1)
	if s, err := look(); err == nil {
		if n, err := strconv.ParseUint(s, 10, 32); err == nil {
			id = int64(n)
		}
	}
	if *known == nil || len(*known) == maxKnown {
		*known = map[string]int64{}
	}
	(*known)[name] = id
	return id
}

const (
	uidFeatures  = archive.UID16 | archive.UID32
	timeFeatures = archive.SecTime | archive.USecTime | archive.NSecTime | archive.TwoSecTime
)

// number returns the number of a user or group here: that of the name if there is
// one of that name, else the number in the archive. A name that is nothing but
// digits is a number, for archives that have names alone.
func (u *unpacker) number(name string, id uint32, find func(string) int64) (uint32, error) {
	numbers := u.mask.Any(uidFeatures)
	if name != "" && u.mask.Has(archive.UserNames) {
		if n := find(name); n >= 0 {
			return uint32(n), nil
		}
		if !numbers {
			n, err := strconv.ParseUint(name, 10, 32)
			if err != nil {
				return 0, errUnknownName
			}
			id, numbers = uint32(n), true
		}
	}
	switch {
	case !numbers && id != 0: // it has one that is not to be used
		return 0, errUnknownName
	case !numbers:
		return 0, nil // root has no name in an archive
	}
	if u.o.UIDRange != 0 {
		id %= u.o.UIDRange
	}
	if id >= math.MaxUint32-u.o.UIDShift { // the greatest number means none
		return 0, fmt.Errorf("%w: %d, shifted by %d", errNoID, id, u.o.UIDShift)
	}
	return id + u.o.UIDShift, nil
}
