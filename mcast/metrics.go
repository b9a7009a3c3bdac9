package mcast

import (
	"fmt"
	"io"
)

// WriteMetrics writes the status in the text format of Prometheus.
func (s Status) WriteMetrics(w io.Writer) error {
	e := &errWriter{w: w}
	counter := func(name, help string, v int64) {
		e.printf("# HELP castor_cast_%s %s\n# TYPE castor_cast_%s counter\ncastor_cast_%s %d\n", name, help, name, name, v)
	}
	gauge := func(name, help string, v any) {
		e.printf("# HELP castor_cast_%s %s\n# TYPE castor_cast_%s gauge\ncastor_cast_%s %v\n", name, help, name, name, v)
	}
	counter("packets_total", "Packets sent.", s.Packets)
	counter("bytes_total", "Bytes sent, headers included.", s.Bytes)
	counter("symbols_total", "Packets sent that hold a part of an object.", s.Symbols)
	counter("repair_symbols_total", "Of those, packets with a repair symbol.", s.Repair)
	counter("announcements_total", "Announcements sent.", s.Announcements)
	counter("errors_total", "Failures to load or to send.", s.Errors)
	gauge("listeners", "Listeners of all indexes; a host counts once for each.", s.Listeners)
	gauge("groups", "Groups with listeners.", s.Objects)
	gauge("extra_ratio", "What listeners needed beyond a full pass of late, as a part of it.", s.Loss)
	perIndex := []struct {
		name, kind, help string
		value            func(ChannelStatus) int64
	}{
		{"index_listeners", "gauge", "Hosts that listen to the index.", func(c ChannelStatus) int64 { return int64(c.Listeners) }},
		{"index_bytes_total", "counter", "Bytes sent for the index.", func(c ChannelStatus) int64 { return c.Bytes }},
		{"index_unique_bytes", "gauge", "Bytes of the distinct chunks of the index, plain.", func(c ChannelStatus) int64 { return c.Unique }},
	}
	for _, m := range perIndex {
		e.printf("# HELP castor_cast_%s %s\n# TYPE castor_cast_%s %s\n", m.name, m.help, m.name, m.kind)
		for _, c := range s.Channels {
			e.printf("castor_cast_%s{root=\"%v\"} %d\n", m.name, c.Root, m.value(c))
		}
	}
	return e.err
}

// errWriter remembers the first error.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) printf(format string, args ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format, args...)
	}
}
