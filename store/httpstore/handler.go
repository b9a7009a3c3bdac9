package httpstore

import (
	"cmp"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/castorsync/castor/chunker"
	"github.com/castorsync/castor/store"
	"github.com/castorsync/castor/store/cacnk"
)

// HandlerOptions are the settings of [NewHandler]. Only Source is necessary.
type HandlerOptions struct {
	// Source has the chunks that are served. It is never trusted with more than
	// MaxChunk bytes, but chunks pass through as it has them.
	Source store.Getter
	// Writable takes uploads of chunks, and of indexes, if there is an IndexDir.
	Writable bool
	// Sink is where uploads of chunks go, and what is told that a chunk is in use, if
	// it is Writable; nil means Source, if that is a store.Store.
	Sink store.Store
	// IndexDir is a directory below which files that end in .caibx, .caidx or
	// .catar are served; "" means none.
	IndexDir string

	// Digests are those that may name chunks, for what must be verified; nil means
	// any that castor knows.
	Digests []chunker.Digest
	// MaxChunk is the greatest size of a plain chunk in bytes; 0 means
	// [chunker.MaxSize].
	MaxChunk int
	// MaxIndex is the greatest size of an index that is uploaded in bytes; 0 means
	// 1 GiB.
	MaxIndex int64
	// MaxChunks is how many different chunks are in memory at once; 0 means 256. Those
	// that go from a file to a client do not count, and uploads have a bound of their
	// own: 256 MiB, and what it takes to decode one for each processor. Requests beyond
	// wait up to 10 s for their turn.
	MaxChunks int
	// MaxHeld is how many bytes these chunks take, and as much again in the form into
	// which they are converted; 0 means 256 MiB. One that is on its way counts as the
	// greatest of late, and one may always come. Not more are converted at once than
	// there are processors.
	MaxHeld int64
	// Level is the compression level for chunks that the source has plain; 0 means
	// [cacnk.DefaultLevel].
	Level int

	// Tokens returns the tokens of which each request must show one, as a bearer
	// token or as the password of basic authentication. It is called for each
	// request, from many goroutines. Nil lets everybody in; no tokens let nobody.
	Tokens func() []string
	// PublicRead asks for a token only where something is written.
	PublicRead bool

	// Rate is the number of bytes a second that all answers together take; 0 means
	// no limit.
	Rate int64
	// Connections returns how many are open, for the metrics; nil leaves that out.
	Connections func() int
	// Log is told why requests fail; nil means nobody is.
	Log *slog.Logger
	// Access is told of each request; nil means nobody is.
	Access *slog.Logger
}

// Handler serves chunks and indexes over HTTP. It is safe for concurrent use.
type Handler struct {
	o        HandlerOptions
	files    store.Opener // nil: the source has no files
	flights  *flights
	names    store.Verifier
	indexes  *os.Root // nil: none
	limit    *limiter // nil: none
	encoder  func() (*cacnk.Encoder, error)
	uploads  *semaphore.Weighted // bytes of bodies
	decoding chan struct{}       // holds one item for each chunk that is decoded or compressed
	metrics  metrics
}

