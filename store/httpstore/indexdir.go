package httpstore

import (
	"errors"
	"fmt"
	"github.com/castorsync/castor/store/transfer"
	"io"
	"io/fs"
	"net/http"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/castorsync/castor/index"
	"github.com/castorsync/castor/internal/atomicfile"
)

// isIndexPath reports whether a path names what an index directory may serve. No
// element begins with a dot.
func isIndexPath(name string) bool {
	if strings.ContainsFunc(name, unicode.IsControl) || !fs.ValidPath(name) || !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, `\:`) {
		return false
	}
	for e := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(e, ".") {
			return false
		}
	}
	return isUploadPath(name) || path.Ext(name) == ".catar"
}

// isUploadPath reports whether an index path names an index.
func isUploadPath(name string) bool {
	ext := path.Ext(name)
	return ext == ".caibx" || ext == ".caidx"
}

// serveIndex answers with a file of the index directory. Nothing that is reached by
// a symbolic link out of the directory is served.
func (h *Handler) serveIndex(w http.ResponseWriter, r *http.Request, name string) {
	name = filepath.FromSlash(name)
	fi, err := h.indexes.Stat(name)
	if err != nil || !fi.Mode().IsRegular() { // looked at first: opening a pipe waits
		answer(w, http.StatusNotFound, "no such index")
		return
	}
	f, err := h.indexes.Open(name)
	if err == nil {
		defer f.Close()
		fi, err = f.Stat()
	}
	if err != nil {
		h.fault(w, r, http.StatusInternalServerError, "index cannot be read", err)
		return
	}
	header := w.Header()
	header.Set("Cache-Control", "no-cache")
	header.Set("Content-Type", "application/octet-stream")
	header.Set("ETag", fmt.Sprintf(`"%x-%x"`, fi.ModTime().UnixNano(), fi.Size()))
	http.ServeContent(w, r, "", fi.ModTime(), f)
}

// putIndex stores an upload if it is an index, which is found out on the way.
func (h *Handler) putIndex(w http.ResponseWriter, r *http.Request, name string) {
	if r.ContentLength > h.o.MaxIndex {
		h.badUpload(w, r, transfer.TooLargeError(h.o.MaxIndex))
		return
	}
	is, err := h.replaceable(name)
	if err != nil {
		text := "no index can have this name"
		if errors.Is(err, errNoDirectory) {
			text = errNoDirectory.Error()
		}
		h.fault(w, r, http.StatusConflict, text, err)
		return
	}
	f, err := atomicfile.Create(filepath.Join(h.indexes.Name(), filepath.FromSlash(name)), false)
	if err != nil {
		h.fault(w, r, http.StatusInternalServerError, "index cannot be stored", err)
		return
	}
	defer f.Abort()
	body := &bounded{r: r.Body, left: h.o.MaxIndex, limit: h.o.MaxIndex}
	file := &sink{w: f}
	err = copyIndex(file, body)
	switch {
	case file.err != nil:
		h.fault(w, r, http.StatusInternalServerError, "index cannot be stored", file.err)
		return
	case body.err != nil:
		h.badUpload(w, r, body.err)
		return
	case err != nil:
		h.badUpload(w, r, transfer.Forever(err))
		return
	}
	h.metrics.received.Add(h.o.MaxIndex - body.left)
	if err := f.Commit(true); err != nil {
		h.fault(w, r, http.StatusInternalServerError, "index cannot be stored", err)
		return
	}
	if is {
		w.WriteHeader(http.StatusNoContent)
	} else {
		w.WriteHeader(http.StatusCreated)
	}
}

var errNoDirectory = errors.New("its directory does not exist")

// replaceable reports whether there is an index of that name, or an error if there
// cannot be one. As clients cannot make links, what it finds stays true.
func (h *Handler) replaceable(name string) (is bool, err error) {
	if dir := path.Dir(name); dir != "." {
		switch fi, err := h.indexes.Stat(filepath.FromSlash(dir)); {
		case errors.Is(err, fs.ErrNotExist):
			return false, fmt.Errorf("%s: %w", dir, errNoDirectory)
		case err != nil || !fi.IsDir():
			return false, fmt.Errorf("%s: not a directory: %w", dir, errors.Join(err))
		}
	}
	fi, err := h.indexes.Lstat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	return err == nil, err
}

// copyIndex copies an index and nothing else.
func copyIndex(w io.Writer, r io.Reader) error {
	x, err := index.NewReader(io.TeeReader(r, w))
	if err != nil {
		return err
	}
	return x.Each(func(index.Entry) error { return nil })
}

// sink remembers the error of a writer.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (n int, err error) {
	n, err = s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// bounded reads up to limit bytes, and remembers its error.
type bounded struct {
	r           io.Reader
	left, limit int64
	err         error // but io.EOF
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		n, err = n-1, transfer.TooLargeError(b.limit)
	}
	if err != io.EOF {
		b.err = err
	}
	return n, err
}
