package mcast

import (
	"context"
	"sync"
	"time"

	"github.com/castorsync/castor/internal/bufpool"
)

// loaders is how many objects are loaded at once.
const loaders = 3

type loadResult struct {
	key objectKey
	p   *payload
	err error
}

// loader keeps the objects that a link sends ready, in bounded memory: it loads what the
// schedule needs next, and gives up what it does not. It is used by the link's goroutine
// only.
type loader struct {
	schedule *schedule
	memory   int64 // about how many bytes are held
	payloads map[objectKey]*payload
	bytes    int64               // of payloads
	loading  map[objectKey]int64 // objects that are being loaded, and how large they are about
	used     uint64              // counts uses of payloads
	loads    chan loadResult     // what has been loaded, for take
}

func newLoader(s *schedule, memory int64) *loader {
	return &loader{schedule: s, memory: memory, payloads: map[objectKey]*payload{}, loading: map[objectKey]int64{}, loads: make(chan loadResult, loaders)}
}

// load begins to load the objects that are needed next, as far as memory goes.
func (l *loader) load(ctx context.Context, now time.Time, wg *sync.WaitGroup) {
	held := l.bytes
	for _, n := range l.loading {
		held += n
	}
	for len(l.loading) < loaders && held < l.memory {
		o := l.schedule.upcoming(now, l.loadedOrLoading)
		if o == nil {
			return
		}
		k := o.key
		l.loading[k] = k.ch.bytes(k.ord)
		held += l.loading[k]
		wg.Go(func() {
			p, err := k.ch.payload(ctx, k.ord)
			select {
			case l.loads <- loadResult{k, p, err}:
			case <-ctx.Done():
			}
		})
	}
	l.schedule.room = manyObjects
	if held >= l.memory {
		// With shares for more than that a part of the rate would be nobody's.
		l.schedule.room = min(max(len(l.payloads), fewObjects), manyObjects)
		l.evict(now)
	}
}

// retryLoad is how long an object that could not be loaded is left alone.
const retryLoad = time.Second

// take takes in what has been loaded. It returns the error if it could not be.
func (l *loader) take(r loadResult) error {
	delete(l.loading, r.key)
	if r.err != nil {
		if o := l.schedule.objects[r.key]; o != nil {
			o.retry = time.Now().Add(retryLoad)
		}
		return r.err
	}
	if l.payloads[r.key] != nil { // it was dropped with its offer and has come again
		l.drop(r.key)
	}
	l.payloads[r.key] = r.p
	l.bytes += r.p.size()
	l.use(r.key)
	if o := l.schedule.objects[r.key]; o != nil {
		l.schedule.load(o, r.p.layout.Blocks, r.p.layout.Longest())
	}
	return nil
}

// use returns a payload that is loaded, and notes that it is used.
func (l *loader) use(k objectKey) *payload {
	p := l.payloads[k]
	l.used++
	p.used = l.used
	return p
}

// symbol returns a symbol of p, see [payload.symbol].
func (l *loader) symbol(p *payload, block, esi int, scratch []byte) []byte {
	symbol, grown := p.symbol(block, esi, scratch)
	l.bytes += grown
	return symbol
}

func (l *loader) drop(k objectKey) {
	p := l.payloads[k]
	l.bytes -= p.size()
	delete(l.payloads, k)
	bufpool.Put(p.data)
	for _, r := range p.repair {
		bufpool.Put(r.symbols)
	}
	if o := l.schedule.objects[k]; o != nil {
		o.loaded = false
	}
}

// evict drops the payload that has not been used for the longest time and has nothing
// to send now, those without listeners first; if any object waits to be loaded.
func (l *loader) evict(now time.Time) {
	next := l.schedule.upcoming(now, l.loadedOrLoading)
	if next == nil {
		return
	}
	var victim objectKey
	var old *payload
	idle := false
	for k, p := range l.payloads {
		o := l.schedule.objects[k]
		// What is due is needed as soon as the link is free.
		needed := o != nil && len(o.hosts) > 0 && (o.pending() || !l.schedule.due(o).After(now))
		if needed && !l.schedule.yields(o, next) {
			continue
		}
		i := o == nil || len(o.hosts) == 0
		if old == nil || i && !idle || i == idle && p.used < old.used {
			victim, old, idle = k, p, i
		}
	}
	if old != nil {
		l.drop(victim)
	}
}

func (l *loader) loadedOrLoading(o *object) bool {
	_, loading := l.loading[o.key]
	return loading || l.payloads[o.key] != nil
}