// NewHandler returns a handler for paths directly below the root: use
// http.StripPrefix for others. The chunks are also below default.castr in every
// directory, where clients look for those of an index. It fails if the source or the directory cannot do
// what the options want.
func NewHandler(o HandlerOptions) (*Handler, error) {
	o.MaxChunk = cmp.Or(o.MaxChunk, chunker.MaxSize)
	o.MaxIndex = cmp.Or(o.MaxIndex, 1<<30)
	o.MaxChunks = cmp.Or(o.MaxChunks, 256)
	o.MaxHeld = cmp.Or(o.MaxHeld, 256<<20)
	o.Level = cmp.Or(o.Level, cacnk.DefaultLevel)
	if s, ok := o.Source.(store.Store); ok && o.Sink == nil {
		o.Sink = s
	}
	if o.Writable && o.Sink == nil {
		return nil, errors.New("writable, but the source of chunks takes none")
	}
	h := &Handler{o: o, names: store.Verifier{Digests: o.Digests, Limit: o.MaxChunk}}
	h.uploads = semaphore.NewWeighted(max(uploadRoom, cacnk.MaxStored(o.MaxChunk)))
	h.decoding = make(chan struct{}, runtime.GOMAXPROCS(0))
	h.files, _ = o.Source.(store.Opener)
	h.flights = newFlights(o.Source.Get, o.MaxChunks, o.MaxHeld, &h.metrics)
	h.encoder = sync.OnceValues(func() (*cacnk.Encoder, error) { return cacnk.NewEncoder(o.Level) })
	if o.Rate > 0 {
		h.limit = newLimiter(o.Rate)
	}
	if o.IndexDir != "" {
		var err error
		if h.indexes, err = os.OpenRoot(o.IndexDir); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Close releases the index directory. No request may come afterwards.
func (h *Handler) Close() error {
	if h.indexes == nil {
		return nil
	}
	return h.indexes.Close()
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	rec := &recorder{ResponseWriter: w, r: r, limit: h.limit}
	h.metrics.active.Add(1)
	defer func() {
		h.metrics.active.Add(-1)
		h.metrics.note(rec)
		if h.o.Access != nil {
			h.o.Access.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("remote", r.RemoteAddr), slog.String("method", clip(r.Method)), slog.String("path", clip(r.URL.Path)),
				slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("time", time.Since(begin)))
		}
	}()
	h.route(rec, r)
}

// clip shortens what a client chose for the log.
func clip(s string) string { return s[:min(len(s), 200)] }

func (h *Handler) route(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	path := strings.TrimPrefix(r.URL.Path, "/")
	id, f, isChunk := cacnk.ParseName(inStore(path))
	isIndex := h.indexes != nil && isIndexPath(path)
	writable := h.o.Writable && (isChunk || isIndex && isUploadPath(path))
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case path == "healthz" && read:
		w.Header().Set("Cache-Control", "no-store")
		answer(w, http.StatusOK, "ok")
	case !h.allowed(r, read):
		w.Header().Set("WWW-Authenticate", `Bearer realm="castor"`)
		w.Header().Add("WWW-Authenticate", `Basic realm="castor"`)
		answer(w, http.StatusUnauthorized, "a token is needed")
	case path == "metrics" && read:
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		h.WriteMetrics(w)
	case !isChunk && !isIndex:
		answer(w, http.StatusNotFound, h.refusal(r, "not found"))
	case read && isChunk:
		h.serveChunk(w, r, id, f)
	case read:
		h.serveIndex(w, r, path)
	case r.Method == http.MethodPut && writable && isChunk:
		h.putChunk(w, r, id, f)
	case r.Method == http.MethodPut && writable:
		h.putIndex(w, r, path)
	default:
		w.Header().Set("Allow", "GET, HEAD")
		if writable {
			w.Header().Set("Allow", "GET, HEAD, PUT")
		}
		answer(w, http.StatusMethodNotAllowed, h.refusal(r, "method not allowed"))
	}
}

// refusal says why an upload is not taken where others may be; of what is none, it says
// otherwise.
func (h *Handler) refusal(r *http.Request, otherwise string) string {
	switch {
	case r.Method != http.MethodPut:
		return otherwise
	case !h.o.Writable:
		return "the server takes no uploads"
	case h.indexes == nil:
		return "takes only chunks"
	}
	return "takes only chunks, .caibx and .caidx"
}

// answer writes a status with a line of text.
func answer(w http.ResponseWriter, status int, text string) {
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	http.Error(w, text, status)
}

// fault answers that something that the client asked for went wrong on this side.
// What it was is for the log alone.
func (h *Handler) fault(w http.ResponseWriter, r *http.Request, status int, text string, err error) {
	if h.o.Log != nil && r.Context().Err() == nil { // else nobody listens
		h.o.Log.LogAttrs(r.Context(), slog.LevelWarn, text, slog.String("path", clip(r.URL.Path)), slog.Any("error", err))
	}
	answer(w, status, text)
}

// recorder notes what is answered, and keeps to the limit.
type recorder struct {
	http.ResponseWriter
	r      *http.Request
	limit  *limiter // or nil
	status int      // 0: nothing was answered
	bytes  int64    // of the body
	err    error    // of the first write that failed
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (n int, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for n < len(b) && w.err == nil {
		piece := b[n:]
		if w.limit != nil {
			piece = piece[:min(len(piece), limitPiece)]
			if w.err = w.limit.wait(w.r.Context(), len(piece)); w.err != nil {
				break
			}
		}
		var m int
		m, w.err = w.ResponseWriter.Write(piece)
		n += m
	}
	w.bytes += int64(n)
	return n, w.err
}

// ReadFrom writes r, of which it lets files go without a copy.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok || w.limit != nil {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := rf.ReadFrom(r)
	w.bytes += n
	if w.err == nil {
		w.err = err
	}
	return n, err
}
