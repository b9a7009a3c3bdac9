package httpstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
	"github.com/castorsync/castor/store/transfer"
)

// serveChunk answers with a chunk in form f.
func (h *Handler) serveChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, f form) {
	if r.Method == http.MethodHead && !h.noteUse(w, r, id) {
		return
	}
	if h.files != nil && h.serveFile(w, r, id, f) || r.Method == http.MethodHead && h.serveHead(w, r, id) {
		return
	}
	fl, err := h.flights.join(r.Context(), id)
	if err != nil {
		h.chunkFault(w, r, err)
		return
	}
	spoilt := false
	defer func() { fl.leave(spoilt) }()
	data := fl.chunk.Data
	if held := fl.chunk.Codec == nil; held != (f == plain) {
		data, err = fl.converted(h.convert)
		if errors.Is(err, errBusy) {
			h.chunkFault(w, r, err)
			return
		}
		if err != nil {
			h.fault(w, r, http.StatusInternalServerError, "chunk is damaged", err)
			return
		}
	}
	h.writeChunk(w, r, id, int64(len(data)), bytes.NewReader(data))
	if rec, ok := w.(*recorder); ok {
		spoilt = rec.err != nil // HTTP/2 may still be reading it
	}
}

// serveFile answers with the file of a chunk, and reports whether it has answered: it
// does not if the file has the other form.
func (h *Handler) serveFile(w http.ResponseWriter, r *http.Request, id chunker.ID, f form) bool {
	file, err := h.files.OpenChunk(r.Context(), id)
	if errors.Is(err, errors.ErrUnsupported) {
		return false
	}
	h.metrics.fetched.Add(1)
	if err != nil {
		h.chunkFault(w, r, err)
		return true
	}
	defer file.Close()
	if file.Plain != (f == plain) {
		return false
	}
	h.writeChunk(w, r, id, file.Size, file.File)
	return true
}

// noteUse tells the store that takes uploads that somebody asks for the chunk, which
// counts as a use: whoever finds it there does not upload it. It answers if that fails.
func (h *Handler) noteUse(w http.ResponseWriter, r *http.Request, id chunker.ID) bool {
	if !h.o.Writable {
		return true
	}
	if _, err := h.o.Sink.Has(r.Context(), id); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		h.chunkFault(w, r, err)
		return false
	}
	return true
}

// serveHead answers whether the source has a chunk, if it can tell without reading
// it. Its length in the form that is asked for is not known then, only that in the
// form in which it is held.
func (h *Handler) serveHead(w http.ResponseWriter, r *http.Request, id chunker.ID) bool {
	switch n, err := store.StoredSize(r.Context(), h.o.Source, id); {
	case errors.Is(err, errors.ErrUnsupported):
		return false
	case err != nil:
		h.chunkFault(w, r, err)
	default:
		h.chunkHeader(w, id)
		if n > 0 { // 0 is of one in a cache
			w.Header().Set(storedHeader, strconv.FormatInt(n, 10))
		}
		w.WriteHeader(http.StatusOK)
	}
	return true
}

// chunkFault answers that a chunk cannot be had.
func (h *Handler) chunkFault(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case store.Missing(err):
		w.Header().Set(formsHeader, "both")
		answer(w, http.StatusNotFound, "no such chunk")
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		h.fault(w, r, http.StatusServiceUnavailable, "busy", err)
	case errors.Is(err, store.ErrDamaged):
		h.fault(w, r, http.StatusInternalServerError, "chunk is damaged", err)
	default:
		h.fault(w, r, http.StatusBadGateway, "chunk cannot be read", err)
	}
}

// chunkHeader sets what is the same in all answers with a chunk. It never changes, so
// it may be kept for good; by anybody, unless it takes a token to see it.
func (h *Handler) chunkHeader(w http.ResponseWriter, id chunker.ID) {
	header := w.Header()
	header.Set("ETag", `"`+id.String()+`"`)
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Cache-Control", "public, max-age=31536000, immutable")
	if h.o.Tokens != nil && !h.o.PublicRead {
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
}

// writeChunk answers with data of size bytes.
func (h *Handler) writeChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, size int64, data io.ReadSeeker) {
	h.chunkHeader(w, id)
	if r.Method != http.MethodGet || conditional(r.Header) {
		http.ServeContent(w, r, "", time.Time{}, data)
		return
	}
	// As ServeContent does, in fewer steps.
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if b, ok := data.(*bytes.Reader); ok {
		b.WriteTo(w)
		return
	}
	io.CopyN(w, data, size)
}

