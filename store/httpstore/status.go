package httpstore

import (
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/castorsync/castor/store/transfer"
)

// StatusError says that a server refused a request. It wraps fs.ErrNotExist for 404
// and 410, fs.ErrPermission for 401 and 403, and errors.ErrUnsupported for 405 and
// 501.
type StatusError struct {
	Code       int           // the HTTP status
	Method     string        // of the request
	RetryAfter time.Duration // the pause that the server asks for, or 0
	Reason     string        // the first line of the answer, if it is text that says more than the status
	authorized bool          // credentials were sent
	bothForms  bool          // the server would have converted a chunk from the other form
}

// formsHeader tells clients that a chunk that is missing in one form is missing in
// the other as well.
const formsHeader = "Castor-Forms"

// storedHeader tells clients the length in bytes of a chunk in the form in which the
// server holds it, where that of the form they ask for is not known.
const storedHeader = "Castor-Stored-Size"

func newStatusError(resp *http.Response, method string) *StatusError {
	return &StatusError{
		Code:       resp.StatusCode,
		Method:     method,
		RetryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		authorized: resp.Request != nil && resp.Request.Header.Get("Authorization") != "",
		bothForms:  resp.Header.Get(formsHeader) == "both",
	}
}

// explain takes the reason from the beginning of the body of an answer. Pages in HTML are
// for browsers.
func (e *StatusError) explain(contentType string, body []byte) {
	if t, _, _ := mime.ParseMediaType(contentType); t != "text/plain" {
		return
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if line = transfer.OneLine(line, 200); !strings.EqualFold(line, http.StatusText(e.Code)) {
		e.Reason = line
	}
}

func (e *StatusError) Error() string {
	s := strings.TrimSpace(fmt.Sprintf("HTTP status %d %s", e.Code, http.StatusText(e.Code)))
	write := e.Method == http.MethodPut
	missing := e.Code == http.StatusNotFound || e.Code == http.StatusGone
	switch {
	case e.Code == http.StatusUnauthorized && e.authorized:
		s += ": the server refuses the credentials"
	case e.Code == http.StatusUnauthorized:
		s += ": the server wants credentials"
	case write && missing && e.Reason != "":
		s += ": it cannot be put there: " + e.Reason
	case write && missing:
		s += ": it cannot be put there"
	case e.Reason != "":
		s += ": " + e.Reason
	case e.Code == http.StatusForbidden && write:
		s += ": writing is not allowed"
	case e.Code == http.StatusForbidden:
		s += ": reading is not allowed"
	case e.Code == http.StatusMethodNotAllowed && write, e.Code == http.StatusNotImplemented && write:
		s += ": the server takes no uploads"
	case e.Code == http.StatusRequestEntityTooLarge:
		s += ": larger than the server takes"
	}
	return s
}

func (e *StatusError) Unwrap() error {
	switch e.Code {
	case http.StatusNotFound, http.StatusGone:
		return fs.ErrNotExist
	case http.StatusUnauthorized, http.StatusForbidden:
		return fs.ErrPermission
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return errors.ErrUnsupported
	}
	return nil
}

func isStatus(err error) bool {
	_, ok := errors.AsType[*StatusError](err)
	return ok
}

// parseRetryAfter returns the pause that a Retry-After header asks for, 0 if none.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
