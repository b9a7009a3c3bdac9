package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
)

// PushStats tell what a push moved.
type PushStats struct {
	Chunks int   // that the other side lacked
	Bytes  int64 // of these, as sent
}

// Push writes an index of size bytes to indexURL, and its chunks to the store at
// storeURL on the same host. The other side, casync or castor, asks for the chunks that
// it lacks, which src must have; they are verified here and there. The index appears
// last.
func Push(ctx context.Context, indexURL, storeURL string, idx io.ReaderAt, size int64, src store.Getter, o *Options) (PushStats, error) {
	x, err := index.Decode(io.NewSectionReader(idx, 0, size))
	if err != nil {
		return PushStats{}, err
	}
	s, err := ParseLocation(storeURL)
	if err != nil {
		return PushStats{}, err
	}
	ids := make([]chunker.ID, len(x.Entries))
	for i, e := range x.Entries {
		ids[i] = e.ID
	}
	slices.SortFunc(ids, compareIDs)
	u := &pusher{ids: slices.Compact(ids), digest: x.Digest(), limit: x.Params.Max, src: src,
		wants: pushIndex | pushChunks | pushIndexChunks, piece: kindIndex, eof: kindIndexEOF}
	u.asked = make([]bool, len(u.ids))
	err = u.run(ctx, indexURL, &s, io.NewSectionReader(idx, 0, size), o)
	return u.stats, err
}

// PutIndex writes an index of size bytes to another host, as it is: its chunks are to be
// there already. It does not use r after it returns.
func PutIndex(ctx context.Context, rawURL string, r io.ReaderAt, size int64, o *Options) error {
	u := &pusher{wants: pushIndex, piece: kindIndex, eof: kindIndexEOF}
	return u.run(ctx, rawURL, nil, io.NewSectionReader(r, 0, size), o)
}

// PutArchive writes an archive to another host.
func PutArchive(ctx context.Context, rawURL string, r io.Reader, o *Options) error {
	u := &pusher{wants: pushArchive, piece: kindArchive, eof: kindArchiveEOF}
	return u.run(ctx, rawURL, nil, r, o)
}

// pushWorkers is how many chunks are read, verified and sent at once.
const pushWorkers = 8

// pusher is the client of one push.
type pusher struct {
	p          *peer
	wants      features
	piece, eof kind
	ids        []chunker.ID // what the other side may ask for, sorted
	asked      []bool       // for each of them, whether it did
	digest     chunker.Digest
	limit      int
	src        store.Getter
	sent       atomic.Bool // the end of the file is on its way

	write sync.Mutex // held while a frame is written
	stats PushStats  // guarded by write

	mu    sync.Mutex
	queue []chunker.ID  // guarded by mu: to be sent
	ready chan struct{} // holds an item if something is in the queue
}

// run pushes the file r to rawURL.
func (u *pusher) run(ctx context.Context, rawURL string, st *Location, r io.Reader, options *Options) error {
	loc, err := ParseLocation(rawURL)
	if err != nil {
		return err
	}
	o := options.withDefaults()
	w := what{archive: loc.arg()}
	if u.piece == kindIndex {
		// casync takes no index without a store, in which it then puts nothing.
		beside := loc.sibling("default.castr")
		if st == nil {
			st = &beside
		}
		if st.Host != loc.Host {
			return fmt.Errorf("push: index %v and store %v must be on one host", loc, *st)
		}
		w = what{index: loc.arg(), store: st.arg()}
	}
	if u.p, err = dial(ctx, loc.Host, &o, "push", w, u.wants); err != nil {
		return fileError(ctx, "push", loc, err)
	}
	defer u.p.kill()
	u.ready = make(chan struct{}, 1)
	if err := u.session(ctx, r); err != nil {
		return fileError(ctx, "push", loc, err)
	}
	return nil
}

// errGoodbye ends the goroutines of a push that went well.
var errGoodbye = errors.New("goodbye")

