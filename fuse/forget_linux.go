//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// maxNodes is how many nodes of a tree that are no directories are known at once: the
// kernel, which does not see what they cost here, about 1 KiB each, would keep all that
// it has ever seen as long as it has memory for its own part.
const maxNodes = 1 << 18

// pause is how long it takes at least until the kernel is told again: what it forgets it
// says a little later, and what is in use it does not forget at all.
const pause = 50 * time.Millisecond

// nodes are the nodes that the kernel knows, in the order in which it came to
// know them.
type nodes struct {
	limit int
	wake  chan struct{} // there are too many
	done  chan struct{} // closed when forgetting has ended

	mu    sync.Mutex // guards the following
	live  int
	order []*treeNode // some of which may be forgotten already
	drop  func([]*treeNode)
}

func newNodes(limit int) *nodes {
	return &nodes{limit: limit, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (k *nodes) add(n *treeNode) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live++
	k.order = append(k.order, n)
	if len(k.order) > k.limit {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

func (k *nodes) remove(n *treeNode) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !n.forgotten {
		n.forgotten = true
		k.live--
	}
}

// oldest returns the nodes to be forgotten and what does that, so many that it is not soon to be done again.
// They are the newest from now on: those that are in use are not forgotten.
func (k *nodes) oldest() (old []*treeNode, drop func([]*treeNode)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept := k.order[:0]
	excess := k.live - k.limit*7/8
	if k.live <= k.limit {
		excess = 0 // only those that are forgotten already
	}
	for _, n := range k.order {
		switch {
		case n.forgotten:
		case len(old) < excess:
			old = append(old, n)
		default:
			kept = append(kept, n)
		}
	}
	rest := k.order[len(kept):]
	k.order = append(kept, old...)
	clear(rest[len(old):])
	return old, k.drop
}

// forget has the kernel forget nodes as long as the mount lasts. What is in use stays.
func (k *nodes) forget(unmounted <-chan struct{}) {
	defer close(k.done)
	for {
		select {
		case <-unmounted:
			return
		case <-k.wake:
		}
		old, drop := k.oldest()
		drop(slices.DeleteFunc(old, func(n *treeNode) bool {
			_, parent := n.Parent()
			lost := parent == nil // two have looked it up at once, and this one lost
			if lost {
				k.remove(n)
			}
			return lost
		}))
		select {
		case <-unmounted:
			return
		case <-time.After(pause):
		}
	}
}

// pruneAtOnce is how many nodes the kernel is told of at once.
const pruneAtOnce = 1024

// prune returns what has the kernel drop nodes, as far as nobody uses them.
func prune(server *gofuse.Server, device string) func([]*treeNode) {
	return func(all []*treeNode) {
		for some := range slices.Chunk(all, pruneAtOnce) {
			ids := make([]uint64, len(some))
			for i, n := range some {
				ids[i] = n.StableAttr().Ino
			}
			if server.PruneNotify(ids) == gofuse.ENOSYS {
				invalidate(all, device)
				return
			}
		}
	}
}

// invalidate is prune for kernels before Linux 6.18. They drop names whatever is mounted
// on them, and unmount that.
func invalidate(all []*treeNode, device string) {
	if len(all) == 0 {
		return
	}
	covered := mountedOver(device)
	for _, n := range all {
		if name, parent := n.Parent(); parent != nil && !covered[n.item.Path] {
			parent.NotifyEntry(name) // ENOENT if it has just been forgotten
		}
	}
}

// mountedOver returns the paths in the file system of a device that something is mounted
// on, in whichever mount namespace a process can be looked at.
func mountedOver(device string) map[string]bool {
	covered, seen := map[string]bool{}, map[string]bool{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		space, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[space] {
			continue
		}
		all, err := mountsOf(filepath.Base(dir))
		if err != nil {
			continue // it has ended
		}
		seen[space] = true
		byID := map[string]mountInfo{}
		for _, m := range all {
			byID[m.id] = m
		}
		for _, m := range all {
			if on := byID[m.parent]; on.device == device && m.id != m.parent {
				covered[strings.Trim(path.Join(on.root, strings.TrimPrefix(m.dir, on.dir)), "/")] = true
			}
		}
	}
	return covered
}

var _ gofs.NodeOnForgetter = (*treeNode)(nil)

// OnForget is called when the kernel has forgotten the node.
func (n *treeNode) OnForget() {
	if !n.IsDir() {
		n.s.nodes.remove(n)
	}
}
