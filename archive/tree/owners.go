package tree

import (
	"fmt"
	"math"
	"os/user"
	"strconv"
	"sync"

	"github.com/castorsync/castor/archive"
)

// maxKnown bounds how many names of users, and of groups, are remembered.
const maxKnown = 1 << 16

// ids gives the numbers and names that an archive has for the users and groups of
// the system. It is safe for concurrent use.
type ids struct {
	f            archive.Features
	shift, size  uint32 // size 0: numbers are not reduced
	mu           sync.RWMutex
	users, teams map[uint32]string // guarded by mu
}

func newIDs(f archive.Features, o *PackOptions) *ids {
	return &ids{f: f, shift: o.UIDShift, size: o.UIDRange, users: map[uint32]string{}, teams: map[uint32]string{}}
}

const anyUID = archive.UID16 | archive.UID32

// number returns the number in the archive of a user or a group.
func (m *ids) number(id uint32) (uint32, error) {
	switch {
	case !m.f.Any(anyUID):
		return 0, nil
	case id == math.MaxUint16, id == math.MaxUint32:
		return 0, fmt.Errorf("user or group %d: the number is reserved", id)
	}
	return m.shifted(id)
}

func (m *ids) shifted(id uint32) (uint32, error) {
	if id < m.shift {
		return 0, fmt.Errorf("user or group %d is below the shift of %d", id, m.shift)
	}
	id -= m.shift
	if m.size != 0 {
		id %= m.size
	}
	return id, nil
}

// user returns the name in the archive of a user: none for root.
func (m *ids) user(id uint32) (string, error) {
	return m.name(m.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (m *ids) group(id uint32) (string, error) {
	return m.name(m.teams, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func (m *ids) name(known map[uint32]string, id uint32, look func(string) (string, error)) (string, error) {
	if id == 0 || !m.f.Has(archive.UserNames) {
		return "", nil
	}
	m.mu.RLock()
	name, ok := known[id]
	m.mu.RUnlock()
	if ok {
		return name, nil
	}
	name, err := look(strconv.FormatUint(uint64(id), 10))
	if err != nil { // whatever the reason: the number is all there is
		if name, err = m.unnamed(id); err != nil {
			return "", err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(known) == maxKnown {
		clear(known)
	}
	known[id] = name
	return name, nil
}

// unnamed returns what stands for the name of a user or group without one: nothing
// if the archive has the number, else the number.
func (m *ids) unnamed(id uint32) (string, error) {
	if m.f.Any(anyUID) {
		return "", nil
	}
	n, err := m.shifted(id)
	return strconv.FormatUint(uint64(n), 10), err
}
