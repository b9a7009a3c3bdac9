package tree

import (
	"io"
	"io/fs"
	"sync"
)

// keeper keeps things open that are used again and again, up to a number. It is safe
// for concurrent use.
type keeper[K comparable, V io.Closer] struct {
	most int

	mu     sync.Mutex
	open   map[K]*kept[V] // guarded by mu, as all below
	clock  int64          // counts uses
	closed bool
}

// kept is a thing that a keeper has open.
type kept[V io.Closer] struct {
	it    V
	users int   // who is using it
	used  int64 // when it was last used, see keeper.clock
}

func newKeeper[K comparable, V io.Closer](most int) *keeper[K, V] {
	return &keeper[K, V]{most: most, open: map[K]*kept[V]{}}
}

// acquire returns what key names, which open opens if need be. It is to be released.
func (k *keeper[K, V]) acquire(key K, open func() (V, error)) (*kept[V], error) {
	if e := k.known(key); e != nil {
		return e, nil
	}
	it, err := open()
	if err != nil {
		return nil, err
	}
	return k.add(key, it)
}

// known returns what key names if it is open, with one more user.
func (k *keeper[K, V]) known(key K) *kept[V] {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.open[key]
	if e == nil || k.closed {
		return nil
	}
	k.use(e)
	return e
}

func (k *keeper[K, V]) use(e *kept[V]) {
	k.clock++
	e.used = k.clock
	e.users++
}

// add takes over it, which somebody else may have opened meanwhile as well.
func (k *keeper[K, V]) add(key K, it V) (*kept[V], error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		it.Close()
		return nil, fs.ErrClosed
	}
	e := k.open[key]
	if e != nil {
		it.Close()
	} else {
		e = &kept[V]{it: it}
		k.open[key] = e
	}
	k.use(e)
	k.evict()
	return e, nil
}

// evict closes what has not been used for longest, if there is too much.
func (k *keeper[K, V]) evict() {
	if len(k.open) <= k.most {
		return
	}
	var oldest *kept[V]
	var key K
	for i, e := range k.open {
		if e.users == 0 && (oldest == nil || e.used < oldest.used) {
			oldest, key = e, i
		}
	}
	if oldest != nil {
		oldest.it.Close()
		delete(k.open, key)
	}
}

// release says that e is not used any more.
func (k *keeper[K, V]) release(key K, e *kept[V]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e.users--
	if k.closed && e.users == 0 {
		e.it.Close()
		delete(k.open, key)
	}
}

// Close closes everything, what is in use once it is not.
func (k *keeper[K, V]) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for key, e := range k.open {
		if e.users == 0 {
			e.it.Close()
			delete(k.open, key)
		}
	}
	return nil
}
