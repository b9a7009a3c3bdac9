package assemble

import (
	"context"
	"io"

	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/internal/par"
	"github.com/castorsync/castor/store"
)

// Stream writes n bytes of the content from off on to w, in order, for pipes and
// the like; n < 0 means to the end. Chunks are copied and fetched ahead of the
// writing, within about twice as many chunks as workers. The plan must have been
// made without a destination. The errors are those of [Plan.Run]; w may then have
// got a part of the content, and never a wrong byte.
func (p *Plan) Stream(ctx context.Context, w io.Writer, off, n int64, src store.Getter, o *Options) (Stats, error) {
	x := p.Index
	opt := o.orDefault(x.Params.Max)
	end := x.Size()
	if n >= 0 && n < end-off {
		end = off + n
	}
	var stats Stats
	type piece struct {
		entry   int
		source  Source
		changed bool
		data    []byte
		release func()
	}
	work := func(ctx context.Context, c *piece) error {
		n := x.Len(c.entry)
		c.release = func() { bufpool.Put(c.data) }
		switch c.source {
		case Zero:
			c.data = bufpool.Get(n)
			clear(c.data)
			return nil
		case Copy:
			c.data = bufpool.Get(n)
			o := p.origin(c.entry)
			_, err := p.seeds[o.seed-1].File.ReadAt(c.data, o.off)
			if err == nil && x.Digest().Sum(c.data) == x.Entries[c.entry].ID {
				return nil
			}
			bufpool.Put(c.data)
			c.source, c.changed = Fetch, true
		}
		ch, data, err := p.get(ctx, src, c.entry)
		c.data, c.release = data, ch.Release
		return err
	}
	emit := func(c *piece) error {
		start := x.Start(c.entry)
		b := c.data[max(0, off-start):min(int64(len(c.data)), end-start)]
		_, err := w.Write(b)
		c.release()
		stats.By[c.source].add(len(b))
		if c.source == Fetch {
			stats.Fetched.add(len(c.data))
		}
		if c.changed {
			stats.Changed++
		}
		if opt.Progress != nil {
			opt.Progress(stats)
		}
		return err
	}
	q := par.NewOrdered(ctx, opt.Workers, 2*opt.Workers, work, emit)
	for i := x.Find(off); i < len(x.Entries) && x.Start(i) < end; i++ {
		if q.Submit(piece{entry: i, source: p.Source(i)}) != nil {
			break // Wait tells
		}
	}
	return stats, q.Wait()
}

// origin returns the place of entry i's chunk in a seed.
func (p *Plan) origin(i int) origin {
	return p.from[p.table.first(p.Index.Entries[i].ID)]
}
