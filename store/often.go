package store

import (
	"log/slog"
	"sync"
	"time"
)

// often tells a log of what may happen with every chunk, each time for the same reason:
// the first few times of each source, and after that now and then, with the number of
// those that were not told. Nobody has to end it: the numbers of times at which it speaks
// grow tenfold, so that the last one told is never far from the truth.
type often struct {
	mu sync.Mutex
	of map[string]*times // by source, guarded by mu
}

// times is how often something has happened.
type times struct {
	all, told int
	last      time.Time // when it was told
}

const (
	oftenFirst = 3           // times that are told in any case
	oftenPause = time.Minute // after which it is told again
)

// warn tells log, which may be nil, of what has happened with source.
func (o *often) warn(log *slog.Logger, source, msg string, args ...any) {
	if log == nil {
		return
	}
	more, tell := o.count(source)
	if !tell {
		return
	}
	if more > 0 {
		args = append(args, "more_like_this", more)
	}
	log.Warn(msg, args...)
}

// count counts one more time, and returns whether it is to be told, and how many were not
// told before it.
func (o *often) count(source string) (more int, tell bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.of[source]
	if t == nil {
		t = &times{}
		if o.of == nil {
			o.of = map[string]*times{}
		}
		o.of[source] = t
	}
	t.all++
	now := time.Now()
	if t.all > oftenFirst && !powerOfTen(t.all) && now.Sub(t.last) < oftenPause {
		return 0, false
	}
	more = t.all - t.told - 1
	t.told, t.last = t.all, now
	return more, true
}

func powerOfTen(n int) bool {
	for n >= 10 && n%10 == 0 {
		n /= 10
	}
	return n == 1
}