// conditional reports whether the answer may be anything but the whole.
func conditional(h http.Header) bool {
	for _, k := range []string{"Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if _, ok := h[k]; ok {
			return true
		}
	}
	return false
}

// convert returns c in the form in which it is not held, after it has made sure that
// it is what its ID says, and the buffer of bufpool that may back it.
func (h *Handler) convert(c store.Chunk) (data, buf []byte, err error) {
	h.decoding <- struct{}{}
	defer func() { <-h.decoding }()
	h.metrics.converted.Add(1)
	b, buf, err := h.open(c)
	if err != nil || c.Codec != nil {
		return b, buf, err
	}
	enc, err := h.encoder()
	if err != nil {
		return nil, nil, err
	}
	buf = bufpool.Get(cacnk.MaxEncoded(len(b)))
	return enc.Encode(buf[:0], b), buf, nil
}

// open returns the plain bytes of c, and the buffer of bufpool that may back them,
// after checking them with each digest that may name them. Errors wrap
// [store.ErrDamaged].
func (h *Handler) open(c store.Chunk) (b, buf []byte, err error) {
	b = c.Data
	if c.Codec != nil {
		buf = bufpool.Get(min(h.o.MaxChunk, max(4*len(c.Data), 64<<10)))
		if b, err = c.Codec.Decode(buf[:0], c.Data, h.o.MaxChunk); err != nil {
			bufpool.Put(buf)
			return nil, nil, fmt.Errorf("%w: %w", store.ErrDamaged, err)
		}
	}
	if err := h.names.Check(c.ID, b); err != nil {
		bufpool.Put(buf)
		return nil, nil, err
	}
	return b, buf, nil
}

// putChunk stores an upload. It answers when the chunk is in the store for good.
func (h *Handler) putChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, f form) {
	limit := cacnk.MaxStored(h.o.MaxChunk)
	if f == plain {
		limit = int64(h.o.MaxChunk)
	}
	room := r.ContentLength
	if room < 0 || room > limit {
		room = limit
	}
	if err := h.makeRoom(r.Context(), room); err != nil {
		h.chunkFault(w, r, err)
		return
	}
	defer h.uploads.Release(room)
	body, err := transfer.ReadBody(r.Body, r.ContentLength, limit)
	if err != nil {
		h.badUpload(w, r, err)
		return
	}
	defer bufpool.Put(body)
	h.metrics.received.Add(int64(len(body)))
	c, err := h.verified(id, f, body)
	if err != nil {
		h.badUpload(w, r, transfer.Forever(err))
		return
	}
	status, err := h.add(r.Context(), c)
	if err != nil {
		h.fault(w, r, http.StatusInternalServerError, "chunk cannot be stored", err)
		return
	}
	w.WriteHeader(status)
}

// uploadRoom is how many bytes uploads of chunks may take together, as they come; one
// may always come.
const uploadRoom = 256 << 20

// makeRoom waits for n bytes of room for an upload.
func (h *Handler) makeRoom(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, slotWait, errBusy)
	defer cancel()
	if h.uploads.Acquire(ctx, n) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// verified returns body as chunk id if it is that. No more chunks are decoded at once
// than there are processors.
func (h *Handler) verified(id chunker.ID, f form, body []byte) (store.Chunk, error) {
	c := store.Chunk{ID: id, Data: body, Loc: "upload"}
	if f == compressed {
		var err error
		if c.Codec, err = cacnk.Detect(body); err != nil {
			return c, err
		}
	}
	h.decoding <- struct{}{}
	defer func() { <-h.decoding }()
	_, buf, err := h.open(c)
	bufpool.Put(buf)
	return c, err
}

// add puts c into the store for good and returns the status to answer.
func (h *Handler) add(ctx context.Context, c store.Chunk) (int, error) {
	added, err := store.Add(ctx, h.o.Sink, c)
	if err == nil {
		err = store.Sync(ctx, h.o.Sink)
	}
	if err != nil {
		return 0, err
	}
	if added.New {
		h.metrics.stored.Add(1)
		return http.StatusCreated, nil
	}
	return http.StatusNoContent, nil
}

// badUpload answers that an upload is not what it should be.
func (h *Handler) badUpload(w http.ResponseWriter, r *http.Request, err error) {
	if _, ok := errors.AsType[transfer.TooLargeError](err); ok {
		h.fault(w, r, http.StatusRequestEntityTooLarge, "upload is too large", err)
		return
	}
	if _, ok := errors.AsType[transfer.PermanentError](err); ok {
		h.fault(w, r, http.StatusBadRequest, "upload is not what its name says", err)
		return
	}
	h.fault(w, r, http.StatusBadRequest, "upload was cut short", err)
}
