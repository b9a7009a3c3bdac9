package assemble

import (
	"cmp"
	"context"
	"iter"
	"runtime"
	"slices"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
)

// Moving chunks within the destination must read each before anything is
// written over it. The moves form a graph: a move that reads a place must be
// read before a move that writes there is written.
//
//	repeat until all moves are done:
//	    take moves of which nothing has to be read first, and count them as read,
//	        which frees further ones, until there is a round of them
//	    if there are none, the rest goes in circles: take one all the same, to be
//	        held in memory until its place is free
//	    read and verify the round
//	    write the round, and what is held and has become free
//
// All reads of a round come before its writes, so the order within a round does
// not matter. Should more have to be held than memory allows, the chunk is
// fetched instead.

const (
	roundBytes = 32 << 20 // read in one round
	heldBytes  = 64 << 20 // held at most to break circles
)

// move is a chunk on its way within the destination.
type move struct {
	off     int64
	data    []byte // once read
	first   int    // the first entry of the chunk
	len     int32
	waits   int32 // reads that must come before this one's write
	taken   bool  // in a round, or past it
	held    bool  // breaks a circle
	dropped bool  // will be fetched
}

type mover struct {
	*runner
	moves []move   // in the order of off
	of    []uint32 // for first entries: number + 1 of the chunk's move; 0 is none
	ready []*move
	held  []*move
	bytes int // of held
	next  int // no move before this is untaken
}

// moves brings chunks of the destination to their places in it.
func (r *runner) moves(ctx context.Context) error {
	m := &mover{runner: r}
	m.graph()
	for {
		round := m.round()
		if len(round) == 0 && len(m.held) == 0 {
			return nil
		}
		if err := m.read(ctx, round); err != nil {
			return err
		}
		if err := m.write(ctx, round); err != nil {
			return err
		}
	}
}

// graph lists the moves and counts what has to come before each.
func (m *mover) graph() {
	n := 0
	for range m.units(Move) {
		n++
	}
	if n == 0 {
		return
	}
	m.moves = make([]move, 0, n)
	for first := range m.units(Move) {
		m.moves = append(m.moves, move{first: first, off: m.from[first].off, len: int32(m.Index.Len(first))})
	}
	slices.SortFunc(m.moves, byOffset)
	m.of = make([]uint32, len(m.Index.Entries))
	for i := range m.moves {
		m.of[m.moves[i].first] = uint32(i) + 1
	}
	for i := range m.moves {
		for w := range m.over(&m.moves[i]) {
			w.waits++
		}
	}
	for i := range m.moves {
		if v := &m.moves[i]; v.waits == 0 {
			m.ready = append(m.ready, v)
		}
	}
}

func byOffset(a, b move) int { return cmp.Compare(a.off, b.off) }

// over returns the other moves that write where v reads, each as often as it has
// places there.
func (m *mover) over(v *move) iter.Seq[*move] {
	return func(yield func(*move) bool) {
		x, end := m.Index, v.off+int64(v.len)
		for i := x.Find(v.off); i < len(x.Entries) && x.Start(i) < end; i++ {
			first := m.table.first(x.Entries[i].ID)
			if first != v.first && m.source(i, first) == Move && !yield(&m.moves[m.of[first]-1]) {
				return
			}
		}
	}
}

// take counts a move as read, which may make others ready.
func (m *mover) take(v *move) {
	v.taken = true
	for w := range m.over(v) {
		if w.waits--; w.waits == 0 && !w.taken {
			m.ready = append(m.ready, w)
		}
	}
}

// round takes the moves to read next.
func (m *mover) round() (round []*move) {
	for bytes := 0; bytes < m.roundBytes; {
		if n := len(m.ready); n > 0 {
			v := m.ready[n-1]
			m.ready = m.ready[:n-1]
			m.take(v)
			round = append(round, v)
			bytes += int(v.len)
			continue
		}
		if len(round) > 0 {
			return round
		}
		v := m.untaken()
		if v == nil {
			return round
		}
		m.take(v)
		if m.bytes+int(v.len) > m.heldBytes {
			v.dropped = true
			m.drop(v)
			continue
		}
		v.held = true
		m.bytes += int(v.len)
		m.held = append(m.held, v)
		bytes += int(v.len)
		round = append(round, v)
	}
	return round
}

// untaken returns a move that is still to be taken, nil if there is none.
func (m *mover) untaken() *move {
	for ; m.next < len(m.moves); m.next++ {
		if v := &m.moves[m.next]; !v.taken {
			return v
		}
	}
	return nil
}

// drop turns a move into a fetch.
func (m *mover) drop(v *move) { m.from[v.first] = origin{} }

// read reads and verifies a round.
func (m *mover) read(ctx context.Context, round []*move) error {
	return par.Each(ctx, 4*runtime.GOMAXPROCS(0), len(round), func(_ context.Context, i int) error {
		v := round[i]
		v.data = bufpool.Get(int(v.len))
		_, err := m.dst.File.ReadAt(v.data, v.off)
		if err != nil || m.Index.Digest().Sum(v.data) != m.Index.Entries[v.first].ID {
			m.change()
			v.dropped = true
		}
		return nil
	})
}

// write writes what of the round and of the held moves may be written.
func (m *mover) write(ctx context.Context, round []*move) error {
	var now, still []*move
	for _, v := range round {
		if !v.held {
			now = append(now, v)
		}
	}
	for _, v := range m.held {
		if v.waits > 0 {
			still = append(still, v)
			continue
		}
		m.bytes -= int(v.len)
		now = append(now, v)
	}
	m.held = still
	err := par.Each(ctx, runtime.GOMAXPROCS(0), len(now), func(_ context.Context, i int) error {
		v := now[i]
		if v.dropped {
			return nil
		}
		for j := range m.places(v.first, Move) {
			if err := m.runner.write(v.data, m.Index.Start(j)); err != nil {
				return err
			}
			m.account(Move, int(v.len), 0)
		}
		return nil
	})
	for _, v := range now {
		bufpool.Put(v.data)
		v.data = nil
		if v.dropped {
			m.drop(v)
		}
	}
	return err
}
