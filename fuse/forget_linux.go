//go:build !386 && !arm && !mips && !mipsle

package fuse

import (
	"sync"

	gofs "github.com/hanwen/go-fuse/v2/fs"
)

// maxNodes is how many nodes of a tree that are no directories are known at once: the
// kernel, which does not see what they cost here, about 1 KiB each, would keep all that
// it has ever seen as long as it has memory for its own part.
const maxNodes = 1 << 18

// nodes are the nodes that the kernel knows, in the order in which it came to
// know them.
type nodes struct {
	limit int
	wake  chan struct{} // there are too many
	done  chan struct{} // closed when forgetting has ended

	mu    sync.Mutex // guards the following
	live  int
	order []*treeNode // some of which may be forgotten already
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

// oldest takes out the nodes to be forgotten, so many that it is not soon to be done
// again.
func (k *nodes) oldest() (old []*treeNode) {
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
	clear(k.order[len(kept):])
	k.order = kept
	return old
}

// forget has the kernel forget nodes as long as the mount lasts. What is in use stays
// until it is not.
func (k *nodes) forget(unmounted <-chan struct{}) {
	defer close(k.done)
	for {
		select {
		case <-unmounted:
			return
		case <-k.wake:
		}
		for _, n := range k.oldest() {
			name, parent := n.Parent()
			if parent == nil { // two have looked it up at once, and this one lost
				k.remove(n)
				continue
			}
			parent.NotifyEntry(name) // ENOENT if it has just been forgotten
		}
	}
}

var _ gofs.NodeOnForgetter = (*treeNode)(nil)

// OnForget is called when the kernel has forgotten the node.
func (n *treeNode) OnForget() {
	if !n.IsDir() {
		n.s.nodes.remove(n)
	}
}
