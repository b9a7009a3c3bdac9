package httpstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/internal/bufpool"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// serveChunk answers with a chunk in form f.
func (h *Handler) serveChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, f form) {
	w.Header().Set(formsHeader, "both")
	if !h.noteUse(w, r, id) {
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
		if err != nil {
			h.fault(w, r, http.StatusInternalServerError, "chunk is damaged", err)
			return
		}
	}
	h.writeChunk(w, r, id, data)
	if rec, ok := w.(*recorder); ok {
		spoilt = rec.err != nil // HTTP/2 may still be reading it
	}
}

// noteUse tells the store that somebody asks whether it has the chunk, which counts
// as a use, and answers if it has not.
func (h *Handler) noteUse(w http.ResponseWriter, r *http.Request, id chunker.ID) bool {
	s, ok := h.o.Source.(store.Store)
	if r.Method != http.MethodHead || !ok {
		return true
	}
	has, err := s.Has(r.Context(), id)
	if err == nil && !has {
		answer(w, http.StatusNotFound, "no such chunk")
		return false
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		h.chunkFault(w, r, err)
		return false
	}
	return true
}

// chunkFault answers that a chunk cannot be had.
func (h *Handler) chunkFault(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case store.Missing(err):
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

// writeChunk answers with data. A chunk never changes, so it may be kept for good;
// by anybody, unless it takes a token to see it.
func (h *Handler) writeChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, data []byte) {
	header := w.Header()
	header.Set("ETag", `"`+id.String()+`"`)
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Cache-Control", "public, max-age=31536000, immutable")
	if h.o.Tokens != nil && !h.o.PublicRead {
		header.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	if r.Method == http.MethodGet && !conditional(r.Header) {
		// As below, without a copy.
		header.Set("Accept-Ranges", "bytes")
		header.Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
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
	if err := h.check(c.ID, b); err != nil {
		bufpool.Put(buf)
		return nil, nil, err
	}
	return b, buf, nil
}

// check tries the digests that may name b, first the one that was right last.
func (h *Handler) check(id chunker.ID, b []byte) error {
	if len(b) > h.o.MaxChunk {
		return fmt.Errorf("%w: more than %d bytes", store.ErrDamaged, h.o.MaxChunk)
	}
	first := int(h.digest.Load())
	for i := range h.o.Digests {
		n := (first + i) % len(h.o.Digests)
		if h.o.Digests[n].Sum(b) == id {
			h.digest.Store(uint32(n))
			return nil
		}
	}
	return fmt.Errorf("%w: content is not what %v names", store.ErrDamaged, id)
}

// putChunk stores an upload. It answers when the chunk is in the store for good.
func (h *Handler) putChunk(w http.ResponseWriter, r *http.Request, id chunker.ID, f form) {
	limit := maxStored(h.o.MaxChunk)
	if f == plain {
		limit = int64(h.o.MaxChunk)
	}
	if err := h.flights.slot(r.Context()); err != nil {
		h.chunkFault(w, r, err)
		return
	}
	defer func() { <-h.flights.slots }()
	body, err := readBody(r.Body, r.ContentLength, limit)
	if err != nil {
		h.badUpload(w, r, err)
		return
	}
	defer bufpool.Put(body)
	h.metrics.received.Add(int64(len(body)))
	c, err := h.verified(id, f, body)
	if err != nil {
		h.badUpload(w, r, permanent{err})
		return
	}
	status, err := h.add(r.Context(), c)
	if err != nil {
		h.fault(w, r, http.StatusInternalServerError, "chunk cannot be stored", err)
		return
	}
	w.WriteHeader(status)
}

// verified returns body as chunk id if it is that.
func (h *Handler) verified(id chunker.ID, f form, body []byte) (store.Chunk, error) {
	c := store.Chunk{ID: id, Data: body, Loc: "upload"}
	if f == compressed {
		var err error
		if c.Codec, err = cacnk.Detect(body); err != nil {
			return c, err
		}
	}
	_, buf, err := h.open(c)
	bufpool.Put(buf)
	return c, err
}

// add puts c into the store for good and returns the status to answer.
func (h *Handler) add(ctx context.Context, c store.Chunk) (int, error) {
	s := h.o.Source.(store.Store)
	added, err := store.Add(ctx, s, c)
	if err == nil {
		err = store.Sync(ctx, s)
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
	if _, ok := errors.AsType[tooLargeError](err); ok {
		h.fault(w, r, http.StatusRequestEntityTooLarge, "upload is too large", err)
		return
	}
	if _, ok := errors.AsType[permanent](err); ok {
		h.fault(w, r, http.StatusBadRequest, "upload is not what its name says", err)
		return
	}
	h.fault(w, r, http.StatusBadRequest, "upload was cut short", err)
}
