package httpstore

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// allowed reports whether the request may be answered.
func (h *Handler) allowed(r *http.Request, read bool) bool {
	if h.o.Tokens == nil || read && h.o.PublicRead {
		return true
	}
	shown, ok := shownToken(r)
	if !ok {
		return false
	}
	// Sums have one length, so that comparing takes the same time for all tokens.
	sum := sha256.Sum256([]byte(shown))
	found := 0
	for _, t := range h.o.Tokens() {
		if t == "" {
			continue // a line too many in a file
		}
		want := sha256.Sum256([]byte(t))
		found |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return found == 1
}

// shownToken returns the token that a request shows. Clients such as casync can show
// one only as a password.
func shownToken(r *http.Request) (string, bool) {
	if _, password, ok := r.BasicAuth(); ok {
		return password, true
	}
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}
