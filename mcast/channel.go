package mcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/mcast/wire"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// content is an index and the chunks of it, numbered as a channel does.
type content struct {
	index *index.Index
	first []uint32 // the first entry of each distinct chunk; nil if all are distinct
	space wire.Space
}

// Sizes between which the plain bytes of a bucket are, about, and how many buckets
// there are between them: so many that receivers find each other's pace, and so large
// that sending one takes longer than joining and leaving it.
const (
	minBucket = 1 << 20
	maxBucket = 2 << 20
	buckets   = 512
)

// levelOf returns the level of the buckets of x. It follows from the index alone, so that
// all its senders number their groups alike.
func levelOf(x *index.Index) int {
	return wire.LevelFor(min(max(x.Size()/buckets, minBucket), maxBucket), x.Size()/int64(max(len(x.Entries), 1)))
}

// newContent numbers the distinct chunks of x, and its groups with buckets of a level.
func newContent(x *index.Index, level int) (*content, error) {
	c := &content{index: x, first: firsts(x)}
	c.space = wire.Space{IndexBytes: index.EncodedSize(len(x.Entries)), Chunks: len(x.Entries), Level: level}
	if c.first != nil {
		c.space.Chunks = len(c.first)
	}
	return c, c.space.Check()
}

// firsts returns the entries that hold a chunk no entry before them holds; nil if all
// do. It takes four bytes an entry.
func firsts(x *index.Index) []uint32 {
	byID := make([]uint32, len(x.Entries))
	for i := range byID {
		byID[i] = uint32(i)
	}
	slices.SortFunc(byID, func(a, b uint32) int {
		if c := bytes.Compare(x.Entries[a].ID[:], x.Entries[b].ID[:]); c != 0 {
			return c
		}
		return int(a) - int(b)
	})
	first := byID[:0]
	for i, e := range byID {
		if i == 0 || x.Entries[e].ID != x.Entries[byID[i-1]].ID {
			first = append(first, e)
		}
	}
	if len(first) == len(x.Entries) {
		return nil
	}
	slices.Sort(first)
	return slices.Clip(slices.Clone(first))
}

// entry returns the first entry of chunk number n.
func (c *content) entry(n int) int {
	if c.first == nil {
		return n
	}
	return int(c.first[n])
}

// id returns the ID of chunk number n, and length its length in bytes.
func (c *content) id(n int) chunker.ID { return c.index.Entries[c.entry(n)].ID }
func (c *content) length(n int) int    { return c.index.Len(c.entry(n)) }

// bytes returns how many bytes the chunks of a group have when they are plain.
func (c *content) bytes(ord uint32) (n int64) {
	from, to := c.space.ChunkRange(ord)
	for i := from; i < to; i++ {
		n += int64(c.length(i))
	}
	return n
}

// object returns the bytes of the object of a group, made from chunks of src in the
// form in which it stores them. A chunk that src does not have, or not right, is
// marked absent; other failures are errors. Behind the object there is room for
// padding of up to pad bytes. It is a buffer of internal/bufpool.
func (c *content) object(ctx context.Context, ord uint32, src store.Getter, pad int) ([]byte, error) {
	kind, i, ok := c.space.Kind(ord)
	switch {
	case !ok || kind == wire.Control:
		return nil, fmt.Errorf("group %d carries no object", ord)
	case kind == wire.IndexPiece:
		from := int64(i) * wire.IndexObjectSize
		size := int(min(wire.IndexObjectSize, c.space.IndexBytes-from))
		b := bufpool.Get(size + pad)[:size]
		_, err := c.index.ReadAt(b, from)
		return b, err
	}
	from, to := c.space.ChunkRange(ord)
	parts := make([]wire.Part, to-from)
	directory := wire.DirectorySize(to - from)
	b := bufpool.Get(directory + int(c.bytes(ord)) + pad)[:directory]
	for n := from; n < to; n++ {
		ch, err := src.Get(ctx, c.id(n))
		if err == nil {
			ch, err = c.sendable(ch, n)
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case store.Missing(err), errors.Is(err, store.ErrDamaged):
			parts[n-from] = wire.Part{Form: wire.Absent}
			continue
		case err != nil:
			return nil, err
		}
		form := wire.Plain
		if ch.Codec != nil {
			form = wire.Zstd
		}
		parts[n-from] = wire.Part{Form: form, Length: len(ch.Data)}
		b = append(b, ch.Data...) // never longer than plain
		ch.Release()
	}
	if cap(b) > 2*(len(b)+pad) { // it is held for a while
		small := append(bufpool.Get(len(b) + pad)[:0], b...)
		bufpool.Put(b)
		b = small
	}
	if _, err := wire.AppendDirectory(b[:0], parts); err != nil {
		return nil, err
	}
	return b, nil
}

// sendable returns the chunk, which is number n, in a form that can be sent: plain or
// zstd. Its content is what its name says: a channel would repeat a damaged chunk for
// ever.
func (c *content) sendable(ch store.Chunk, n int) (store.Chunk, error) {
	id := c.id(n)
	if ch.ID != id {
		return ch, fmt.Errorf("%w: got %v for %v", store.ErrDamaged, ch.ID, id)
	}
	plain, err := ch.Open(c.index.Digest(), c.length(n))
	if err != nil {
		return ch, err
	}
	if ch.Codec == nil || ch.Codec.Name() == zstdName && len(ch.Data) < len(plain) {
		return ch, nil
	}
	p := store.Chunk{ID: id, Data: slices.Clone(plain)}
	ch.Release()
	return p, nil
}

// zstdName is the name of the codec whose chunks are sent as they are.
const zstdName = "zstd"

// unpack passes the chunks of an object to each; those that the sender lacks have no
// data.
func (c *content) unpack(ord uint32, object []byte, each func(n int, ch store.Chunk) error) error {
	from, to := c.space.ChunkRange(ord)
	parts, err := wire.ParseDirectory(object, to-from)
	if err != nil {
		return fmt.Errorf("%w: %w", errPolluted, err)
	}
	at := wire.DirectorySize(to - from)
	for i, p := range parts {
		ch := store.Chunk{ID: c.id(from + i), Loc: "multicast"}
		if p.Form != wire.Absent {
			ch.Data = object[at:][:p.Length]
		}
		if p.Form == wire.Zstd {
			ch.Codec = cacnk.Zstd
		}
		at += p.Length
		if err := each(from+i, ch); err != nil {
			return err
		}
	}
	return nil
}