// session sends the file and what the other side asks for, until that says goodbye.
func (u *pusher) session(ctx context.Context, r io.Reader) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		if context.Cause(ctx) == errGoodbye {
			u.p.conn.CloseWrite()
		} else {
			u.p.kill()
		}
	})
	defer stop()
	g.Go(func() error { return u.sendFile(ctx, r) })
	for range pushWorkers {
		g.Go(func() error { return u.sendChunks(ctx) })
	}
	g.Go(func() error {
		err := u.listen()
		if err == errGoodbye && !u.sent.Load() {
			err = protocolError("GOODBYE before everything was sent")
		}
		return err
	})
	if err := g.Wait(); err != errGoodbye {
		return err
	}
	// casync gives the file its name only after it says goodbye.
	return u.p.conn.Wait()
}

// sendFile sends the index or archive.
func (u *pusher) sendFile(ctx context.Context, r io.Reader) error {
	piece := make([]byte, maxPiece)
	var buf []byte
	for {
		n, err := io.ReadFull(r, piece)
		if n > 0 {
			buf = appendPiece(buf[:0], u.piece, piece[:n])
		} else {
			buf = buf[:0]
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			u.sent.Store(true) // before the other side can answer it
			u.send(appendEmpty(buf, u.eof), nil)
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !u.send(buf, nil):
			return nil
		}
	}
}

// send writes a frame in two parts. It returns false if it cannot; what is read from
// the other side then tells why.
func (u *pusher) send(head, data []byte) bool {
	u.write.Lock()
	defer u.write.Unlock()
	_, err := u.p.conn.Write(head)
	if err == nil && len(data) > 0 {
		if _, err = u.p.conn.Write(data); err == nil {
			u.stats.Chunks++
			u.stats.Bytes += int64(len(data))
		}
	}
	return err == nil
}

// listen takes requests. It returns errGoodbye at the end.
func (u *pusher) listen() error {
	for {
		f, err := u.p.dec.next()
		if err != nil {
			return u.p.explain(err)
		}
		switch f.kind {
		case kindRequest:
			err = u.request(f.ids)
		case kindGoodbye:
			return errGoodbye
		case kindAbort:
			err = f.abort
		default:
			err = protocolError("%v where requests are due", f.kind)
		}
		if err != nil {
			return u.p.explain(err)
		}
	}
}

// request queues what the other side asks for, each chunk once.
func (u *pusher) request(ids []chunker.ID) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range ids {
		i, ok := slices.BinarySearchFunc(u.ids, id, compareIDs)
		if !ok {
			return protocolError("REQUEST for %v, which is not in the index", id)
		}
		if !u.asked[i] {
			u.asked[i] = true
			u.queue = append(u.queue, id)
		}
	}
	u.notify()
	return nil
}

func compareIDs(a, b chunker.ID) int { return bytes.Compare(a[:], b[:]) }

func (u *pusher) notify() {
	select {
	case u.ready <- struct{}{}:
	default:
	}
}

// take returns the next chunk that is asked for, and waits for it.
func (u *pusher) take(ctx context.Context) (id chunker.ID, err error) {
	for {
		u.mu.Lock()
		if len(u.queue) > 0 {
			id, u.queue = u.queue[0], u.queue[1:]
			if len(u.queue) > 0 {
				u.notify() // for the next worker
			}
			u.mu.Unlock()
			return id, nil
		}
		u.mu.Unlock()
		select {
		case <-u.ready:
		case <-ctx.Done():
			return id, context.Cause(ctx)
		}
	}
}

// sendChunks sends what is asked for until ctx ends.
func (u *pusher) sendChunks(ctx context.Context) error {
	for {
		id, err := u.take(ctx)
		if err != nil {
			return err
		}
		ok, err := u.sendChunk(ctx, id)
		if !ok || err != nil {
			return err
		}
	}
}

// sendChunk sends a chunk after checking it: the other side would only hang up.
func (u *pusher) sendChunk(ctx context.Context, id chunker.ID) (ok bool, err error) {
	c, err := u.src.Get(ctx, id)
	if err != nil {
		return false, err
	}
	if c, err = c.Verify(u.digest, u.limit); err != nil {
		return false, err
	}
	defer c.Release()
	data, zipped, buf, err := encode(&c)
	if err != nil {
		return false, &store.Error{Op: "push", Loc: c.Loc, ID: id, Err: err}
	}
	defer bufpool.Put(buf)
	return u.send(appendChunkHead(nil, id, zipped, len(data)), data), nil
}
