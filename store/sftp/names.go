package sftp

import "sync"

// maxNames bounds what the server may answer while a directory is listed: at least 256
// bytes for each of 262144 names.
const maxNames = 64 << 20

// tally counts the bytes of listings: the client gathers them, whatever comes.
type tally struct {
	mu    sync.Mutex
	total int64               // guarded by mu
	since map[*int64]struct{} // guarded by mu: total when each of the running listings began
}

// begin notes the begin of a listing, and done its end.
func (t *tally) begin() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since == nil {
		t.since = map[*int64]struct{}{}
	}
	at := t.total
	t.since[&at] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.since, &at)
	}
}

func (t *tally) add(n int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total += n
	for at := range t.since {
		if t.total-*at > maxNames {
			return errNames
		}
	}
	return nil
}
