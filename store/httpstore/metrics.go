package httpstore

import (
	"fmt"
	"io"
	"sync/atomic"
)

// metrics counts what a handler does.
type metrics struct {
	answers   [6]atomic.Int64 // by the first digit of the status; 0: none was given
	sent      atomic.Int64
	received  atomic.Int64
	fetched   atomic.Int64
	shared    atomic.Int64
	converted atomic.Int64
	stored    atomic.Int64
	active    atomic.Int64
}

func (m *metrics) note(w *recorder) {
	m.answers[min(w.status/100, 5)].Add(1)
	m.sent.Add(w.bytes)
}

// WriteMetrics writes counters of what the handler has done, in the text format of
// Prometheus.
func (h *Handler) WriteMetrics(w io.Writer) error {
	var err error
	printf := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	m := &h.metrics
	head := func(name, kind, help string) {
		printf("# HELP castor_serve_%s %s\n# TYPE castor_serve_%s %s\n", name, help, name, kind)
	}
	if h.o.Connections != nil {
		head("connections", "gauge", "Connections that are open.")
		printf("castor_serve_connections %d\n", h.o.Connections())
	}
	head("requests_total", "counter", "Requests answered, by class of status.")
	for i := 1; i < len(m.answers); i++ {
		printf("castor_serve_requests_total{status=\"%dxx\"} %d\n", i, m.answers[i].Load())
	}
	printf("castor_serve_requests_total{status=\"none\"} %d\n", m.answers[0].Load())
	for _, c := range []struct {
		name, kind, help string
		value            int64
	}{
		{"sent_bytes_total", "counter", "Bytes of answers, without their heads.", m.sent.Load()},
		{"received_bytes_total", "counter", "Bytes of uploads that came whole.", m.received.Load()},
		{"chunks_fetched_total", "counter", "Chunks got, or looked for, at the source.", m.fetched.Load()},
		{"chunks_shared_total", "counter", "Requests that shared a chunk with one before.", m.shared.Load()},
		{"chunks_converted_total", "counter", "Chunks decoded or compressed to be served.", m.converted.Load()},
		{"chunks_stored_total", "counter", "Chunks uploaded that were new.", m.stored.Load()},
		{"requests_active", "gauge", "Requests being answered.", m.active.Load()},
		{"chunks_held", "gauge", "Chunks in memory.", int64(len(h.flights.slots))},
	} {
		head(c.name, c.kind, c.help)
		printf("castor_serve_%s %d\n", c.name, c.value)
	}
	return err
}
